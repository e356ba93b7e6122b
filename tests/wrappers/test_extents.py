"""The runs of what is to be sent: what was written last is what is sent and read, whatever the order and overlap."""

from __future__ import annotations

import itertools
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from netoverlay.wrappers.extents import RUN_OVERHEAD_BYTES, Extents

PIECE = 16
SIZE = 100


def check(extents: Extents, model: dict[int, int]) -> None:
    """`model`: each byte that is to be sent."""
    found = {at + index: byte for at, data in extents.copies(0, SIZE * 2) for index, byte in enumerate(data)}
    assert found == model
    assert extents.size == len(model)
    assert extents.end == max(model, default=-1) + 1
    assert bool(extents) == bool(model)
    runs = extents._runs
    assert all(one.end <= other.start for one, other in itertools.pairwise(runs))
    assert set(extents._by_age) == set(runs)
    ages = [run.born for run in extents._by_age]
    assert ages == sorted(ages)
    assert all(len(run.data) == PIECE for run in extents._full)
    assert set(extents._full) == {run for run in runs if len(run.data) == PIECE}
    assert extents.cost == len(model) + RUN_OVERHEAD_BYTES * len(runs)


offsets, lengths = st.integers(0, SIZE), st.integers(1, PIECE)
step = st.one_of(
    st.tuples(st.just("add"), offsets, lengths),
    st.tuples(st.just("cut"), offsets, lengths),
    st.tuples(st.just("take"), offsets, st.sampled_from([0, 3, 1000])),
    st.tuples(st.just("fail"), offsets, lengths),
    st.tuples(st.just("copy"), offsets, lengths),
)


@settings(max_examples=400, deadline=None, database=None)
@given(st.lists(step, max_size=40))
def test_follows_a_model(steps):
    extents = Extents(PIECE)
    model: dict[int, int] = {}
    taken = []
    for now, (action, offset, length) in enumerate(steps):
        data = bytes((now * 7 + index) % 251 for index in range(length if action == "add" else 0))
        if action == "add":
            extents.add(offset, memoryview(data), now)
            model |= {offset + index: byte for index, byte in enumerate(data)}
        elif action == "cut":
            extents.cut(offset)
            model = {at: byte for at, byte in model.items() if at < offset}
        elif action == "take":
            cost = extents.cost
            piece = extents.take(taken, now - length if length else now)
            if piece is not None:
                assert len(piece.data) <= PIECE
                assert all(piece.end <= other.start or other.end <= piece.start for other in taken)
                assert extents.cost == cost - piece.cost
                for index, byte in enumerate(piece.data):
                    assert model.pop(piece.start + index) == byte
                taken.append(piece)
        elif action == "fail" and taken:
            piece = taken.pop(0)
            extents.put_back(piece, now)
            model = {piece.start + index: byte for index, byte in enumerate(piece.data)} | model
        elif action == "copy":
            wanted = {at: byte for at, byte in model.items() if offset <= at < offset + length}
            copies = extents.copies(offset, offset + length)
            assert {at + index: byte for at, part in copies for index, byte in enumerate(part)} == wanted
        check(extents, model)


def test_a_sequential_writer_fills_pieces():
    extents = Extents(PIECE)
    for start in range(0, 64, 4):
        extents.add(start, memoryview(b"abcd"), 0)
    pieces = [extents.take([], -1) for _ in range(4)]
    assert [(piece.start, len(piece.data)) for piece in pieces if piece] == [(0, 16), (16, 16), (32, 16), (48, 16)]
    assert not extents


def test_only_what_is_full_or_old_is_ready():
    extents = Extents(PIECE)
    extents.add(0, memoryview(b"abcd"), 5)
    assert not extents.is_ready(4)
    assert extents.take([], 4) is None
    assert extents.is_ready(5)
    extents.add(4, memoryview(bytes(12)), 9)
    assert extents.is_ready(-1), "full"


def test_backward_writes_are_joined():
    extents = Extents(PIECE)
    for start in (12, 8, 4, 0):
        extents.add(start, memoryview(b"%04d" % start), 0)
    piece = extents.take([], 0)
    assert piece is not None
    assert (piece.start, bytes(piece.data)) == (0, b"0000000400080012")


def test_many_small_runs_are_quick():
    extents = Extents(1 << 20)
    start = time.process_time()
    for index in range(20_000):
        extents.add((index * 7919 % 20_000) * 16, memoryview(b"abcd"), index)
    while extents.take([], 1 << 30) is not None:
        pass
    assert time.process_time() - start < 5
