"""Hold a backend to a number of calls at once, and let the reader of requests go before any of them waits.

Every call of a networked backend can wait for its server. Before it does, the thread that serves the request hands the
reading of the kernel channel over (waiting.asking), here at the latest, so that backends need not. The bound keeps a
slow server from holding every thread of the process.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from netoverlay.backend_api.backend import Backend
from netoverlay.backend_api.errors import UnavailableError
from netoverlay.backend_api.waiting import (
    LOOK_SECONDS,
    SLOW_SECONDS,
    Patience,
    answered,
    asking,
    check_interrupted,
    give_up_at,
    lost_since,
)
from netoverlay.wrappers.intercept import InterceptingBackend, Operation

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_MAX_CALLS = 64

_WITHOUT_SLOT = frozenset({Operation.CONNECT, Operation.CLOSE, Operation.FILE_CLOSE})
"""What must never wait behind calls that wait for a dead server: to release a file, and to end those calls."""


class LimitedBackend(InterceptingBackend):
    """At most `max_calls` calls run in `inner` at once; a further one waits for its turn.

    One that had no turn within `deadline` seconds raises UnavailableError (ETIMEDOUT) without having reached `inner`;
    so does every further one of a request that has waited so long for the layer already.
    """

    def __init__(self, inner: Backend, deadline: float, max_calls: int = DEFAULT_MAX_CALLS) -> None:
        super().__init__(inner)
        self._deadline = deadline
        self._max_calls = max_calls
        self._slots = threading.BoundedSemaphore(max_calls)
        self._patience = Patience(deadline)

    def around(self, operation: Operation, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with asking(self._patience):
            if operation in _WITHOUT_SLOT:
                return function(*args, **kwargs)
            self._await_turn()
            began_at = time.monotonic()
            try:
                result = function(*args, **kwargs)
            except UnavailableError:
                lost_since(began_at)
                raise
            except OSError:
                answered()
                raise
            finally:
                self._slots.release()
            answered()
            return result

    def _await_turn(self) -> None:
        end = give_up_at(self._deadline)
        began_at = time.monotonic()
        while (left := end - time.monotonic()) > 0:
            if self._slots.acquire(timeout=min(left, LOOK_SECONDS)):
                return
            if time.monotonic() - max(began_at, self._patience.heard_at) > SLOW_SECONDS:
                check_interrupted()
        message = f"the layer has not answered, or had no turn for a further call, for {self._deadline:g} seconds"
        raise UnavailableError(message, errno.ETIMEDOUT)
