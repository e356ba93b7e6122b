"""One login: a channel for metadata, and channels for data beside it.

Each SFTP channel is a server process of its own, which answers in order. So a megabyte of data never stands in front of
a stat: names and attributes have a channel of their own, and open files are spread over the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from netoverlay.backend_api import LayerSetupError
from netoverlay.backend_api.pieces import FAR_SECONDS
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.streams import SshConnection

MAX_DATA_CHANNELS = 4
"""From a round trip of FAR_SECONDS on: the server grants each 2 MiB of unconfirmed data."""

_log = logging.getLogger(__name__)


class Session:
    """One login and its channels. When any of them breaks, all of it is broken."""

    def __init__(self, connection: SshConnection, deadline: float) -> None:
        """Start SFTP; LayerSetupError, UnavailableError."""
        self._connection = connection
        self._deadline = deadline
        self._opening = threading.Lock()
        """Held while a further channel is opened."""
        self._data: list[SftpChannel] = []
        self.metadata = self._open_channel()
        self._data_limit = MAX_DATA_CHANNELS if self.metadata.round_trip >= FAR_SECONDS else 1
        self._add_data_channel()

    @property
    def broken(self) -> bool:
        """Whether it is of no use any more."""
        return self._connection.lost

    def data_channel(self) -> SftpChannel:
        """The channel for a file that is opened now: one that is idle, or the least busy one.

        In the latter case the next one may find a further channel, which takes some round trips to open.
        """
        channel = self.least_busy_channel()
        if channel.multiplexer.in_flight and len(self._data) < self._data_limit and self._opening.acquire(False):
            thread = threading.Thread(target=self._open_further, name="sftp-channel", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system gives no thread: what there is will have to do
                self._opening.release()
                _log.debug("%s: no further channel: %s", self.server, error)
        return channel

    def least_busy_channel(self) -> SftpChannel:
        """The channel for what is too small to be worth the round trips of a new one."""
        return min(self._data, key=lambda each: each.multiplexer.in_flight)

    def _open_further(self) -> None:
        try:
            if len(self._data) < self._data_limit:
                self._add_data_channel()
        except OSError as error:  # the connection is lost, which whoever uses it meets
            _log.debug("%s: no further channel: %s", self.server, error)
        finally:
            self._opening.release()

    def close(self) -> None:
        """Log out."""
        self._data_limit = 0
        for channel in [self.metadata, *self._data]:
            channel.multiplexer.fail("the connection is closed")
        self._connection.abort()
        with self._opening:  # what is under way fails now, and uses what close() takes away
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
            _log.warning(
                "%s: one SFTP channel more is refused (%s), so data and metadata share one, and wait for each other; "
                "MaxSessions in the server's sshd_config is how many there may be",
                self.server,
                error,
            )
            self._data_limit = 0
            channel = self.metadata
        if channel is not self.metadata or not self._data:
            self._data.append(channel)

    @property
    def server(self) -> str:
        """User, host and port, for messages."""
        return self._connection.server


def connect(login: Callable[[], SshConnection], deadline: float) -> Session:
    """Log in, and start SFTP. LayerSetupError, UnavailableError."""
    started_at = time.monotonic()
    connection = login()
    try:
        session = Session(connection, deadline)
    except BaseException as error:
        connection.close()
        if isinstance(error, Exception):
            from netoverlay_sftp.connection_errors import connection_error  # noqa: PLC0415  (as in backend.py)

            raise connection_error(error, connection.server) from error
        raise
    _log.info("%s: connected in %.2f s", connection.server, time.monotonic() - started_at)
    return session
