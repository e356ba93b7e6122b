"""Servers whose listings never end: each is given up with an error that says why, and one warning a directory."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from netoverlay.backend_api import DirEntry, FileType, listing_limits
from netoverlay.backend_api.errors import EndlessListingError
from netoverlay.backend_api.listing_limits import ListingLimits
from netoverlay.cache.metadata import MetadataCache
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay_smb import session
from netoverlay_smb.protocol import Command, FileAttributes
from netoverlay_smb.status import Status
from tests.backends.scripted_listing import list_scripted
from tests.fuzz import smb_seeds
from tests.fuzz.smb_server import How, Protection, ScriptedSocket
from tests.fuzz.smb_target import _Backend, _QuietEngine, _Setup

Pieces = Iterator[Sequence[str]]
Lister = Callable[[Pieces, ListingLimits], list[DirEntry]]
LONG = 60.0


def list_over_sftp(pieces: Pieces, limits: ListingLimits) -> list[DirEntry]:
    return list_scripted(([name.encode() for name in names] for names in pieces), limits, "d")


class ListingSocket(ScriptedSocket):
    """Opens whatever it is asked for as a directory, and lists that."""

    def __init__(self, pieces: Pieces) -> None:
        super().__init__([b"one, for there is always one more"], Protection.NONE)
        self._pieces = pieces

    def _next(self) -> bytes:
        return self._framed([self._reply(How(0), self._answer(), protected=True, is_last=True)], protected=True)

    def _answer(self) -> bytes:
        command = self._pending[0].command
        if command == Command.CREATE:
            return smb_seeds._created(FileAttributes.DIRECTORY)
        if command == Command.QUERY_DIRECTORY:
            names = next(self._pieces, None)
            if names is None:
                return smb_seeds.refusal(Status.NO_MORE_FILES)
            return smb_seeds._listing(*((name, 0, FileAttributes.NORMAL) for name in names))
        return smb_seeds._CLOSED


def list_over_smb(pieces: Pieces, limits: ListingLimits) -> list[DirEntry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Engine", _QuietEngine)
        backend = _Backend(ListingSocket(pieces), _Setup.BY_PROFILE)
    backend._lister._limits = limits
    with backend:
        return backend.list_dir("d")


LISTERS: dict[str, Lister] = {"sftp": list_over_sftp, "smb": list_over_smb}
EVERYTHING = [f"name {number}" for number in range(500)]


def batches(names: Sequence[str], each: int) -> Pieces:
    return (names[at : at + each] for at in range(0, len(names), each))


def new_names(each: int) -> Pieces:
    numbers = itertools.count()
    while True:
        yield [f"name {next(numbers)}" for _ in range(each)]


def slow_names() -> Pieces:
    for names in new_names(1):
        time.sleep(0.01)
        yield names


LIES: dict[str, tuple[Callable[[], Pieces], float, int, str]] = {
    "names": (lambda: new_names(100), LONG, errno.EFBIG, "more than 5000 names"),
    "long names": (lambda: ([f"{name:x<250}" for name in each] for each in new_names(9)), LONG, errno.EFBIG, "1 MiB"),
    "the same reply": (lambda: itertools.repeat(EVERYTHING), LONG, errno.EIO, "repeats 500 names"),
    "the same replies": (lambda: itertools.cycle(batches(EVERYTHING, 50)), LONG, errno.EIO, "repeats 500"),
    "nothing": (lambda: itertools.repeat([]), LONG, errno.EIO, "repeats 0 names"),
    "itself": (lambda: itertools.repeat([".", ".."]), LONG, errno.EIO, "repeats 2 names"),
    "a name now and then": (slow_names, 0.1, errno.ETIMEDOUT, "a longer deadline"),
}
"""What is told for ever; the deadline; the errno, and a part of the message."""


@pytest.mark.parametrize("lister", LISTERS)
@pytest.mark.parametrize("lie", LIES)
def test_a_listing_that_does_not_end_is_given_up(monkeypatch, caplog, lister, lie):
    monkeypatch.setattr(listing_limits, "MAX_NAMES", 5000)
    monkeypatch.setattr(listing_limits, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(listing_limits, "MAX_REPLIES_WITHOUT_NEWS", 8)
    told, deadline, code, problem = LIES[lie]
    limits = ListingLimits(deadline)
    for _ in range(2):
        with pytest.raises(EndlessListingError, match=problem) as raised:
            LISTERS[lister](told(), limits)
        assert raised.value.errno == code
    assert [problem in record.getMessage() for record in caplog.records] == [True]


def test_the_files_of_a_directory_whose_listing_does_not_end_are_asked_for_by_name():
    class Endless(MemoryBackend):
        listed = 0

        def list_dir(self, path):
            self.listed += 1
            raise EndlessListingError(errno.EFBIG, path, "the listing does not end")

    with Endless() as inner, MetadataCache(inner, ttl=None) as cache:
        cache.connect()
        cache.mkdir("d", 0o755)
        for _ in range(3):
            assert cache.stat("d").type is FileType.DIRECTORY
            with pytest.raises(FileNotFoundError):
                cache.stat("e")
        with pytest.raises(EndlessListingError):
            cache.list_dir("")
    assert inner.listed == 2


@pytest.mark.parametrize("lister", LISTERS)
def test_a_long_listing_that_ends_is_whole(lister):
    told = [f"name {number}" for number in range(30_000)]
    twice = itertools.chain(batches(told, 300), batches(told[-3000:], 30))
    entries = LISTERS[lister](twice, ListingLimits(LONG))
    assert {entry.name for entry in entries} == set(told)
