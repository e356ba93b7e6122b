"""One login with a share: requests whose refusals are exceptions, on top of the engine, below files and directories."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from netoverlay.backend_api import UnavailableError
from netoverlay.backend_api.pieces import Window
from netoverlay_smb import replies
from netoverlay_smb.commands import Body
from netoverlay_smb.engine import Engine
from netoverlay_smb.errors import StatusError, describe, describe_status
from netoverlay_smb.outgoing import Link
from netoverlay_smb.protocol import ProtocolError
from netoverlay_smb.replies import Copied
from netoverlay_smb.request import Request
from netoverlay_smb.status import CONNECTION_LOST, Status

_Parsed = TypeVar("_Parsed")
_Raw = TypeVar("_Raw")

_SHARE_OF_CREDITS = 2
"""So many threads can send many requests at once before one waits for the other."""

_log = logging.getLogger(__name__)


class Session:
    """An engine, and the directory of the share that is the layer's root. The methods raise StatusError."""

    def __init__(self, link: Link, root: str, deadline: float, *, is_referred: bool = False) -> None:
        self.engine = Engine(link, deadline)
        self.link = link
        self.root = root
        """Its path on the share, as names.server_path() makes them."""
        self.is_referred = is_referred
        """Whether the share is another one than the url names."""
        self.copy_limits = Copied(256, 1 << 20, 16 << 20)
        """What the server copies at once; it will say so if that is too much."""
        self.round_trip = 0.0
        """Seconds, at most."""
        self.reading, self.writing = Window(), Window()
        self.keeps_locks: bool | None = None
        """Whether the server keeps the locks that it grants; None until somebody has tried."""
        self.joins = True
        """Whether several files go into one message (joined.py)."""
        self._last_joined: Request | None = None
        """Of the last of these messages the last request."""
        self._has_joined = False

    def note_round_trip(self, seconds: float) -> None:
        """How far the server is away, as the first request shows."""
        self.round_trip = seconds
        self.reading, self.writing = Window(seconds), Window(seconds)

    def saw_round_trip(self, seconds: float) -> None:
        """What waited for one round trip has taken so long: the quickest shows how far the server is away."""
        self.round_trip = min(self.round_trip, seconds)

    @property
    def broken(self) -> bool:
        """Whether it is of no use any more."""
        return self.engine.broken

    def note_joined(self, last: Request) -> None:
        """A message about several files has gone out, of which this is the last request."""
        self._has_joined = self.has_joined
        self._last_joined = last

    @property
    def has_joined(self) -> bool:
        """Whether the server has answered such a message."""
        return self._has_joined or (self._last_joined is not None and self._last_joined.done)

    @property
    def hung_up_on_joined(self) -> bool:
        """Whether it was lost with such a message on its way, and none was ever answered."""
        return self.broken and self._last_joined is not None and not self.has_joined

    def close(self) -> None:
        """Log out."""
        self.engine.close()

    def submit(self, *bodies: Body) -> list[Request]:
        """Send, as one related compound if there are several; each reply is fetched by expect()."""
        return self.engine.submit(*bodies)

    def submit_all(self, compounds: Sequence[Sequence[Body]]) -> list[list[Request]]:
        """As submit(), for several that have nothing to do with each other, however many credits they take."""
        sent: list[list[Request]] = []
        while len(sent) < len(compounds):
            left = compounds[len(sent) :]
            sent += self.engine.submit_all(left[: self._affordable(left)])
        return sent

    def expect(self, request: Request, *allowed: Status) -> bytes:
        """The body of the reply. StatusError if it is neither success nor `allowed`."""
        self.engine.wait(request)
        status = request.status
        if status != Status.SUCCESS and status not in allowed:
            raise self.refusal(status)
        return request.body

    def info(self, request: Request) -> bytes:
        """What QUERY_INFO found; of what is longer than was asked for, the beginning. StatusError."""
        return self.parse(replies.info, self.expect(request, Status.BUFFER_OVERFLOW))

    def refusal(self, status: int) -> StatusError | UnavailableError:
        """What to raise where the server said `status`."""
        if status in CONNECTION_LOST:
            reason = f"the server has ended the session ({describe_status(status)})"
            self.engine.fail(reason)
            return UnavailableError(f"{self.link.server}: {reason}")
        return StatusError(status)

    def call(self, *bodies: Body) -> list[bytes]:
        """Send, and the bodies of all replies, of which each must be success. StatusError of the first that is not.

        A compound that opens something must close it, too.
        """
        requests = self.engine.call(*bodies)
        return [self.expect(request) for request in requests]

    def parse(self, parse: Callable[[_Raw], _Parsed], raw: _Raw) -> _Parsed:
        """parse(raw); what makes no sense breaks the connection."""
        try:
            return parse(raw)
        except (ProtocolError, ValueError) as error:
            self.engine.fail(describe(error))
            raise UnavailableError(f"{self.link.server}: {describe(error)}") from error

    def forget(self, body: Body) -> None:
        """Close what was only read, without waiting for the reply: it ends with the connection, too."""
        with suppress(UnavailableError):
            self.engine.submit(body)

    def _affordable(self, compounds: Sequence[Sequence[Body]]) -> int:
        """How many of them go out at once: one at least, which then waits for its credits."""
        left = self.engine.credits // _SHARE_OF_CREDITS
        for count, bodies in enumerate(compounds):
            left -= sum(self.link.charge(body) for body in bodies)
            if left < 0:
                return max(count, 1)
        return len(compounds)


@dataclass(frozen=True, slots=True)
class ServerHandle:
    """What the server calls an open file, in one session."""

    session: Session
    raw: bytes
