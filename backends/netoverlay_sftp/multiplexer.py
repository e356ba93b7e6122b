"""Many threads, many requests in flight, one byte stream (who receives is in netoverlay.backend_api.leadership).

A request has a deadline from when it was sent. Whatever is no proper SFTP breaks the connection: a hostile or confused
server can neither hang a caller nor make it use memory without bound.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TypeAlias

from netoverlay.backend_api import Readable, UnavailableError, waiting
from netoverlay.backend_api.leadership import Awaited, LeaderFollower
from netoverlay_sftp import protocol
from netoverlay_sftp.errors import describe
from netoverlay_sftp.foreseen_handles import ForeseenHandles, OnOpened
from netoverlay_sftp.protocol import FRAME_HEADER, UINT32, PacketType, ProtocolError, StatusCode
from netoverlay_sftp.streams import ByteStream

MAX_FRAME_BYTES = 1 << 20
"""OpenSSH allows 256 KiB; a longer frame than this is taken for nonsense."""
MAX_ABANDONED = 4096
"""Requests that nobody waits for any more, before a server that never answers them is given up."""

_HEADER_BYTES = FRAME_HEADER.size
_DATA_HEADER_BYTES = _HEADER_BYTES + UINT32.size
_NOTHING = memoryview(b"")
_OPENING = frozenset({PacketType.OPEN, PacketType.OPENDIR})
_TELL_OF_HANDLES = frozenset({int(PacketType.HANDLE), int(PacketType.STATUS)})

Question: TypeAlias = tuple[PacketType, bytes | OnOpened]


class Request(Awaited):
    """One request in flight, and its reply when it is there."""

    __slots__ = ("asked_of", "body", "buffer", "filled", "number", "reply_type")

    def __init__(self, number: int, expires_at: float, buffer: memoryview | None) -> None:
        super().__init__(expires_at)
        self.number = number
        self.buffer = buffer
        """Where the payload of a DATA reply goes."""
        self.reply_type = 0
        self.body = b""
        """Of the reply, after the request number; of DATA into `buffer` nothing."""
        self.filled = 0
        """Bytes of `buffer` that a DATA reply filled."""
        self.asked_of: bytes | None = None
        """The handle that was foreseen, of a request that was made with OnOpened."""


class Multiplexer(LeaderFollower):
    """SFTP requests over `stream`. `deadline` in seconds."""

    def __init__(self, stream: ByteStream, deadline: float) -> None:
        super().__init__(stream.server, deadline)
        self.version = 0
        self.extensions: dict[bytes, bytes] = {}
        self._foreseen: ForeseenHandles | None = None
        self._stream = stream
        self._numbers = itertools.count(1)
        self._send_lock = threading.Lock()
        self._pending: dict[int, Request] = {}
        self._abandoned: set[int] = set()
        # The receiving side, touched by the leader only: bytes not looked at yet, and the frame that is arriving.
        self._unparsed = _NOTHING
        self._arriving: Request | None = None
        self._arriving_type = 0
        self._target = _NOTHING

    @property
    def in_flight(self) -> int:
        """The number of requests without a reply."""
        return len(self._pending)

    def start(self) -> None:
        """Exchange versions. ProtocolError if what answers is no SFTP server, UnavailableError if nothing does."""
        expires_at = time.monotonic() + self._deadline
        try:
            self._stream.send([UINT32.pack(5), bytes([PacketType.INIT]), UINT32.pack(protocol.PROTOCOL_VERSION)])
            header = self._peek_until(5, expires_at)
            length = UINT32.unpack_from(header)[0]
            if header[4] != PacketType.VERSION or not 5 <= length <= MAX_FRAME_BYTES:
                raise ProtocolError(f"it answers with {bytes(self._unparsed[:64])!r}, which is no SFTP")
            frame = self._peek_until(4 + length, expires_at)
            self.version, self.extensions = protocol.unpack_version(bytes(frame[5 : 4 + length]))
            self._unparsed = self._unparsed[4 + length :]
            if self.version != protocol.PROTOCOL_VERSION:
                raise ProtocolError(f"it speaks version {self.version} of SFTP, not {protocol.PROTOCOL_VERSION}")
        except BaseException:
            self._stream.close()  # the connection may do for others
            raise

    def foresee_handles(self) -> None:
        """The server gives handles as OpenSSH's does. Nothing may have been opened yet."""
        self._foreseen = ForeseenHandles()

    def foresee_no_more(self) -> None:
        """It does not: what was asked of a handle that was foreseen was refused."""
        self._foreseen = None

    @property
    def foresees(self) -> bool:
        """Whether OnOpened may be used. Once it may not, what a listing has told since it might is not all."""
        return self._foreseen is not None and self._foreseen.is_sure

    def submit(
        self, packet: PacketType, body: bytes, *, tail: Readable | None = None, buffer: memoryview | None = None
    ) -> Request:
        """Send a request: `body`, then `tail`, which is not copied. `buffer` takes the payload of a DATA reply.

        Every request that is submitted must be passed to wait(), unless its reply does not matter.
        """
        if self._foreseen is not None and (packet in _OPENING or packet is PacketType.CLOSE):
            return self.submit_many([(packet, body)])[0]
        parts: list[Readable] = [body] if tail is None else [body, tail]
        number = next(self._numbers) & 0xFFFF_FFFF
        length = 5 + sum(map(len, parts))
        parts[0] = FRAME_HEADER.pack(length, packet, number) + body
        request = Request(number, waiting.give_up_at(self._deadline), buffer)
        self._pending[number] = request
        self._send(parts)
        return request

    def submit_many(self, questions: Sequence[Question]) -> list[Request]:
        """As submit(), in one piece, for small requests that are to be in flight together.

        A question that is OnOpened stands behind the OPEN or OPENDIR that it is about, or another such one.
        """
        expires_at = waiting.give_up_at(self._deadline)
        submitted = [Request(next(self._numbers) & 0xFFFF_FFFF, expires_at, None) for _ in questions]
        if submitted:
            self._send(self._piece_locked(questions, submitted))
        return submitted

    def _piece_locked(self, questions: Sequence[Question], submitted: Sequence[Request]) -> Iterator[bytes]:
        """Made with the lock of sending held, for handles are given in the order in which they are asked for."""
        foreseen, handle = self._foreseen, None
        frames = []
        for (packet, body), request in zip(questions, submitted, strict=True):
            if isinstance(body, OnOpened):
                if handle is None:
                    _refuse(request)
                    continue
                request.asked_of, body = handle, handle + body.rest  # noqa: PLW2901
            elif foreseen is not None and packet in _OPENING:
                handle = foreseen.opening(request.number)
            elif foreseen is not None and packet is PacketType.CLOSE:
                foreseen.closing(request.number, body)
            self._pending[request.number] = request
            frames.append(FRAME_HEADER.pack(5 + len(body), packet, request.number) + body)
        yield b"".join(frames)

    def wait(self, request: Request) -> Request:
        """Return once the reply is in `request`. UnavailableError at its deadline, or if the connection is lost."""
        self.await_arrival(request)
        return request

    def forget(self, request: Request) -> None:
        """Nobody waits for it any more: a handle that it has brought, or will bring, is closed. Waits for nothing."""
        if self._pending.pop(request.number, None) is not None:
            self._abandoned.add(request.number)
            return
        while self._arriving is request and not request.done and not self.broken:
            time.sleep(0.001)
        if request.done and request.reply_type == PacketType.HANDLE:
            with suppress(UnavailableError):  # it ends with the connection, too
                self.submit(PacketType.CLOSE, request.body)

    # What LeaderFollower asks for.

    def _silence(self) -> float:
        return self._stream.liveness.silence()

    def _probe(self) -> None:
        self._stream.probe()

    def _abort(self) -> None:
        self._stream.abort()

    def _describe(self, error: BaseException) -> str:
        return describe(error)

    def _take_all(self) -> Sequence[Awaited]:
        pending = list(self._pending.values())
        self._pending.clear()
        return pending

    def _let_go(self, awaited: Awaited) -> None:
        while self._arriving is awaited and not awaited.is_awaited_by_leader:
            time.sleep(0.001)

    def _expire(self, awaited: Awaited) -> None:
        if not isinstance(awaited, Request):
            return
        if self._pending.pop(awaited.number, None) is not None:
            self._abandoned.add(awaited.number)
            if len(self._abandoned) > MAX_ABANDONED:
                self.fail(f"the server left {MAX_ABANDONED} requests unanswered")
        elif self._arriving is awaited:
            self._stop_filling(awaited)

    def _hand_over(self) -> None:
        if self._broken is not None:
            self._arriving = None
        super()._hand_over()

    def _stop_filling(self, request: Request) -> None:
        if request.is_awaited_by_leader:
            self._target = memoryview(bytearray(len(self._target)))
        else:
            self.fail("the server stopped in the middle of a reply")

    def _send(self, parts: Iterable[Readable]) -> None:
        """`parts` are asked for when it is their turn."""
        try:
            with self._send_lock:
                if self._broken is None:
                    self._stream.send([*parts])
        except BaseException as error:  # a frame may have gone in part, after which nothing can follow
            self.fail(describe(error))
            if not isinstance(error, Exception):
                raise
        if self._broken is not None:
            raise UnavailableError(self._broken)

    def _peek_until(self, count: int, expires_at: float) -> memoryview:
        while True:
            try:
                return self._peek(count, expires_at)
            except TimeoutError:
                if time.monotonic() >= expires_at:
                    raise

    def _peek(self, count: int, expires_at: float) -> memoryview:
        """At least `count` bytes, which stay unparsed."""
        while len(self._unparsed) < count:
            kept = bytes(self._unparsed)
            self._unparsed = memoryview(kept)
            more = self._stream.receive(expires_at - time.monotonic())
            if not more:
                raise EOFError("the server closed the connection")
            self._unparsed = memoryview(kept + more) if kept else more
        return self._unparsed

    def _receive(self, expires_at: float) -> bool:
        while True:
            try:
                if self._arriving is None:
                    self._begin_frame(expires_at)
                self._fill_target(expires_at)
            except TimeoutError:
                if time.monotonic() >= expires_at:
                    return False
                self._probe_if_silent()
            else:
                return True

    def _begin_frame(self, expires_at: float) -> None:
        head = self._peek(_HEADER_BYTES, expires_at)
        length, reply_type, number = FRAME_HEADER.unpack_from(head)
        if not 5 <= length <= MAX_FRAME_BYTES:
            raise ProtocolError(f"the server sent a frame of {length} bytes")
        request = self._pending.get(number)
        into_buffer = request is not None and request.buffer is not None and reply_type == PacketType.DATA
        if into_buffer:
            head = self._peek(_DATA_HEADER_BYTES, expires_at)
        # Only now, since a timeout before this must leave everything as it was; and in this order, so that _expire()
        # finds it either pending or arriving.
        self._arriving = request
        if self._pending.pop(number, None) is None or request is None:
            if number not in self._abandoned:
                raise ProtocolError(f"the server answered request {number}, which was not made")
            self._abandoned.discard(number)
            self._arriving = request = Request(number, 0.0, None)
            into_buffer = False
        self._arriving_type = reply_type
        if into_buffer and request.buffer is not None:
            size = UINT32.unpack_from(head, _HEADER_BYTES)[0]
            if size != length - 9 or size > len(request.buffer):
                raise ProtocolError(f"the server sent {size} bytes of data where {len(request.buffer)} were asked for")
            self._target = request.buffer[:size]
            self._unparsed = head[_DATA_HEADER_BYTES:]
            request.filled = size
        else:
            request.buffer = None
            self._target = memoryview(bytearray(length - 5))
            self._unparsed = head[_HEADER_BYTES:]

    def _fill_target(self, expires_at: float) -> None:
        target = self._target
        if self._unparsed:
            count = min(len(self._unparsed), len(target))
            target[:count] = self._unparsed[:count]
            self._unparsed = self._unparsed[count:]
            self._target = target = target[count:]
        while target:
            count = self._stream.receive_into(target, expires_at - time.monotonic())
            if not count:
                raise EOFError("the server closed the connection")
            self._target = target = target[count:]
        self._finish_frame()

    def _finish_frame(self) -> None:
        request, self._arriving, target = self._arriving, None, self._target
        self._target = _NOTHING
        if request is None:
            return
        if request.buffer is None:
            request.body = bytes(target.obj)
        request.reply_type = reply_type = self._arriving_type
        if self._foreseen is not None and reply_type in _TELL_OF_HANDLES:
            self._foreseen.answered(request.number, request.body if reply_type == PacketType.HANDLE else None)
        request.finish()
        if request.waker is None and not request.expires_at and request.reply_type == PacketType.HANDLE:
            self.submit(PacketType.CLOSE, request.body)  # whoever asked for the handle has given up


def _refuse(request: Request) -> None:
    """As a server does that knows no such handle."""
    request.reply_type, request.body = int(PacketType.STATUS), UINT32.pack(StatusCode.FAILURE)
    request.finish()
