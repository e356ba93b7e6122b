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
MORE_AT_ONCE = 64


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

    @property
    def is_starved(self) -> bool:
        """Whether somebody waits in line, but no reply is to come that could grant anything."""
        return bool(self._line) and not self._in_use

    def request(self, charge: int) -> int:
        """How many credits a request that costs `charge` should ask for."""
        return charge + min(MORE_AT_ONCE, max(0, WANTED - self.total))

    def try_take(self, charge: int) -> int | None:
        """The first of `charge` message ids, or None if others wait or there are not enough."""
        with self._lock:
            if self._line or not self._may_take(charge):
                return None
            return self._take(charge)

    def take_out_of_turn(self) -> int | None:
        """One message id for what the others may be waiting for (an acknowledgement, say), or None."""
        with self._lock:
            return self._take(1) if self._available else None

    def queue(self, ticket: Ticket) -> None:
        """Stand in line; whoever receives replies finishes the ticket."""
        with self._lock:
            self._line.append(ticket)
            self._serve()

    def leave(self, ticket: Ticket) -> None:
        """Nobody waits for `ticket` any more. If it is done all the same, its message ids must be used."""
        with self._lock:
            if ticket in self._line:
                self._line.remove(ticket)
                self._serve()

    def answered(self, charge: int, granted: int) -> None:
        """A reply has come, to a request that cost `charge` (0: an interim one), and grants so many."""
        with self._lock:
            self._in_use -= charge
            self._available += granted
            if self._line:
                self._serve()

    def _may_take(self, charge: int) -> bool:
        """The last one is kept for take_out_of_turn(), else all could wait for what cannot be sent."""
        return self._available - charge >= (1 if self._in_use else 0)

    def _serve(self) -> None:
        # Finished under the lock: whoever leaves the line is then either in it or done.
        while self._line and self._may_take(self._line[0].charge):
            ticket = self._line.popleft()
            ticket.message_id = self._take(ticket.charge)
            ticket.finish()

    def _take(self, charge: int) -> int:
        first = self._next_id
        self._next_id += charge
        self._available -= charge
        self._in_use += charge
        return first
