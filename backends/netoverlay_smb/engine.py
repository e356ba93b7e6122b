"""Many threads, many requests in flight, one authenticated connection (MS-SMB2 3.2.4.1, 3.2.5.1).

Who receives is in netoverlay.backend_api.leadership. While nobody waits for a reply, a thread of the engine receives:
so an oplock or a lease that the server breaks is acknowledged at once, and a connection that dies is known to be dead.

Whatever is no proper SMB2, or not signed or encrypted as it has to be, breaks the connection.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from netoverlay.backend_api import Readable, UnavailableError
from netoverlay.backend_api.leadership import TICK_SECONDS, Awaited, LeaderFollower
from netoverlay_smb import commands, replies
from netoverlay_smb.commands import Body
from netoverlay_smb.credits import CreditWindow, Ticket
from netoverlay_smb.errors import describe
from netoverlay_smb.frames import FrameReader
from netoverlay_smb.protection import TRANSFORM_BYTES, Sealer, Signer, length_prefix
from netoverlay_smb.protocol import (
    HEADER,
    HEADER_BYTES,
    MAGIC,
    NO_SIGNATURE,
    NOTIFICATION_ID,
    SIGNATURE_AT,
    TRANSFORM_MAGIC,
    Command,
    HeaderFlags,
    ProtocolError,
)
from netoverlay_smb.replies import OplockBreak
from netoverlay_smb.status import Status

MAX_ABANDONED = 4096
"""Requests that nobody waits for any more, before a server that never answers them is given up."""
_READ_HEAD_BYTES = HEADER_BYTES + 16
_READ = int(Command.READ)
_PENDING = int(Status.PENDING)
_SIGNED = int(HeaderFlags.SIGNED)
_RELATED = int(HeaderFlags.RELATED)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """An authenticated connection with a share on it, as the login has left it."""

    socket: socket.socket
    server: str
    """For messages."""
    session_id: int
    tree_id: int
    next_message_id: int
    credits: int
    multi_credit: bool
    """Whether requests of more than 64 KiB can be paid for."""
    signer: Signer | None
    sealer: Sealer | None
    """If there is one, everything is encrypted, and nothing signed beside that."""
    max_read_bytes: int
    max_write_bytes: int
    max_transact_bytes: int
    """Of a listing, or of what is asked of a file."""
    dialect: int


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


class Engine(LeaderFollower):
    """SMB2 requests over `link`. `deadline` in seconds."""

    def __init__(self, link: Link, deadline: float) -> None:
        super().__init__(link.server, deadline)
        self.link = link
        self._socket = link.socket
        self._frames = FrameReader(link.socket)
        self._credits = CreditWindow(link.next_message_id, link.credits)
        self._send_lock = threading.Lock()
        self._pending: dict[int, Request] = {}
        self._abandoned: dict[int, Request] = {}
        self._owed: list[Body] = []
        """Acknowledgements that wait for a credit."""
        self._plain = memoryview(bytearray(1 << 17))
        """What was decrypted last."""
        # A READ reply whose data is arriving, for the leader.
        self._arriving: Request | None = None
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
        self.await_arrival(request)
        return request

    def submit(self, *bodies: Body) -> list[Request]:
        """Send, as one related compound if there are several. Waits only for credits, and for the socket.

        Every request must be passed to wait(), unless its reply does not matter.
        """
        return self.submit_all([bodies])[0]

    def submit_all(self, compounds: Sequence[Sequence[Body]]) -> list[list[Request]]:
        """As submit(), for several that have nothing to do with each other, in one piece."""
        if self.link.multi_credit:
            total = sum(body.charge for bodies in compounds for body in bodies)
        else:
            total = sum(map(len, compounds))
        expires_at = time.monotonic() + self._deadline
        first = self._credits.try_take(total)
        if first is None:
            ticket = Ticket(total, expires_at)
            self._credits.queue(ticket)
            self.await_arrival(ticket)
            first = ticket.message_id
        return self._send(compounds, first, expires_at)

    def close(self, reason: str = "the connection is closed") -> None:
        """Log out as far as that needs no waiting, and break the connection."""
        if not self.broken and (first := self._credits.try_take(1)) is not None:
            try:
                self._send([[commands.logoff()]], first, time.monotonic() + self._deadline)
            except UnavailableError as error:
                _log.debug("%s", error)
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
                charge = body.charge if self.link.multi_credit else 1
                request = Request(body, message_id, charge, expires_at)
                requests.append(request)
                parts += self._message(body, request, is_first=index == 0, is_last=index == last)
                self._pending[message_id] = request
                message_id += charge
            sent.append(requests)
            messages.append(parts)
        self._transmit(messages)
        return sent

    def _message(self, body: Body, request: Request, *, is_first: bool, is_last: bool) -> list[Readable]:
        """Header, body, what is not to be copied, and what fills it up to the next one; signed if need be."""
        link = self.link
        content, tail = body.content, body.tail
        length = HEADER_BYTES + len(content) + (len(tail) if tail is not None else 0)
        padding = 0 if is_last else -length % 8
        flags = 0 if is_first else _RELATED
        if link.signer is not None and link.sealer is None:
            flags |= _SIGNED
        charge = request.charge
        header = HEADER.pack(
            MAGIC,
            HEADER_BYTES,
            charge if link.multi_credit else 0,
            0,
            body.command,
            self._credits.request(charge) if is_first else charge,
            flags,
            0 if is_last else length + padding,
            request.message_id,
            0,
            link.tree_id,
            link.session_id,
            NO_SIGNATURE,
        )
        parts: list[Readable] = [header + content + bytes(padding)] if tail is None else [header + content, tail]
        if padding and tail is not None:
            parts.append(bytes(padding))
        if flags & _SIGNED and link.signer is not None:
            signature = link.signer.signature(parts, request.message_id, is_reply=False, is_cancel=False)
            parts[0] = header[:SIGNATURE_AT] + signature + bytes(parts[0][HEADER_BYTES:])
        return parts

    def _transmit(self, messages: Sequence[list[Readable]]) -> None:
        sealer = self.link.sealer
        parts: list[Readable] = []
        for message in messages:
            framed = message if sealer is None else sealer.seal(message)
            parts.append(length_prefix(framed))
            parts += framed
        total = sum(map(len, parts))
        try:
            with self._send_lock:
                if self._broken is None:
                    sent = self._socket.sendmsg(parts)
                    if sent < total:
                        self._socket.sendall(memoryview(b"".join(parts))[sent:])
        except BaseException as error:  # a message may have gone in part, after which nothing can follow
            self.fail(describe(error))
            if not isinstance(error, Exception):
                raise
        if self._broken is not None:
            raise UnavailableError(self._broken)

    def _send_unasked(self, body: Body) -> bool:
        """Send without waiting for a credit; False if there is none. The reply does not matter."""
        first = self._credits.try_take(1)
        if first is None:
            return False
        try:
            self._send([[body]], first, time.monotonic() + self._deadline)
        except UnavailableError as error:  # everybody who waits hears of it too
            _log.debug("%s", error)
        return True

    def _cancel(self, request: Request) -> None:
        """MS-SMB2 2.2.30: the server need not go on with it. Costs no credit, and is not answered."""
        if request.async_id is None or self.broken:
            return
        link = self.link
        flags = int(HeaderFlags.ASYNC) | (_SIGNED if link.signer is not None and link.sealer is None else 0)
        low, high = request.async_id & 0xFFFF_FFFF, request.async_id >> 32
        fields = (MAGIC, HEADER_BYTES, 0, 0, Command.CANCEL, 0, flags, 0, request.message_id, low, high)
        header = HEADER.pack(*fields, link.session_id, NO_SIGNATURE)
        body = b"\4\0\0\0"
        if flags & _SIGNED and link.signer is not None:
            signature = link.signer.signature([header, body], request.message_id, is_reply=False, is_cancel=True)
            header = header[:SIGNATURE_AT] + signature
        try:
            self._transmit([[header + body]])
        except UnavailableError as error:  # everybody who waits hears of it too
            _log.debug("%s", error)

    # Receiving: called by the leader only.

    def _receive(self, expires_at: float) -> bool:
        while True:
            try:
                if self._arriving is None and not self._begin(expires_at):
                    return True
                self._finish_data(expires_at)
            except TimeoutError:
                if time.monotonic() >= expires_at:
                    return False
                if self._pending:
                    self._probe_if_silent()
            else:
                return True

    def _begin(self, expires_at: float) -> bool:
        """Take the next message; False if it was dealt with, True if its data is still to come."""
        frames = self._frames
        length = frames.length(expires_at)
        if length < HEADER_BYTES:
            raise ProtocolError(f"the server sent a message of {length} bytes, which is too short for SMB2")
        head = frames.peek(min(length, _READ_HEAD_BYTES), expires_at)
        magic = bytes(head[:4])
        if magic == TRANSFORM_MAGIC:
            self._take_sealed(length, expires_at)
            return False
        if magic != MAGIC:
            raise ProtocolError(f"the server sent {bytes(head[:8])!r}, which is no SMB2")
        if self.link.sealer is not None:
            raise ProtocolError("the server sent in the clear what has to be encrypted")
        if self._begin_data(head, length):
            return True
        self._dispatch(frames.take(length, expires_at))
        return False

    def _take_sealed(self, length: int, expires_at: float) -> None:
        sealer = self.link.sealer
        if sealer is None or length < TRANSFORM_BYTES:
            raise ProtocolError("the server sent an encrypted message where none was due")
        sealed = self._frames.take_with_room(length, expires_at)
        if len(self._plain) < length:
            self._plain = memoryview(bytearray(length + HEADER_BYTES))
        self._dispatch(self._plain[: sealer.unseal(sealed, self._plain)])

    def _begin_data(self, head: memoryview, length: int) -> bool:
        """Whether this is the reply to a READ whose data can go straight to where it is wanted."""
        _, _, _, status, command, granted, _, following, message_id, *_ = HEADER.unpack_from(head)
        if command != _READ or status or following or len(head) < _READ_HEAD_BYTES:
            return False
        request = self._pending.get(message_id)
        if request is None or request.buffer is None:
            return False
        offset, size = replies.read_payload(bytes(head[HEADER_BYTES:]))
        if offset != _READ_HEAD_BYTES or size != length - offset:
            return False
        if size > len(request.buffer):
            raise ProtocolError(f"the server sent {size} bytes of data where {len(request.buffer)} were asked for")
        self._arriving_head = bytes(head)
        # In this order, so that _expire() finds it either pending or arriving.
        self._arriving = request
        if self._pending.pop(message_id, None) is None:  # it has just expired
            self._arriving = None
            return False
        self._target = request.buffer[:size]
        self._filled = 0
        self._frames.take_head(_READ_HEAD_BYTES)
        self._granted(request.charge, granted)
        return True

    def _finish_data(self, expires_at: float) -> None:
        request, target = self._arriving, self._target
        if request is None:
            return
        while self._filled < len(target):
            self._filled = len(target) - len(self._frames.fill(target[self._filled :], expires_at))
        if self.link.signer is not None:
            self._check_signature([self._arriving_head, target])
        request.filled = len(target)
        self._arriving = None
        request.finish()

    def _dispatch(self, message: memoryview) -> None:
        """Everything that is in a message: one reply, or several (MS-SMB2 3.2.5.1.9)."""
        at = 0
        while True:
            if len(message) - at < HEADER_BYTES:
                raise ProtocolError("the server sent a compound that ends in the middle of a header")
            following = HEADER.unpack_from(message, at)[7]
            if following and not HEADER_BYTES <= following <= len(message) - at:
                raise ProtocolError("the server sent a compound whose parts lie outside of it")
            self._take_reply(message[at : at + following] if following else message[at:])
            if not following:
                return
            at += following

    def _take_reply(self, reply: memoryview) -> None:
        _, _, _, status, command, granted, _, _, message_id, low, high, _, _ = HEADER.unpack_from(reply)
        if message_id == NOTIFICATION_ID:
            if command == Command.OPLOCK_BREAK:
                self._acknowledge(bytes(reply[HEADER_BYTES:]))
            return
        if status == _PENDING:
            self._note_interim(message_id, low | high << 32, granted)
            return
        if self.link.signer is not None and self.link.sealer is None:
            self._check_signature([reply])
        self._arriving = request = self._pending.get(message_id)
        if self._pending.pop(message_id, None) is None or request is None:
            self._arriving = None
            request = self._forget(message_id)
        elif command != request.command:
            raise ProtocolError(f"the server answered command {command} where {request.command} was asked")
        request.status = status
        body = bytes(reply[HEADER_BYTES:]) if request.buffer is None or status else b""
        if request.buffer is not None and not status:
            self._copy_data(request, reply)
        request.body = body
        self._arriving = None
        self._granted(request.charge, granted)
        if request.abandoned:
            self._undo(request)
        else:
            request.finish()

    @staticmethod
    def _copy_data(request: Request, reply: memoryview) -> None:
        offset, size = replies.read_payload(bytes(reply[HEADER_BYTES:_READ_HEAD_BYTES]))
        if request.buffer is None or size > len(request.buffer) or offset + size > len(reply):
            raise ProtocolError(f"the server sent {size} bytes of data, more than were asked for")
        request.buffer[:size] = reply[offset : offset + size]
        request.filled = size

    def _check_signature(self, parts: Sequence[Readable]) -> None:
        """Of a reply, whose header is at the beginning of the first part."""
        head, signer = parts[0], self.link.signer
        fields = HEADER.unpack_from(head)
        if signer is None or not fields[6] & _SIGNED:
            raise ProtocolError("the server sent a reply that is not signed")
        unsigned = [bytes(head[:SIGNATURE_AT]), NO_SIGNATURE, head[HEADER_BYTES:], *parts[1:]]
        signer.check(unsigned, fields[8], fields[12])

    def _note_interim(self, message_id: int, async_id: int, granted: int) -> None:
        request = self._pending.get(message_id)
        if request is None:
            request = self._abandoned.get(message_id)
        if request is None:
            raise ProtocolError(f"the server answered request {message_id}, which was not made")
        request.async_id = async_id
        self._granted(0, granted)
        if request.abandoned:
            self._cancel(request)

    def _forget(self, message_id: int) -> Request:
        request = self._abandoned.pop(message_id, None)
        if request is None:
            raise ProtocolError(f"the server answered request {message_id}, which was not made")
        request.buffer = None
        return request

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
        self._pay()

    def _pay(self) -> None:
        while self._owed and self._send_unasked(self._owed[0]):
            self._owed.pop(0)

    def _granted(self, charge: int, granted: int) -> None:
        self._credits.answered(charge, granted)
        if self._owed:
            self._pay()

    def _watch(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            self.lead_while_idle()
        self._socket.close()

    # What LeaderFollower asks for.

    def _silence(self) -> float:
        return time.monotonic() - self._frames.heard_at

    def _probe(self) -> None:
        self._send_unasked(commands.echo())

    def _expire(self, awaited: Awaited) -> None:
        if isinstance(awaited, Ticket):
            self._credits.leave(awaited)
        elif isinstance(awaited, Request):
            self._abandon(awaited)

    def _abandon(self, request: Request) -> None:
        if self._pending.pop(request.message_id, None) is not None:
            request.abandoned = True
            self._abandoned[request.message_id] = request
            if len(self._abandoned) > MAX_ABANDONED:
                self.fail(f"the server left {MAX_ABANDONED} requests unanswered")
            self._cancel(request)
        elif self._arriving is request:
            if request.is_awaited_by_leader:
                self._target = memoryview(bytearray(self._target))
            else:
                self.fail("the server stopped in the middle of a reply")

    def _let_go(self, awaited: Awaited) -> None:
        while self._arriving is awaited and not awaited.is_awaited_by_leader:
            time.sleep(0.001)

    def _take_all(self) -> Sequence[Awaited]:
        waiting = list(self._pending.values())
        self._pending.clear()
        return waiting

    def _hand_over(self) -> None:
        if self._broken is not None:
            self._arriving = None
        super()._hand_over()

    def _abort(self) -> None:
        self._closed.set()
        with suppress(OSError):  # the server may have closed it
            self._socket.shutdown(socket.SHUT_RDWR)

    def _describe(self, error: BaseException) -> str:
        return describe(error)
