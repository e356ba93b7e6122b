"""A mount and a native directory with many planted trees, and what is run on one of them at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.mounted.differential import observing
from tests.mounted.differential.acting import Outcome
from tests.mounted.differential.comparing import Comparison
from tests.mounted.differential.drawing import Known
from tests.mounted.differential.messages import Do, Enter, Holding, Leave, Look
from tests.mounted.differential.observing import Seen
from tests.mounted.differential.planting import Carried, plant
from tests.mounted.differential.sides import Side
from tests.mounted.differential.steps import Between, Step, Watch
from tests.mounted.mounting import OverlayMount

BATCH: Final = 40
"""Trees planted before each mount."""
TABLES: Final = "[mount]\nallow_other = true\n"

Item = Step | Between
Difference = str


class Bench:
    """One mount with its base, one native directory, and the two processes that work in them."""

    def __init__(
        self,
        directory: Path,
        lower: Callable[[Path], str],
        carried: Carried,
        *,
        trees: int = BATCH,
        prepare: Callable[[Path], None] | None = None,
        upper_keys: Callable[[Path], Sequence[str]] | None = None,
        private: bool = True,
    ) -> None:
        """`prepare` makes of a planted base what the server is to have; `upper_keys` has the upper on a server.

        `private`: as for OverlayMount.
        """
        self.carried = carried
        self._base, self._native = directory / "base", directory / "native"
        for top in (self._base, self._native):
            top.mkdir(parents=True)
            for number in range(trees):
                plant(os.fsencode(top / str(number)), carried)
        if prepare is not None:
            prepare(self._base)
        self._left = list(range(trees))
        # Apart from the mountpoint: a server may look at all that is beside the upper.
        upper = directory / "served" / "upper"
        keys = upper_keys(upper) if upper_keys is not None else ()
        self.mount = OverlayMount(
            directory / "m", lower(self._base), upper=upper, upper_keys=keys, private=private, tables=TABLES
        )
        self.native_side = Side("native", directory / "native.log")
        self.mount_side = Side("mount", directory / "mount.log")
        self._planted = _planted(self._native), _planted(self._base)

    def __enter__(self) -> Self:
        try:
            self.mount.mount()
        except BaseException:
            self._close_sides()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_sides()
        self.mount.__exit__(kind, error, trace)
        if kind is None:
            assert _fingerprint(_planted(self._base)) == _fingerprint(self._planted[1]), "the base was changed"

    def _close_sides(self) -> None:
        self.native_side.close()
        self.mount_side.close()

    @property
    def left(self) -> int:
        """How many trees nothing was done in yet."""
        return len(self._left)

    def fresh(self) -> Pair:
        """A tree that nothing was done in."""
        return Pair(self, self.take())

    def take(self) -> int:
        """The number of such a tree."""
        return self._left.pop(0)

    def before(self, number: int) -> dict[bytes, tuple[Seen, Seen]]:
        """What both sides are at first, without a look at the mount; see Comparison.before."""
        native, base = self._planted
        top = b"%d" % number
        return {
            one.identity: (one, base[path])
            for path, one in native.items()
            if self.carried.change_time and path.split(b"/", 1)[0] == top
        }

    def tops(self, number: int) -> tuple[Path, Path]:
        return self._native / str(number), self.mount.path / str(number)


class Pair:
    """One tree, on the mount and natively."""

    def __init__(self, bench: Bench, number: int, *, entered: bool = True) -> None:
        self._bench = bench
        self.number = number
        self._sides = (bench.native_side, bench.mount_side)
        self.comparison = Comparison(bench.carried, before=bench.before(number))
        self._touched: dict[object, set[str]] = {}
        """By slot, the names that were changed since reading it began."""
        self._holding = Holding({}, {}, ())
        if entered:
            self.enter()

    def _ask(self, message: Do | Look | Leave) -> tuple[Any, Any]:
        for side in self._sides:
            side.send(message)
        native, mount = (side.receive() for side in self._sides)
        return native, mount

    def enter(self) -> None:
        """Work in it. One pair at a time."""
        native, _ = (
            side.ask(Enter(os.fsencode(top)))
            for side, top in zip(self._sides, self._bench.tops(self.number), strict=True)
        )
        assert isinstance(native, Holding)
        self._holding = native

    def known(self, *, acls: bool) -> Known:
        """What the next step can be about."""
        holding = self._holding
        return Known(self._bench.carried, acls, holding.types, holding.slots, holding.maps)

    def leave(self) -> None:
        """Close everything."""
        self._ask(Leave())

    def do(self, step: Step, watch: Watch) -> list[Difference]:
        """Make a step on both sides."""
        self._note(step)
        (natively, native, self._holding), (here, mount, _) = self._ask(Do(step, watch))
        differing = self._differing_outcomes(step, natively, here)
        if watch:
            differing += self.comparison.differences(native, mount)
        return differing

    def _differing_outcomes(self, step: Step, native: Outcome, mount: Outcome) -> list[Difference]:
        if step.call == "read_directory":
            return self._differing_listing(step, native, mount)
        return differing_outcomes(step, native, mount)

    def _differing_listing(self, step: Step, native: Outcome, mount: Outcome) -> list[Difference]:
        """Of a directory that is changed while it is read, only what is there all the time is in every listing."""
        (one, natively), (other, here) = native, mount
        if one != other:
            return [f"it gives {mount}, natively {native}"]
        touched = self._touched.get(step.arguments[0])
        if touched is None or not isinstance(natively, tuple) or not isinstance(here, tuple):
            return []
        twice = sorted({name for name in here if here.count(name) > 1})
        differing = sorted((set(natively) ^ set(here)) - touched)
        return [
            *([f"it lists {twice} twice"] if twice else []),
            *([f"it lists {differing} differently"] if differing else []),
        ]

    def _note(self, step: Step) -> None:
        """Which names a directory's listing may show or not, for they changed while it was read."""
        slot = step.arguments[0] if step.arguments else None
        match step.call:
            case "open":
                self._touched[slot] = set()
            case "duplicate":  # They share one position, so each lists a part.
                for shared in step.arguments:
                    self._touched.pop(shared, None)
            case "seek_directory" if step.arguments[1] == 0:
                if slot in self._touched:
                    self._touched[slot] = set()
            case _:
                names = {os.fsdecode(word).rpartition("/")[2] for word in step.arguments if isinstance(word, bytes)}
                for touched in self._touched.values():
                    touched.update(names)

    def compare(self, *, fresh: bool = False) -> list[Difference]:
        """Look at everything. `fresh`: for the first time after a remount."""
        native, mount = self._ask(Look())
        return self.comparison.differences(native, mount, fresh=fresh)

    def remount(self) -> list[Difference]:
        """Mount anew, with everything closed before on both sides, and compare everything."""
        self._ask(Leave())
        self._touched.clear()
        self._bench.mount.remount()
        self.enter()
        self.comparison.forget_device()
        return [f"after a remount: {text}" for text in self.compare(fresh=True)]

    def run(self, item: Item, watch: Watch) -> list[Difference]:
        if isinstance(item, Step):
            return self.do(item, watch)
        return self.remount() if item is Between.REMOUNT else self.compare()


def differing_outcomes(step: Step, native: Outcome, mount: Outcome) -> list[Difference]:
    """How what a step gave on the two sides differs."""
    if native == mount:
        return []
    if step.call == "open" and native == ("error", "ENXIO") and mount == ("error", "EACCES"):
        return []  # a device: mounts are made with nodev
    return [f"it gives {mount}, natively {native}"]


def run_all(bench: Bench, items: Sequence[Item], watch: Watch) -> list[Difference]:
    """The first differences of a sequence in a fresh tree; everything is compared after it, and before if watched."""
    pair = bench.fresh()
    found: list[Difference] = []
    for item in [*((Between.COMPARE,) if watch else ()), *items, Between.COMPARE, Between.REMOUNT]:
        found = [f"{item}: {text}" for text in pair.run(item, watch)]
        if found:
            break
    pair.leave()
    return found


def _planted(top: Path) -> dict[bytes, Seen]:
    """All that was planted there. Looking leaves the times of access alone."""
    here = os.open(".", os.O_RDONLY)
    os.chdir(top)
    try:
        return observing.tree(native=True, everything=False)
    finally:
        os.fchdir(here)
        os.close(here)


def _fingerprint(found: dict[bytes, Seen]) -> dict[bytes, tuple[object, ...]]:
    """What no change leaves as it is: nothing can set a ctime."""
    return {path: (one.mode, one.identity, one.ctime) for path, one in found.items()}
