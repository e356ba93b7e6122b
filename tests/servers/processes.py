"""What the servers of the tests have in common: programs, ports and processes of this machine.

A server is a process of this machine, or a container of it where NETOVERLAY_TEST_SERVERS names an engine (see
containers.py); the tests do not see which.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.servers.containers import ENGINE, Container

START_SECONDS = 20.0
END_SECONDS = 20.0


def required_program(name: str, remedy: str = "the tests need it") -> str:
    """The full path of a program that the tests cannot do without; a missing one fails the run."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"{name} is not installed; {remedy}")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """The process ids below `pid`, children before grandchildren."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def end(pid: int, number: int = signal.SIGKILL) -> None:
    """Send the signal, SIGKILL if nothing else is said; a process that has gone already is none to worry about."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait_for_end(pid: int) -> None:
    """Return once a process that was killed holds nothing any more; who its parent is does not matter."""
    give_up_at = time.monotonic() + END_SECONDS
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}:
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"process {pid} was killed and does not end")
            time.sleep(0.005)


class LoopbackServer(ABC):
    """A server on 127.0.0.1:`port`, self-contained in `directory`; it writes what it has to say to `log`."""

    program: ClassVar[str]
    """In /usr/sbin, where Debian's is."""
    remedy: ClassVar[str]

    def __init__(self, directory: Path, users: Sequence[str]) -> None:
        self.directory = directory
        self.users = list(users)
        self.user = self.users[0]
        self.port = free_port()
        self.log = directory / "log"
        self._process: subprocess.Popen[bytes] | Container | None = None
        directory.mkdir(parents=True, mode=0o700)

    @abstractmethod
    def _arguments(self) -> list[str]:
        """Those of the program, for it to stay in the foreground and write its log to the standard output or error."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it serves `port` by now."""

    def _limits(self) -> list[str]:
        """The options of prlimit(1) under which it runs."""
        return []

    def _trees(self) -> list[Path]:
        """What it serves that may lie outside the directory for temporary files."""
        return []

    def _session_processes(self) -> list[int]:
        """The processes that serve connections."""
        return descendants(self._process.pid) if self._process is not None else []

    def _detached_processes(self) -> list[int]:
        """The processes of the server that are not below its first one."""
        return []

    def start(self) -> None:
        """Start it, on the port it had before, and wait until it answers."""
        if self._process is not None:
            raise RuntimeError(f"{self.program} is running already")
        prefix = ["prlimit", *self._limits()] if self._limits() else []
        with self.log.open("ab") as log:
            if ENGINE:
                self._process = Container(
                    self.program,
                    [*prefix, f"/usr/sbin/{self.program}", *self._arguments()],
                    directory=self.directory,
                    trees=self._trees(),
                    users=self.users,
                    log=log,
                )
            else:
                command = [*prefix, required_program(self.program, self.remedy), *self._arguments()]
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait_for_answer(self._process)
        except BaseException:
            self.stop()
            raise

    def _wait_for_answer(self, process: subprocess.Popen[bytes] | Container) -> None:
        give_up_at = time.monotonic() + START_SECONDS
        while not self._answers():
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"{self.program} did not start:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.02)

    def end_sessions(self) -> None:
        """Kill what serves the connections, as a crash of the server would; new connections are accepted."""
        for pid in self._session_processes():
            end(pid)

    def stop(self) -> None:
        """Stop it, its connections with it."""
        if self._process is None:
            return
        if isinstance(self._process, Container):
            self._process.kill()
        else:
            end(self._process.pid, signal.SIGSTOP)  # so that it starts nothing while its processes are looked for
            others = [*descendants(self._process.pid), *self._detached_processes()]
            for pid in [self._process.pid, *others]:
                end(pid)
            for pid in others:
                _wait_for_end(pid)
        self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
