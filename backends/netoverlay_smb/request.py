"""One request in flight: what the engine notes of it, and what its reply brings."""

from __future__ import annotations

from netoverlay.backend_api.leadership import Awaited
from netoverlay_smb.commands import Body


class Request(Awaited):
    """One request in flight, and its reply when it is there."""

    __slots__ = ("abandoned", "async_id", "body", "buffer", "charge", "command", "filled", "message_id", "status")

    def __init__(self, body: Body, message_id: int, charge: int, expires_at: float) -> None:
        super().__init__(expires_at)
        self.command = int(body.command)
        self.message_id = message_id
        self.charge = charge
        self.buffer = body.buffer
        self.status = 0
        self.body = b""
        """Of the reply, behind the header; of data that went into `buffer` nothing."""
        self.filled = 0
        """Bytes of `buffer` that the reply filled."""
        self.async_id: int | None = None
        """The server is still at it, and knows it by this."""
        self.abandoned = False
