"""Small contents in packs: what one has kept another finds, and what is damaged is gone."""

from __future__ import annotations

import errno
import os

import pytest

from netoverlay.backend_api.types import FileVersion
from netoverlay.cache import disk_store, packs
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.packs import Packs, member_name
from netoverlay.cache.records import HEADER_BYTES


@pytest.fixture
def store(tmp_path):
    store = DiskStore(str(tmp_path))
    yield store
    store.close()


def another(store, tmp_path):
    """As another process has them."""
    return Packs(DiskStore(str(tmp_path)), "layer")


def files_in(directory):
    return sorted((directory / "content-2").glob("[0-9a-f][0-9a-f]/*"))


def some(first, count, size=100):
    return {b"member %d" % number: bytes([number % 256]) * size for number in range(first, first + count)}


def test_what_one_keeps_another_finds(store, tmp_path):
    mine, other = Packs(store, "layer"), another(store, tmp_path)
    assert list(other.look("d")) == []
    kept = {**some(0, 20), b"empty": b""}
    assert mine.put("d", kept)
    assert all(mine.get("d", member) == content for member, content in kept.items())
    assert other.get("d", b"member 1") is None, "nobody has looked"
    assert dict(other.look("d")) == kept
    assert all(other.get("d", member) == content for member, content in kept.items())
    assert list(other.look("d")) == []
    assert dict(another(store, tmp_path).look("d")) == kept
    assert list(other.look("e")) == []
    assert len(files_in(tmp_path)) == 1


def test_two_take_turns(store, tmp_path):
    mine, other = Packs(store, "layer"), another(store, tmp_path)
    for turn in range(0, 30, 2):
        assert mine.put("d", some(turn, 1))
        assert other.put("d", some(turn + 1, 1))
    for each in (mine, other, another(store, tmp_path)):
        found = dict(each.look("d"))
        assert all(found.get(member) or each.get("d", member) == content for member, content in some(0, 30).items())


def test_layers_and_versions_are_told_apart(store):
    first, second = Packs(store, "layer"), Packs(store, "another layer")
    assert first.put("d", some(0, 1))
    assert list(second.look("d")) == []
    versions = [FileVersion(1, 2, 3), FileVersion(1, 2, None), FileVersion(1, 23, None), FileVersion(12, 3, None)]
    assert len({member_name(name, version) for name in ("a", "a\udcff") for version in versions}) == 8


@pytest.mark.parametrize("at", [0, 5, HEADER_BYTES - 1, HEADER_BYTES + 3, -1])
def test_damage_is_gone(store, tmp_path, at):
    mine = Packs(store, "layer")
    assert mine.put("d", some(0, 1))
    (path,) = files_in(tmp_path)
    data = bytearray(path.read_bytes())
    data[at] ^= 0x55
    path.write_bytes(data)
    other = another(store, tmp_path)
    assert b"member 0" not in dict(other.look("d"))
    assert other.get("d", b"member 0") is None
    assert mine.get("d", b"member 0") is None, "also for who knew it"
    assert mine.put("d", some(0, 2))
    assert dict(another(store, tmp_path).look("d")) == some(0, 2)


def test_what_was_written_in_part_is_not_there(store, tmp_path):
    mine = Packs(store, "layer")
    assert mine.put("d", some(0, 3))
    (path,) = files_in(tmp_path)
    os.truncate(path, path.stat().st_size - 10)
    other = another(store, tmp_path)
    assert dict(other.look("d")) == some(0, 2)
    assert other.put("d", some(3, 1)), "behind the part"
    third = another(store, tmp_path)
    assert set(dict(third.look("d"))) <= set(some(0, 2)), "what follows cannot be told from the part"
    third.put("d", some(0, 4))
    assert dict(another(store, tmp_path).look("d")) == some(0, 4)


def test_zeros_of_a_crash(store, tmp_path):
    mine = Packs(store, "layer")
    assert mine.put("d", some(0, 3))
    (path,) = files_in(tmp_path)
    path.write_bytes(bytes(path.stat().st_size))
    assert list(another(store, tmp_path).look("d")) == []
    assert not path.exists()


def test_a_pack_that_others_have_replaced(store, tmp_path):
    mine, other = Packs(store, "layer"), another(store, tmp_path)
    assert mine.put("d", some(0, 3))
    os.unlink(files_in(tmp_path)[0])
    assert other.put("d", some(3, 3, size=90))
    assert mine.get("d", b"member 0") is None
    assert mine.get("d", b"member 3") == some(3, 1, size=90)[b"member 3"]
    assert dict(other.look("d")) == {}


def test_full_packs_are_followed_by_others_and_given_up_in_the_end(store, tmp_path, monkeypatch):
    monkeypatch.setattr(packs, "PACK_BYTES", 1000)
    monkeypatch.setattr(packs, "MAX_PACKS", 3)
    mine = Packs(store, "layer")
    for number in range(20):
        assert mine.put("d", some(number, 1, size=400))
        assert mine.get("d", b"member %d" % number) == bytes([number]) * 400
    assert len(files_in(tmp_path)) <= 3
    found = dict(another(store, tmp_path).look("d"))
    assert len(found) >= 2
    assert all(content == some(0, 20, size=400)[member] for member, content in found.items())


def test_finding_one_tells_of_all_that_it_took_a_look_to_find(store, tmp_path):
    mine, other = Packs(store, "layer"), another(store, tmp_path)
    assert mine.room("d")
    assert mine.put("d", some(0, 5))
    found = {}
    assert other.find("d", b"member 3", found.__setitem__) == some(3, 1)[b"member 3"]
    assert found == some(0, 5)
    found.clear()
    assert other.find("d", b"member 4", found.__setitem__) == some(4, 1)[b"member 4"]
    assert other.find("d", b"member 5", found.__setitem__) is None
    assert found == {}


def test_kinds_are_told_apart_and_the_first_pack_fills(store, monkeypatch):
    monkeypatch.setattr(packs, "PACK_BYTES", 1000)
    mine, others = Packs(store, "layer"), Packs(store, "layer", ("others",))
    assert mine.put("d", some(0, 3, size=400))
    assert not mine.room("d")
    assert list(others.look("d")) == []
    assert others.room("d")


def test_places_are_remembered_up_to_a_limit(store):
    mine = Packs(store, "layer", max_places=50)
    for number in range(20):
        assert mine.put(f"d{number}", some(0, 10))
    assert sum(len(pack.places) for pack in mine._known.values()) == mine._place_count <= 50
    assert mine.get("d0", b"member 1") is None
    assert dict(mine.look("d0")) == some(0, 10)


def test_a_store_without_room(store, tmp_path, monkeypatch, caplog):
    def refuse(_descriptor, _data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    mine = Packs(store, "layer")
    with monkeypatch.context() as patch:
        patch.setattr(disk_store.os, "writev", lambda _descriptor, parts: sum(map(len, parts)) // 2)
        patch.setattr(disk_store.os, "write", refuse)
        assert not mine.put("d", some(0, 3))
    assert files_in(tmp_path) == []
    assert mine.get("d", b"member 0") is None
    assert os.strerror(errno.ENOSPC) in caplog.text
