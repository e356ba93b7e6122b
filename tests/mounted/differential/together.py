"""Several threads at once on the mount, each in a tree of its own and all in one that they share.

What a thread does in its own tree gives the same whatever the others do, and what all do in the shared one can be done
in any order. So the native side does it one thread after the other, and is where the steps are drawn.
"""

from __future__ import annotations

import os
from random import Random
from typing import Final

from tests.mounted.differential import drawing
from tests.mounted.differential.acting import Outcome
from tests.mounted.differential.bench import Bench, Difference, Pair, differing_outcomes
from tests.mounted.differential.comparing import may_be_forgotten
from tests.mounted.differential.drawing import Known
from tests.mounted.differential.messages import Do, DoTogether, Enter, Holding, Leave
from tests.mounted.differential.steps import Step, Watch

THREADS: Final = 4
STEPS: Final = 60
"""Of each thread."""
SHARED_EVERY: Final = 4
RECORD_BYTES: Final = 8
RECORDS: Final = (b"a", b"empty2/a3")
"""Files of the shared tree that all threads append to. Both have further names."""
RECORD_NAMES: Final = ("a", "a2", "d/e/a", "d/e/a2", "empty2/a3")
LISTINGS: Final = frozenset({"read_directory", "seek_directory"})


def run_together(bench: Bench, random: Random, *, acls: bool) -> list[Difference]:
    """Draw steps for all threads, make them, and compare what came of it, once more after a remount."""
    own = [bench.take() for _ in range(THREADS)]
    shared = bench.take()
    programs = [_Program(bench, number, shared, index, random, acls=acls) for index, number in enumerate(own)]
    for program in programs:
        program.draw()
    _, top = bench.tops(0)
    starts = tuple((os.fsencode(top.parent / str(program.number)), tuple(program.steps)) for program in programs)
    bench.mount_side.ask(Enter(os.fsencode(top.parent)))
    given = bench.mount_side.ask(DoTogether(starts))
    bench.mount_side.ask(Leave())
    differing = [text for program, outcomes in zip(programs, given, strict=True) for text in program.check(outcomes)]
    return differing or _compare(bench, [*own, shared])


class _Program:
    """What one thread does, and what that gives natively."""

    def __init__(self, bench: Bench, number: int, shared: int, index: int, random: Random, *, acls: bool) -> None:
        self.number = number
        self.steps: list[Step] = []
        self._bench, self._random, self._acls = bench, random, acls
        self._shared, self._index = b"../%d/" % shared, index
        self._mine: list[bytes] = []
        """What it made in the shared tree."""
        self._outcomes: list[Outcome] = []

    def draw(self) -> None:
        side, carried = self._bench.native_side, self._bench.carried
        native, _ = self._bench.tops(self.number)
        holding: Holding = side.ask(Enter(os.fsencode(native)))
        for count in range(STEPS):
            if count == 0:
                step = Step("umask", (0o022,))
            elif count % SHARED_EVERY == 0:
                step = self._in_shared(count)
            else:
                known = Known(carried, self._acls, holding.types, holding.slots, holding.maps)
                step = drawing.step(self._random.choice(list(drawing.CALLS)), known, self._random)
            outcome, _, holding = side.ask(Do(step, Watch.NOTHING))
            self.steps.append(step)
            self._outcomes.append(outcome)
        side.ask(Leave())

    def _in_shared(self, count: int) -> Step:
        """A step that gives the same before and after those of the others."""
        directory = self._random.choice((b"", b"d/", b"d/e/", b"empty/", b"sticky/"))
        name = self._shared + directory + b"t%d-%d" % (self._index, count)
        kind = self._random.choice(("record", "record", "create", "mkdir", "link", "move", "change", "remove"))
        if kind == "record":
            record = b"%d:%d" % (self._index, count)
            path = self._shared + self._random.choice(RECORDS)
            return Step("append_record", (path, record.ljust(RECORD_BYTES, b".")))
        if kind in ("change", "remove", "move") and self._mine:
            old = self._random.choice(self._mine)
            if kind == "change":
                return Step("chmod", (old, 0o750))
            self._mine.remove(old)
            if kind == "remove":
                return Step("unlink", (old,))
            self._mine.append(name)
            return Step("rename", (old, name, 0))
        if kind == "mkdir":
            return Step("mkdir", (name, 0o755))
        self._mine.append(name)
        if kind == "link":
            return Step("link", (self._shared + b"d/b", name))
        return Step("open", (5, name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))

    def check(self, outcomes: list[Outcome]) -> list[Difference]:
        """How what it gave on the mount differs."""
        if len(outcomes) != len(self._outcomes):
            return [f"thread {self._index} ended after {len(outcomes)} steps"]
        return [
            f"thread {self._index}, {step}: {text}"
            for step, natively, here in zip(self.steps, self._outcomes, outcomes, strict=True)
            if step.call not in LISTINGS
            for text in differing_outcomes(step, natively, here)
        ]


def _compare(bench: Bench, numbers: list[int]) -> list[Difference]:
    """Compare all the trees, the last of them the shared one, before and after a remount."""
    differing: list[Difference] = []
    pairs = [Pair(bench, number, entered=False) for number in numbers]
    for when in ("", "after a remount: "):
        if when:
            bench.mount.remount()
        for pair in pairs:
            pair.enter()
            pair.comparison.forget_device()
            found = [text for text in pair.compare(fresh=bool(when)) if not may_be_forgotten([text])]
            if pair is pairs[-1]:
                # The records are there, in whatever order.
                found = [text for text in found if not text.startswith(tuple(f"{n!r}: content" for n in RECORD_NAMES))]
                for path in RECORDS:
                    found += pair.do(Step("records", (path, RECORD_BYTES)), Watch.NOTHING)
            pair.leave()
            differing += [f"{when}tree {pair.number}: {text}" for text in found]
        if differing:
            return differing
    return differing
