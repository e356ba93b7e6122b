"""Connected, or connecting again: for backends whose server can go away and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from netoverlay.backend_api import waiting
from netoverlay.backend_api.errors import InterruptedWaitError, LayerClosedError, LayerSetupError, UnavailableError

_GRACE_SECONDS = 0.3
"""In which the thread that connects, and has as long as who waits, can tell what went wrong."""


class Session(Protocol):
    """What is used until it breaks."""

    @property
    def broken(self) -> bool:
        """Whether it is of no use any more; asked before every call, so that it must be quick."""

    def close(self) -> None:
        """Log out, and release everything."""


S = TypeVar("S", bound=Session)


class Connector(Generic[S]):
    """Hands out the session, and makes a new one when it is lost: in a thread, for which all wait who need it.

    So nobody waits longer than he may because it was he who came first, or gives up for all.
    """

    def __init__(self, connect: Callable[[], S], deadline: float) -> None:
        """`connect` makes a session within about `deadline` seconds, or raises UnavailableError or LayerSetupError."""
        self._connect = connect
        self._deadline = deadline
        self._changed = threading.Condition()
        self._session: S | None = None
        self._connecting = False
        self._closed = False
        self._attempts = 0
        self._failure: BaseException | None = None

    def session(self) -> S:
        """One that works, as far as is known.

        UnavailableError within the deadline if there is none to be had, InterruptedWaitError for a signal meanwhile.
        """
        session = self._session
        if session is not None and not session.broken:
            return session
        with self._changed:
            self._check_open()
            if self._session is not None and not self._session.broken:
                return self._session
            if not self._connecting:
                self._connecting = True
                lost, self._session = self._session, None
                # A daemon thread: nobody should wait for it to unmount.
                threading.Thread(target=self._connect_again, args=(lost,), name="connect", daemon=True).start()
            return self._wait_for_session()

    def state(self) -> str:
        """One word for `status`."""
        session = self._session
        if session is not None and not session.broken:
            return "connected"
        return "reconnecting" if self._connecting else "down"

    def close(self) -> None:
        """Log out; session() raises from now on."""
        with self._changed:
            self._closed = True
            session, self._session = self._session, None
            self._changed.notify_all()
        if session is not None:
            session.close()

    def _check_open(self) -> None:
        if self._closed:
            raise LayerClosedError

    def _wait_for_session(self) -> S:
        attempt = self._attempts
        began_at = time.monotonic()
        give_up_at = waiting.give_up_at(self._deadline) + _GRACE_SECONDS
        while self._attempts == attempt and not self._closed:
            now = time.monotonic()
            left = give_up_at - now
            if left <= 0:
                raise _again(None)
            if now - began_at > waiting.SLOW_SECONDS and waiting.is_interrupted():
                raise InterruptedWaitError
            self._changed.wait(min(left, waiting.LOOK_SECONDS))
        self._check_open()
        if self._session is not None:
            return self._session
        raise _again(self._failure)

    def _connect_again(self, lost: S | None) -> None:
        session: S | None = None
        failure: BaseException | None = None
        try:
            if lost is not None:
                lost.close()
            session = self._connect()
        except BaseException as error:  # noqa: BLE001  (raised in the threads that wait for it)
            failure = error
        with self._changed:
            self._connecting = False
            self._attempts += 1
            self._failure = failure
            closed = self._closed
            self._session = None if closed else session
            self._changed.notify_all()
        if closed and session is not None:
            session.close()


def _again(failure: BaseException | None) -> BaseException:
    """The same error for another thread: one exception raised in two would mix their tracebacks."""
    if isinstance(failure, LayerSetupError):
        return LayerSetupError(failure.strerror or str(failure), failure.errno or 0)
    if failure is None or isinstance(failure, OSError):
        return UnavailableError((failure.strerror if failure else None) or "the server could not be reached in time")
    return failure
