"""What is fetched next of all that a walk will come to."""

from __future__ import annotations

import random

import pytest

from netoverlay.cache.walk_order import WalkOrder, is_hidden

WALK = ["a", "a/b", "a/b/c", "a/b!", "a/c", "a!", "b", "b/a", "c"]
"""In depth: what is below a directory comes before what is beside it, whatever its name."""


def order(*paths: str, most: int = 100) -> WalkOrder:
    made = WalkOrder(most)
    shuffled = list(paths)
    random.Random(29).shuffle(shuffled)
    for path in shuffled:
        made.add([path])
    return made


def test_a_walk_in_depth() -> None:
    following = order(*WALK)
    assert len(following) == len(WALK)
    assert [following.take(2), following.take(3), following.take(100)] == [WALK[:2], WALK[2:5], WALK[5:]]
    assert not following
    assert following.take(1) == []


@pytest.mark.parametrize("reached", WALK)
def test_what_comes_after_the_place_that_was_reached_goes_first(reached: str) -> None:
    following = order(*WALK)
    following.reached(reached)
    at = WALK.index(reached)
    assert following.take(100) == WALK[at + 1 :] + WALK[:at]


class _Compared(str):
    """Counts how often it is compared, as a path and as what is made of it."""

    count = 0

    def replace(self, *args: str) -> _Compared:  # type: ignore[override]
        return _Compared(super().replace(*args))

    def __eq__(self, other: object) -> bool:
        _Compared.count += 1
        return super().__eq__(other)

    def __lt__(self, other: str) -> bool:
        _Compared.count += 1
        return super().__lt__(other)

    __hash__ = str.__hash__


def test_what_is_reached_is_found_among_many_without_looking_at_each() -> None:
    paths = [f"d{number:04}" for number in range(1000)]
    following = order(most=1000)
    following.add(map(_Compared, paths))
    _Compared.count = 0
    following.reached(_Compared(paths.pop(700)))
    assert _Compared.count < 50
    assert following.take(1000) == paths[700:] + paths[:700]


def test_what_is_there_already_stays_once() -> None:
    following = order(*WALK)
    following.add(WALK)
    assert len(following) == len(WALK)
    assert following.take(1) == ["a"]
    following.add(["a"])
    assert following.take(2) == ["a", "a/b"]


def test_of_too_many_those_go_that_come_last() -> None:
    following = order("m", most=3)
    following.reached("k")
    following.add(["a", "b", "z", "l"])
    assert following.take(10) == ["l", "m", "z"]
    following.add(["q"])
    following.clear()
    assert not following.take(1)


def test_hidden_directories() -> None:
    assert [is_hidden(path) for path in (".git", "a/.git/b", "a.b", "a/b.c", "")] == [True, True, False, False, False]
