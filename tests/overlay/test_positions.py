"""A name keeps its position from listing to listing, and new ones come after all others."""

from __future__ import annotations

from netoverlay.overlay.positions import Positions


def test_the_first_listing_counts_from_behind_dot_and_dot_dot() -> None:
    assert list(Positions().renew(["b", "a"])) == [3, 4]


def test_names_keep_their_positions_in_whatever_order_they_come() -> None:
    positions = Positions()
    positions.renew(["a", "b", "c"])
    assert list(positions.renew(["c", "new", "a"])) == [5, 6, 3]
    assert list(positions.renew(["c", "new", "a"])) == [5, 6, 3]
    assert list(positions.renew(["a", "b", "new"])) == [3, 7, 6], "what was gone is a new name"


def test_no_position_is_given_twice_though_all_names_went() -> None:
    positions = Positions()
    positions.renew(["a", "b"])
    assert list(positions.renew([])) == []
    assert list(positions.renew(["b"])) == [5]
