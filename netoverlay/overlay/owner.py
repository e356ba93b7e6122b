"""Who owns an upper: what stands about it in the upper's work directory, and whether that process is still there."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any, Literal

from netoverlay.backend_api import LayerSetupError

VERSION = 1
_ROOM = 32
"""Bytes by which a record may grow: the counter does."""
_BLOCK = 512


class UpperHeldError(LayerSetupError):
    """Another mount owns the upper; the message says which, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, errno.EBUSY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """How it stands with an upper that this process took."""

    state: Literal["held", "unrenewed", "lost"]
    """"unrenewed": it is ours still, and will be lost if that goes on."""
    since: float
    """Seconds since 1970."""
    problem: str | None = None
    """Why it is unrenewed or lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What an owner writes about itself. Whatever reads one has to expect the defaults: another version wrote it."""

    version: int = VERSION
    host: str = "?"
    pid: int = 0
    mountpoint: str = "?"
    since: str = "?"
    boot_id: str = ""
    """Of the kernel that runs it: another one after each start of the machine."""
    pid_namespace: str = ""
    """In which `pid` is a number: containers of one machine have one each, under the same boot id."""
    started: int = 0
    """When the process started, in ticks since the machine did: its pid may be another process's one day."""
    nonce: str = ""
    """Tells this ownership from all others; "" of one that is held by a lock, and has no beats."""
    beat_seconds: float = 0.0
    expires_seconds: float = 0.0
    """It counts as dead when so long no beat was seen."""
    beat: int = 0
    """Counts the beats. Last, with `released`: what does not change stands at the same place in every beat."""
    released: bool = False
    """Given back: nobody's."""

    def __str__(self) -> str:
        return f"{self.mountpoint}, process {self.pid or '?'} on {self.host} since {self.since}"

    def pack(self) -> bytes:
        """JSON on one line, filled up with spaces, so that all beats of an owner have one size."""
        text = json.dumps(dataclasses.asdict(self)).encode()
        first = json.dumps(dataclasses.asdict(dataclasses.replace(self, beat=0, released=False))).encode()
        size = -(-(len(first) + _ROOM) // _BLOCK) * _BLOCK
        return text.ljust(size - 1) + b"\n"


def this_process(mountpoint: str) -> Owner:
    """The owner that this process is, for the mount at `mountpoint`."""
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        mountpoint=mountpoint,
        since=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        started=_process_state(os.getpid())[1],
    )


def parse_owner(text: bytes) -> Owner | None:
    """The owner that `text` tells of; None if it is none, or only a part of one."""
    try:
        told: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or not isinstance(told.get("pid"), int):
        return None
    known: dict[str, Any] = {}
    for field in dataclasses.fields(Owner):
        value = told.get(field.name)
        wanted = (int, float) if isinstance(field.default, float) else type(field.default)
        if isinstance(value, wanted):
            known[field.name] = value
    return Owner(**known)


def is_dead_here(owner: Owner) -> bool:
    """Whether `owner` was a process that this one could see, and is none any more. False if that cannot be known."""
    here = (socket.gethostname(), _boot_id(), _pid_namespace())
    if not all(here) or (owner.host, owner.boot_id, owner.pid_namespace) != here or owner.pid <= 0:
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # somebody else's: it is there
    is_over, started = _process_state(owner.pid)
    return is_over or bool(started and owner.started and started != owner.started)


def _process_state(pid: int) -> tuple[bool, int]:
    """Whether all that is left of it is an exit status that nobody asked for, and when it started; 0 if not told."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in parentheses, may hold any byte; what follows it is numbers, from the third field on.
            fields = file.read().rpartition(b")")[2].split()
        return fields[0] == b"Z" and int(fields[17]) <= 1, int(fields[19])
    except (OSError, ValueError, IndexError):
        return False, 0


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
