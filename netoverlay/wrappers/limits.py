"""Hold a backend to a number of calls at once, and let the reader of requests go before any of them waits.

Every call of a networked backend can wait for its server. Before it does, the thread that serves the request hands the
reading of the kernel channel over (waiting.about_to_wait), here, so that backends need not. The bound keeps a slow
server from holding every thread of the process.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from netoverlay.backend_api.backend import Backend
from netoverlay.backend_api.errors import UnavailableError
from netoverlay.backend_api.waiting import about_to_wait
from netoverlay.wrappers.intercept import InterceptingBackend, Operation

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_MAX_CALLS = 64

_WITHOUT_SLOT = frozenset({Operation.CONNECT, Operation.CLOSE, Operation.FILE_CLOSE})
"""What must never wait behind calls that wait for a dead server: to release a file, and to end those calls."""


class LimitedBackend(InterceptingBackend):
    """At most `max_calls` calls run in `inner` at once; a further one waits for its turn.

    One that had no turn within `deadline` seconds raises UnavailableError (ETIMEDOUT) without having reached `inner`,
    so a call takes at most twice the deadline.
    """

    def __init__(self, inner: Backend, deadline: float, max_calls: int = DEFAULT_MAX_CALLS) -> None:
        super().__init__(inner)
        self._deadline = deadline
        self._max_calls = max_calls
        self._slots = threading.BoundedSemaphore(max_calls)

    def around(self, operation: Operation, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        about_to_wait()
        if operation in _WITHOUT_SLOT:
            return function(*args, **kwargs)
        if not self._slots.acquire(timeout=self._deadline):
            message = f"{self._max_calls} calls have been waiting for the layer for {self._deadline:g} seconds"
            raise UnavailableError(message, errno.ETIMEDOUT)
        try:
            return function(*args, **kwargs)
        finally:
            self._slots.release()
