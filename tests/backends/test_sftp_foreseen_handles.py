"""Handles that are used before the server has given them: right at OpenSSH's, and harmless everywhere."""

from __future__ import annotations

import itertools
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netoverlay.backend_api import FileContent, UnavailableError, WantedFile
from netoverlay.backend_api.listing_limits import ListingLimits
from netoverlay_sftp import listing, whole_files
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.foreseen_handles import ForeseenHandles
from netoverlay_sftp.multiplexer import Multiplexer
from netoverlay_sftp.paths import PathMap
from netoverlay_sftp.protocol import Attributes, PacketType, StatusCode, pack_attributes, pack_string, pack_strings
from netoverlay_sftp.whole_files import Asked
from tests.backends import sftp_layer
from tests.backends.test_sftp_multiplexer import ScriptedServer, started, status

LONG = 60.0
SHORT = 0.4
FILE = pack_attributes(Attributes(1, 2, 3, 0o100644, 4, 5))
DIRECTORY = pack_attributes(Attributes(1, 2, 3, 0o040755, 4, 5))


def packed(number: int) -> bytes:
    return struct.pack(">II", 4, number)


class Handles:
    """Those of a server, given by some rule."""

    def __init__(self, choose: Callable[[list[int], int], int]) -> None:
        """`choose` picks one of those that were closed, in that order, or the number of all so far, for a new one."""
        self._choose = choose
        self.open: set[int] = set()
        self._free: list[int] = []
        self._count = 0

    def take(self) -> int:
        number = self._choose(self._free, self._count)
        if number in self._free:
            self._free.remove(number)
        self._count = max(self._count, number + 1)
        self.open.add(number)
        return number

    def give(self, number: int) -> None:
        self.open.remove(number)
        self._free.append(number)


def like_openssh(free: list[int], count: int) -> int:
    return free[-1] if free else count


def lowest(free: list[int], count: int) -> int:
    return min(free, default=count)


def never_again(free: list[int], count: int) -> int:
    del free
    return count


RANDOM = random.Random(29)


def any_of(free: list[int], count: int) -> int:
    return RANDOM.choice([*free, count])


@given(st.lists(st.sampled_from(["open", "refuse", "close", "answer"]), max_size=60), st.randoms(use_true_random=False))
def test_what_is_foreseen_is_right_or_nobodys(steps: list[str], rng: random.Random) -> None:
    server, foreseen = Handles(like_openssh), ForeseenHandles()
    numbers = itertools.count(1)
    replies: list[tuple[int, int | None]] = []
    refused_on_the_way, known = 0, []
    for step in steps:
        number = next(numbers)
        if step in ("open", "refuse"):
            guess = foreseen.opening(number)
            given_handle = server.take() if step == "open" else None
            replies.append((number, given_handle))
            refused_on_the_way += given_handle is None
            if given_handle is not None and not refused_on_the_way:
                assert guess == packed(given_handle)
            elif guess != (None if given_handle is None else packed(given_handle)):
                assert guess not in {packed(each) for each in server.open}
        elif step == "close" and known:
            closed = known.pop(rng.randrange(len(known)))
            foreseen.closing(number, packed(closed))
            server.give(closed)
            replies.append((number, None))
        elif step == "answer" and replies:
            answered, handle = replies.pop(0)
            foreseen.answered(answered, None if handle is None else packed(handle))
            if handle is not None:
                known.append(handle)
            refused_on_the_way = sum(1 for other, h in replies if h is None)  # closings are counted, too: never fewer
    assert foreseen.is_sure


@pytest.mark.parametrize("given_handle", [b"\0\0\0\1h", packed(1), b"\0\0\0\x08" + bytes(8)])
def test_another_handle_than_was_due_ends_it(given_handle: bytes) -> None:
    foreseen = ForeseenHandles()
    assert foreseen.opening(1) == packed(0)
    foreseen.answered(1, given_handle)
    assert not foreseen.is_sure
    assert foreseen.opening(2) is None
    foreseen.closing(3, given_handle)
    foreseen.answered(2, packed(0))


def test_an_answer_out_of_order_ends_it() -> None:
    foreseen = ForeseenHandles()
    assert [foreseen.opening(number) for number in (1, 2)] == [packed(0), packed(1)]
    foreseen.answered(2, packed(1))
    assert not foreseen.is_sure


class Server:
    """Directories of 40 names in pieces of 10, and files that hold their paths."""

    def __init__(self, handles: Handles) -> None:
        self.scripted = ScriptedServer()
        self.handles = handles
        self.opened: dict[int, tuple[bytes, int]] = {}
        self.strays = 0
        self.silent_at: PacketType | None = None
        """What is not answered of /root/aaa, but for the beginning of its listing."""
        self.refuses_early = False
        """The first requests on two directories come before these are open."""
        self.refused: set[tuple[bytes, int]] = set()

    def answer(self, kind: int, number: int, body: bytes) -> None:
        if kind in (PacketType.OPEN, PacketType.OPENDIR):
            path = body[4 : 4 + int.from_bytes(body[:4], "big")]
            if path.endswith(b"missing"):
                self.scripted.reply(PacketType.STATUS, number, status(StatusCode.NO_SUCH_FILE))
                return
            handle = self.handles.take()
            self.opened[handle] = (path, 0)
            self.scripted.reply(PacketType.HANDLE, number, packed(handle))
        elif kind == PacketType.LSTAT and kind == self.silent_at and body.endswith(b"aaa"):
            pass
        elif kind == PacketType.LSTAT:
            self.scripted.reply(PacketType.ATTRS, number, DIRECTORY)
        else:
            self.answer_of_handle(kind, number, int.from_bytes(body[4:8], "big"))

    def answer_of_handle(self, kind: int, number: int, handle: int) -> None:
        if handle not in self.opened:
            self.strays += 1
            self.scripted.reply(PacketType.STATUS, number, status(StatusCode.FAILURE))
        elif kind == PacketType.CLOSE:
            del self.opened[handle]
            self.handles.give(handle)
            self.scripted.reply(PacketType.STATUS, number, status(StatusCode.OK))
        elif kind == PacketType.READ:
            self.scripted.reply(PacketType.DATA, number, pack_string(self.opened[handle][0]))
        elif kind == PacketType.READDIR:
            path, start = self.opened[handle]
            if self.silent_at == kind and path.endswith(b"aaa") and start:
                return
            if self.refuses_early and start == 0 and (path, handle) not in self.refused:
                self.refused.add((path, handle))
                self.refuses_early = len(self.refused) < 2
                self.scripted.reply(PacketType.STATUS, number, status(StatusCode.FAILURE))
                return
            self.opened[handle] = (path, start + 10)
            if start >= 40:
                self.scripted.reply(PacketType.STATUS, number, status(StatusCode.EOF))
                return
            names = [pack_strings(b"%s %d" % (path[-3:], each), b"?") + FILE for each in range(start, start + 10)]
            self.scripted.reply(PacketType.NAME, number, struct.pack(">I", len(names)) + b"".join(names))

    @contextmanager
    def serving(self, deadline: float = LONG) -> Iterator[SftpChannel]:
        def serve() -> None:
            with suppress(EOFError, OSError):
                while True:
                    self.answer(*self.scripted.request())

        channel = SftpChannel(self.scripted.stream, deadline)
        channel.multiplexer = started(self.scripted, deadline)
        channel.multiplexer.foresee_handles()
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield channel
        finally:
            channel.multiplexer.fail("the test is over")
            self.scripted.socket.shutdown(socket.SHUT_RDWR)
            serving.join()
            self.scripted.close()


def listed(channel: SftpChannel, wanted: list[str]) -> list[list[str] | None]:
    found = listing.list_directories(channel, PathMap("/root"), ListingLimits(LONG), wanted)
    return [None if isinstance(each, OSError) else [entry.name for entry in each] for each in found]


def listed_alone(channel: SftpChannel, wanted: str) -> list[str]:
    found = listing.list_directory(channel, PathMap("/root"), ListingLimits(LONG), wanted)
    return [entry.name for entry in found]


def names_of(wanted: str) -> list[str] | None:
    return None if wanted == "missing" else [f"{wanted} {number}" for number in range(40)]


@pytest.mark.parametrize("rule", [like_openssh, lowest, never_again, any_of])
def test_nothing_is_missing_whatever_the_server_gives(rule: Callable[[list[int], int], int]) -> None:
    server = Server(Handles(rule))
    rng = random.Random(2911)
    with server.serving() as channel, ThreadPoolExecutor(4) as pool:

        def work(turn: int) -> None:
            wanted = ["missing" if rng.random() < 0.2 else f"d{rng.randrange(10, 100)}"[-3:] for _ in range(turn % 7)]
            assert listed(channel, wanted) == [names_of(each) for each in wanted]
            files = [Asked(WantedFile(each, 9), f"/root/{each}".encode()) for each in wanted]
            contents = whole_files.read(channel, files, unchanging=True)
            assert [None if each is None else each.data for each in contents] == [
                None if each == "missing" else f"/root/{each}".encode() for each in wanted
            ]

        for _ in pool.map(work, range(200)):
            pass
        assert channel.multiplexer.foresees == (rule is like_openssh)
        channel.lstat(b"/")  # behind all that is closed
        assert not server.opened


def test_a_listing_begins_again_when_the_server_turns_out_to_be_another() -> None:
    """It gives the handle that was foreseen for the third directory to the second, from which names are taken so."""
    first = iter([0, 2, 1])
    server = Server(Handles(lambda free, count: next(first, None) or like_openssh(free, count)))
    with server.serving() as channel:
        assert listed(channel, ["aaa", "bbb", "ccc"]) == [names_of(each) for each in ("aaa", "bbb", "ccc")]
        assert not channel.multiplexer.foresees


@pytest.mark.parametrize("silent_at", [PacketType.LSTAT, PacketType.READDIR])
@pytest.mark.parametrize("wanted", [["aaa"], ["aaa", "bbb", "ccc"], ["bbb", "aaa"]])
def test_what_was_opened_for_a_listing_that_is_given_up_is_closed(silent_at: PacketType, wanted: list[str]) -> None:
    server = Server(Handles(like_openssh))
    with server.serving(SHORT) as channel:
        channel.multiplexer._silence = lambda: 0.0  # signs of life, as of a server whose disk hangs
        server.silent_at = silent_at
        for _ in range(2):
            with pytest.raises(UnavailableError):
                listed(channel, wanted) if len(wanted) > 1 else listed_alone(channel, *wanted)
            channel.lstat(b"/")  # behind all that is closed
            assert not server.opened
        server.silent_at = None
        assert listed(channel, wanted) == [names_of(each) for each in wanted]
        assert channel.multiplexer.foresees


def test_what_is_refused_as_too_early_is_asked_again() -> None:
    server = Server(Handles(like_openssh))
    server.refuses_early = True
    with server.serving() as channel:
        assert listed(channel, ["ddd", "eee"]) == [names_of("ddd"), names_of("eee")]
        assert not channel.multiplexer.foresees


def test_one_round_trip_for_all_directories_and_one_for_all_files(sshd, tmp_path: Path, monkeypatch) -> None:
    names = [f"d{number}" for number in range(20)]
    for name in names:
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / name / f"file{number}").write_text(name)
    pieces: list[set[PacketType]] = []
    submit_many = Multiplexer.submit_many

    def noted(self: Multiplexer, questions):
        pieces.append({packet for packet, _ in questions})
        return submit_many(self, questions)

    with sftp_layer.connected(sshd, tmp_path) as backend, monkeypatch.context() as patch:
        patch.setattr(Multiplexer, "submit_many", noted)
        for turn in range(3):
            wanted = [*names[:turn], "missing", *names[turn:]]
            pieces.clear()
            found = dict(zip(wanted, backend.list_dirs(wanted), strict=True))
            # What comes behind the one that is missing is asked of the wrong handles, and then of the right ones.
            assert len([piece for piece in pieces if PacketType.READDIR in piece]) == 2
            for name in names:
                assert sorted(entry.name for entry in found[name]) == sorted(os.listdir(tmp_path / name))
            assert isinstance(found["missing"], FileNotFoundError)
            pieces.clear()
            assert all(len(each) == 5 for each in backend.list_dirs(names))
            assert len([piece for piece in pieces if piece and piece != {PacketType.CLOSE}]) == 1
            files = [WantedFile(f"{name}/file{turn}", len(name)) for name in names]
            assert [
                each.data.decode()
                for each in backend.read_files(files, unchanging=True)
                if isinstance(each, FileContent)
            ] == names
