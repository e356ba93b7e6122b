"""Credits: what a server allows to be in flight (MS-SMB2 3.2.4.1.2, 3.2.5.1.4).

Each request costs some, at least one, and each reply grants some. Who has not enough waits in line until replies have
come, instead of failing; first come, first served, so that a large request is not starved by small ones.
"""

from __future__ import annotations

import threading
from collections import deque

from netoverlay.backend_api.leadership import Awaited

WANTED = 1024
"""Asked for until the server has granted so many, or no more."""


class Ticket(Awaited):
    """A place in the line."""

    __slots__ = ("charge", "message_id")

    def __init__(self, charge: int, expires_at: float) -> None:
        super().__init__(expires_at)
        self.charge = charge
        self.message_id = 0
        """The first of `charge` message ids, once it is done."""


class CreditWindow:
    """The message ids that may be used now. Its lock is a leaf."""

    def __init__(self, next_id: int, available: int) -> None:
        self._lock = threading.Lock()
        self._next_id = next_id
        self._available = available
        self._in_use = 0
        self._line: deque[Ticket] = deque()

    @property
    def total(self) -> int:
        """Those that are free, and those of requests in flight."""
        return self._available + self._in_use

    def request(self, charge: int) -> int:
        """How many credits a request that costs `charge` should ask for."""
        return charge + min(64, max(0, WANTED - self.total))

    def try_take(self, charge: int) -> int | None:
        """The first of `charge` message ids, or None if others wait or there are not enough."""
        with self._lock:
            if self._line or self._available < charge:
                return None
            return self._take(charge)

    def queue(self, ticket: Ticket) -> None:
        """Stand in line; whoever receives replies finishes the ticket."""
        with self._lock:
            self._line.append(ticket)
            ready = self._serve()
        _finish(ready)

    def leave(self, ticket: Ticket) -> None:
        """Nobody waits for `ticket` any more."""
        with self._lock:
            if ticket in self._line:
                self._line.remove(ticket)
            ready = self._serve()
        _finish(ready)

    def answered(self, charge: int, granted: int) -> None:
        """A reply has come, to a request that cost `charge` (0: an interim one), and grants so many."""
        with self._lock:
            self._in_use -= charge
            self._available += granted
            ready = self._serve() if self._line else ()
        _finish(ready)

    def _serve(self) -> list[Ticket]:
        ready = []
        while self._line and self._available >= self._line[0].charge:
            ticket = self._line.popleft()
            ticket.message_id = self._take(ticket.charge)
            ready.append(ticket)
        return ready

    def _take(self, charge: int) -> int:
        first = self._next_id
        self._next_id += charge
        self._available -= charge
        self._in_use += charge
        return first


def _finish(tickets: list[Ticket] | tuple[()]) -> None:
    for ticket in tickets:
        ticket.finish()
