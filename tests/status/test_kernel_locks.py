"""Lines of /proc/locks."""

from __future__ import annotations

import os

import pytest

from netoverlay.backend_api import LockKind
from netoverlay.kernel_locks import KernelLock, parse
from netoverlay.overlay.lock_table import END, Held, LockCall, Owner

DEVICE = os.makedev(0, 0x2F)


@pytest.mark.parametrize(
    ("line", "lock", "waits"),
    [
        (
            "1: POSIX  ADVISORY  WRITE 4711 00:2f:12 0 EOF",
            Held(Owner(LockCall.FCNTL, 1), LockKind.EXCLUSIVE, 0, END, 4711),
            False,
        ),
        (
            "23: -> POSIX  ADVISORY  READ 4712 00:2f:12 5 14",
            Held(Owner(LockCall.FCNTL, 23), LockKind.SHARED, 5, 15, 4712),
            True,
        ),
        (
            "3: FLOCK  ADVISORY  READ 1 00:2f:12 0 EOF",
            Held(Owner(LockCall.FLOCK, 3), LockKind.SHARED, 0, END, 1),
            False,
        ),
        (
            "4: OFDLCK ADVISORY  WRITE -1 00:2f:12 0 0",
            Held(Owner(LockCall.FCNTL, 4), LockKind.EXCLUSIVE, 0, 1, 0),
            False,
        ),
    ],
)
def test_a_lock(line: str, lock: Held, waits: bool) -> None:
    assert parse(line) == KernelLock(DEVICE, 12, lock, waits)


@pytest.mark.parametrize(
    "line", ["5: LEASE  ACTIVE    READ 99 00:2f:12 0 EOF", "6: POSIX  ADVISORY  UNLCK 99 00:2f:12 0 EOF"]
)
def test_what_is_no_lock(line: str) -> None:
    assert parse(line) is None
