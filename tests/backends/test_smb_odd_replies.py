"""What servers may do and Samba does not: replies in another order, and shorter ones."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from netoverlay_smb import listing, transfer
from netoverlay_smb.status import Status


def reply(status: Status, body: bytes = b"", message_id: int = 0, filled: int = 0) -> Any:
    return SimpleNamespace(status=status, body=body, message_id=message_id, filled=filled)


class Answers:
    """A session whose requests have been answered already."""

    def __init__(self, *later: Any) -> None:
        self.engine = SimpleNamespace(wait=lambda request: request)
        self.later = list(later)

    def submit(self, _body: object) -> list[Any]:
        return [self.later.pop(0)]

    def expect(self, request: Any, *_allowed: Status) -> bytes:
        assert request.status in (Status.SUCCESS, Status.END_OF_FILE)
        return request.body


def test_a_piece_of_a_listing_that_comes_after_its_end_is_listed():
    end = reply(Status.NO_MORE_FILES, message_id=20)
    session = Answers(end, reply(Status.SUCCESS, b"third", 30), reply(Status.NO_MORE_FILES, message_id=40))
    first = deque([reply(Status.SUCCESS, b"first", 1), reply(Status.SUCCESS, b"second", 2)])
    assert list(listing._bodies(session, first, object())) == [b"first", b"second", b"third"]


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ([30, 30, 40], 100, 100),  # less than asked for, though the file has more
        ([30, 0], 100, 30),  # it has been truncated
        ([30], 30, 30),  # its end
        ([0], 100, 0),
    ],
)
def test_a_short_reply_is_the_end_only_at_the_end(monkeypatch, counts, size, expected):
    replies = [reply(Status.SUCCESS, filled=count) for count in counts]
    monkeypatch.setattr(transfer, "_submit_read", lambda *_: replies.pop(0))
    first = transfer._filled(Answers(), transfer._submit_read())
    assert transfer._read_rest(Answers(), b"", 0, memoryview(bytearray(100)), first, size) == expected
    assert not replies
