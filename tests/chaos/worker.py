"""A process that works on a mount, and tells what it is about to do and what came of it.

For each step a line `b NUMBER` before the call, and `e NUMBER ERRNO NANOSECONDS` after it, with the time then
(monotonic, which all processes share). It ends with the first call that fails.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from tests.chaos.steps import IDENTITY, Call, Step, bytes_of

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


class Worker:
    """Carries steps out; a slot is a descriptor."""

    def __init__(self, top: str) -> None:
        self._top = top
        self._slots: dict[int, int] = {}
        self._calls: dict[Call, Callable[[Step, str, str], object]] = {
            Call.OPEN: lambda step, path, _: self._open(step.slot, path, os.O_RDWR),
            Call.CREATE: lambda step, path, _: self._open(
                step.slot, path, os.O_RDWR | os.O_CREAT | os.O_EXCL, step.number
            ),
            Call.EMPTY: lambda step, path, _: self._open(step.slot, path, os.O_RDWR | os.O_TRUNC),
            Call.WRITE: lambda step, _, __: self._write(step),
            Call.SYNC: lambda step, _, __: os.fsync(self._slots[step.slot]),
            Call.CLOSE: lambda step, _, __: os.close(self._slots.pop(step.slot)),
            Call.TRUNCATE: lambda step, path, _: os.truncate(path, step.number),
            Call.RENAME: lambda _, path, other: os.rename(path, other),
            Call.EXCHANGE: lambda _, path, other: _exchange(path, other),
            Call.UNLINK: lambda _, path, __: os.unlink(path),
            Call.RMDIR: lambda _, path, __: os.rmdir(path),
            Call.MKDIR: lambda step, path, _: os.mkdir(path, step.number),
            Call.SYMLINK: lambda step, path, _: os.symlink(step.other, path),
            Call.LINK: lambda _, path, other: os.link(path, other),
            Call.CHMOD: lambda step, path, _: os.chmod(path, step.number),
            Call.CHOWN: lambda step, path, _: os.chown(path, step.number, step.number),
            Call.SET_XATTR: lambda step, path, _: os.setxattr(path, IDENTITY, step.other.encode()),
            Call.UTIME: lambda step, path, _: os.utime(path, ns=(step.number, step.number)),
            Call.SYNC_DIRECTORY: lambda _, path, __: _sync_directory(path),
        }

    def carry_out(self, step: Step) -> None:
        self._calls[step.call](step, f"{self._top}/{step.path}", f"{self._top}/{step.other}")

    def _open(self, slot: int, path: str, flags: int, mode: int = 0) -> None:
        self._slots[slot] = os.open(path, flags, mode)

    def _write(self, step: Step) -> None:
        data = bytes_of(step.seed, step.number)
        done = 0
        while done < len(data):
            done += os.pwrite(self._slots[step.slot], data[done:], step.offset + done)


def _exchange(path: str, other: str) -> None:
    if _libc.renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def work(top: str, steps: list[Step], told: Connection) -> None:
    """Carry the steps out."""
    worker = Worker(top)
    os.umask(0)
    for number, step in enumerate(steps):
        os.write(told.fileno(), b"b %d\n" % number)
        code = 0
        try:
            worker.carry_out(step)
        except OSError as error:
            code = error.errno or -1
        os.write(told.fileno(), b"e %d %d %d\n" % (number, code, time.monotonic_ns()))
        if code:
            # The mount is dead: closing what is open can only fail, too.
            os._exit(0)
