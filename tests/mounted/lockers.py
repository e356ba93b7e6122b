"""Programs that lock a file: on a mount, and outside of it on what a layer has of it."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from pathlib import Path

from netoverlay.backend_api import Access, Backend, BackendFile, LockKind
from tests.mounted.lock_cells import Call

FLOCK = struct.Struct("@hhqqi4x")
"""struct flock: type, whence, start, length, pid."""
WAIT_SECONDS = 20.0
_COMMANDS = {
    Call.FCNTL_SHARED: (fcntl.F_SETLK, fcntl.F_SETLKW),
    Call.FCNTL_EXCLUSIVE: (fcntl.F_SETLK, fcntl.F_SETLKW),
    Call.OFD_SHARED: (fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW),
    Call.OFD_EXCLUSIVE: (fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW),
}


class Program:
    """Has a file open, and locks the whole of it."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self._descriptor = os.open(path, os.O_RDWR if writes else os.O_RDONLY)

    def close(self) -> None:
        """What it holds goes."""
        os.close(self._descriptor)

    def write(self, data: bytes) -> int:
        """Over the beginning, and sync: 0, or the errno."""
        try:
            os.pwrite(self._descriptor, data, 0)
            os.fsync(self._descriptor)
        except OSError as error:
            return error.errno or -1
        return 0

    def take(self, call: Call, *, waits: bool = False) -> int:
        """0, or the errno of the call."""
        try:
            if call.is_flock:
                kind = fcntl.LOCK_EX if call.is_exclusive else fcntl.LOCK_SH
                fcntl.flock(self._descriptor, kind if waits else kind | fcntl.LOCK_NB)
            else:
                kind = fcntl.F_WRLCK if call.is_exclusive else fcntl.F_RDLCK
                fcntl.fcntl(self._descriptor, _COMMANDS[call][waits], FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            return error.errno or -1
        return 0

    def give_up(self, call: Call) -> None:
        """Unlock, which never fails."""
        if call.is_flock:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        else:
            fcntl.fcntl(self._descriptor, _COMMANDS[call][0], FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))

    def found(self, kind: int) -> int:
        """The type that F_GETLK (of an open file description) says is in the way of one of `kind`. OSError."""
        asked = FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)
        told = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, asked)
        return int(FLOCK.unpack(told)[0])


class Waiter:
    """A program that waits for a lock, in a thread."""

    def __init__(self, program: Program, call: Call) -> None:
        self.answer: int | None = None
        self._thread = threading.Thread(target=self._wait, args=(program, call), daemon=True)
        self._thread.start()

    def _wait(self, program: Program, call: Call) -> None:
        self.answer = program.take(call, waits=True)

    def is_waiting(self, seconds: float) -> bool:
        """Whether there is no answer in so many seconds."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def answered(self) -> int | None:
        """The answer; None if there is none within some seconds."""
        self._thread.join(WAIT_SECONDS)
        return self.answer


class SmbProgram:
    """As Program, by an SMB connection of its own."""

    def __init__(self, backend: Backend, path: str) -> None:
        self._file: BackendFile = backend.open(path, Access.READ_WRITE)

    def close(self) -> None:
        """As Program."""
        self._file.close()

    def take(self, call: Call) -> int:
        """As Program."""
        try:
            self._file.lock(LockKind.EXCLUSIVE if call.is_exclusive else LockKind.SHARED, 0, 0)
        except BlockingIOError:
            return errno.EAGAIN
        return 0

    def give_up(self, call: Call) -> None:
        """As Program."""
        del call
        self._file.lock(LockKind.UNLOCK, 0, 0)
