"""A long load: some programs do all that programs do, and the daemon holds no more at the end than in the middle.

The content of every file is compared as it is read, at the end through the mount, and after a remount.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from tests.chaos.daemons import Daemon, MountError
from tests.chaos.everything import Everything
from tests.chaos.growth import Sample, growths
from tests.chaos.observe import observe
from tests.chaos.processes import at_work
from tests.chaos.sites import Site
from tests.chaos.soak_base import make_soak_base
from tests.chaos.soak_model import Ended, Progress
from tests.chaos.summary import Summary, say
from tests.mounted.mounting import COMMAND, OverlayMount, run

_SAMPLES = 100
_TELL_EVERY = 500
"""Operations of one program, or so."""
_OPERATIONS_PER_BASE_FILE = 250
_FEWEST_BASE_FILES = 50
_SILENT_SECONDS = 120.0
_TOLD_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Soak:
    """Where base and upper are, and how many programs work."""

    site: Site
    place: Path
    """An empty directory, which the site has below `served`."""
    seed: int
    processes: int
    upper: Path | None = None
    """None: a directory of this machine, which others could use as well."""
    upper_keys: Sequence[str] = ()
    """Of the table `[upper]`, unless it is that."""

    def run(self, operations: int) -> Summary:
        """So many operations of all the programs together, or some more."""
        base = self.place / "served" / "base"
        files = _FEWEST_BASE_FILES + operations // self.processes // _OPERATIONS_PER_BASE_FILE
        make_soak_base(base, self.processes, files)
        mount = OverlayMount(
            self.place / "mount", self.site.lower(base), upper=self.upper, upper_keys=self.upper_keys, private=False
        )
        return _Run(Daemon(mount), [f"{self.seed}.{number}" for number in range(self.processes)], files).run(operations)


class _Run:
    """One mount."""

    def __init__(self, daemon: Daemon, seeds: list[str], files: int) -> None:
        self._daemon = daemon
        self._seeds = seeds
        self._files = files
        self._known: dict[str, bytes] = {}
        """What the files hold, at the end."""
        self._done = Progress()
        self._samples: list[Sample] = []
        self._requests: Counter[str] = Counter()

    def run(self, operations: int) -> Summary:
        try:
            self._daemon.start()
            pid = int(self._status()["mount"]["pid"])
            with at_work(_work, self._programs(operations // len(self._seeds))) as ends:
                self._follow(ends, pid, max(operations // _SAMPLES, 1))
            self._requests += Counter(self._status()["requests"])
            self._judge()
            self._daemon.stop()
            self._note([f"it was logged: {line}" for line in self._daemon.complaints()])
            self._daemon.start()
            self._compare()
            self._daemon.stop()
        except (MountError, TimeoutError, EOFError) as error:
            self._note([f"it goes no further: {type(error).__name__}: {error}"])
        finally:
            self._daemon.clear_away()
        details = Counter({"operations": self._done.operations, "requests to the daemon": self._requests.total()})
        return Summary(
            bytes_compared=self._done.bytes_compared, differences=tuple(self._done.differences), details=details
        )

    def _status(self) -> dict[str, dict[str, int]]:
        mounts = json.loads(run(*COMMAND, "status", "--json", self._daemon.path))["mounts"]
        status: dict[str, dict[str, int]] = mounts[0]["status"]
        return status

    def _programs(self, operations: int) -> list[tuple[object, ...]]:
        """What each of them is given: so many operations to do."""
        return [(self._daemon.path, number, self._files, seed, operations) for number, seed in enumerate(self._seeds)]

    def _follow(self, ends: list[Connection], pid: int, every: int) -> None:
        left = list(ends)
        while left:
            ready = wait(left, _SILENT_SECONDS)
            if not ready:
                raise TimeoutError("no program gets anywhere")
            for end in ready:
                assert isinstance(end, Connection)
                told: Progress | Ended = end.recv()
                if isinstance(told, Ended):
                    self._known |= told.files
                    left.remove(end)
                    continue
                self._done += told
                self._say(told.differences)
            if len(left) == len(ends) and self._done.operations >= every * (len(self._samples) + 1):
                self._samples.append(Sample.of(pid, self._done.operations))
                say(str(self._samples[-1]))

    def _judge(self) -> None:
        judged = growths(self._samples)
        if not judged:
            say("too short to say what grows")
        for growth in judged:
            say(str(growth))
            if not growth.is_flat:
                self._note([f"it grows: {growth.name}"])
        say(f"requests: {', '.join(f'{kind} {count}' for kind, count in self._requests.most_common())}")

    def _compare(self) -> None:
        """All that the programs know."""
        failures: list[str] = []
        shown = observe(self._daemon.path, self._known.__contains__, failures)
        found = {path: seen.content for path, seen in shown.items() if seen.content is not None}
        self._done.bytes_compared += sum(map(len, found.values()))
        self._note(failures + [f"{path}: is another after a remount" for path in _differ(found, self._known)])

    def _note(self, differences: list[str]) -> None:
        self._done.differences += differences
        self._say(differences)

    def _say(self, differences: list[str]) -> None:
        for line in differences[:_TOLD_AT_ONCE]:
            say(f"difference: {line}")


def _differ(found: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> list[str]:
    return sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))


def _work(top: Path, number: int, files: int, seed: str, operations: int, told: Connection) -> None:
    """The process of one program."""
    os.umask(0)
    os.chdir(top / f"p{number}")
    program = Everything(number, files, random.Random(seed))
    known: dict[str, bytes] = {}
    done = 0
    try:
        program.read_the_base()
        while done < operations and program.progress.differences == []:
            while program.progress.operations < _TELL_EVERY:
                program.step()
            done += program.progress.operations
            told.send(program.take_progress())
        known = program.finish()
    except OSError as error:
        program.progress.differences.append(f"p{number}: it cannot go on: {type(error).__name__}: {error}")
    told.send(program.take_progress())
    told.send(Ended({f"p{number}/{path}": content for path, content in known.items()}))
