"""Which owners are shown for those of a layer, wherever they are told."""

from __future__ import annotations

import dataclasses
import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netoverlay.backend_api import Access, AttributeChange, Creation, NotSupportedError
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, MemoryBackend
from netoverlay.wrappers.id_map import MAX_ID, OVERFLOW_ID, IdMap, IdRange, OwnerMap, Squash
from netoverlay.wrappers.id_xattrs import ATTRIBUTES_WITH_IDS
from netoverlay.wrappers.owners import OwnersBackend

ACCESS = "system.posix_acl_access"
CAPABILITY = "security.capability"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
UNDEFINED = 0xFFFF_FFFF
SETS = bytes(range(16))

ids = st.integers(0, 3000) | st.integers(0, MAX_ID)


@st.composite
def range_lists(draw) -> tuple[IdRange, ...]:
    """Ranges without overlaps: cut from both sides, and joined in another order."""
    counts = draw(st.lists(st.integers(1, 500), min_size=1, max_size=5))
    firsts, shown = [], []
    for starts in (firsts, shown):
        at = 0
        for count in counts:
            at += draw(st.integers(0, 300))
            starts.append(at)
            at += count
    order = draw(st.permutations(range(len(counts))))
    gap = 0
    placed = []
    for index in order:  # in another order on the side that is shown
        gap += draw(st.integers(0, 50))
        placed.append((index, gap))
        gap += counts[index]
    return tuple(IdRange(firsts[index], start, counts[index]) for index, start in placed)


@given(range_lists(), ids)
def test_ranges_lead_there_and_back(ranges, number):
    mapped = IdMap(ranges=ranges)
    shown = mapped.shown(number)
    if any(number in range(each.first, each.first + each.count) for each in ranges):
        assert mapped.origin(shown) == number
    else:
        assert shown == OVERFLOW_ID


@given(range_lists() | st.just(()), st.sampled_from(Squash), ids, ids)
def test_the_way_back_is_the_only_one(ranges, squash, own, shown):
    mapped = IdMap(own, squash, () if squash is not Squash.NONE else ranges)
    try:
        origin = mapped.origin(shown)
    except OSError:
        return
    assert mapped.shown(origin) == shown


@given(ids)
def test_every_id_as_it_is(number):
    assert IdMap().shown(number) == IdMap().origin(number) == IdMap(7).shown(number) == number


@pytest.mark.parametrize(
    ("squash", "layer_id", "shown"),
    [(Squash.ALL, 0, 7), (Squash.ALL, 1000, 7), (Squash.ROOT, 0, 7), (Squash.ROOT, 1000, 1000)],
)
def test_squash(squash, layer_id, shown):
    assert IdMap(7, squash).shown(layer_id) == shown


def test_squash_to_nobody():
    assert IdMap(squash=Squash.ALL).shown(5) == OVERFLOW_ID


def owned(*owners: tuple[int, int]) -> MemoryBackend:
    """A layer with a file for each owner, its name "UID:GID"."""
    memory = MemoryBackend()
    memory.connect()
    for uid, gid in owners:
        name = f"{uid}:{gid}"
        memory.open(name, Access.WRITE, create=Creation.EXCLUSIVE).close()
        memory.set_attributes(name, AttributeChange(uid=uid, gid=gid))
    return memory


def ranges(*triples: tuple[int, int, int]) -> IdMap:
    return IdMap(ranges=tuple(IdRange(*triple) for triple in triples))


def shown_everywhere(backend: OwnersBackend, path: str) -> tuple[int | None, int | None]:
    """The owner, as a listing, stat and the open file tell it alike."""
    listed = {entry.name: entry.stat for entry in backend.list_dir("")}[path]
    with backend.open(path, Access.READ) as file:
        assert listed == backend.stat(path) == file.stat()
    return listed.uid, listed.gid


def test_owners_wherever_they_are_told():
    backend = OwnersBackend(owned((0, 0), (5, 1005)), OwnerMap(ranges((0, 1000, 5)), ranges((1000, 0, 10))))
    assert backend.connect().owners
    assert shown_everywhere(backend, "0:0") == (1000, OVERFLOW_ID)
    assert shown_everywhere(backend, "5:1005") == (OVERFLOW_ID, 5)


def test_what_stays_is_not_copied():
    memory = owned((0, 0))
    listed = memory.list_dir("")
    memory.list_dir = lambda path: listed
    backend = OwnersBackend(memory, OwnerMap(ranges((0, 0, 100)), IdMap(7)))
    backend.connect()
    assert backend.list_dir("")[0] is listed[0]


def test_owners_that_nobody_tells():
    memory = owned((0, 0))
    untold = MemoryBackend(dataclasses.replace(ALL_CAPABILITIES, owners=False), memory.tree)
    backend = OwnersBackend(untold, OwnerMap(IdMap(1000), IdMap()))
    backend.connect()
    assert shown_everywhere(backend, "0:0") == (1000, None)


def test_changes_take_the_way_back():
    memory = owned((0, 0))
    backend = OwnersBackend(memory, OwnerMap(ranges((0, 1000, 5)), IdMap()))
    backend.connect()
    backend.set_attributes("0:0", AttributeChange(uid=1004, gid=6))
    assert memory.stat("0:0")[3:5] == (4, 6)
    with backend.open("0:0", Access.READ_WRITE) as file:
        file.set_attributes(AttributeChange(uid=1001))
    assert memory.stat("0:0")[3:5] == (1, 6)
    for uid in (0, 1005, OVERFLOW_ID):
        with pytest.raises(OSError, match="too large") as caught:
            backend.set_attributes("0:0", AttributeChange(uid=uid))
        assert caught.value.errno == errno.EOVERFLOW
    assert memory.stat("0:0")[3:5] == (1, 6)


@pytest.mark.parametrize("squash", [Squash.ROOT, Squash.ALL])
def test_squashed_owners_cannot_be_changed(squash):
    memory = owned((0, 0), (5, 5))
    backend = OwnersBackend(memory, OwnerMap(IdMap(7, squash), IdMap(8, squash)))
    assert not backend.connect().owners
    assert shown_everywhere(backend, "0:0") == (7, 8)
    assert shown_everywhere(backend, "5:5") == ((7, 8) if squash is Squash.ALL else (5, 5))
    with pytest.raises(NotSupportedError):
        backend.set_attributes("0:0", AttributeChange(uid=1))
    backend.set_attributes("0:0", AttributeChange(mtime_ns=0))


def access_list(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def capability(revision: int, root: int | None = None, *, effective: bool = True) -> bytes:
    value = struct.pack("<I16s", revision << 24 | effective, SETS)
    return value if root is None else value + struct.pack("<I", root)


def test_access_lists():
    """Stored and read through the wrapper, by path and on an open file; the bytes below are the layer's own."""
    memory = owned((0, 0))
    stored: dict[str, bytes] = {}
    memory.get_xattr = lambda path, name: stored[name]
    memory.set_xattr = lambda path, name, value, mode: stored.update({name: value})
    backend = OwnersBackend(memory, OwnerMap(ranges((0, 1000, 100)), ranges((0, 2000, 100))))
    backend.connect()
    plain = (USER_OBJ, 7, UNDEFINED), (GROUP_OBJ, 5, UNDEFINED), (MASK, 5, UNDEFINED), (OTHER, 4, UNDEFINED)
    in_layer = access_list(plain[0], (USER, 7, 5), plain[1], (GROUP, 6, 9), *plain[2:])
    shown = access_list(plain[0], (USER, 7, 1005), plain[1], (GROUP, 6, 2009), *plain[2:])
    for name in (ACCESS, "system.posix_acl_default"):
        backend.set_xattr("0:0", name, shown)
        assert stored[name] == in_layer
        assert backend.get_xattr("0:0", name) == shown
    with pytest.raises(OSError, match="too large"):
        backend.set_xattr("0:0", ACCESS, access_list((USER, 7, 5)))
    backend.set_xattr("0:0", "user.same", shown)
    assert stored["user.same"] == backend.get_xattr("0:0", "user.same") == shown


def test_attributes_of_open_files():
    memory = owned((0, 0))
    backend = OwnersBackend(memory, OwnerMap(ranges((0, 1000, 100)), IdMap()))
    backend.connect()
    with backend.open("0:0", Access.READ_WRITE) as file:
        file.set_xattr(CAPABILITY, capability(3, 1005))
        assert memory.get_xattr("0:0", CAPABILITY) == capability(3, 5)
        assert file.get_xattr(CAPABILITY) == backend.get_xattr("0:0", CAPABILITY) == capability(3, 1005)


@pytest.mark.parametrize(
    ("in_layer", "shown"),
    [
        (capability(2), capability(3, 1000)),
        (capability(3, 5), capability(3, 1005)),
        (capability(3, 500), capability(2)),
        (capability(3, 700), capability(3, OVERFLOW_ID)),
        (capability(2, effective=False), capability(3, 1000, effective=False)),
    ],
)
def test_file_capabilities(in_layer, shown):
    """They hold for the root of a name space: those of user 0 have none in the value."""
    users = ranges((0, 1000, 100), (500, 0, 1))
    change = ATTRIBUTES_WITH_IDS[CAPABILITY]
    assert change(in_layer, users.shown, users.shown) == shown
    if shown != capability(3, OVERFLOW_ID):
        assert change(shown, users.origin, users.origin) == in_layer


@given(st.sampled_from(sorted(ATTRIBUTES_WITH_IDS)), st.binary(max_size=60))
def test_any_value_is_kept_where_ids_are(name, value):
    assert ATTRIBUTES_WITH_IDS[name](value, lambda number: number, lambda number: number) == value


@pytest.mark.parametrize(
    "value", [capability(2, 0), capability(3), capability(1), b"", access_list()[:3], b"\1\0\0\0" + b"a" * 8]
)
def test_odd_forms_stay(value):
    for change in ATTRIBUTES_WITH_IDS.values():
        assert change(value, lambda _: 77, lambda _: 77) == value
