"""One mount at a time owns an upper: by a lock that the system drops with the process, where there are such locks, and
by a lease else (lease.py). Both stand in the file `lock` of the work directory, and respect each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import time
from typing import Protocol

from netoverlay.backend_api import (
    Access,
    Backend,
    BackendFile,
    Capabilities,
    Creation,
    LayerPath,
    LayerSetupError,
)
from netoverlay.overlay.lease import Contender, Timing, take_lease
from netoverlay.overlay.lease_file import read_lease
from netoverlay.overlay.owner import Holding, Owner, UpperHeldError, parse_owner, this_process

_ATTEMPTS = 20
_MAX_OWNER_BYTES = 16384


class Held(Protocol):
    """An upper that this process owns."""

    def lost(self) -> bool:
        """Whether that is over, against our will. Then nothing may be changed in the upper or its work directory."""

    def holding(self) -> Holding:
        """How it stands, as far as is known: asks nobody, and returns at once."""

    def release(self) -> None:
        """Let others have it. Doing it twice is harmless. It raises nothing."""


def acquire(
    backend: Backend, capabilities: Capabilities, work: LayerPath, mountpoint: str, timing: Timing | None = None
) -> Held:
    """Own the upper with the work directory `work` (made if it is not there), for the mount at `mountpoint`.

    UpperHeldError if another has it. `backend` must answer from the server each time: give it without caches, and
    without the guard that asks the outcome (wrappers/guard.py). `timing` is for uppers on servers.
    """
    with contextlib.suppress(FileExistsError):
        backend.mkdir(work, 0o700)
    timing = timing or Timing()
    if capabilities.local:
        return _lock(Contender(backend, work, timing), backend, mountpoint)
    return take_lease(backend, work, mountpoint, timing)


def require_free(backend: Backend, capabilities: Capabilities, work: LayerPath, timing: Timing) -> Held:
    """As acquire(), for who only wants to look: UpperHeldError, but nothing is taken, nor made in the upper.

    Whoever comes next may take it, so what is returned is lost from the beginning. Where the lease of an owner is not
    known to be dead, a file is made for a moment to ask the server what time it is.
    """
    contender = Contender(backend, work, timing)
    seen = contender.file.look() if capabilities.local else contender.look()
    if seen is None:
        return NotHeld()
    if seen.owner is not None and seen.owner.nonce:
        if not contender.is_free(seen):
            raise UpperHeldError("another mount has just taken it")
    elif capabilities.local:
        with backend.open(contender.file.path, Access.READ) as file:
            _lock_or_refuse(file)
    else:
        contender.is_free(seen)
    return NotHeld()


class NotHeld:
    """An upper that is free, and was left so."""

    def lost(self) -> bool:
        return True

    def holding(self) -> Holding:
        return Holding(state="lost", since=time.time(), problem="it was not taken")

    def release(self) -> None:
        pass


class HeldLock:
    """Owned by an flock(2) on the open file. The kernel drops it with the process, so it cannot be lost before."""

    def __init__(self, file: BackendFile, owner: Owner) -> None:
        self._file = file
        self._owner = owner
        self._since = time.time()
        self._released = False

    def lost(self) -> bool:
        return False

    def holding(self) -> Holding:
        return Holding(state="held", since=self._since)

    def release(self) -> None:
        """Say so in the file, too: who reaches it through a server does not see the lock."""
        if self._released:
            return
        self._released = True
        with contextlib.suppress(OSError):
            _write(self._file, dataclasses.replace(self._owner, released=True))
        with contextlib.suppress(OSError):
            self._file.close()


def _lock(contender: Contender, backend: Backend, mountpoint: str) -> HeldLock:
    path = contender.file.path
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(FileExistsError):
            backend.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=0o600).close()
        try:
            file = backend.open(path, Access.READ_WRITE)
        except FileNotFoundError:
            continue  # a lease, just given back
        try:
            _lock_or_refuse(file)
            if _is_ours(contender, file):
                owner = this_process(mountpoint)
                _write(file, owner)
                return HeldLock(file, owner)
        except BaseException:
            file.close()
            raise
        file.close()
    raise UpperHeldError("many mounts want it at the same time; try again")


def _is_ours(contender: Contender, file: BackendFile) -> bool:
    """Whether the file that was locked is the one that counts. UpperHeldError if it is the lease of a living owner."""
    seen = read_lease(file)
    if seen.owner is not None and seen.owner.nonce:
        if contender.is_free(seen):
            contender.remove(seen)
        return False
    current = contender.file.look()
    return current is not None and current.file_id == seen.file_id


def _lock_or_refuse(file: BackendFile) -> None:
    """UpperHeldError if another process holds it."""
    try:
        _lock_whole(file)
    except BlockingIOError:
        owner = parse_owner(file.read_at(0, _MAX_OWNER_BYTES)) or Owner()
        raise UpperHeldError(f"another mount owns it: {owner}; unmount that first") from None


def _lock_whole(file: BackendFile) -> None:
    """BlockingIOError if another process holds it. The lock goes with the open file, so also with a crash."""
    descriptor = file.fileno()
    if descriptor is None:
        raise LayerSetupError("the file of the lock is on no file system of this machine", errno.ENOLCK)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write(file: BackendFile, owner: Owner) -> None:
    file.truncate(0)
    file.write_at(0, owner.pack())
