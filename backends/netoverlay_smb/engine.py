"""Many threads, many requests in flight, one authenticated connection (MS-SMB2 3.2.4.1, 3.2.5.1).

Who receives is in netoverlay.backend_api.leadership. While nobody waits for a reply, a thread of the engine receives:
so an oplock or a lease that the server breaks is acknowledged at once, and a connection that dies is known to be dead.

Whatever is no proper SMB2, or not signed or encrypted as it has to be, breaks the connection.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from netoverlay.backend_api import Readable, UnavailableError, waiting
from netoverlay.backend_api.leadership import TICK_SECONDS, Awaited, LeaderFollower
from netoverlay_smb import commands, replies
from netoverlay_smb.commands import Body
from netoverlay_smb.credits import CreditWindow, Ticket
from netoverlay_smb.errors import describe
from netoverlay_smb.incoming import READ_HEAD_BYTES, HeaderFields, Incoming, replies_in
from netoverlay_smb.outgoing import Link, Outgoing
from netoverlay_smb.protocol import HEADER, HEADER_BYTES, NOTIFICATION_ID, Command, HeaderFlags, ProtocolError
from netoverlay_smb.replies import OplockBreak
from netoverlay_smb.request import Request
from netoverlay_smb.status import Status

MAX_ABANDONED = 4096
"""Requests that nobody waits for any more, before a server that never answers them is given up."""
MAX_OWED = 4096
"""Acknowledgements that a server asks for and gives no credit for, likewise."""
_READ = int(Command.READ)
_PENDING = int(Status.PENDING)
_IS_REPLY = int(HeaderFlags.SERVER_TO_CLIENT)
_PAUSE_SECONDS = 0.001
_COPIED_BYTES = 4096
"""Of a reply: it is quicker to have so much at once than to look at the parts of it where they are."""


class Engine(LeaderFollower):
    """SMB2 requests over `link`. `deadline` in seconds."""

    def __init__(self, link: Link, deadline: float) -> None:
        super().__init__(link.server, deadline)
        self.link = link
        self._incoming = Incoming(link)
        self._credits = CreditWindow(link.next_message_id, link.credits)
        self._outgoing = Outgoing(link, self._credits, deadline)
        # A request is in one of these two until its reply comes; only the leader takes replies.
        self._pending: dict[int, Request] = {}
        self._abandoned: dict[int, Request] = {}
        self._owed: deque[Body] = deque()
        """What has to be sent, and waits for a credit; for the leader."""
        self._arriving: Request | None = None
        """Whose reply is being taken: its memory may be written to."""
        # Of a READ reply whose data is being received into that memory, for the leader.
        self._is_streaming = False
        self._arriving_head = b""
        self._target = memoryview(b"")
        self._filled = 0
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name=f"smb-{link.server}", daemon=True).start()

    @property
    def credits(self) -> int:
        """What may be in flight at once, in credits."""
        return self._credits.total

    def call(self, *bodies: Body) -> list[Request]:
        """Send, as one related compound if there are several, and return when all are answered, however."""
        requests = self.submit(*bodies)
        for request in requests:
            self.await_arrival(request)
        return requests

    def wait(self, request: Request) -> Request:
        """Return once the reply is in `request`. UnavailableError at its deadline, or if the connection is lost."""
        if not request.done:
            self.await_arrival(request)
        return request

    def forget(self, request: Request) -> None:
        """Nobody waits for it any more: what it has opened, or will open, is closed. Waits for no reply."""
        if self._pending.get(request.message_id) is request:
            self._abandon(request)
        while self._arriving is request and not request.done and not request.abandoned and not self.broken:
            time.sleep(_PAUSE_SECONDS)
        if request.done and request.command == Command.CREATE and request.status == Status.SUCCESS:
            with suppress(UnavailableError):  # it ends with the connection, too
                self.submit(commands.close(replies.created(request.body).handle))

    def submit(self, *bodies: Body) -> list[Request]:
        """Send, as one related compound if there are several. Waits only for credits, and for the socket.

        Every request must be passed to wait(), unless its reply does not matter.
        """
        return self.submit_all([bodies])[0]

    def submit_all(self, compounds: Sequence[Sequence[Body]]) -> list[list[Request]]:
        """As submit(), for several that have nothing to do with each other, in one piece."""
        total = sum(self.link.charge(body) for bodies in compounds for body in bodies)
        expires_at = waiting.give_up_at(self._deadline)
        first = self._credits.try_take(total)
        if first is None:
            ticket = Ticket(total, expires_at)
            self._credits.queue(ticket)
            if self._credits.is_starved:
                self._probe()
            self.await_arrival(ticket)
            first = ticket.message_id
        return self._send(compounds, first, expires_at)

    def close(self, reason: str = "the connection is closed") -> None:
        """Log out as far as that needs no waiting, and break the connection."""
        if not self.broken:
            self._send_unasked(commands.logoff())
        self.fail(reason)

    # Sending.

    def _send(self, compounds: Sequence[Sequence[Body]], first: int, expires_at: float) -> list[list[Request]]:
        sent: list[list[Request]] = []
        messages: list[list[Readable]] = []
        message_id = first
        for bodies in compounds:
            requests: list[Request] = []
            parts: list[Readable] = []
            last = len(bodies) - 1
            for index, body in enumerate(bodies):
                request = Request(body, message_id, self.link.charge(body), expires_at)
                requests.append(request)
                parts += self._outgoing.part(body, message_id, is_first=index == 0, is_last=index == last)
                self._pending[message_id] = request
                message_id += request.charge
            sent.append(requests)
            messages.append(parts)
        try:
            if self._broken is None:
                self._outgoing.send(messages)
        except BaseException as error:  # a message may have gone in part, after which nothing can follow
            self.fail(describe(error))
            if not isinstance(error, Exception):
                raise
        if self._broken is not None:
            raise UnavailableError(self._broken)
        return sent

    def _post(self, message: list[Readable]) -> None:
        try:
            self._outgoing.post(message)
        except OSError as error:
            self.fail(describe(error))

    def _send_unasked(self, body: Body) -> bool:
        """Send without waiting for anything; False if there is no credit. The reply does not matter."""
        message_id = self._credits.take_out_of_turn()
        if message_id is None:
            return False
        self._pending[message_id] = Request(body, message_id, 1, time.monotonic() + self._deadline)
        self._post(self._outgoing.part(body, message_id))
        return True

    def _cancel(self, request: Request) -> None:
        if request.async_id is not None and not self.broken:
            self._post(self._outgoing.cancellation(request.message_id, request.async_id))

    # Receiving: called by the leader only.

    def _receive(self, expires_at: float) -> bool:
        try:
            if self._is_streaming or self._begin(expires_at):
                self._finish_data(expires_at)
        except TimeoutError:
            self._flush()
            if time.monotonic() >= expires_at:
                return False
            if self._pending:
                self._probe_if_silent()
            return True  # a ticket may have been served by another thread: let the leader look
        # A server that sends without end must not hold the leader; what had come in time is taken.
        return time.monotonic() < expires_at + TICK_SECONDS

    def _begin(self, expires_at: float) -> bool:
        """Take the next message; False if it was dealt with, True if its data is still to come."""
        found = self._incoming.head(expires_at)
        if found is None:
            message = self._incoming.unsealed(expires_at)
        elif self._begin_data(*found):
            return True
        else:
            message = self._incoming.frames.take(found[1], expires_at)
        for fields, reply in replies_in(message):
            self._take_reply(fields, reply)
        return False

    def _begin_data(self, head: memoryview, length: int) -> bool:
        """Whether this is the reply to a READ whose data can go straight to where it is wanted."""
        _, header_bytes, _, status, command, granted, flags, following, message_id, *_ = HEADER.unpack_from(head)
        if command != _READ or status or following or len(head) < READ_HEAD_BYTES:
            return False
        if header_bytes != HEADER_BYTES or not flags & _IS_REPLY:
            return False
        request = self._pending.get(message_id)
        if request is None or request.buffer is None:
            return False
        offset, size = replies.read_payload(bytes(head[HEADER_BYTES:]))
        if offset != READ_HEAD_BYTES or size != length - offset or size > len(request.buffer):
            return False
        self._target = request.buffer[:size]
        self._filled = 0
        self._arriving_head = bytes(head)
        # In this order, so that _abandon() finds it either pending or arriving.
        self._is_streaming, self._arriving = True, request
        if self._pending.pop(message_id, None) is None:  # it has just expired
            self._is_streaming, self._arriving = False, None
            return False
        self._incoming.frames.take_head(READ_HEAD_BYTES)
        self._granted(request.charge, granted)
        return True

    def _finish_data(self, expires_at: float) -> None:
        request, target = self._arriving, self._target
        if request is None:
            return
        while self._filled < len(target):
            self._filled = len(target) - len(self._incoming.frames.fill(target[self._filled :], expires_at))
        self._incoming.check_signature(HEADER.unpack_from(self._arriving_head), self._arriving_head, target)
        request.filled = len(target)
        self._finish(request)

    def _finish(self, request: Request) -> None:
        # In this order, so that _abandon() finds it either arriving or done.
        request.finish()
        self._is_streaming, self._arriving = False, None

    def _take_reply(self, fields: HeaderFields, reply: memoryview) -> None:
        _, _, _, status, command, granted, flags, _, message_id, low, high, _, _ = fields
        if message_id == NOTIFICATION_ID:
            if command == Command.OPLOCK_BREAK:
                self._acknowledge(bytes(reply[HEADER_BYTES:]))
            return
        if not flags & _IS_REPLY:  # what we have sent ourselves, say: many signatures are good for both directions
            raise ProtocolError("the server sent what is not a reply")
        if status == _PENDING:
            self._note_interim(message_id, low | high << 32, granted)
            return
        head = bytes(reply[:_COPIED_BYTES])
        self._incoming.check_signature(fields, head, *([reply[_COPIED_BYTES:]] if len(reply) > _COPIED_BYTES else ()))
        request = self._claim(message_id, command)
        request.status = status
        if request.buffer is not None and not status:
            self._copy_data(request, reply)
        else:
            request.body = head[HEADER_BYTES:] if len(reply) <= _COPIED_BYTES else bytes(reply[HEADER_BYTES:])
        self._granted(request.charge, granted)
        if request.abandoned:
            self._undo(request)
        else:
            self._finish(request)

    def _claim(self, message_id: int, command: int) -> Request:
        """The request that a reply belongs to. Its thread waits until it is done, unless it has given up before."""
        # In this order, so that _abandon() finds it either pending or arriving.
        self._arriving = request = self._pending.get(message_id)
        if self._pending.pop(message_id, None) is None or request is None:
            self._arriving = None
            request = self._abandoned.pop(message_id, None)
            if request is None:
                raise ProtocolError(f"the server answered request {message_id}, which was not made")
            request.buffer = None
            request.abandoned = True
        if command != request.command:
            raise ProtocolError(f"the server answered command {command} where {request.command} was asked")
        return request

    @staticmethod
    def _copy_data(request: Request, reply: memoryview) -> None:
        offset, size = replies.read_payload(bytes(reply[HEADER_BYTES:READ_HEAD_BYTES]))
        if request.buffer is None or size > len(request.buffer):
            raise ProtocolError(f"the server sent {size} bytes of data, more than were asked for")
        if size and not READ_HEAD_BYTES <= offset <= len(reply) - size:
            raise ProtocolError("the server sent data that lies outside of its reply")
        request.buffer[:size] = reply[offset : offset + size]
        request.filled = size

    def _note_interim(self, message_id: int, async_id: int, granted: int) -> None:
        request = self._pending.get(message_id) or self._abandoned.get(message_id)
        if request is None:
            raise ProtocolError(f"the server answered request {message_id}, which was not made")
        self._granted(0, granted)
        if request.async_id is None:
            request.async_id = async_id
            if request.abandoned:
                self._cancel(request)
        elif request.async_id != async_id:
            # Nobody has signed this one. Two different cancellations of one request would share a nonce of GMAC, which
            # tells who sees them all that it takes to sign.
            raise ProtocolError("the server has changed the name of a request that it is at")

    def _undo(self, request: Request) -> None:
        """Whoever asked for a handle has given up."""
        if request.command == Command.CREATE and request.status == Status.SUCCESS:
            self._owe(commands.close(replies.created(request.body).handle))

    def _acknowledge(self, body: bytes) -> None:
        told = replies.broken(body)
        if isinstance(told, OplockBreak):
            self._owe(commands.acknowledge_oplock(told.handle, told.level))
        elif told.must_acknowledge:
            self._owe(commands.acknowledge_lease(told.key, told.state))

    def _owe(self, body: Body) -> None:
        """Send it, now or as soon as there is a credit."""
        self._owed.append(body)
        if len(self._owed) > MAX_OWED:
            raise ProtocolError(f"the server asks for {MAX_OWED} messages and lets us send none")
        self._pay()

    def _pay(self) -> None:
        while self._owed and self._send_unasked(self._owed[0]):
            self._owed.popleft()

    def _flush(self) -> None:
        try:
            self._outgoing.flush()
        except OSError as error:
            self.fail(describe(error))

    def _granted(self, charge: int, granted: int) -> None:
        self._credits.answered(charge, granted)
        if self._owed:
            self._pay()
        if granted > charge and self._credits.is_starved:
            self._probe()  # which asks for more

    def _watch(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            self.lead_while_idle()
        # Not under a thread that uses it: its number might belong to another file in between.
        give_up_at = time.monotonic() + self._deadline
        while self._led and time.monotonic() < give_up_at:
            time.sleep(_PAUSE_SECONDS)
        self._outgoing.close()

    # What LeaderFollower asks for.

    def _silence(self) -> float:
        return time.monotonic() - self._incoming.heard_at

    def _probe(self) -> None:
        self._send_unasked(commands.echo())

    def _expire(self, awaited: Awaited) -> None:
        if isinstance(awaited, Ticket):
            self._credits.leave(awaited)
        elif isinstance(awaited, Request):
            self._abandon(awaited)

    def _abandon(self, request: Request) -> None:
        # Noted first, so that the leader finds it among the ones or the others.
        self._abandoned[request.message_id] = request
        if self._pending.pop(request.message_id, None) is None:
            del self._abandoned[request.message_id]
            self._abandon_arriving(request)
            return
        request.abandoned = True
        if len(self._abandoned) > MAX_ABANDONED:
            self.fail(f"the server left {MAX_ABANDONED} requests unanswered")
        self._cancel(request)

    def _abandon_arriving(self, request: Request) -> None:
        if request.is_awaited_by_leader:
            if self._arriving is request:  # the rest goes elsewhere
                self._target = memoryview(bytearray(self._target))
                request.abandoned = True
            return
        while self._arriving is request and not self._is_streaming and not request.done:
            time.sleep(_PAUSE_SECONDS)  # it is all there, and being looked at
        if self._arriving is request and not request.done:
            self.fail("the server stopped in the middle of a reply")

    def _let_go(self, awaited: Awaited) -> None:
        while (request := self._arriving) is not None and request is awaited and not request.abandoned and self._led:
            time.sleep(_PAUSE_SECONDS)

    def _take_all(self) -> Sequence[Awaited]:
        pending = list(self._pending.values())
        self._pending.clear()
        return pending

    def _abort(self) -> None:
        self._closed.set()
        with suppress(OSError):  # the server may have closed it
            self.link.socket.shutdown(socket.SHUT_RDWR)

    def _describe(self, error: BaseException) -> str:
        return describe(error)
