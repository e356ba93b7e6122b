"""How a server is had to copy: piece by piece, several at once from when that is quick, and no longer than a second."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netoverlay.backend_api import pieces
from netoverlay.backend_api.pieces import copy_in_pieces
from netoverlay.backend_api.waiting import set_hooks

REFUSAL = OSError(errno.EXDEV, "elsewhere")


@pytest.fixture(autouse=True)
def no_hooks() -> Iterator[None]:
    yield
    set_hooks(None, None)


class Server:
    """Copies what `answers` say, in their order, then everything."""

    def __init__(self, *answers: int | Exception, seconds: float = 0.0) -> None:
        self.answers = list(answers)
        self.seconds = seconds
        self.asked: list[tuple[int, int]] = []
        self.finished = 0
        self.most_in_flight = 0

    def submit(self, start: int, size: int) -> int:
        self.asked.append((start, size))
        self.most_in_flight = max(self.most_in_flight, len(self.asked) - self.finished)
        return len(self.asked) - 1

    def finish(self, number: int, size: int) -> int | Exception:
        assert number == self.finished, "in their order"
        time.sleep(self.seconds)
        self.finished += 1
        return self.answers[number] if number < len(self.answers) else size

    def copy(self, length: int, piece: int = 10) -> int:
        try:
            return copy_in_pieces(length, piece, self.submit, self.finish)
        finally:
            assert self.finished == len(self.asked), "nothing is left in flight"


@pytest.mark.parametrize("length", [0, -5])
def test_nothing_is_asked_for_nothing(length):
    server = Server()
    assert server.copy(length) == 0
    assert server.asked == []


def test_everything_is_copied_several_pieces_at_once():
    server = Server()
    assert server.copy(95) == 95
    assert server.asked == [(start, min(10, 95 - start)) for start in range(0, 95, 10)]
    assert server.most_in_flight == 4


def test_one_at_a_time_where_that_takes_long(monkeypatch):
    monkeypatch.setattr(pieces, "_LONG_QUEUE_SECONDS", 0.001)
    server = Server(seconds=0.005)
    assert server.copy(50) == 50
    assert server.most_in_flight == 1


def test_it_ends_when_a_second_is_over(monkeypatch):
    monkeypatch.setattr(pieces, "_COPY_SECONDS", 0.05)
    server = Server(seconds=0.02)
    assert 10 <= server.copy(10_000) < 1_000


def test_it_ends_when_it_is_interrupted():
    server = Server()
    set_hooks(None, lambda: server.finished > 0)
    assert server.copy(100) == 10


def test_a_short_piece_is_the_end():
    assert Server(10, 3).copy(100) == 13
    assert Server(0).copy(100) == 0


def test_a_refusal_is_raised_only_if_nothing_was_copied():
    with pytest.raises(OSError, match="elsewhere"):
        Server(REFUSAL).copy(100)
    assert Server(10, 10, REFUSAL).copy(100) == 20


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10), max_size=8), st.integers(0, 120))
def test_the_count_is_up_to_where_all_is_copied(answers, length):
    sizes = [min(10, length - start) for start in range(0, length, 10)]
    counts = [min(size, answer) for size, answer in zip(sizes, answers + [10] * len(sizes), strict=False)]
    expected = 0
    for size, count in zip(sizes, counts, strict=True):
        expected += count
        if count < size:
            break
    assert Server(*counts).copy(length) == expected
