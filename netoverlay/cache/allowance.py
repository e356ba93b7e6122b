"""How much is fetched ahead of a walk: as much as pays, by what was used of it so far.

- A second demand below one parent that had to wait is the sign of a walk (further ones at every power of two, so that
  scattered demands cost few fetches): START_CREDITS fetches are granted. Who sees other signs says how many.
- Each fetch spends a credit; each fetched item that is used earns USE_EARNS, up to MAX_CREDITS. A walk that goes on
  doubles what is fetched before it, up to what its user allows; one that ends costs that, and no more. If something
  was used since the last sign the walk counts as going on: a wait says that far too little was fetched, so that all is
  granted that may be, and the first wait below a new parent is the next sign.
"""

from __future__ import annotations

from collections import OrderedDict

from netoverlay.backend_api.types import LayerPath

START_CREDITS = 16
USE_EARNS = 2
MAX_CREDITS = 256
_WALKING = START_CREDITS // 2
_MAX_PARENTS = 4096


class Allowance:
    """Of one who fetches ahead. Whoever uses it holds a lock of his own."""

    def __init__(self) -> None:
        self._demands: OrderedDict[LayerPath, int] = OrderedDict()
        self._credits = 0
        self._used = 0
        """How much was used since the last sign."""
        self._unused = 0
        """Of this walk, what is fetched and not used, or being fetched."""
        self._under_way = 0
        """What is granted and not yet spent."""

    @property
    def goes_on(self) -> bool:
        """Whether a walk is known to."""
        return self._used >= _WALKING

    def demand(self, parent: LayerPath, *, is_sign: bool = False) -> bool:
        """Something in `parent` has to be waited for: whether that is the sign of a walk.

        `is_sign`: it is one, whatever was demanded before.
        """
        count = self._demands.pop(parent, 0) + 1
        self._demands[parent] = count
        if len(self._demands) > _MAX_PARENTS:
            self._demands.popitem(last=False)
        if self.goes_on:
            self._credits = MAX_CREDITS
        is_sign |= not count & (count - 1) and (count >= 2 or self.goes_on)
        if is_sign:
            self.sign(START_CREDITS)
        return is_sign

    def sign(self, credits: int) -> None:
        """There is a walk, for which so much may be fetched, whatever is used of it."""
        if not self.goes_on and not self._under_way:
            self._unused = 0  # what was fetched before is not what is wanted now
        self._used = 0
        self._credits = max(self._credits, credits)

    def used(self, cost: int = 1) -> None:
        """Something is used whose fetching ahead cost so much."""
        self._credits = min(self._credits + USE_EARNS * cost, MAX_CREDITS)
        self._used += 1
        self._unused = max(self._unused - cost, 0)

    def grant(self, least: int, most: int, most_unused: int) -> int:
        """How many items to fetch now: up to `most`, and so that no more than `most_unused` are fetched before they are
        used; 0 if that is less than `least`."""
        count = min(most, self._credits, most_unused - self._unused)
        if count < least:
            return 0
        self._credits -= count
        self._unused += count
        self._under_way += count
        return count

    def spent(self, granted: int, spent: int, fetched: int) -> None:
        """Of what was granted so much was spent, and so much had to be fetched for that."""
        self._credits = min(self._credits + granted - spent, MAX_CREDITS)
        self._under_way -= granted
        self._unused = max(self._unused - (granted - fetched), 0)

    def given_back(self, cost: int) -> None:
        """What was spent for so much is not fetched by who got it: it can be granted again."""
        self.spent(0, -cost, -cost)

    def needless(self, cost: int) -> None:
        """What was spent for so much did not have to be fetched, or could not be."""
        self.spent(0, 0, -cost)

    def end(self) -> None:
        """The walk is over."""
        self._credits = self._used = 0
