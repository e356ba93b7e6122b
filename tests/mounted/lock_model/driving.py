"""Lock calls by real processes in a directory, each compared with the model."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final, NamedTuple, Self

from tests.mounted.lock_model import worker as worker_module
from tests.mounted.lock_model.model import BYTES, END, LockModel, OpenFile, Wanted

PROCESSES: Final = 8
NAMES: Final = ("a", "b")
DESCRIPTORS: Final = (10, 11, 12, 13)
"""Of every process: at the start an open file of each name, one shared with another process, and a closed one."""
SHARED: Final = 12
_SECONDS: Final = 20.0
_WEIGHTS: Final = {
    "process": 42,
    "file": 22,
    "flock": 16,
    "find": 8,
    "find_by_file": 4,
    "close": 5,
    "dup": 3,
    "write": 2,
    "rename": 1,
    "chmod": 1,
    "kill": 1,
}
WHATS: Final = tuple(what for what, weight in _WEIGHTS.items() for _ in range(weight))


class Call(NamedTuple):
    """What one process is to do. Where it cannot, it does something that leads to it (driving.py)."""

    process: int
    what: str
    descriptor: int
    kind: str
    start: int
    length: int
    """0: to the end of all that there may ever be."""
    waits: bool

    @classmethod
    def random(cls, random: Random) -> Self:
        start = random.randrange(BYTES + 1)
        return cls(
            random.randrange(PROCESSES),
            random.choice(WHATS),
            random.choice(DESCRIPTORS),
            random.choice("rrwwuu"),
            start,
            random.choice((0, *range(1, BYTES + 1 - start), *range(1, BYTES + 1 - start))),
            random.random() < 0.4,
        )


class DifferenceError(AssertionError):
    """A process was told something else than the model says."""


class _Process:
    def __init__(self, directory: Path, number: int, shared: int | None = None) -> None:
        self.number = number
        """Of its life: another one for each process."""
        command = [sys.executable, "-S", "-E", worker_module.__file__]
        keep = () if shared is None else (shared,)
        self._popen = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, pass_fds=keep
        )
        self.pid = self._popen.pid
        self._unread = b""
        if shared not in (None, SHARED):
            self.call(f"duplicated {shared} {SHARED}")
            self.call(f"closed {shared}")

    def send(self, line: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(line.encode() + b"\n")

    def answer(self, seconds: float = _SECONDS) -> str | None:
        """The next line; None if there is none in time."""
        assert self._popen.stdout is not None
        give_up_at = time.monotonic() + seconds
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._popen.stdout], [], [], max(0.0, give_up_at - time.monotonic()))
            if not ready:
                return None
            data = self._popen.stdout.read(4096)
            if not data:
                raise DifferenceError("a process ended")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def call(self, line: str) -> str | None:
        self.send(line)
        return self.answer()

    def sleeps(self) -> bool:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2][0] in "SD"

    def await_sleep(self) -> None:
        """Return once it waits in the call that it announced."""
        give_up_at = time.monotonic() + _SECONDS
        while not self.sleeps():
            if time.monotonic() > give_up_at:
                raise DifferenceError("a process that should wait does not")

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                pipe.close()


class Processes:
    """Some processes that lock files of a directory, and the model beside them."""

    def __init__(self, directory: Path, *, is_native: bool = False) -> None:
        """`is_native`: waiting ends in any order, and who waits for himself is found by other rules."""
        self._directory = directory
        self._native = is_native
        self._model = LockModel()
        self._numbers = iter(range(1, sys.maxsize))
        self._open: dict[tuple[int, int], OpenFile] = {}
        self._processes: list[_Process] = []
        self.log: list[str] = []
        self.calls = 0

    def __enter__(self) -> Self:
        for index in range(0, PROCESSES, 2):
            fd = os.open(self._directory / NAMES[index // 2 % 2], os.O_RDWR)
            shared = OpenFile(next(self._numbers), NAMES[index // 2 % 2])
            for each in (index, index + 1):
                self._processes.append(_Process(self._directory, next(self._numbers), fd))
                self._has(shared, each, SHARED)
            os.close(fd)
        for index in range(PROCESSES):
            self._open_files(index)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()

    def _open_files(self, index: int) -> None:
        for descriptor, name in zip(DESCRIPTORS, NAMES, strict=False):
            self._open_file(index, descriptor, name)

    def _open_file(self, index: int, descriptor: int, name: str) -> None:
        self._expect("ok", self._processes[index].call(f"opened {descriptor} {name}"))
        # The descriptor that the worker got first and closed at once was one of the file, too.
        self._model.drop(name, ("process", self._processes[index].number))
        self._has(OpenFile(next(self._numbers), name), index, descriptor)

    def _has(self, file: OpenFile, index: int, descriptor: int) -> None:
        file.descriptors.add((index, descriptor))
        self._open[index, descriptor] = file

    def do(self, call: Call) -> None:
        """One call, compared."""
        self.calls += 1
        self._none_ended()
        process = self._processes[call.process]
        file = self._open.get((call.process, call.descriptor))
        if call.what == "kill":
            self._note(call, "kill")
            self._kill(call.process)
        elif call.process in self._model.waiting:
            self._note(call, "interrupt")
            os.kill(process.pid, signal.SIGUSR1)
            self._expect("EINTR", process.answer())
            del self._model.waiting[call.process]
        elif file is None:
            self._note(call, "open")
            self._open_file(call.process, call.descriptor, NAMES[call.start % 2])
        else:
            self._note(call, call.what)
            _CALLS[call.what](self, call, process, file)
        self._settle()

    def _note(self, call: Call, what: str) -> None:
        self.log.append(f"{what}: {call}")

    def _expect(self, expected: str, said: str | None) -> None:
        if said != expected:
            raise DifferenceError(
                f"{said} instead of {expected}\n" + "\n".join(self.log[-60:]) + f"\n{vars(self._model)}"
            )

    def _wanted(self, call: Call, file: OpenFile) -> Wanted:
        if call.what == "flock":
            return Wanted(file.name, ("flock", file.number), call.kind, 0, END)
        by_file = call.what in ("file", "find_by_file")
        owner = ("file", file.number) if by_file else ("process", self._processes[call.process].number)
        end = call.start + call.length if call.length else END
        return Wanted(file.name, owner, call.kind, call.start, end)

    # -- the calls

    def _lock(self, call: Call, process: _Process, file: OpenFile) -> None:
        wanted = self._wanted(call, file)
        if self._native and self._is_decided_otherwise(call, wanted):
            return
        waits = call.waits and call.kind != "u"
        if call.what == "flock":
            line = f"whole {call.descriptor} {int(waits)} {call.kind}"
        else:
            by_file = int(call.what == "file")
            line = f"ranged {call.descriptor} {by_file} {int(waits)} {call.kind} {call.start} {call.length}"
        process.send(line)
        if waits:
            self._expect("w", process.answer())
        expected = self._model.ask(call.process, wanted, waits=waits)
        if expected == "waits":
            process.await_sleep()
        else:
            self._expect(expected, process.answer())

    def _is_decided_otherwise(self, call: Call, wanted: Wanted) -> bool:
        """The kernel sees fewer circles, and who gets what a converted flock(2) gives up depends on the scheduler."""
        if call.what == "flock":
            return any(waited.owner[0] == "flock" for waited in self._model.waiting.values())
        return call.waits and call.kind != "u" and self._model.would_never_end(wanted)

    def _find(self, call: Call, process: _Process, file: OpenFile) -> None:
        wanted = self._wanted(call._replace(kind="r" if call.kind == "u" else call.kind), file)
        possible = self._model.found(wanted)
        by_file = int(call.what == "find_by_file")
        said = process.call(f"found {call.descriptor} {by_file} {wanted.kind} {call.start} {call.length}") or ""
        if not possible:
            self._expect("u", said.split(" ")[0])
            return
        kind, start, length, pid = said.split(" ")
        end = int(start) + int(length) if int(length) else END
        same = [found for found in possible if found[:3] == (kind, int(start), end)]
        if not same:
            self._expect(f"one of {possible}", said)
        numbers = {each.number: each.pid for each in self._processes}
        pids = {numbers[found.owner[1]] for found in same if found.owner[0] == "process"}
        if call.what == "find" and len(pids) == len(same) and int(pid) not in pids:
            self._expect(f"one of the processes {pids}", said)

    def _close(self, call: Call, process: _Process, file: OpenFile) -> None:
        self._expect("ok", process.call(f"closed {call.descriptor}"))
        self._closed(call.process, call.descriptor)

    def _closed(self, index: int, descriptor: int) -> None:
        file = self._open.pop((index, descriptor))
        self._model.drop(file.name, ("process", self._processes[index].number))
        file.descriptors.discard((index, descriptor))
        if not file.descriptors:
            self._model.drop(file.name, ("file", file.number))
            self._model.drop(file.name, ("flock", file.number))

    def _dup(self, call: Call, process: _Process, file: OpenFile) -> None:
        target = DESCRIPTORS[(DESCRIPTORS.index(call.descriptor) + 1 + call.start % 3) % len(DESCRIPTORS)]
        self._expect("ok", process.call(f"duplicated {call.descriptor} {target}"))
        file.descriptors.add((call.process, -1))  # so that it does not go if the target was the same
        if (call.process, target) in self._open:
            self._closed(call.process, target)
        file.descriptors.discard((call.process, -1))
        self._has(file, call.process, target)

    def _write(self, call: Call, process: _Process, file: OpenFile) -> None:
        self._expect("ok", process.call(f"written {call.descriptor}"))

    def _rename(self, call: Call, process: _Process, file: OpenFile) -> None:
        path = self._directory / file.name
        path.rename(path.with_suffix(".renamed"))
        path.with_suffix(".renamed").rename(path)

    def _chmod(self, call: Call, process: _Process, file: OpenFile) -> None:
        (self._directory / file.name).chmod(0o600 + call.start)

    def _kill(self, index: int) -> None:
        self._processes[index].kill()
        self._model.waiting.pop(index, None)
        for descriptor in [each for process, each in self._open if process == index]:
            self._closed(index, descriptor)
        self._settle()
        self._processes[index] = _Process(self._directory, next(self._numbers))
        self._open_files(index)

    # -- what comes of it for those who wait

    def _settle(self) -> None:
        if self._native:
            self._settle_in_any_order()
            return
        for index in self._model.granted():
            self._expect("ok", self._processes[index].answer())

    def _settle_in_any_order(self) -> None:
        give_up_at = time.monotonic() + _SECONDS
        while ready := self._model.grantable():
            for index in ready:
                if (said := self._processes[index].answer(0.0005)) is not None:
                    self._expect("ok", said)
                    self._model.grant(index)
                    break
            if time.monotonic() > give_up_at:
                self._expect(f"that one of {ready} has its lock", None)

    def _none_ended(self) -> None:
        for index in self._model.waiting:
            if (said := self._processes[index].answer(0)) is not None:
                self._expect(f"nothing, for {index} waits still", said)

    def finish(self) -> None:
        """Have all give up what they hold, and see that nobody is told anything else."""
        time.sleep(0.02)
        self._none_ended()
        for index in range(PROCESSES):
            if index in self._model.waiting:
                self.do(Call(index, "flock", DESCRIPTORS[0], "u", 0, 0, False))
        for index, descriptor in list(self._open):
            if descriptor != SHARED:
                self.do(Call(index, "close", descriptor, "u", 0, 0, False))
        for index, descriptor in list(self._open):
            for what in ("process", "file", "flock"):
                self.do(Call(index, what, descriptor, "u", 0, 0, False))
        for index in range(PROCESSES):
            self._open_files(index)


_Action = Callable[[Processes, Call, _Process, OpenFile], None]
_CALLS: Final[dict[str, _Action]] = {
    "process": Processes._lock,
    "file": Processes._lock,
    "flock": Processes._lock,
    "find": Processes._find,
    "find_by_file": Processes._find,
    "close": Processes._close,
    "dup": Processes._dup,
    "write": Processes._write,
    "rename": Processes._rename,
    "chmod": Processes._chmod,
}


def an_outsider_can_lock(path: Path) -> bool:
    """Whether nobody holds a lock on a file, as seen from where no mount is."""
    fd = os.open(path, os.O_RDWR)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            asked = worker_module.FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, asked)
            return True
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
    finally:
        os.close(fd)
    return False
