"""The locks on one file, against a model with a kind for every byte and owner."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netoverlay.backend_api import LockKind
from netoverlay.overlay.lock_table import END, Held, LockCall, LockTable, Owner, Wanted

SHARED, EXCLUSIVE, UNLOCK = LockKind.SHARED, LockKind.EXCLUSIVE, LockKind.UNLOCK
BYTES = 8
OWNERS = [Owner(LockCall.FCNTL, 1), Owner(LockCall.FCNTL, 2), Owner(LockCall.FCNTL, 3), Owner(LockCall.FLOCK, 1)]


def wanted(owner: int = 1, kind: LockKind = EXCLUSIVE, start: int = 0, end: int = END, *, pid: int = 7) -> Wanted:
    return Wanted(Owner(LockCall.FCNTL, owner), kind, start, end, pid)


def flock(owner: int, kind: LockKind) -> Wanted:
    return Wanted(Owner(LockCall.FLOCK, owner), kind, 0, END, 7)


@st.composite
def some_wanted(draw) -> Wanted:
    owner = draw(st.sampled_from(OWNERS))
    start = draw(st.integers(0, BYTES - 1))
    end = draw(st.integers(start + 1, BYTES))
    if owner.call is LockCall.FLOCK:
        start, end = 0, BYTES
    return Wanted(owner, draw(st.sampled_from(LockKind)), start, end, 7)


class Bytes:
    """The model."""

    def __init__(self) -> None:
        self.kinds = {owner: [UNLOCK] * BYTES for owner in OWNERS}

    def set(self, asked: Wanted) -> None:
        self.kinds[asked.owner][asked.start : asked.end] = [asked.kind] * (asked.end - asked.start)

    def is_free_for(self, asked: Wanted) -> bool:
        others = [
            kinds for owner, kinds in self.kinds.items() if owner != asked.owner and owner.call is asked.owner.call
        ]
        held = {kind for kinds in others for kind in kinds[asked.start : asked.end]}
        return asked.kind is UNLOCK or (EXCLUSIVE not in held and (asked.kind is SHARED or SHARED not in held))


def by_place(table: LockTable) -> list[Held]:
    return sorted(table, key=lambda held: (held.owner.call.value, held.owner.number, held.start))


def filled(steps: list[Wanted]) -> tuple[LockTable, Bytes]:
    table, model = LockTable(), Bytes()
    for asked in steps:
        assert any(table.conflicts(asked)) != model.is_free_for(asked)
        if model.is_free_for(asked):
            table.set(asked)
            model.set(asked)
    return table, model


STEPS = st.lists(some_wanted(), max_size=15)


@given(STEPS)
def test_what_is_held_is_what_was_granted(steps) -> None:
    table, model = filled(steps)
    for owner in OWNERS:
        kinds = [UNLOCK] * BYTES
        for held in table:
            if held.owner == owner:
                kinds[held.start : held.end] = [held.kind] * (held.end - held.start)
        assert kinds == model.kinds[owner]
    assert bool(table) == any(kind is not UNLOCK for kinds in model.kinds.values() for kind in kinds)


@given(STEPS, some_wanted())
def test_what_is_undone_was_never_there(steps, asked) -> None:
    table, _ = filled(steps)
    before = by_place(table)
    saved = table.saved(asked)
    table.set(asked)
    table.restore(asked.owner, saved)
    assert [held[:4] for held in by_place(table)] == [held[:4] for held in before]


@given(STEPS)
def test_the_union_has_the_strongest_kind_of_every_byte(steps) -> None:
    table, model = filled(steps)
    for calls in ([LockCall.FCNTL], [LockCall.FLOCK], list(LockCall)):
        union = [UNLOCK] * BYTES
        for start, end, kind in table.union(0, BYTES, calls):
            union[start:end] = [kind] * (end - start)
        columns = zip(*(kinds for owner, kinds in model.kinds.items() if owner.call in calls), strict=True)
        strongest = [EXCLUSIVE if EXCLUSIVE in kinds else SHARED if SHARED in kinds else UNLOCK for kinds in columns]
        assert union == strongest


def test_what_is_in_the_way_is_told_as_the_whole_lock() -> None:
    table = LockTable()
    table.set(wanted(1, start=10, end=20, pid=11))
    assert list(table.conflicts(wanted(2, start=15, end=16))) == [Held(Owner(LockCall.FCNTL, 1), EXCLUSIVE, 10, 20, 11)]


def test_the_two_calls_do_not_see_each_other() -> None:
    table = LockTable()
    table.set(flock(1, EXCLUSIVE))
    assert not any(table.conflicts(wanted(2)))
    assert any(table.conflicts(flock(2, SHARED)))


def test_the_end_of_all_files_can_be_locked() -> None:
    table = LockTable()
    table.set(wanted(1, start=END - 1))
    assert any(table.conflicts(wanted(2, start=END - 1)))
    assert not any(table.conflicts(wanted(2, end=END - 1)))


def test_the_process_that_locked_last_is_told() -> None:
    table = LockTable()
    table.set(wanted(1, start=0, end=5, pid=11))
    table.set(wanted(1, start=5, end=9, pid=12))
    assert list(table) == [Held(Owner(LockCall.FCNTL, 1), EXCLUSIVE, 0, 9, 12)]
