"""Ranges with values, against a list of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netoverlay.overlay.range_map import Piece, RangeMap

BYTES = 16
RANGES = st.tuples(st.integers(0, BYTES), st.integers(0, BYTES)).map(sorted)
CHANGES = st.lists(st.tuples(RANGES, st.sampled_from(["a", "b", None])), max_size=12)


def of_changes(changes) -> tuple[RangeMap[str], list[str | None]]:
    ranges: RangeMap[str] = RangeMap()
    expected: list[str | None] = [None] * BYTES
    for (start, end), value in changes:
        if start < end:
            ranges.set(start, end, value)
            expected[start:end] = [value] * (end - start)
    return ranges, expected


def runs(values: list[str | None], start: int) -> list[Piece[str | None]]:
    pieces: list[Piece[str | None]] = []
    for at, value in enumerate(values, start):
        if pieces and pieces[-1].value == value:
            pieces[-1] = pieces[-1]._replace(end=at + 1)
        else:
            pieces.append(Piece(at, at + 1, value))
    return pieces


@given(CHANGES)
def test_every_byte_has_its_last_value_and_equal_neighbours_are_one_range(changes) -> None:
    ranges, expected = of_changes(changes)
    assert list(ranges) == [piece for piece in runs(expected, 0) if piece.value is not None]
    assert bool(ranges) == any(expected)


@given(CHANGES, RANGES)
def test_a_part_of_it_is_cut_out(changes, part) -> None:
    ranges, expected = of_changes(changes)
    start, end = part
    covered = runs(expected[start:end], start)
    assert list(ranges.covering(start, end)) == covered
    assert list(ranges.within(start, end)) == [piece for piece in covered if piece.value is not None]


@given(CHANGES, RANGES)
def test_what_touches_a_part_is_told_whole(changes, part) -> None:
    ranges, expected = of_changes(changes)
    start, end = part
    whole = [piece for piece in runs(expected, 0) if piece.value is not None]
    assert list(ranges.overlapping(start, end)) == [
        piece for piece in whole if start < end and piece.start < end and piece.end > start
    ]
