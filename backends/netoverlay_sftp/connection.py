"""Connected, or connecting again: one login, a channel for metadata, and channels for data beside it.

Each SFTP channel is a server process of its own, which answers in order. So a megabyte of data never stands in front of
a stat: names and attributes have a channel of their own, and open files are spread over the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from netoverlay.backend_api import LayerSetupError, UnavailableError
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.errors import connection_error
from netoverlay_sftp.streams import SshConnection

FAR_SECONDS = 0.005
"""The round trip from which one channel for data is not enough: the server grants each 2 MiB of unconfirmed data."""
MAX_DATA_CHANNELS = 4

_log = logging.getLogger(__name__)


class Session:
    """One login and its channels. When any of them breaks, all of it is broken."""

    def __init__(self, connection: SshConnection, deadline: float) -> None:
        """Start SFTP; LayerSetupError, UnavailableError."""
        self._connection = connection
        self._deadline = deadline
        self._lock = threading.Lock()
        self._data: list[SftpChannel] = []
        self.metadata = self._open_channel()
        self._data_limit = MAX_DATA_CHANNELS if self.metadata.round_trip >= FAR_SECONDS else 1
        self._add_data_channel()

    @property
    def broken(self) -> bool:
        """Whether it is of no use any more."""
        return self._connection.lost

    def data_channel(self) -> SftpChannel:
        """The channel for a file that is opened now: one that is idle, or the least busy one."""
        channel = min(self._data, key=lambda each: each.multiplexer.in_flight)
        if channel.multiplexer.in_flight and len(self._data) < self._data_limit:
            with self._lock:
                if len(self._data) < self._data_limit:
                    self._add_data_channel()
                    channel = self._data[-1]
        return channel

    def close(self) -> None:
        """Log out."""
        for channel in [self.metadata, *self._data]:
            channel.multiplexer.fail("the connection is closed")
        self._connection.close()

    def _open_channel(self) -> SftpChannel:
        stream = self._connection.open_stream()
        channel = SftpChannel(stream, self._deadline)
        try:
            channel.start()
        except Exception as error:
            raise self._connection.refusal(error) from error
        return channel

    def _add_data_channel(self) -> None:
        try:
            channel = self._open_channel()
        except LayerSetupError as error:
            # sshd's MaxSessions; what there is will have to do.
            _log.warning("%s: one SFTP channel more is refused (%s): data and metadata share", self.server, error)
            self._data_limit = 0
            channel = self.metadata
        if channel is not self.metadata or not self._data:
            self._data.append(channel)

    @property
    def server(self) -> str:
        """User, host and port, for messages."""
        return self._connection.server


class Connector:
    """Hands out the session, and makes a new one when it is lost: the first caller connects, the others wait for it."""

    def __init__(self, connect: Callable[[], SshConnection], deadline: float) -> None:
        self._connect = connect
        self._deadline = deadline
        self._changed = threading.Condition()
        self._session: Session | None = None
        self._connecting = False
        self._closed = False
        self._attempts = 0
        self._failure: OSError | None = None

    def session(self) -> Session:
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

    def _wait_for_other(self) -> Session:
        attempt = self._attempts
        self._changed.wait_for(lambda: self._attempts != attempt or self._closed, self._deadline)
        self._check_open()
        if self._session is not None:
            return self._session
        raise _again(self._failure)

    def _connect_again(self, lost: Session | None) -> Session:
        session: Session | None = None
        failure: OSError | None = None
        try:
            if lost is not None:
                lost.close()
            session = self._new_session()
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

    def _new_session(self) -> Session:
        started_at = time.monotonic()
        connection = self._connect()
        try:
            session = Session(connection, self._deadline)
        except BaseException as error:
            connection.close()
            if isinstance(error, Exception):
                raise connection_error(error, connection.server) from error
            raise
        _log.info("%s: connected in %.2f s", connection.server, time.monotonic() - started_at)
        return session


def _again(failure: OSError | None) -> OSError:
    """The same error for another thread: one exception raised in two would mix their tracebacks."""
    if isinstance(failure, LayerSetupError):
        return LayerSetupError(failure.strerror or str(failure), failure.errno or 0)
    return UnavailableError((failure.strerror if failure else None) or "the server could not be reached in time")
