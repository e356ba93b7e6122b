"""Several conversations at once: who gets which answer, and what becomes of answers that nobody gets."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

import pytest

from netoverlay.backend_api import UnavailableError, os_error
from netoverlay.backend_api.together import Conversation, converse


def asking(*questions: str) -> Conversation[str, str, list[str]]:
    """Asks one after the other."""
    told: list[str] = []
    for question in questions:
        told += yield [question]
    return told


def failing(error: OSError, *questions: str) -> Conversation[str, str, list[str]]:
    yield from asking(*questions)
    raise error


def answer(questions: Sequence[str]) -> list[str]:
    return [question.upper() for question in questions]


def test_each_gets_its_own_answers_and_errors() -> None:
    forgotten: list[str] = []
    error = os_error(errno.ENOENT)
    found = converse([asking("a", "b"), failing(error, "c"), asking("d", "e", "f"), asking()], answer, forgotten.append)
    assert found == [["A", "B"], error, ["D", "E", "F"], []]
    assert not forgotten


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_nobody_is_told_is_forgotten(place: int) -> None:
    forgotten: list[str] = []
    ended: list[str] = []

    def noticing(name: str) -> Iterator[Sequence[str]]:
        try:
            yield from asking(name, name * 2)
        finally:
            ended.append(name)
        return []

    conversations = [noticing("a"), noticing("b")]
    conversations.insert(place, failing(UnavailableError("away"), "x"))
    with pytest.raises(UnavailableError):
        converse(conversations, answer, forgotten.append)
    assert forgotten == ["A", "B"][place:]
    assert sorted(ended) == ["a", "b"]
