"""Connections cut, and servers restarted, under a mount on which programs work: what they are told, and what is there.

Base and upper are on one server, which is reached through a proxy. At the end every file is compared through the mount,
after a remount, and on the server's own disk.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.daemons import Daemon, MountError
from tests.chaos.faults import Fault, Faults
from tests.chaos.leftovers import leftovers
from tests.chaos.processes import at_work
from tests.chaos.programs import Git, Program, Rsync, some_bytes
from tests.chaos.random_io import work
from tests.chaos.sites import ProxiedSite
from tests.chaos.summary import Summary, say
from tests.chaos.told import Told, may_be
from tests.chaos.waits import Waits
from tests.mounted.mounting import OverlayMount

FAULTS_PER_UPPER = 50
_RANDOM = ("random0", "random1")
FILES = 16
"""Of the base, for each program that works at random."""
_FINISH_SECONDS = 240.0
_TOLD_AT_ONCE = 20
_EXPECTED = ("the lease", "cannot be reached", "attributes are not written yet")
"""In warnings that a fault may well cause."""


@dataclass(frozen=True, slots=True)
class Faulty:
    """Where, with which faults, and under which work."""

    site: ProxiedSite
    place: Path
    """An empty directory, which the site has below `served`."""
    seed: int
    kinds: tuple[Fault, ...]
    with_programs: bool = True
    """rsync and git work, too."""
    files: int = FILES

    def run(self, count: int) -> Summary:
        """So many faults, on a new upper from time to time."""
        summary = Summary()
        done = 0
        while done < count:
            faults = min(FAULTS_PER_UPPER, count - done)
            summary += self._on_a_new_upper(done // FAULTS_PER_UPPER, faults)
            done += faults
            say(f"{done} faults, {len(summary.differences)} differences")
        return summary

    def _on_a_new_upper(self, number: int, faults: int) -> Summary:
        rng = random.Random(f"{self.seed}.{number}")
        served = self.place / "served" / str(number)
        base, upper = served / "base", served / "uppers" / "upper"
        known = _make_base(base, self.files, rng)
        # Nobody else uses it, as far as the mount knows.
        keys = [*self.site.keys(upper), "private = true"]
        mount = OverlayMount(self.place / f"mount{number}", self.site.lower(base), upper=upper, upper_keys=keys)
        return _Run(f"seed {self.seed}, upper {number}", self, mount, base, known, rng).run(faults)


def _make_base(base: Path, count: int, rng: random.Random) -> dict[str, dict[str, bytes]]:
    """Files for each of the programs that work at random, by directory."""
    known = {name: {f"base{index}": some_bytes(rng) for index in range(count)} for name in _RANDOM}
    for name, files in known.items():
        (base / name).mkdir(parents=True)
        for file, content in files.items():
            (base / name / file).write_bytes(content)
    return known


class _Run:
    """One upper, under faults."""

    def __init__(
        self,
        name: str,
        plan: Faulty,
        mount: OverlayMount,
        base: Path,
        known: dict[str, dict[str, bytes]],
        rng: random.Random,
    ) -> None:
        self._name = name
        self._plan = plan
        self._daemon = Daemon(mount)
        self._top = mount.path
        self._upper = mount.upper
        self._beside = mount.directory / "beside"
        self._base = base
        self._known = known
        """What the files in these directories hold."""
        self._directories: set[str] = set()
        """All that were shown."""
        self._rng = rng
        self._told = Told()
        self._differences: list[str] = []
        self._details: Counter[str] = Counter()
        self._restarted = self._compared = 0
        self._longest_fault = 0.0
        self._cut_before = plan.site.proxy.cuts

    def run(self, count: int) -> Summary:
        try:
            self._daemon.start()
            with Waits() as waits, Faults(self._plan.site, self._plan.kinds, count, self._rng) as faults:
                self._work_under(faults)
            self._told += waits.told
            self._compare_everywhere()
        except (MountError, OSError) as error:
            self._note([f"it goes no further: {type(error).__name__}: {error}"])
        finally:
            self._daemon.clear_away()
        return self._summary()

    def _work_under(self, faults: Faults) -> None:
        """Until all were made; then the programs finish what they are at."""
        programs = self._programs()
        at_random = [(self._top / name, self._known[name], f"{self._rng.random()}") for name in _RANDOM]
        with at_work(work, at_random) as ends:
            for program in programs:
                program.start()
            faults.wait()
            for program in programs:
                program.ask_to_stop()
            for name, end in zip(_RANDOM, ends, strict=True):
                end.send(None)
                if not end.poll(_FINISH_SECONDS):
                    raise TimeoutError(f"{name} does not come to an end")
                told, self._known[name] = end.recv()
                self._told += told
            for program in programs:
                program.join()
                self._told += program.told
                self._details += program.done
        self._details += Counter({fault.value: made for fault, made in faults.made.items()})
        self._restarted = faults.made[Fault.RESTART]
        self._longest_fault = faults.longest

    def _programs(self) -> list[Program]:
        kinds: tuple[type[Program], ...] = (Rsync, Git) if self._plan.with_programs else ()
        made: list[Program] = []
        for kind in kinds:
            name = kind.__name__.lower()
            (self._top / name).mkdir()
            made.append(kind(self._top / name, self._beside / name, random.Random(self._rng.random())))
        return made

    def _compare_everywhere(self) -> None:
        through_mount = self._shown("on the mount")
        for name, files in self._known.items():
            shown = {path: data for path, data in through_mount.items() if path.startswith(f"{name}/")}
            self._compare("on the mount", shown, {f"{name}/{file}": data for file, data in files.items()})
        self._note(leftovers(self._upper, through_mount.keys() | self._directories, is_local=False))
        self._stop()
        shutil.copy(self._daemon.log, self._daemon.log.with_name("log-under-faults"))
        self._daemon.start()
        self._compare("after a remount", self._shown("after a remount"), through_mount)
        self._stop()
        on_disk = {path: _read(self._upper / path, self._base / path) for path in through_mount}
        self._compare("on the server's disk", on_disk, through_mount)

    def _shown(self, when: str) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for directory, _, names in os.walk(self._top, onerror=_raise):
            self._directories.add(os.path.relpath(directory, self._top))
            for name in names:
                path = Path(directory, name)
                found[str(path.relative_to(self._top))] = path.read_bytes()
        if not found:
            self._note([f"{when}: nothing is shown"])
        return found

    def _compare(self, when: str, found: Mapping[str, bytes | None], wanted: Mapping[str, bytes | None]) -> None:
        self._compared += sum(len(data or b"") for data in wanted.values())
        wrong = sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))
        self._note([f"{when}: {path}: {_difference(found.get(path), wanted.get(path))}" for path in wrong])

    def _stop(self) -> None:
        self._daemon.stop()
        complaints = self._daemon.complaints()
        self._details["warnings that were expected"] += sum(map(_is_expected, complaints))
        self._note([f"log: {line}" for line in complaints if not _is_expected(line)])

    def _note(self, differences: list[str]) -> None:
        told = [f"{self._name}: {difference}" for difference in differences]
        self._differences += told
        for line in told[:_TOLD_AT_ONCE]:
            say(f"difference: {line}")

    def _summary(self) -> Summary:
        told = self._told
        self._note([*told.differences, *(f"over the deadline: {call}" for call in told.late)])
        for (call, code), count in told.errors.items():
            line = f"errors told: {call}: {_name(code)}"
            self._details[line] += count
            if not may_be(call, code):
                self._note([f"{line}, {count} times, which may not be"])
        say(f"the longest call took {told.longest:.1f} s, the longest fault {self._longest_fault:.1f} s")
        return Summary(
            connections_cut=self._plan.site.proxy.cuts - self._cut_before,
            servers_killed=self._restarted,
            bytes_compared=self._compared + told.bytes_compared,
            calls=told.calls,
            calls_over_deadline=len(told.late),
            differences=tuple(self._differences),
            details=self._details,
        )


def _raise(error: OSError) -> None:
    raise error


def _read(*places: Path) -> bytes | None:
    """The file that is at the first of these places where there is one."""
    return next((place.read_bytes() for place in places if place.is_file()), None)


def _difference(found: bytes | None, wanted: bytes | None) -> str:
    if found is None or wanted is None:
        return "is not there" if found is None else "should not be there"
    at = next((at for at, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), None)
    return f"{len(found)} bytes for {len(wanted)}" + (f", the first difference at {at}" if at is not None else "")


def _is_expected(line: str) -> bool:
    return any(words in line for words in _EXPECTED)


def _name(code: int) -> str:
    return errno.errorcode.get(code, str(code))
