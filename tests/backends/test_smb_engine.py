"""Many threads on one connection, and servers that lie, die or stop in the middle: over a socket pair, without a login.

What a test does not say otherwise it says of a plain, of a signed and of an encrypted connection.
"""

from __future__ import annotations

import os
import queue
import random
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from netoverlay.backend_api import UnavailableError
from netoverlay.backend_api.leadership import TICK_SECONDS
from netoverlay_smb import commands
from netoverlay_smb.commands import Body
from netoverlay_smb.credits import Ticket
from netoverlay_smb.engine import MAX_OWED, Engine
from netoverlay_smb.frames import MAX_FRAME_BYTES
from netoverlay_smb.outgoing import Link
from netoverlay_smb.protection import TAG_BYTES, CmacSigner, GmacSigner, HmacSigner, Sealer, Signer
from netoverlay_smb.protocol import (
    COMPRESSED_MAGIC,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    NO_SIGNATURE,
    NOTIFICATION_ID,
    TRANSFORM_MAGIC,
    Command,
    CreateOptions,
    FileAccess,
    HeaderFlags,
)
from netoverlay_smb.request import Request
from netoverlay_smb.status import Status

LONG = 30.0
SHORT = 0.6
FIRST_ID = 5
SESSION, TREE = 0x1122_3344_5566_7788, 0x99
KEY, TO_SERVER, TO_CLIENT = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))
HANDLE = bytes(range(0x40, 0x50))
REPLY = int(HeaderFlags.SERVER_TO_CLIENT)
ASYNC, RELATED, SIGNED = int(HeaderFlags.ASYNC), int(HeaderFlags.RELATED), int(HeaderFlags.SIGNED)
PROTECTIONS: dict[str, type[Signer] | None] = {
    "plain": None,
    "signed": GmacSigner,
    "signed with CMAC": CmacSigner,
    "signed with HMAC": HmacSigner,
    "sealed": None,
}


@dataclass(frozen=True)
class Asked:
    """A request, as the server sees it."""

    command: int
    message_id: int
    charge: int
    credits: int
    flags: int
    low: int
    high: int
    body: bytes


@dataclass(frozen=True)
class Answer:
    """A reply, or what pretends to be one."""

    command: int
    message_id: int
    body: bytes = b"\0\0"
    status: int = 0
    granted: int = 1
    flags: int = REPLY
    async_id: int = 0
    following: int | None = None

    @classmethod
    def to(cls, asked: Asked, body: bytes = b"\0\0", **fields: int) -> Answer:
        return cls(asked.command, asked.message_id, body, **{"granted": asked.charge, **fields})


class ScriptedServer:
    """The other end: reads requests, and answers as the test says. Counts credits, and checks what protects them."""

    def __init__(
        self, protection: str, *, deadline: float = LONG, credits: int = 64, multi_credit: bool = True
    ) -> None:
        ours, self.socket = socket.socketpair()
        self.socket.settimeout(LONG)
        for option, seconds in ((socket.SO_RCVTIMEO, TICK_SECONDS), (socket.SO_SNDTIMEO, deadline)):
            timeval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
            ours.setsockopt(socket.SOL_SOCKET, option, timeval)
        kind, name = PROTECTIONS[protection], "AES-128-GCM"
        self.signer = None if kind is None else kind(KEY)
        self.sealer = Sealer(name, TO_CLIENT, TO_SERVER, SESSION) if protection == "sealed" else None
        theirs = Sealer(name, TO_SERVER, TO_CLIENT, SESSION) if protection == "sealed" else None
        self.window = FIRST_ID + credits
        self.multi_credit = multi_credit
        self.waiting: deque[Asked] = deque()
        known = set(threading.enumerate())
        link = Link(
            ours,
            "test",
            SESSION,
            TREE,
            FIRST_ID,
            credits,
            multi_credit,
            self.signer,
            theirs,
            1 << 20,
            1 << 20,
            1 << 20,
            0x311,
        )
        self.ours = ours
        self.engine = Engine(link, deadline)
        (self.watcher,) = set(threading.enumerate()) - known

    def close(self) -> None:
        self.engine.close()
        self.watcher.join(LONG)
        self.socket.close()

    # Requests.

    def request(self) -> Asked:
        """The next one."""
        while not self.waiting:
            self._read_message()
        return self.waiting.popleft()

    def requests(self, count: int) -> list[Asked]:
        return [self.request() for _ in range(count)]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def _read_message(self) -> None:
        message = self._exactly(int.from_bytes(self._exactly(4), "big"))
        if self.sealer is not None:
            target = memoryview(bytearray(len(message)))
            length = self.sealer.unseal(memoryview(bytearray(message + bytes(TAG_BYTES))), target)
            message = bytes(target[:length])
        is_first = True
        while message:
            following = int.from_bytes(message[20:24], "little")
            self._take(message[: following or None], is_first=is_first)
            message, is_first = message[following:] if following else b"", False

    def _take(self, part: bytes, *, is_first: bool) -> None:
        fields = HEADER.unpack_from(part)
        magic, size, charge, status, command, wanted, flags, _, message_id, low, high, session, signature = fields
        assert (magic, size, status, session) == (MAGIC, 64, 0, SESSION)
        assert bool(flags & RELATED) != is_first
        assert bool(flags & SIGNED) == (self.signer is not None)
        assert signature == self.signature(part, message_id, is_cancel=command == Command.CANCEL)
        if command != Command.CANCEL:
            assert high == TREE
            charge = charge if self.multi_credit else 1
            assert message_id + charge <= self.window
            assert wanted >= charge >= 1
        self.waiting.append(Asked(command, message_id, charge, wanted, flags, low, high, part[HEADER_BYTES:]))

    def signature(self, part: bytes, message_id: int, *, is_reply: bool = False, is_cancel: bool = False) -> bytes:
        if self.signer is None:
            return NO_SIGNATURE
        unsigned = part[:48] + NO_SIGNATURE + part[64:]
        return self.signer.signature([unsigned], message_id, is_reply=is_reply, is_cancel=is_cancel)

    # Replies.

    def packed(self, answer: Answer, *, is_last: bool = True, signed: bool = True) -> bytes:
        body = answer.body if is_last else answer.body + bytes(-len(answer.body) % 8)
        following = answer.following
        if following is None:
            following = 0 if is_last else HEADER_BYTES + len(body)
        signs = signed and self.signer is not None and answer.message_id != NOTIFICATION_ID
        signs = signs and answer.status != Status.PENDING
        header = HEADER.pack(
            MAGIC,
            64,
            1,
            answer.status,
            answer.command,
            answer.granted,
            answer.flags | (SIGNED if signs else 0),
            following,
            answer.message_id,
            answer.async_id & 0xFFFF_FFFF,
            answer.async_id >> 32,
            SESSION,
            NO_SIGNATURE,
        )
        part = header + body
        return part[:48] + self.signature(part, answer.message_id, is_reply=True) + part[64:] if signs else part

    def framed(self, message: bytes, *, sealed: bool = True) -> bytes:
        if self.sealer is not None and sealed:
            message = b"".join(self.sealer.seal([message]))
        return len(message).to_bytes(4, "big") + message

    def frame(self, *answers: Answer) -> bytes:
        """All of them in one message."""
        self.window += sum(answer.granted for answer in answers)
        last = len(answers) - 1
        return self.framed(b"".join(self.packed(each, is_last=at == last) for at, each in enumerate(answers)))

    def answer(self, *answers: Answer) -> None:
        self.socket.sendall(self.frame(*answers))

    def echo(self, count: int = 1) -> None:
        """Answer so many requests with their own bodies."""
        for asked in self.requests(count):
            self.answer(Answer.to(asked, asked.body))


@pytest.fixture(params=["plain", "signed", "sealed"])
def protection(request) -> str:
    return str(request.param)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """For what waits while the test goes on. The servers are closed before it, so that nobody waits any more."""
    with ThreadPoolExecutor(40) as made:
        yield made


@pytest.fixture
def serve(protection, pool) -> Iterator[Callable[..., ScriptedServer]]:
    started: list[ScriptedServer] = []

    def start(**options) -> ScriptedServer:
        started.append(ScriptedServer(options.pop("protection", protection), **options))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def server(serve) -> ScriptedServer:
    return serve()


def create(path: bytes = b"a\0") -> Body:
    return commands.create(path, FileAccess.READ_DATA, CreateOptions(0))


def created(handle: bytes = HANDLE) -> bytes:
    return struct.pack("<HBBIQQQQQQII16sII", 89, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, handle, 0, 0)


def data(payload: bytes, *, offset: int = 80, claimed: int | None = None) -> bytes:
    size = len(payload) if claimed is None else claimed
    return struct.pack("<HBBIII", 17, offset, 0, size, 0, 0) + bytes(max(0, offset - 80)) + payload


def oplock_break(level: int) -> Answer:
    body = struct.pack("<HBBI16s", 24, level, 0, 0, HANDLE)
    return Answer(Command.OPLOCK_BREAK, NOTIFICATION_ID, body, granted=0)


def lease_break(flags: int, state: int) -> Answer:
    body = struct.pack("<HHI16sIIIII", 44, 1, flags, KEY, 7, state, 0, 0, 0)
    return Answer(Command.OPLOCK_BREAK, NOTIFICATION_ID, body, granted=0)


def is_unavailable(future: Future[Request]) -> bool:
    """Whether it ends so, however long it takes."""
    return isinstance(future.exception(LONG), UnavailableError)


def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.001)


# Requests and replies.


def test_replies_in_any_order_reach_their_requests(server):
    requests = [server.engine.submit(create(bytes([number, 0])))[0] for number in range(5)]
    for asked in reversed(server.requests(5)):
        server.answer(Answer.to(asked, asked.body))
    for number, request in enumerate(requests):
        assert server.engine.wait(request).body == create(bytes([number, 0])).content
        assert request.status == 0


def test_a_refusal_is_a_reply(server):
    request = server.engine.submit(commands.close(HANDLE))[0]
    server.answer(Answer.to(server.request(), status=Status.FILE_CLOSED))
    assert server.engine.wait(request).status == Status.FILE_CLOSED


@pytest.mark.parametrize("cut", [(1, 1, 1), (3,), (2, 1), (1, 2)])
def test_a_compound_is_answered_in_one_message_or_in_several(server, cut):
    bodies = (create(), commands.query_volume(5), commands.close())
    requests = server.engine.submit(*bodies)
    asked = server.requests(3)
    assert [each.body[: len(body.content)] for each, body in zip(asked, bodies, strict=True)] == [
        body.content for body in bodies
    ]
    answers = [Answer.to(each, bytes([number]) * 9) for number, each in enumerate(asked)]
    for count in cut:
        server.answer(*answers[:count])
        answers = answers[count:]
    for number, request in enumerate(requests):
        assert server.engine.wait(request).body[:9] == bytes([number]) * 9


def test_replies_to_many_in_one_message(server):
    sent = server.engine.submit_all([[create(), commands.close()], [commands.echo()]])
    server.answer(*[Answer.to(asked, asked.body) for asked in reversed(server.requests(3))])
    for request in [request for requests in sent for request in requests]:
        assert server.engine.wait(request).body


def test_more_messages_than_one_system_call_sends(serve):
    count = os.sysconf("SC_IOV_MAX")
    server = serve(credits=count + 1)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(server.engine.submit_all, [[commands.echo()]] * count)
        server.answer(*map(Answer.to, server.requests(count)))
        for (request,) in sending.result(LONG):
            assert server.engine.wait(request).status == Status.SUCCESS


def test_a_write_is_not_copied_but_sent_whole(server):
    payload = os.urandom(100_001)
    requests = server.engine.submit(commands.write(HANDLE, 0, memoryview(payload)), commands.close(HANDLE))
    write, close = server.requests(2)
    assert write.body[48 : 48 + len(payload)] == payload
    assert (write.charge, close.charge) == (2, 1)
    assert close.message_id == write.message_id + 2
    server.answer(Answer.to(write), Answer.to(close))
    for request in requests:
        server.engine.wait(request)


def test_without_large_requests_each_costs_one(serve):
    server = serve(multi_credit=False)
    request = server.engine.submit(commands.read(HANDLE, 0, 1 << 20))[0]
    other = server.engine.submit(commands.echo())[0]
    asked = server.requests(2)
    assert [each.message_id for each in asked] == [FIRST_ID, FIRST_ID + 1]
    server.answer(*map(Answer.to, asked))
    server.engine.wait(request)
    server.engine.wait(other)


def test_interim_replies_are_not_the_last_word(server):
    request = server.engine.submit(create())[0]
    asked = server.request()
    interim = Answer.to(asked, bytes(9), status=Status.PENDING, flags=REPLY | ASYNC, async_id=1 << 40, granted=1)
    server.answer(interim)
    server.answer(replace(interim, granted=0))
    server.answer(Answer.to(asked, created(), flags=REPLY | ASYNC, async_id=1 << 40, granted=0))
    assert server.engine.wait(request).body == created()
    assert (request.status, request.async_id) == (0, 1 << 40)


def read(server: ScriptedServer, size: int) -> tuple[bytearray, Request, Asked]:
    memory = bytearray(b"\xee" * (size + 8))
    request = server.engine.submit(commands.read(HANDLE, 0, size, memoryview(memory)[:size]))[0]
    return memory, request, server.request()


@pytest.mark.parametrize(("size", "sent"), [(10, 10), (10, 3), (10, 0), (300_000, 300_000), (300_000, 70_001)])
@pytest.mark.parametrize("offset", [80, 88])
def test_data_goes_where_it_was_asked_for(server, pool, size, sent, offset):
    memory, request, asked = read(server, size)
    payload = os.urandom(sent)
    other = server.engine.submit(commands.echo())[0]
    echo = server.request()
    sending = pool.submit(server.answer, Answer.to(asked, data(payload, offset=offset)))
    assert server.engine.wait(request).filled == sent
    assert memory == payload + b"\xee" * (size + 8 - sent)
    sending.result(LONG)
    server.answer(Answer.to(echo, b"next"))
    assert server.engine.wait(other).body == b"next"


def test_data_in_a_compound_goes_where_it_was_asked_for(server):
    memory = bytearray(20)
    bodies = (create(), commands.read(HANDLE, 0, 20, memoryview(memory)), commands.close())
    requests = server.engine.submit(*bodies)
    opening, reading, closing = server.requests(3)
    server.answer(Answer.to(opening, created()), Answer.to(reading, data(b"content")), Answer.to(closing))
    for request in requests:
        server.engine.wait(request)
    assert requests[1].filled == 7
    assert memory == b"content" + bytes(13)


def test_at_the_end_of_a_file_nothing_is_filled(server):
    memory, request, asked = read(server, 10)
    server.answer(Answer.to(asked, bytes(9), status=Status.END_OF_FILE))
    assert server.engine.wait(request).status == Status.END_OF_FILE
    assert request.filled == 0
    assert memory == b"\xee" * 18


def test_data_and_small_replies_that_arrive_together(server):
    """Whatever the boundaries of what one system call receives."""
    engine, sent, expected = server.engine, [], []
    stream = bytearray()
    for number in range(30):
        memory, request, asked = read(server, 1 + number * 997)
        payload = os.urandom(len(memory) - 8)
        stream += server.frame(Answer.to(asked, data(payload)))
        sent.append((memory, request))
        expected.append(payload)
        other = engine.submit(commands.echo())[0]
        stream += server.frame(Answer.to(server.request()))
        sent.append((None, other))

    def drip() -> None:
        at, sizes = 0, random.Random(7)
        while at < len(stream):
            at += server.socket.send(stream[at : at + sizes.choice((1, 3, 64, 81, 5_000, 40_000))])

    dripping = threading.Thread(target=drip)
    dripping.start()
    for memory, request in sent:
        engine.wait(request)
        if memory is not None:
            assert memory[:-8] == expected.pop(0)
    dripping.join()


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_many_threads_share_one_connection(server, pool):
    """Each opens, reads and closes its own; nobody gets what is another's."""
    stop = threading.Event()

    def answers(asked: Asked) -> Answer:
        if asked.command == Command.READ:
            size, offset = struct.unpack_from("<IQ", asked.body, 4)
            return Answer.to(asked, data(offset.to_bytes(8, "little") * (size // 8)), granted=asked.credits)
        return Answer.to(asked, asked.body[:80], granted=asked.credits)

    def serve() -> None:
        order = random.Random(7)
        held: list[Answer] = []
        with suppress(EOFError, OSError):
            while not stop.is_set():
                held.append(answers(server.request()))
                if len(held) < 4 and order.random() < 0.7 and server.waiting:
                    continue
                order.shuffle(held)
                server.answer(*held)
                held = []

    def work(thread: int) -> None:
        memory = bytearray(80_000)
        for turn in range(60):
            mark = thread << 32 | turn
            path = mark.to_bytes(8, "little")
            opened, _ = server.engine.call(create(path), commands.close())
            assert opened.body[56:64] == path
            request = server.engine.submit(commands.read(HANDLE, mark, len(memory), memoryview(memory)))[0]
            assert server.engine.wait(request).filled == len(memory)
            assert memory == path * 10_000

    serving = threading.Thread(target=serve)
    serving.start()
    for outcome in [pool.submit(work, thread) for thread in range(1, 9)]:
        outcome.result(LONG)
    stop.set()
    server.engine.close()
    serving.join()


# Credits.


def test_who_has_no_credits_waits_in_line(serve, pool):
    server = serve(credits=1)
    first = pool.submit(server.engine.call, commands.echo())
    asked = server.request()
    waiting = []
    for number in range(4):
        waiting.append(pool.submit(server.engine.call, create(bytes([number, 0]))))
        until(lambda number=number: len(server.engine._credits._line) == number + 1)
    for number in range(4):
        server.answer(Answer.to(asked, granted=1))
        asked = server.request()
        assert asked.body[56:58] == bytes([number, 0])
    server.answer(Answer.to(asked))
    for each in (first, *waiting):
        assert each.result(LONG)


def test_a_large_request_is_not_starved_by_small_ones(serve, pool):
    server = serve(credits=3)
    first = pool.submit(server.engine.call, commands.echo())
    asked = server.request()
    large = pool.submit(server.engine.call, commands.write(HANDLE, 0, bytes(4 * 65536)))
    until(lambda: len(server.engine._credits._line) == 1)
    small = pool.submit(server.engine.call, commands.echo())
    until(lambda: len(server.engine._credits._line) == 2)
    server.answer(Answer.to(asked, granted=5))
    asked = sorted(server.requests(2), key=lambda each: each.message_id)
    assert [each.command for each in asked] == [Command.WRITE, Command.ECHO]
    server.answer(*map(Answer.to, asked))
    for each in (first, large, small):
        assert each.result(LONG)


def test_who_could_never_be_paid_for_gets_more_asked_for(serve, pool):
    """Nothing is in flight whose reply could grant what is missing."""
    server = serve(credits=2)
    large = pool.submit(server.engine.call, commands.write(HANDLE, 0, bytes(4 * 65536)))
    for granted in (2, 9):
        echo = server.request()
        assert echo.command == Command.ECHO
        assert echo.credits > 4
        server.answer(Answer.to(echo, granted=granted))
    asked = server.request()
    assert (asked.command, asked.charge) == (Command.WRITE, 4)
    server.answer(Answer.to(asked))
    assert large.result(LONG)


def talk(server: ScriptedServer, stop: threading.Event) -> None:
    """Be heard of."""
    with suppress(OSError):
        while not stop.wait(0.02):
            server.answer(lease_break(0, 0))


@pytest.fixture
def talking(server_of_short_patience) -> Iterator[ScriptedServer]:
    """A server that says something all the time."""
    stop = threading.Event()
    thread = threading.Thread(target=talk, args=(server_of_short_patience, stop))
    thread.start()
    yield server_of_short_patience
    stop.set()
    thread.join()


@pytest.fixture
def server_of_short_patience(serve) -> ScriptedServer:
    return serve(deadline=SHORT, credits=4)


def test_who_waits_in_line_too_long_leaves_it(talking, pool):
    held = talking.engine.submit(commands.echo())[0]
    asked = talking.request()
    assert is_unavailable(pool.submit(talking.engine.call, commands.write(HANDLE, 0, bytes(4 * 65536))))
    assert not talking.engine.broken
    talking.answer(Answer.to(asked))
    talking.engine.wait(held)
    again = talking.engine.submit(commands.echo())[0]
    asked = talking.request()
    assert asked.message_id == FIRST_ID + 1
    talking.answer(Answer.to(asked))
    talking.engine.wait(again)


def test_what_is_acknowledged_does_not_stand_in_line(serve, pool):
    """The server answers nothing before it: it has broken what we hold for what we ask."""
    server = serve(credits=4)
    asking = pool.submit(server.engine.call, create())
    asked = server.request()
    waiting = [pool.submit(server.engine.call, commands.write(HANDLE, 0, bytes(4 * 65536)))]
    until(lambda: len(server.engine._credits._line) == 1)
    server.answer(oplock_break(1))
    acknowledgement = server.request()
    assert acknowledgement.command == Command.OPLOCK_BREAK
    server.answer(Answer.to(acknowledgement), Answer.to(asked))
    write = server.request()
    server.answer(Answer.to(write))
    for each in (asking, *waiting):
        assert each.result(LONG)


def test_the_last_credit_is_kept_for_acknowledgements(serve, pool):
    server = serve(credits=3)
    asking = [pool.submit(server.engine.call, create()) for _ in range(3)]
    asked = server.requests(2)
    until(lambda: len(server.engine._credits._line) == 1)
    server.answer(oplock_break(1))
    assert server.request().command == Command.OPLOCK_BREAK
    server.answer(*[Answer.to(each, granted=2) for each in asked])
    server.answer(Answer.to(server.request()))
    for each in asking:
        assert each.result(LONG)


# What nobody waits for any more.


def test_a_request_that_is_given_up_is_cancelled(talking, pool):
    asking = pool.submit(talking.engine.call, create())
    asked = talking.request()
    talking.answer(Answer.to(asked, status=Status.PENDING, flags=REPLY | ASYNC, async_id=0x7_0000_0009))
    assert is_unavailable(asking)
    cancel = talking.request()
    assert (cancel.command, cancel.message_id, cancel.body) == (Command.CANCEL, asked.message_id, b"\4\0\0\0")
    assert cancel.flags & ASYNC
    assert (cancel.low, cancel.high) == (9, 7)
    talking.answer(Answer.to(asked, bytes(9), status=Status.CANCELLED, granted=0))
    assert not talking.engine.broken


def test_a_request_whose_interim_reply_comes_late_is_cancelled(talking, pool):
    asking = pool.submit(talking.engine.call, create())
    asked = talking.request()
    assert is_unavailable(asking)
    interim = Answer.to(asked, status=Status.PENDING, flags=REPLY | ASYNC, async_id=9)
    talking.answer(interim)
    assert talking.request().command == Command.CANCEL
    talking.answer(replace(interim, granted=0))
    other = talking.engine.submit(commands.echo())[0]
    echo = talking.request()
    assert echo.command == Command.ECHO  # and not the same once more
    talking.answer(Answer.to(echo))
    talking.engine.wait(other)


@pytest.mark.parametrize("protection", ["plain", "signed"])
def test_there_is_but_one_cancellation_of_a_request(talking, pool):
    """Two different ones would share a nonce of GMAC, and whoever is in between may write interim replies."""
    asking = pool.submit(talking.engine.call, create())
    asked = talking.request()
    assert is_unavailable(asking)
    interim = Answer.to(asked, status=Status.PENDING, flags=REPLY | ASYNC, async_id=9)
    talking.answer(interim)
    assert talking.request().command == Command.CANCEL
    talking.answer(replace(interim, async_id=10))
    with pytest.raises((EOFError, OSError)):
        talking.request()
    assert talking.engine.broken


def test_a_handle_that_comes_too_late_is_closed(talking, pool):
    asking = pool.submit(talking.engine.call, create())
    asked = talking.request()
    assert is_unavailable(asking)
    talking.answer(Answer.to(asked, created(), granted=2))
    close = talking.request()
    assert (close.command, close.body[8:24]) == (Command.CLOSE, HANDLE)
    assert not talking.engine.broken


def test_a_late_refusal_is_of_no_consequence(talking, pool):
    asking = pool.submit(talking.engine.call, create())
    asked = talking.request()
    assert is_unavailable(asking)
    talking.answer(Answer.to(asked, bytes(9), status=Status.ACCESS_DENIED, granted=2))
    other = talking.engine.submit(commands.echo())[0]
    echo = talking.request()
    assert echo.command == Command.ECHO
    talking.answer(Answer.to(echo))
    talking.engine.wait(other)


@pytest.mark.parametrize("lead", [True, False])
def test_data_that_comes_too_late_goes_nowhere(talking, pool, lead):
    memory, request, asked = read(talking, 10)
    leader = None if lead else pool.submit(talking.engine.wait, talking.engine.submit(commands.echo())[0])
    assert is_unavailable(pool.submit(talking.engine.wait, request))
    talking.answer(Answer.to(asked, data(b"too late!!"), granted=2))
    until(lambda: not talking.engine._abandoned or talking.engine.broken or leader is not None)
    assert memory == b"\xee" * 18


def test_a_late_reply_to_another_command_breaks_the_connection(talking, pool):
    asking = pool.submit(talking.engine.call, create())
    asked = talking.request()
    assert is_unavailable(asking)
    talking.answer(replace(Answer.to(asked, created()), command=Command.CLOSE))
    until(lambda: talking.engine.broken)


class Meddling(dict[int, Request]):
    """Lets the leader come in between: right before something is taken out, or right after."""

    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None

    def pop(self, key, default=None):
        before, after, self.before, self.after = self.before, self.after, None, None
        if before:
            before()
        taken = super().pop(key, default)
        if after:
            after()
        return taken


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("interim", [True, False])
def test_a_reply_that_comes_as_its_request_expires_belongs_to_it(server, moment, interim):
    request = server.engine.submit(commands.echo())[0]
    asked = server.request()
    pending = Meddling(server.engine._pending)
    server.engine._pending = pending
    answer = Answer.to(asked, b"reply", status=Status.PENDING if interim else 0, flags=REPLY | ASYNC, async_id=9)
    reply = memoryview(server.packed(answer))
    setattr(pending, moment, lambda: server.engine._take_reply(HEADER.unpack_from(reply), reply))
    server.engine._abandon(request)
    assert not server.engine.broken
    assert request.done == (moment == "before" and not interim)
    if interim:
        assert server.request().command == Command.CANCEL
    else:
        assert not server.engine._abandoned


def test_a_reply_that_is_being_taken_when_its_time_is_up_is_waited_for(server, pool, monkeypatch):
    """It is all there: that is not a server which has stopped in the middle."""
    memory, request, asked = read(server, 10)
    copy = server.engine._copy_data
    is_taken, is_over = threading.Event(), threading.Event()

    def slowly(taken: Request, reply: memoryview) -> None:
        is_taken.set()
        is_over.wait(LONG)
        copy(taken, reply)

    monkeypatch.setattr(server.engine, "_copy_data", slowly)
    request.waker = queue.SimpleQueue()  # as of one that another thread waits for
    reply = memoryview(server.packed(good(asked)))
    taking = pool.submit(server.engine._take_reply, HEADER.unpack_from(reply), reply)
    is_taken.wait(LONG)
    giving_up = pool.submit(server.engine._abandon, request)
    threading.Timer(0.1, is_over.set).start()
    giving_up.result(LONG)
    taking.result(LONG)
    assert request.done
    assert memory == b"0123456789" + b"\xee" * 8
    assert not server.engine.broken


# Oplocks and leases.


BREAKS = {
    "an oplock": (oplock_break(1), struct.pack("<HBBI16s", 24, 1, 0, 0, HANDLE)),
    "an oplock, to none": (oplock_break(0), struct.pack("<HBBI16s", 24, 0, 0, 0, HANDLE)),
    "a lease": (lease_break(1, 3), struct.pack("<HHI16sIQ", 36, 0, 0, KEY, 3, 0)),
}


@pytest.mark.parametrize("what", BREAKS)
@pytest.mark.parametrize("busy", [True, False])
def test_what_is_broken_is_acknowledged(server, pool, what, busy):
    notification, acknowledged = BREAKS[what]
    asking = pool.submit(server.engine.call, create()) if busy else None
    asked = server.request() if busy else None
    server.answer(notification)
    acknowledgement = server.request()
    assert (acknowledgement.command, acknowledgement.body) == (Command.OPLOCK_BREAK, acknowledged)
    server.answer(Answer.to(acknowledgement, acknowledged))
    if asking is not None and asked is not None:
        server.answer(Answer.to(asked, created()))
        assert asking.result(LONG)
    assert not server.engine.broken


def test_what_asks_for_no_acknowledgement_gets_none(server):
    server.answer(lease_break(0, 0))
    server.answer(replace(lease_break(1, 0), command=Command.ECHO))
    request = server.engine.submit(commands.echo())[0]
    asked = server.request()
    assert asked.command == Command.ECHO
    server.answer(Answer.to(asked))
    server.engine.wait(request)


def test_an_acknowledgement_waits_for_a_credit(serve):
    server = serve(credits=1)
    request = server.engine.submit(commands.echo())[0]
    asked = server.request()
    server.answer(oplock_break(1))
    server.answer(oplock_break(0))
    until(lambda: len(server.engine._owed) == 2)
    server.answer(Answer.to(asked, granted=1))
    for level in (1, 0):
        acknowledgement = server.request()
        assert (acknowledgement.command, acknowledgement.body[2]) == (Command.OPLOCK_BREAK, level)
        server.answer(Answer.to(acknowledgement))
    server.engine.wait(request)


def test_whoever_receives_does_not_wait_to_send(server, pool):
    """The server reads nothing until what it has sent is received; another thread waits for it to read."""
    request = server.engine.submit(create())[0]
    asked = server.request()
    writing = pool.submit(server.engine.call, commands.write(HANDLE, 0, bytes(2 << 20)))
    until(server.engine._outgoing._lock.locked)
    server.answer(oplock_break(1))
    server.answer(Answer.to(asked, created(), granted=40))
    assert server.engine.wait(request).body == created()
    assert not writing.done()
    write, acknowledgement = server.requests(2)
    assert (write.command, acknowledgement.command) == (Command.WRITE, Command.OPLOCK_BREAK)
    server.answer(Answer.to(write), Answer.to(acknowledgement))
    assert writing.result(LONG)


def test_whoever_receives_does_not_wait_for_room_in_the_socket(server):
    request = server.engine.submit(create())[0]
    asked = server.request()
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += server.ours.send(bytes(4096), socket.MSG_DONTWAIT)
    server.answer(oplock_break(1))
    server.answer(Answer.to(asked, created(), granted=4))
    assert server.engine.wait(request).body == created()
    assert server._exactly(filled) == bytes(filled)
    assert server.request().command == Command.OPLOCK_BREAK


# Deaths and lies.


def test_what_is_waited_for_fails_when_the_server_dies(server, pool):
    waiting = [pool.submit(server.engine.call, create()) for _ in range(8)]
    server.requests(8)
    server.socket.close()
    assert all(map(is_unavailable, waiting))
    with pytest.raises(UnavailableError):
        server.engine.submit(commands.echo())


def test_a_server_that_dies_while_nothing_is_asked_is_known_to_be_dead(server):
    server.socket.close()
    until(lambda: server.engine.broken)


@pytest.mark.parametrize("cut", [1, 4, 40, 70, 90, -1])
@pytest.mark.parametrize("size", [10, 200_000])
def test_the_end_within_a_reply_is_the_end(server, pool, cut, size):
    memory, request, asked = read(server, size)
    other = pool.submit(server.engine.call, commands.echo())
    server.request()
    frame = server.frame(Answer.to(asked, data(os.urandom(size))))

    def die() -> None:
        server.socket.sendall(frame[:cut])
        server.socket.close()

    dying = pool.submit(die)
    assert is_unavailable(pool.submit(server.engine.wait, request))
    assert is_unavailable(other)
    dying.result(LONG)
    assert memory[size:] == b"\xee" * 8


def test_a_silent_server_is_declared_dead_for_all_who_wait(serve, pool):
    server = serve(deadline=SHORT)
    waiting = [pool.submit(server.engine.call, create()) for _ in range(8)]
    assert all("silent" in str(each.exception(LONG)) for each in waiting)
    assert server.engine.broken


def test_a_server_that_answers_nothing_but_echoes_is_not_dead(serve, pool):
    server = serve(deadline=2.0)
    asking = pool.submit(server.engine.call, create())
    asked = server.request()

    def echo() -> None:
        with suppress(EOFError, OSError):
            while True:
                server.echo()

    pool.submit(echo)
    assert is_unavailable(asking)
    assert not server.engine.broken
    server.answer(Answer.to(asked, bytes(9), status=Status.ACCESS_DENIED))
    assert server.engine.call(commands.echo())


def test_a_server_that_takes_nothing_is_given_up(serve, pool):
    server = serve(deadline=SHORT)
    assert is_unavailable(pool.submit(server.engine.call, commands.write(HANDLE, 0, bytes(3 << 20))))
    assert server.engine.broken


def test_a_server_that_takes_a_little_now_and_then_is_given_up(serve, pool):
    server = serve(deadline=SHORT)
    writing = pool.submit(server.engine.call, commands.write(HANDLE, 0, bytes(3 << 20)))
    with suppress(OSError):
        while not writing.done() and server.socket.recv(1024):
            time.sleep(0.02)
    assert is_unavailable(writing)
    assert server.engine.broken


def test_a_server_that_talks_without_end_holds_nobody(server, pool, monkeypatch):
    """However much there is to be received: whoever leads, and has no time left, goes."""
    monkeypatch.setattr(server.engine, "lead_while_idle", lambda: None)
    until(lambda: not server.engine._led)
    request = server.engine.submit(create())[0]
    server.request()
    server.socket.sendall(b"".join(server.frame(lease_break(0, 0)) for _ in range(100)))
    request.expires_at = time.monotonic() - 2 * TICK_SECONDS
    assert is_unavailable(pool.submit(server.engine.wait, request))
    frames = server.engine._incoming.frames
    assert frames._end - frames._start > 1000
    assert not server.engine.broken


def test_a_server_that_asks_and_gives_no_credits_is_given_up(serve):
    server = serve(credits=1)
    server.engine.submit(commands.echo())
    with suppress(OSError):
        for _ in range(2 * MAX_OWED):
            server.answer(oplock_break(0))
    until(lambda: server.engine.broken)


def good(asked: Asked) -> Answer:
    return Answer.to(asked, data(b"0123456789"))


def refused(asked: Asked, **fields: int) -> Answer:
    return Answer.to(asked, bytes(16), status=Status.ACCESS_DENIED, **fields)


def chained(server: ScriptedServer, asked: Asked, then: bytes) -> bytes:
    """A message of two parts, of which the second is wrong."""
    return server.framed(server.packed(replace(lease_break(0, 0), following=HEADER_BYTES + 44)) + then)


LIES: dict[str, Callable[[ScriptedServer, Asked], bytes]] = {
    "a message of gigabytes": lambda it, asked: b"\x7f\xff\xff\xff" + it.packed(good(asked)),
    "a message above the limit": lambda it, asked: (MAX_FRAME_BYTES + 1).to_bytes(4, "big") + it.packed(good(asked)),
    "a message of nothing": lambda it, asked: bytes(4),
    "a message that is too short": lambda it, asked: it.framed(it.packed(good(asked))[:63]),
    "a message that is compressed": lambda it, asked: it.framed(COMPRESSED_MAGIC + it.packed(good(asked))[4:]),
    "a message of SMB 1": lambda it, asked: it.framed(b"\xffSMB" + it.packed(good(asked))[4:]),
    "something else": lambda it, asked: b"\0\0\0\x50HTTP/1.1 400 Bad Request\r\n" + b"x" * 100,
    "a header of another size": lambda it, asked: it.framed(MAGIC + b"\x41\0" + it.packed(good(asked))[6:]),
    "a number that was never used": lambda it, asked: it.frame(replace(good(asked), message_id=asked.message_id + 1)),
    "an interim reply to what was never asked": lambda it, asked: it.frame(
        replace(good(asked), message_id=asked.message_id + 1, status=Status.PENDING)
    ),
    "a reply to another command": lambda it, asked: it.frame(replace(good(asked), command=Command.WRITE)),
    "a refusal of another command": lambda it, asked: it.frame(replace(refused(asked), command=Command.WRITE)),
    "what says that it is no reply": lambda it, asked: it.frame(replace(good(asked), flags=0)),
    "what says that it is no refusal": lambda it, asked: it.frame(refused(asked, flags=0)),
    "more data than was asked for": lambda it, asked: it.frame(Answer.to(asked, data(b"x" * 11))),
    "more data, not where it was wanted": lambda it, asked: it.frame(Answer.to(asked, data(b"x" * 11, offset=88))),
    "a length beyond the message": lambda it, asked: it.frame(Answer.to(asked, data(b"xx", claimed=9))),
    "an offset beyond the message": lambda it, asked: it.frame(
        Answer.to(asked, data(b"", offset=255, claimed=10)[:16])
    ),
    "an offset in the header": lambda it, asked: it.frame(Answer.to(asked, data(b"0123456789", offset=8))),
    "a reply without a body": lambda it, asked: it.frame(Answer.to(asked, b"")),
    "a reply with half a body": lambda it, asked: it.frame(Answer.to(asked, data(b"")[:15])),
    "a next reply within the header": lambda it, asked: it.frame(refused(asked, following=8)),
    "a next reply behind the end": lambda it, asked: it.frame(refused(asked, following=1000)),
    "a next reply at the end": lambda it, asked: chained(it, asked, b""),
    "a next reply that ends in its header": lambda it, asked: chained(it, asked, it.packed(good(asked))[:60]),
    "a next reply without its magic": lambda it, asked: chained(it, asked, b"\0" + it.packed(good(asked))[1:]),
    "a break of nothing": lambda it, asked: it.frame(replace(oplock_break(0), body=b"\x18\0")),
}


@pytest.mark.parametrize("what", LIES)
def test_a_lie_breaks_the_connection_for_everybody(server, pool, what):
    other = pool.submit(server.engine.call, commands.echo())
    server.request()
    memory, request, asked = read(server, 10)
    with suppress(OSError):
        server.socket.sendall(LIES[what](server, asked))
        server.socket.sendall(bytes(4))
    assert is_unavailable(pool.submit(server.engine.wait, request))
    assert is_unavailable(other)
    assert server.engine.broken
    assert memory[10:] == b"\xee" * 8
    with pytest.raises(UnavailableError):
        server.engine.submit(commands.echo())


def broken_by(server: ScriptedServer, frame: bytes, request: Request) -> None:
    with suppress(OSError):
        server.socket.sendall(frame)
        server.socket.sendall(bytes(4))
    with pytest.raises(UnavailableError):
        server.engine.wait(request)
    assert server.engine.broken


def answers_to(asked: Asked) -> list[Answer]:
    """Data that is received where it is wanted, data that is not, and none."""
    return [
        Answer.to(asked, data(b"0123456789")),
        Answer.to(asked, data(b"0123456789", offset=88)),
        Answer.to(asked, bytes(9), status=Status.END_OF_FILE),
    ]


SIGNED_KINDS = [each for each in PROTECTIONS if each.startswith("signed")]


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("protection", SIGNED_KINDS)
def test_a_reply_that_is_not_signed_is_refused(server, kind):
    _, request, asked = read(server, 10)
    broken_by(server, server.framed(server.packed(answers_to(asked)[kind], signed=False)), request)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("protection", SIGNED_KINDS)
@pytest.mark.parametrize("at", [8, 14, 24, 40, 48, 63, 64, -1])
def test_a_reply_with_a_wrong_signature_is_refused(server, kind, at):
    _, request, asked = read(server, 10)
    forged = bytearray(server.packed(answers_to(asked)[kind]))
    forged[at] ^= 1
    broken_by(server, server.framed(bytes(forged)), request)


@pytest.mark.parametrize("protection", SIGNED_KINDS)
def test_our_own_request_sent_back_is_no_reply(server):
    """With some algorithms it has the right signature, and a WRITE then says how much was written."""
    request = server.engine.submit(commands.write(HANDLE, 0, b"data"))[0]
    length = server._exactly(4)
    broken_by(server, length + server._exactly(int.from_bytes(length, "big")), request)


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("protection", ["sealed"])
def test_what_comes_in_the_clear_where_all_is_encrypted_is_refused(server, kind):
    memory, request, asked = read(server, 10)
    broken_by(server, server.framed(server.packed(answers_to(asked)[kind]), sealed=False), request)
    assert memory == b"\xee" * 18


@pytest.mark.parametrize("protection", ["sealed"])
def test_a_break_in_the_clear_where_all_is_encrypted_is_refused(server):
    request = server.engine.submit(commands.echo())[0]
    broken_by(server, server.framed(server.packed(oplock_break(0)), sealed=False), request)


@pytest.mark.parametrize("protection", ["sealed"])
@pytest.mark.parametrize("at", [8, 24, 40, 44, 46, 60, -1])
def test_what_was_tampered_with_is_refused(server, at):
    memory, request, asked = read(server, 10)
    frame = bytearray(server.frame(answers_to(asked)[0]))
    frame[at] ^= 1
    broken_by(server, bytes(frame), request)
    assert memory == b"\xee" * 18


@pytest.mark.parametrize("protection", ["plain", "signed"])
@pytest.mark.parametrize("length", [64, 200])
def test_what_is_encrypted_where_nothing_is_is_refused(server, length):
    request = server.engine.submit(commands.echo())[0]
    broken_by(server, server.framed(TRANSFORM_MAGIC + bytes(length)), request)


def test_data_that_stops_while_the_server_lives_does_not_come_in_later(serve, pool):
    """Only where it comes straight from the socket: what is encrypted is kept until it is whole."""
    server = serve(deadline=2.0)
    memory, request, asked = read(server, 10)
    frame = server.frame(Answer.to(asked, data(b"0123456789")))
    started_at = time.monotonic()
    waiting = pool.submit(server.engine.wait, request)
    for at in range(len(frame) - 3):
        server.socket.sendall(frame[at : at + 1])
    # A byte of it when half of the time is over, so that it is heard of.
    while time.monotonic() < started_at + 1.7:
        time.sleep(0.01)
    server.socket.sendall(frame[-3:-2])
    assert is_unavailable(waiting)
    before = bytes(memory)
    if not server.engine.broken:
        other = server.engine.submit(commands.echo())[0]
        server.socket.sendall(frame[-2:])
        while (echo := server.request()).message_id != other.message_id:
            server.answer(Answer.to(echo))
        server.answer(Answer.to(echo))
        server.engine.wait(other)
    assert memory == before
    assert memory[-10:] == b"\xee" * 10


@pytest.mark.parametrize("protection", ["plain"])
def test_memory_is_let_go_only_when_nobody_writes_to_it(server, pool, monkeypatch):
    """The connection is lost while another thread receives into it."""
    first = server.engine.submit(commands.echo())[0]
    server.request()
    memory, request, asked = read(server, 10)
    fill = server.engine._incoming.frames.fill
    is_filling, is_over = threading.Event(), threading.Event()

    def slowly(target: memoryview, expires_at: float) -> memoryview:
        is_filling.set()
        is_over.wait(LONG)
        return fill(target, expires_at)

    monkeypatch.setattr(server.engine._incoming.frames, "fill", slowly)
    leading = pool.submit(server.engine.wait, first)
    server.answer(Answer.to(asked, data(b"0123456789")))
    is_filling.wait(LONG)
    server.engine.fail("the test has it so")
    threading.Timer(0.2, is_over.set).start()
    with pytest.raises(UnavailableError):
        server.engine.wait(request)
    assert is_over.is_set()
    before = bytes(memory)
    assert is_unavailable(leading)
    assert memory == before


@pytest.mark.parametrize("protection", ["plain"])
def test_who_waits_only_after_the_end_is_told_at_once(server, pool):
    """Of a reply that came in part, while nobody leads any more."""
    _, request, asked = read(server, 10)
    server.socket.sendall(server.frame(Answer.to(asked, data(b"0123456789")))[:-5])
    until(lambda: server.engine._arriving is request)
    server.engine.fail("the test has it so")
    until(lambda: not server.engine._led)
    assert server.engine._arriving is request
    assert is_unavailable(pool.submit(server.engine.wait, request))


class Stop(BaseException):
    """What ends a thread."""


def test_a_leader_that_dies_takes_nobody_with_it_in_silence(server, pool, monkeypatch):
    """Whatever ends it: those who wait for it to receive know at once."""
    first = server.engine.submit(commands.echo())[0]
    server.request()

    def dies(expires_at: float) -> int:
        until(lambda: len(server.engine._followers) == 3)
        raise Stop

    def lead() -> None:
        with pytest.raises(Stop):
            server.engine.wait(first)

    until(lambda: not server.engine._led)
    monkeypatch.setattr(server.engine._incoming.frames, "length", dies)
    leading = pool.submit(lead)
    until(lambda: server.engine._led)
    waiting = [pool.submit(server.engine.call, create()) for _ in range(3)]
    assert all(map(is_unavailable, waiting))
    leading.result(LONG)
    assert server.engine.broken


def test_a_leader_that_has_its_reply_hands_over(server, pool):
    waiting = [pool.submit(server.engine.call, create(bytes([number, 0]))) for number in range(5)]
    for asked in sorted(server.requests(5), key=lambda each: each.body[56]):
        server.answer(Answer.to(asked, asked.body))
        assert waiting[asked.body[56]].result(LONG)[0].body == asked.body


class ServedAsItLooks(Ticket):
    """Another thread hands the lead over to who waits for it, and then it is served, just before that one looks."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(1, time.monotonic() + LONG)
        self.engine = engine
        self.looks = 0
        self.is_served = False

    @property
    def done(self) -> bool:
        self.looks += 1
        if self.looks == 2:
            self.engine._hand_over()
            self.is_served = True
        return self.is_served

    @done.setter
    def done(self, done: bool) -> None:
        assert not done


@pytest.mark.parametrize("protection", ["plain"])
def test_the_lead_is_not_lost_with_who_is_served_as_it_is_handed_over(server, pool):
    until(lambda: not server.engine._led)
    server.engine._led = True
    server.engine.await_arrival(ServedAsItLooks(server.engine))
    assert not server.engine._led


# The end.


def test_closing_logs_out(server):
    server.engine.close()
    assert server.request().command == Command.LOGOFF
    with pytest.raises(EOFError):
        server.request()
    with pytest.raises(UnavailableError, match="closed"):
        server.engine.submit(commands.echo())
    server.engine.close()


def test_closing_ends_all_waiting(serve, pool):
    server = serve(credits=4)
    waiting = [pool.submit(server.engine.call, create()) for _ in range(8)]
    server.requests(3)
    until(lambda: len(server.engine._credits._line) == 5)
    server.engine.close()
    assert all(map(is_unavailable, waiting))


def test_closing_waits_for_nobody(server, pool):
    """A server that takes nothing: the one that writes to it is told, and whoever closes need not wait."""
    writing = pool.submit(server.engine.call, commands.write(HANDLE, 0, bytes(3 << 20)))
    until(server.engine._outgoing._lock.locked)
    server.engine.close()
    assert is_unavailable(writing)


def test_nothing_is_left_behind(serve):
    def here() -> tuple[set[threading.Thread], int]:
        return set(threading.enumerate()), len(os.listdir("/proc/self/fd"))

    before = here()
    for way in ("close", "fail", "die"):
        server = serve()
        request = server.engine.submit(commands.echo())[0]
        server.echo()
        server.engine.wait(request)
        if way == "close":
            server.engine.close()
        elif way == "fail":
            server.engine.fail("the test has it so")
        else:
            server.socket.shutdown(socket.SHUT_RDWR)
        server.watcher.join(LONG)
        assert server.ours.fileno() == -1
        server.socket.close()
        assert here() == before
