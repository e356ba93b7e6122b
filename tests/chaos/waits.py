"""How long programs wait in a system call, as the kernel tells it: for programs that do not time their calls.

A thread that is in the same call, with the same arguments, and has used no processor time since, has not returned. What
is told is from the first look at a call to the last: never more than it took.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.chaos.told import Told
from tests.servers.processes import descendants

_LOOK_SECONDS = 0.2
_SLEEPS_IN_FUSE = ("request_wait_answer", "fuse_", "folio_wait", "__fuse")
"""Where the kernel lets a thread wait for an answer, as /proc names it."""


class _Call(NamedTuple):
    """A thread in a call."""

    thread: str
    call: str
    switches: str


class Waits:
    """Watches the programs that this process starts, while it is entered."""

    def __init__(self) -> None:
        self.told = Told()
        self._since: dict[_Call, float] = {}
        self._looked_at = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="waits", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        now = time.monotonic()
        waiting = {}
        for pid in descendants(os.getpid()):
            for thread in _threads(pid):
                if (call := _in_a_call(thread)) is not None:
                    waiting[call] = self._since.get(call, now)
        for call in self._since.keys() - waiting.keys():
            self.told.took(call.call, self._looked_at - self._since[call])
        self._since, self._looked_at = waiting, now


def _threads(pid: int) -> list[Path]:
    try:
        return [Path(f"/proc/{pid}/task/{name}") for name in os.listdir(f"/proc/{pid}/task")]
    except FileNotFoundError:
        return []  # it has ended


def _in_a_call(thread: Path) -> _Call | None:
    """None if it does not wait for a file system in user space."""
    try:
        if not (thread / "wchan").read_text().startswith(_SLEEPS_IN_FUSE):
            return None
        status = (thread / "status").read_text()
        switches = next(line for line in status.splitlines() if line.startswith("voluntary_ctxt_switches"))
        name = (thread / "comm").read_text().strip()
        return _Call(str(thread), f"{name}: call {(thread / 'syscall').read_text().strip()}", switches)
    except (FileNotFoundError, ProcessLookupError, PermissionError, StopIteration):
        return None  # it has ended
