"""Waiting, for whoever serves a request: telling that it is about to begin, and knowing when it has been long enough.

The kernel channel reads requests with one thread at a time, and a thread serves what it read. Before anything that can
take long (a network call, a contended lock, a long copy) it must let another thread read on. The code that knows that
it is about to wait does not know the channel, so it calls about_to_wait() here, and the channel sets the hook of its
own threads. On a thread without a hook it does nothing.

A request makes many calls of a layer, waits for locks that other requests hold, and tries again. However many these
are, it gives up on a layer when the layer's deadline is over since it began, or when it has lost so much time with
calls that failed, of a server that comes and goes: so the deadlines of its calls do not add up, nor those of requests
that queue for one lock. What a server that answers takes time for does not count: it waits for a silent layer as long
as that was not silent before, if that is longer, but for no more than a deadline.
"""

from __future__ import annotations

import errno
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from netoverlay.backend_api.errors import UnavailableError

LOOK_SECONDS = 0.25
"""How often whoever waits looks whether the request was interrupted."""
SLOW_SECONDS = 2.0
"""After so long without an answer a layer is away, and not only slow: a signal ends the wait. Not before, for calls of
local disks are not ended by one, and programs with timers, or children that end, get signals all the time."""


class Patience:
    """With one layer: how long requests wait for it, each of them over all its calls."""

    __slots__ = ("asked_at", "deadline", "heard_at")

    def __init__(self, deadline: float) -> None:
        """`deadline` in seconds."""
        self.deadline = deadline
        self.heard_at = -math.inf
        """When the layer last answered anybody, on the clock of time.monotonic()."""
        self.asked_at = -math.inf
        """When somebody first asked it something after that."""


class _Thread(threading.local):
    before_wait: Callable[[], None] | None = None
    is_interrupted: Callable[[], bool] | None = None
    began_at: float | None = None
    """When the request first waited, or the work that counts as one."""
    answered_at: float = -math.inf
    """When the request was last answered anything."""
    lost: float = 0.0
    """Seconds, with calls that failed, and between tries."""
    patience: Patience | None = None
    """With the layer that is being asked."""
    at_most: float = math.inf
    """Seconds, whatever the layer's deadline is."""


_thread = _Thread()


def set_hooks(before_wait: Callable[[], None] | None, is_interrupted: Callable[[], bool] | None) -> None:
    """Set the hooks of the calling thread, which serves requests if it has the first; None removes one.

    `before_wait` may be called several times a request; only the first needs to do anything.
    `is_interrupted` says whether the caller of the request has given up on it (FUSE_INTERRUPT).
    """
    _thread.before_wait = before_wait
    _thread.is_interrupted = is_interrupted
    _thread.began_at = None


def about_to_wait() -> None:
    """Call before anything that can take longer than a local system call."""
    hook = _thread.before_wait
    if hook is not None:
        hook()
        if _thread.began_at is None:
            _begin()


def _begin() -> None:
    _thread.began_at, _thread.lost = time.monotonic(), 0.0


def request_done() -> None:
    """The request that this thread served is answered: how long the next one waits begins anew."""
    _thread.began_at = None


def waited(now: float) -> float:
    """Seconds since the request of this thread first had to wait, at `now` (time.monotonic()); 0 if it had not to."""
    began_at = _thread.began_at
    return 0.0 if began_at is None else now - began_at


@contextmanager
def as_one_request() -> Iterator[None]:
    """What is waited for inside counts together, also on a thread that serves no requests."""
    before = (_thread.began_at, _thread.lost)
    _begin()
    try:
        yield
    finally:
        _thread.began_at, _thread.lost = before


@contextmanager
def waiting_at_most(seconds: float) -> Iterator[None]:
    """Layers that answer nobody for so long are given up inside, however much longer their deadlines are."""
    before, _thread.at_most = _thread.at_most, seconds
    try:
        yield
    finally:
        _thread.at_most = before


@contextmanager
def asking(patience: Patience) -> Iterator[None]:
    """A layer is asked inside, which may take long. Of several around each other the outermost counts."""
    if _thread.patience is not None:
        yield
        return
    about_to_wait()  # so that a request has begun, and goes on when this call of it ends
    _thread.patience = patience
    is_work = _thread.began_at is None
    if is_work:
        _begin()
    if patience.asked_at < patience.heard_at:
        patience.asked_at = time.monotonic()
    try:
        yield
    finally:
        _thread.patience = None
        if is_work:
            _thread.began_at = None


def check_patience() -> None:
    """Raise UnavailableError if the request of this thread has waited for as long as waiting_at_most() lets it.

    For those who wait for what another does.
    """
    if waited(time.monotonic()) > _thread.at_most:
        raise UnavailableError("what the layer is asked for already has not come in time")


def answered() -> None:
    """The layer that is being asked has answered something."""
    patience = _thread.patience
    if patience is not None:
        _thread.answered_at = patience.heard_at = time.monotonic()


def lost_since(began_at: float) -> None:
    """What was begun then has come to nothing: the time since it was last answered anything is lost."""
    _thread.lost += time.monotonic() - max(began_at, _thread.answered_at)


def give_up_at(deadline: float) -> float:
    """Until when to wait for what is asked now, on the clock of time.monotonic(): for `deadline` seconds, or less."""
    patience, began_at = _thread.patience, _thread.began_at
    now = time.monotonic()
    if patience is None or began_at is None:
        return now + deadline
    most = min(patience.deadline, _thread.at_most)
    silent_since = max(began_at, patience.heard_at, patience.asked_at)
    longer = silent_since + min(most, silent_since - began_at)
    return min(now + deadline, now + most - _thread.lost, max(began_at + most, longer))


def is_interrupted() -> bool:
    """Whether the request that this thread serves was interrupted."""
    hook = _thread.is_interrupted
    return hook is not None and hook()


def check_interrupted() -> None:
    """Raise InterruptedError (EINTR) if the request that this thread serves was interrupted.

    For the loops of long operations, where stopping half-way is safe.
    """
    if is_interrupted():
        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
