"""Kills of the daemon at random points, again and again on one upper, and what the next mount shows each time."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.base import make_base
from tests.chaos.daemons import Daemon, MountError
from tests.chaos.leftovers import leftovers
from tests.chaos.model import Region, first_state
from tests.chaos.observe import Seen, observe
from tests.chaos.plan import COMMON, Plan
from tests.chaos.sites import LocalSite, Site
from tests.chaos.steps import RENAMES
from tests.chaos.summary import Summary, say
from tests.chaos.working import Moment, Work, follow_until, working
from tests.mounted.mounting import OverlayMount

WORKERS = ("w0", "w1")
ROUNDS_PER_UPPER = 25
FILES = 200
_OPERATIONS = 40
"""Of each worker between two kills, if it gets that far."""
_NUMBERS_PER_ROUND = 1000
_READ_ALL_EVERY = 8
"""Rounds. In the others the content is compared of what was changed, and of a part of the rest."""
_READ_SHARE = 0.05
_TOLD_AT_ONCE = 20
_IN_MOUNTING = 0.15
"""In how many rounds the next daemon is killed, too, as it mounts."""
_MOUNT_SECONDS = 0.4
"""About how long that takes."""


@dataclass(frozen=True, slots=True)
class Kills:
    """Where, and of what."""

    site: Site
    place: Path
    """An empty directory, reached through the site below `served`."""
    seed: int
    files: int = FILES

    def run(self, count: int) -> Summary:
        """So many kills of mounts at work, on a new upper from time to time."""
        summary = Summary()
        done = 0
        while done < count:
            rounds = min(ROUNDS_PER_UPPER, count - done)
            number = done // ROUNDS_PER_UPPER
            summary += self._on_a_new_upper(number, rounds)
            done += rounds
            say(f"{done} kills, {len(summary.differences)} differences")
        return summary

    def _on_a_new_upper(self, number: int, rounds: int) -> Summary:
        name = f"seed {self.seed}, upper {number}"
        rng = random.Random(f"{self.seed}.{number}")
        served = self.place / "served" / str(number)
        base, upper = served / "base", served / "uppers" / "upper"
        make_base(base, list(WORKERS), self.files, rng)
        # Where both are on one server it is the server that copies.
        base_site = self.site if number % 2 else LocalSite()
        directory = self.place / f"mount{number}"
        mount = OverlayMount(directory, base_site.lower(base), upper=upper, upper_keys=self.site.keys(upper))
        life = _Life(name, Daemon(mount), upper, base, is_local=self.site.kind == "local")
        summary = life.run(rounds, rng)
        if not summary.differences:
            for made in (served, directory):
                shutil.rmtree(made)
        return summary


class _Life:
    """One upper, from its first mount on."""

    def __init__(self, name: str, daemon: Daemon, upper: Path, base: Path, *, is_local: bool) -> None:
        self._name = name
        self._daemon = daemon
        self._upper = upper
        self._base = base
        self._is_local = is_local
        self._regions: dict[str, Region] = {}
        self._killed = 0
        self._bytes = 0
        self._differences: list[str] = []
        self._details: Counter[str] = Counter()

    def run(self, rounds: int, rng: random.Random) -> Summary:
        try:
            self._daemon.start()
            self._begin()
            for number in range(1, rounds + 1):
                self._round(number, rng, is_last=number == rounds)
            self._daemon.stop()
        except (MountError, TimeoutError) as error:
            self._note("it goes no further", [str(error)])
        finally:
            self._daemon.clear_away()
        return Summary(
            daemons_killed=self._killed,
            bytes_compared=self._bytes,
            differences=tuple(self._differences),
            details=self._details,
        )

    def _begin(self) -> None:
        failures: list[str] = []
        shown = observe(self._daemon.path, lambda _: True, failures)
        for path, seen in shown.items():
            if seen.content is not None and seen.content != (self._base / path).read_bytes():
                failures.append(f"{path}: is not the base's")
        if failures:
            raise MountError(f"before the first kill: {failures}")
        for worker, part in _parts(shown).items():
            self._regions[worker] = Region(first_state(part), is_local=self._is_local)

    def _round(self, number: int, rng: random.Random, *, is_last: bool) -> None:
        plans = {
            worker: Plan(worker, region.names, rng, number * _NUMBERS_PER_ROUND).steps(_OPERATIONS)
            for worker, region in self._regions.items()
        }
        with working(self._daemon.path, self._regions, plans) as works:
            killed_at = follow_until(works, Moment.at_random(rng), self._daemon.kill)
        self._daemon.clear_away()
        self._killed += 1
        told = f"round {number}, killed in {[str(work.in_flight) for work in works]}"
        self._details += Counter(_what_was_killed(work) for work in works)
        self._note(told, [failure for work in works for failure in work.failures(killed_at)])
        self._note(told, self._daemon.complaints())
        if rng.random() < _IN_MOUNTING:
            self._kill_in_mounting(rng)
        self._daemon.start()
        self._compare(told, rng, everything=is_last or number % _READ_ALL_EVERY == 0)

    def _kill_in_mounting(self, rng: random.Random) -> None:
        """While it puts in order what the kill before has left."""
        self._daemon.begin()
        time.sleep(rng.random() * _MOUNT_SECONDS)
        self._daemon.clear_away()
        self._killed += 1
        self._details["killed while it was mounting"] += 1
        if not self._is_local and _forget_taking(self._upper.with_name(f"{self._upper.name}.work")):
            self._details["killed while it was taking the upper"] += 1

    def _compare(self, told: str, rng: random.Random, *, everything: bool) -> None:
        changed = set().union(*(region.changed_paths() for region in self._regions.values()))
        failures: list[str] = []
        shown = observe(
            self._daemon.path, lambda path: everything or path in changed or rng.random() < _READ_SHARE, failures
        )
        self._bytes += sum(len(seen.content) for seen in shown.values() if seen.content is not None)
        for worker, part in _parts(shown).items():
            failures += self._regions[worker].differences(part)
        failures += leftovers(self._upper, set(shown), is_local=self._is_local)
        failures += self._daemon.complaints()
        self._note(told, failures)

    def _note(self, when: str, differences: list[str]) -> None:
        told = [f"{self._name}, {when}: {difference}" for difference in differences]
        self._differences += told
        for line in told[:_TOLD_AT_ONCE]:
            say(f"difference: {line}")


def _parts(shown: dict[str, Seen]) -> dict[str, dict[str, Seen]]:
    """What is shown, by the worker that works there."""
    parts: dict[str, dict[str, Seen]] = {worker: {} for worker in WORKERS}
    for path, seen in shown.items():
        if path != COMMON:
            parts[path.removeprefix(f"{COMMON}/")[: len(WORKERS[0])]][path] = seen
    return parts


def _forget_taking(work: Path) -> bool:
    """Remove what keeps the next mount waiting for a minute, if the last one died while it took the upper.

    Nobody can tell whose a lease is that is not written yet, nor the mark of who is about to remove one.
    """
    is_found = False
    for path in (work / "lock", work / "#taking"):
        if path.exists() and not path.stat().st_size:
            path.unlink()
            is_found = True
    return is_found


def _what_was_killed(work: Work) -> str:
    step = work.in_flight
    if step is None:
        return "killed while a worker was between calls"
    if step.copies_up and step.call in RENAMES:
        return "killed in a rename that copies up"
    if step.copies_up:
        return "killed in a copy-up"
    return "killed in a rename" if step.call in RENAMES else "killed in another call"
