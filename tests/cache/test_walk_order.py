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
