"""Connected, or connecting again: for backends whose server can go away and come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from netoverlay.backend_api.errors import LayerSetupError, UnavailableError


class Session(Protocol):
    """What is used until it breaks."""

    @property
    def broken(self) -> bool:
        """Whether it is of no use any more; asked before every call, so that it must be quick."""

    def close(self) -> None:
        """Log out, and release everything."""


S = TypeVar("S", bound=Session)


class Connector(Generic[S]):
    """Hands out the session, and makes a new one when it is lost: the first caller connects, the others wait for it."""

    def __init__(self, connect: Callable[[], S], deadline: float) -> None:
        """`connect` makes a session within about `deadline` seconds, or raises UnavailableError or LayerSetupError."""
        self._connect = connect
        self._deadline = deadline
        self._changed = threading.Condition()
        self._session: S | None = None
        self._connecting = False
        self._closed = False
        self._attempts = 0
        self._failure: OSError | None = None

    def session(self) -> S:
        """One that works, as far as is known. UnavailableError within the deadline if there is none to be had."""
        session = self._session
        if session is not None and not session.broken:
            return session
        with self._changed:
            self._check_open()
            if self._connecting:
                return self._wait_for_other()
            if self._session is not None and not self._session.broken:
                return self._session
            self._connecting = True
            lost, self._session = self._session, None
        return self._connect_again(lost)

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
            raise UnavailableError("the layer is closed")

    def _wait_for_other(self) -> S:
        attempt = self._attempts
        self._changed.wait_for(lambda: self._attempts != attempt or self._closed, self._deadline)
        self._check_open()
        if self._session is not None:
            return self._session
        raise _again(self._failure)

    def _connect_again(self, lost: S | None) -> S:
        session: S | None = None
        failure: OSError | None = None
        try:
            if lost is not None:
                lost.close()
            session = self._connect()
        except OSError as error:
            failure = error
            raise
        finally:
            with self._changed:
                self._connecting = False
                self._attempts += 1
                self._failure = failure
                closed = self._closed
                self._session = None if closed else session
                self._changed.notify_all()
            if closed and session is not None:
                session.close()
        self._check_open()
        return session


def _again(failure: OSError | None) -> OSError:
    """The same error for another thread: one exception raised in two would mix their tracebacks."""
    if isinstance(failure, LayerSetupError):
        return LayerSetupError(failure.strerror or str(failure), failure.errno or 0)
    return UnavailableError((failure.strerror if failure else None) or "the server could not be reached in time")
