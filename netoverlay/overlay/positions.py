"""Where the names of a directory are in its listings, for as long as its inode lives."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

_FIRST = 3
"""After "." and ".."."""


class Positions:
    """Of the names that were listed last: a name keeps its position until a listing comes without it.

    Kept for every directory that was read, so as two sequences beside each other, the second one mostly a range.
    """

    __slots__ = ("_names", "_next", "_numbers")

    def __init__(self) -> None:
        self._names: Sequence[str] = ()
        self._numbers: Sequence[int] = ()
        self._next = _FIRST

    def renew(self, names: Sequence[str]) -> Sequence[int]:
        """The positions of `names`, which are all that there are now, in their order. New ones are after all others."""
        if names != self._names:
            self._numbers = self._numbered(names)
            self._names = names
        return self._numbers

    def _numbered(self, names: Sequence[str]) -> Sequence[int]:
        begun = self._next
        if not self._names:
            self._next += len(names)
            return range(begun, self._next)
        before = dict(zip(self._names, self._numbers, strict=True))
        numbers = array("Q")
        for name in names:
            number = before.get(name)
            if number is None:
                number, self._next = self._next, self._next + 1
            numbers.append(number)
        return numbers
