"""Tell whoever dispatched this thread's request that the thread is about to wait.

The kernel channel reads requests with one thread at a time, and a thread serves what it read. Before anything that can
take long (a network call, a contended lock, a long copy) it must let another thread read on. The code that knows that
it is about to wait does not know the channel, so it calls about_to_wait() here, and the channel sets the hook of its
own threads. On a thread without a hook both functions do nothing.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable


class _Hooks(threading.local):
    before_wait: Callable[[], None] | None = None
    is_interrupted: Callable[[], bool] | None = None


_hooks = _Hooks()


def set_hooks(before_wait: Callable[[], None] | None, is_interrupted: Callable[[], bool] | None) -> None:
    """Set the hooks of the calling thread; None removes one.

    `before_wait` may be called several times a request; only the first needs to do anything.
    `is_interrupted` says whether the caller of the request has given up on it (FUSE_INTERRUPT).
    """
    _hooks.before_wait = before_wait
    _hooks.is_interrupted = is_interrupted


def about_to_wait() -> None:
    """Call before anything that can take longer than a local system call."""
    hook = _hooks.before_wait
    if hook is not None:
        hook()


def is_interrupted() -> bool:
    """Whether the request that this thread serves was interrupted."""
    hook = _hooks.is_interrupted
    return hook is not None and hook()


def check_interrupted() -> None:
    """Raise InterruptedError (EINTR) if the request that this thread serves was interrupted.

    For the loops of long operations, where stopping half-way is safe.
    """
    if is_interrupted():
        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
