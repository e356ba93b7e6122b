"""How much is fetched ahead of a walk, and how much in vain."""

from __future__ import annotations

from netoverlay.cache.allowance import MAX_CREDITS, START_CREDITS, Allowance


def begin(allowance, parent="d"):
    assert not allowance.demand(parent)
    assert allowance.demand(parent)


def test_a_walk_that_goes_on_gets_more_and_more():
    allowance = Allowance()
    assert allowance.grant(1, 64, 1000) == 0
    begin(allowance)
    granted = [allowance.grant(1, 64, 1000)]
    assert granted == [START_CREDITS]
    while granted[-1] < 64:
        allowance.spent(granted[-1], granted[-1], granted[-1])
        for _ in range(granted[-1]):
            allowance.used()
        granted.append(allowance.grant(1, 64, 1000))
    assert granted == [16, 32, 64]


def test_no_more_is_unused_than_may_be_however_often_who_walks_has_to_wait():
    allowance = Allowance()
    begin(allowance)
    under_way = allowance.grant(1, MAX_CREDITS, 40)
    for _ in range(100):
        allowance.demand("d")
        under_way += allowance.grant(1, MAX_CREDITS, 40)
    assert under_way == 40


def test_what_was_fetched_for_another_walk_is_no_hindrance():
    allowance = Allowance()
    begin(allowance, "d")
    granted = allowance.grant(1, 64, START_CREDITS)
    allowance.spent(granted, granted, granted)
    begin(allowance, "e")
    assert allowance.grant(1, 64, START_CREDITS) == START_CREDITS


def test_what_needed_no_fetch_is_not_counted():
    allowance = Allowance()
    begin(allowance)
    granted = allowance.grant(1, 64, START_CREDITS)
    allowance.spent(granted, granted - 2, 3)
    assert allowance.grant(1, 64, START_CREDITS) == 2
