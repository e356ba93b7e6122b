"""One heap for all threads of the daemon.

glibc gives threads heaps of their own, up to eight for each processor, so that they need not wait for each other. Those
of the daemon allocate while they hold the interpreter's lock, and so wait all the same; and what is free in one heap is
of no use to the others, which makes a daemon of thirty threads up to half larger than it need be (docs/testing.md).
"""

from __future__ import annotations

import ctypes

__all__ = ["use_one_heap"]

_M_ARENA_MAX = -8
"""malloc.h"""


def use_one_heap() -> None:
    """For all threads that are started from now on. Nothing, where the C library is another one."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
