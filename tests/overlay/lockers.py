"""Programs that lock files of an overlay, for tests of the core; and one outside of it."""

from __future__ import annotations

import fcntl
import itertools
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from netoverlay.backend_api import Access, LockKind
from netoverlay.overlay.handles import FileHandle
from netoverlay.overlay.inode_locks import LockRequest
from netoverlay.overlay.lock_table import END, Held, LockCall, Owner, Wanted
from tests.overlay.trees import Mounted

_SECONDS: Final = 10.0
_FLOCK: Final = struct.Struct("@hhqqi4x")
_TYPES: Final = {LockKind.SHARED: fcntl.F_RDLCK, LockKind.EXCLUSIVE: fcntl.F_WRLCK, LockKind.UNLOCK: fcntl.F_UNLCK}
_WHOLE: Final = {LockKind.SHARED: fcntl.LOCK_SH, LockKind.EXCLUSIVE: fcntl.LOCK_EX, LockKind.UNLOCK: fcntl.LOCK_UN}
_numbers = itertools.count(1)


def eventually(condition: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.001)


def refused(code: int, call: Callable[[], object]) -> None:
    """See that `call` fails with an errno."""
    with pytest.raises(OSError, match=rf"\[Errno {code}\]"):
        call()


class Answer:
    """What came of a request, or will."""

    def __init__(self) -> None:
        self.errors: list[OSError | None] = []

    @property
    def waits(self) -> bool:
        return not self.errors

    def granted(self) -> None:
        """Wait for it, and see that it is a success."""
        eventually(lambda: self.errors)
        assert self.errors == [None]

    def refused(self, code: int) -> None:
        eventually(lambda: self.errors)
        (error,) = self.errors
        assert error is not None
        assert error.errno == code


class Program:
    """A process with one file open."""

    def __init__(self, overlay: Mounted, path: str, *, like: Program | None = None) -> None:
        """`like`: the same process, with another open file."""
        self._locks = overlay.overlay.file_locks
        self._files = overlay.overlay.files
        self.handle: FileHandle = self._files.open(overlay.file_inode(path), Access.READ_WRITE)
        self.number = next(_numbers) if like is None else like.number
        self.open_file = next(_numbers)
        self.request: LockRequest | None = None

    def wanted(self, kind: LockKind, start: int = 0, end: int = END, *, by_file: bool = False) -> Wanted:
        number = self.open_file if by_file else self.number
        return Wanted(Owner(LockCall.FCNTL, number), kind, start, end, self.number)

    def ask(self, wanted: Wanted, *, waits: bool = True) -> Answer:
        answer = Answer()
        self.request = LockRequest(self.handle, wanted, waits, answer.errors.append)
        if self._locks.set(self.request):
            answer.errors.append(None)
        return answer

    def lock(self, kind: LockKind, start: int = 0, end: int = END, *, by_file: bool = False) -> Answer:
        """fcntl(2) that waits."""
        return self.ask(self.wanted(kind, start, end, by_file=by_file))

    def try_lock(self, kind: LockKind, start: int = 0, end: int = END, *, by_file: bool = False) -> None:
        """fcntl(2) that does not wait, done when this returns."""
        self.ask(self.wanted(kind, start, end, by_file=by_file), waits=False).granted()

    def unlock(self, start: int = 0, end: int = END, *, by_file: bool = False) -> None:
        self.try_lock(LockKind.UNLOCK, start, end, by_file=by_file)

    def flock(self, kind: LockKind, *, waits: bool = True) -> Answer:
        return self.ask(Wanted(Owner(LockCall.FLOCK, self.open_file), kind, 0, END, self.number), waits=waits)

    def try_flock(self, kind: LockKind) -> None:
        self.flock(kind, waits=False).granted()

    def found(self, kind: LockKind, start: int = 0, end: int = END) -> Held | None:
        return self._locks.find(self.handle, self.wanted(kind, start, end))

    def interrupt(self) -> None:
        assert self.request is not None
        self._locks.cancel(self.request)

    def flush(self) -> None:
        """Close a descriptor, of which there are others."""
        self._locks.flushed(self.handle, self.number)

    def close(self) -> None:
        """Close the last descriptor of the open file."""
        self.flush()
        self._locks.released(self.handle, self.open_file)
        self._files.release(self.handle)


class Shared:
    """An overlay whose upper others use, with the file "file" there; and programs."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.upper = directory / "upper" / "file"
        self.lower = directory / "lower0" / "file"
        self.overlay = Mounted(directory, shared_upper=True, **options)  # type: ignore[arg-type]
        self.programs: list[Program] = []

    def start(self) -> Program:
        self.programs.append(Program(self.overlay, "file"))
        return self.programs[-1]

    def close(self) -> None:
        for program in self.programs:
            if program.request is not None:
                program.interrupt()
            program.close()
        self.overlay.close()


class Outsider:
    """A program on the same machine, with a file of a layer open."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR)

    def lock(self, kind: LockKind, start: int = 0, end: int = END) -> None:
        """By F_OFD_SETLK; BlockingIOError if somebody is in the way."""
        length = 0 if end == END else end - start
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(_TYPES[kind], os.SEEK_SET, start, length, 0))

    def flock(self, kind: LockKind) -> None:
        fcntl.flock(self._fd, _WHOLE[kind] | fcntl.LOCK_NB)

    def can(self, kind: LockKind, start: int = 0, end: int = END) -> bool:
        """Whether it could lock by fcntl(2)."""
        try:
            self.lock(kind, start, end)
        except BlockingIOError:
            return False
        self.lock(LockKind.UNLOCK, start, end)
        return True

    def can_flock(self, kind: LockKind) -> bool:
        try:
            self.flock(kind)
        except BlockingIOError:
            return False
        self.flock(LockKind.UNLOCK)
        return True

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def outsider(path: Path) -> Iterator[Outsider]:
    opened = Outsider(path)
    try:
        yield opened
    finally:
        opened.close()
