"""Draws sequences of steps, runs them, and cuts a sequence that shows a difference down to what is needed for it."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.mounted.differential import drawing
from tests.mounted.differential.bench import Bench, Difference, Item, Pair, run_all
from tests.mounted.differential.comparing import may_be_forgotten
from tests.mounted.differential.sides import SideError
from tests.mounted.differential.steps import Between, Step, Watch

STEPS: Final = 50
"""In one sequence."""
APART: Final = 15
"""Steps at least between two remounts, which take most of the time."""
APART_COMPARED: Final = 6
WEIGHTS: Final = {"names": 5, "opening": 3, "data": 3, "attributes": 3, "mapping": 2, "listing": 2, "looking": 1}
"""How often a step is of each group; one group more often in each sequence."""
RANDOM: Final = st.randoms(use_true_random=True)  # seeded by hypothesis, whose own draws would prefer what is simple
SHORTEN_SECONDS: Final = 60.0
EXAMPLES_VARIABLE: Final = "NETOVERLAY_DIFFERENTIAL_EXAMPLES"
"""For longer runs, with other sequences each time: how many sequences."""


class Benches:
    """Benches one after the other, each as long as it has trees left."""

    def __init__(self, make: Callable[[str], Bench]) -> None:
        self._make = make
        self._count = 0
        self.used = 0
        """How often a bench was asked for."""
        self._bench: Bench | None = None

    def bench(self) -> Bench:
        """One with a fresh tree."""
        self.used += 1
        if self._bench is not None and not self._bench.left:
            self.close()
        if self._bench is None:
            self._count += 1
            self._bench = self._make(f"bench{self._count}").__enter__()
        return self._bench

    def close(self, error: BaseException | None = None) -> None:
        """End the present one, with all its checks unless there was an error."""
        bench, self._bench = self._bench, None
        if bench is not None:
            bench.__exit__(None if error is None else type(error), error, None)


@dataclass
class Finding:
    """A sequence that shows a difference."""

    watch: Watch
    items: list[Item]
    differences: list[Difference] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"    {item!r}," for item in self.items]
        told = "\n".join(self.differences[:12])
        return f"{told}\n\nwatched: {self.watch!r}\n[\n" + "\n".join(lines) + "\n]"


class Machine(RuleBasedStateMachine):
    """One sequence in a fresh tree."""

    def __init__(self, benches: Benches, findings: list[Finding], *, acls: bool) -> None:
        super().__init__()
        self._bench = benches.bench()
        self._number = benches.used
        self._findings = findings
        self._acls = acls
        self._pair: Pair | None = None
        """None before the beginning, and when nothing that follows could be compared."""
        self._items: list[Item] = []
        self._watch = Watch.NOTHING
        self._weights = WEIGHTS
        self._since_compare = self._since_remount = 0

    @initialize(watch=st.sampled_from(Watch), favourite=st.sampled_from(list(WEIGHTS)))
    def begin(self, watch: Watch, favourite: str) -> None:
        self._watch = watch
        self._weights = {**WEIGHTS, favourite: 8}
        self._pair = self._bench.fresh()
        if watch:
            self._run(Between.COMPARE)

    def _run(self, item: Item) -> None:
        if self._pair is None:
            return
        self._items.append(item)
        self._since_remount += 1
        self._since_compare += 1
        try:
            differences = self._pair.run(item, self._watch)
        except SideError as error:
            differences = [str(error)]
        if differences and may_be_forgotten(differences):
            self._pair.leave()
            self._pair = None
            differences = run_all(self._bench, self._items, self._watch) if self._bench.left else []
        if differences:
            told = [f"{item}: {text}" for text in differences]
            self._findings.append(Finding(self._watch, list(self._items), told))
            raise AssertionError("\n".join(told[:12]))

    @rule(random=RANDOM)
    def step(self, random: Random) -> None:
        if self._pair is not None:
            # With these numbers, for hypothesis likes to draw again what it has drawn before.
            chance = Random(f"{random.random()} {self._number} {len(self._items)}")
            group = chance.choices(list(self._weights), list(self._weights.values()))[0]
            self._run(drawing.step(group, self._pair.known(acls=self._acls), chance))

    @precondition(lambda self: self._since_compare >= APART_COMPARED)
    @rule()
    def compare(self) -> None:
        self._run(Between.COMPARE)
        self._since_compare = 0

    @precondition(lambda self: self._since_remount >= APART)
    @rule()
    def remount(self) -> None:
        self._run(Between.REMOUNT)
        self._since_compare = self._since_remount = 0

    def teardown(self) -> None:
        if not self._findings:
            self._run(Between.COMPARE)
            if self._pair is not None:
                self._pair.leave()


def run_sequences(benches: Benches, examples: int, *, acls: bool) -> None:
    """Run random sequences until one shows a difference, and fail with the shortest one that does."""
    longer = os.environ.get(EXAMPLES_VARIABLE)
    findings: list[Finding] = []
    wanted = settings(
        max_examples=int(longer or examples),
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=longer is None,
        database=None,
        phases=[Phase.generate],  # shortest() shrinks: it needs no more than the steps themselves
        suppress_health_check=list(HealthCheck),
    )
    error: BaseException | None = None
    try:
        machine: Any = functools.partial(Machine, benches, findings, acls=acls)
        run_state_machine_as_test(machine, settings=wanted)
    except (AssertionError, Flaky, ExceptionGroup) as failure:
        if not findings:
            raise
        error = failure
    finally:
        benches.close(error)
    if findings:
        raise AssertionError(str(shortest(benches, findings[0])))


def shortest(benches: Benches, finding: Finding, seconds: float = SHORTEN_SECONDS) -> Finding:
    """The finding, without all steps that it does not need."""
    give_up_at = time.monotonic() + seconds

    def fails(items: Sequence[Item], watch: Watch) -> list[Difference]:
        try:
            return run_all(benches.bench(), items, watch)
        except SideError as error:
            # It cannot be used again.
            benches.close(error)
            return [str(error)]

    best = replace(finding)
    for candidate in _smaller(best):
        if time.monotonic() > give_up_at:
            break
        differences = fails(candidate.items, candidate.watch)
        if differences:
            best.items, best.watch, best.differences = candidate.items, candidate.watch, differences
    benches.close(AssertionError())
    return best


def _smaller(best: Finding) -> Iterator[Finding]:
    """Candidates, each made from what `best` is by then."""
    yield replace(best)
    size = len(best.items) // 2
    while size:
        start = 0
        while start < len(best.items):
            before = len(best.items)
            yield replace(best, items=best.items[:start] + best.items[start + size :])
            if len(best.items) == before:
                start += size
        size //= 2
    for index, item in enumerate(list(best.items)):
        if isinstance(item, Step) and (item.user or item.at is not None):
            simple = replace(item, user=0, at=None)
            yield replace(best, items=[*best.items[:index], simple, *best.items[index + 1 :]])
    for watch in Watch:
        if watch < best.watch:
            yield replace(best, watch=watch)
