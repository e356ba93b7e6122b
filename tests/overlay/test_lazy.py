"""Lazy copy-up: what is read and written, what is left in the upper, and what is there after a remount."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import stat as stat_bits
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, AllocateMode, AttributeChange, Capabilities, RenameFlags
from netoverlay.backend_api.delegate import DelegatingBackend
from tests.overlay.lazy import DATA, SIZE, THRESHOLD, LazyMounted, is_lazy, maps, never, settle
from tests.overlay.trees import Mounted, write_tree


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_tree(tmp_path / "lower0", {"big": DATA, "small": DATA[:THRESHOLD], "d": {}})
    os.utime(tmp_path / "lower0" / "big", ns=(10**18, 10**18))
    return tmp_path


def test_appending_reads_nothing_of_the_base(base: Path) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", b"!", SIZE)
    assert overlay.bytes_read == 0
    assert overlay.read("big") == DATA + b"!"
    overlay.close()
    assert is_lazy(base / "upper" / "big")
    assert (base / "upper" / "big").stat().st_blocks * 512 < SIZE
    again = LazyMounted(base)
    again.write("big", b"??", 7)
    assert again.bytes_read == 0
    expected = DATA[:7] + b"??" + DATA[9:] + b"!"
    assert again.read("big") == expected
    again.close()
    again = LazyMounted(base)
    assert again.read("big") == expected
    again.close()


def test_settled_it_is_a_file_as_any_other(base: Path) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", b"??", 7)
    overlay.overlay.changes().attributes.change(overlay.inode("big"), AttributeChange(mode=0o4755))
    before = overlay.overlay.tree.stat(overlay.inode("big"))
    assert overlay.overlay.settler is not None
    assert overlay.overlay.settler.usage() == (1, SIZE - 2)
    assert settle(overlay) == []
    assert overlay.overlay.settler.usage() == (0, 0)
    assert overlay.overlay.tree.stat(overlay.inode("big"))._replace(blocks=0) == before._replace(blocks=0)
    overlay.close()
    found = base / "upper" / "big"
    assert not is_lazy(found)
    assert not maps(base)
    shutil.rmtree(base / "lower0")
    (base / "lower0").mkdir()
    again = LazyMounted(base)
    assert again.overlay.tree.stat(again.inode("big"))._replace(blocks=0) == before._replace(blocks=0)
    assert found.read_bytes() == DATA[:7] + b"??" + DATA[9:]
    again.close()


def test_what_is_small_or_cut_or_local_is_copied(base: Path) -> None:
    overlay = LazyMounted(base)
    overlay.write("small", b"!")
    overlay.overlay.files.truncate(overlay.file_inode("big"), THRESHOLD)
    overlay.close()
    assert not maps(base)
    shutil.rmtree(base / "upper")
    shutil.rmtree(base / "upper.work")
    local = Mounted(base, lazy_from=THRESHOLD)
    local.write("big", b"!")
    local.close()
    assert not maps(base)


def test_what_is_written_over_or_cut_becomes_plain_by_itself(base: Path) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", DATA[: SIZE // 2])
    assert len(maps(base)) == 1
    overlay.write("big", DATA[SIZE // 2 :], SIZE // 2)
    assert overlay.bytes_read == 0
    assert not maps(base)
    assert not is_lazy(base / "upper" / "big")
    overlay.close()


def test_cut_and_grown_it_shows_zeros(base: Path) -> None:
    overlay = LazyMounted(base)
    overlay.overlay.files.truncate(overlay.file_inode("big"), 20_000)
    overlay.overlay.files.truncate(overlay.file_inode("big"), 30_000)
    assert overlay.read("big") == DATA[:20_000] + bytes(10_000)
    overlay.close()
    again = LazyMounted(base)
    assert again.read("big") == DATA[:20_000] + bytes(10_000)
    assert settle(again) == []
    again.close()
    assert (base / "upper" / "big").read_bytes() == DATA[:20_000] + bytes(10_000)


def test_a_descriptor_from_before_shows_what_is_written(base: Path) -> None:
    overlay = LazyMounted(base)
    files = overlay.overlay.files
    handle = files.open(overlay.file_inode("big"), Access.READ)
    assert files.read(handle, 0, 10) == DATA[:10]
    overlay.write("big", b"new", 3)
    assert files.read(handle, 0, 10) == DATA[:3] + b"new" + DATA[6:10]
    files.release(handle)
    overlay.close()


def test_names_lead_to_it_as_to_any_other(base: Path) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", b"x")
    changes = overlay.overlay.changes()
    changes.creator.link(overlay.file_inode("big"), *overlay.name("d/link"))
    changes.renamer.rename(overlay.name("big"), overlay.name("d/moved"), RenameFlags.NONE)
    changes.renamer.rename(overlay.name("d"), overlay.name("e"), RenameFlags.NONE)
    overlay.close()
    again = LazyMounted(base)
    assert again.read("e/link") == again.read("e/moved") == b"x" + DATA[1:]
    again.unlink("e/moved")
    assert len(maps(base)) == 1
    files = again.overlay.files
    handle = files.open(again.file_inode("e/link"), Access.READ_WRITE)
    again.unlink("e/link")
    assert not maps(base)
    files.write(handle, 5, b"y", clear_set_ids=False)
    assert files.read(handle, 0, SIZE) == b"x" + DATA[1:5] + b"y" + DATA[6:]
    files.release(handle)
    again.close()


def test_a_file_renamed_over_it_takes_its_map(base: Path) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", b"x")
    overlay.create("new", b"new")
    overlay.overlay.changes().renamer.rename(overlay.name("new"), overlay.name("big"), RenameFlags.NONE)
    assert not maps(base)
    overlay.close()


def test_ranges_are_made_zero_and_copied(base: Path) -> None:
    overlay = LazyMounted(base)
    files = overlay.overlay.files
    handle = files.open(overlay.file_inode("big"), Access.READ_WRITE)
    files.allocate(handle, AllocateMode.PUNCH_HOLE, 100, 10_000)
    files.allocate(handle, AllocateMode.RESERVE, 0, SIZE + 10)
    with pytest.raises(OSError, match="cross-device") as refused:
        files.copy_range(handle, 0, handle, 20_000, 10)
    assert refused.value.errno == errno.EXDEV
    overlay.create("piece", b"piece")
    source = files.open(overlay.file_inode("piece"), Access.READ)
    assert files.copy_range(source, 0, handle, 30_000, 5) == 5
    expected = DATA[:100] + bytes(10_000) + DATA[10_100:30_000] + b"piece" + DATA[30_005:] + bytes(10)
    assert files.read(handle, 0, SIZE * 2) == expected
    files.sync(handle, data_only=True)
    files.release(source)
    files.release(handle)
    overlay.close()
    again = LazyMounted(base)
    assert again.read("big") == expected
    assert settle(again) == []
    again.close()
    assert (base / "upper" / "big").read_bytes() == expected


def test_holes_of_both_are_told(tmp_path: Path) -> None:
    (tmp_path / "lower0").mkdir()
    with (tmp_path / "lower0" / "big").open("wb") as file:
        file.write(DATA[:4096])
        file.truncate(1 << 20)
    overlay = LazyMounted(tmp_path)
    files = overlay.overlay.files
    handle = files.open(overlay.file_inode("big"), Access.READ_WRITE)
    files.write(handle, 1 << 19, b"data", clear_set_ids=False)
    assert files.seek(handle, 0, os.SEEK_HOLE) == 4096
    assert files.seek(handle, 4096, os.SEEK_DATA) == 1 << 19
    files.truncate(handle.inode, 1 << 21)
    assert files.seek(handle, 1 << 19, os.SEEK_HOLE) in ((1 << 19) + 4, (1 << 19) + 4096)
    assert files.seek(handle, (1 << 21) - 1, os.SEEK_HOLE) == (1 << 21) - 1
    for offset in ((1 << 20) + 1, 1 << 21):
        with pytest.raises(OSError, match="No such device"):
            files.seek(handle, offset, os.SEEK_DATA)
    files.release(handle)
    assert settle(overlay) == []
    overlay.close()
    assert (tmp_path / "upper" / "big").stat().st_blocks * 512 < 1 << 18, "holes stay holes"


def test_a_large_map_is_written_anew(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netoverlay.overlay.lazy_map.LARGE_BYTES", 1000)
    overlay = LazyMounted(base)
    files = overlay.overlay.files
    handle = files.open(overlay.file_inode("big"), Access.READ_WRITE)
    expected = bytearray(DATA)
    for offset in range(0, SIZE, 500):
        files.write(handle, offset, b"x" * 400, clear_set_ids=False)
        expected[offset : offset + 400] = b"x" * 400
        if offset % 5000 == 0:
            files.sync(handle, data_only=False)
    files.release(handle)
    overlay.close()
    assert (base / "upper.work" / "lazy" / maps(base)[0]).stat().st_size < 5000
    again = LazyMounted(base)
    assert again.read("big") == expected
    again.close()


def test_settling_can_be_stopped(base: Path) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", b"x")
    assert overlay.overlay.settler is not None
    with pytest.raises(InterruptedError):
        overlay.overlay.settler.run(lambda: True, id)
    assert overlay.read("big") == b"x" + DATA[1:]
    overlay.close()


def test_what_nobody_may_write_is_settled(base: Path) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", b"x")
    overlay.overlay.changes().attributes.change(overlay.inode("big"), AttributeChange(mode=0o444))
    assert settle(overlay) == []
    overlay.close()
    found = base / "upper" / "big"
    assert stat_bits.S_IMODE(found.stat().st_mode) == 0o444
    assert found.read_bytes() == b"x" + DATA[1:]


class _Ordinary(DelegatingBackend):
    """As for an ordinary user, who sees no attributes of what he may not read."""

    def connect(self) -> Capabilities:
        return replace(super().connect(), privileged_xattrs=False)


def test_what_its_owner_may_not_read_is_whole(base: Path) -> None:
    (base / "lower0" / "shut").write_bytes(DATA)
    (base / "lower0" / "shut").chmod(0o040)
    overlay = LazyMounted(base, wrap_upper=_Ordinary)
    overlay.write("big", b"x")
    changes = overlay.overlay.changes().attributes
    assert len(maps(base)) == 1
    changes.change(overlay.inode("big"), AttributeChange(mode=0o060))
    assert not maps(base)
    if os.geteuid() == 0:
        changes.change(overlay.inode("shut"), AttributeChange(mode=0o060))
        assert not maps(base)
    overlay.close()
    (base / "upper" / "big").chmod(0o600)
    assert (base / "upper" / "big").read_bytes() == b"x" + DATA[1:]


def test_a_descriptor_takes_the_right_to_read(base: Path) -> None:
    overlay = LazyMounted(base, wrap_upper=_Ordinary)
    files = overlay.overlay.files
    handle = files.open(overlay.file_inode("big"), Access.READ_WRITE)
    files.write(handle, 0, b"x", clear_set_ids=False)
    overlay.overlay.changes().attributes.change(handle.inode, AttributeChange(mode=0))
    assert not maps(base)
    files.write(handle, 1, b"y", clear_set_ids=False)
    assert files.read(handle, 0, SIZE) == b"xy" + DATA[2:]
    files.release(handle)
    overlay.close()


def test_settled_while_it_is_used(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netoverlay.overlay.lazy_state.FILL_BYTES", 500)
    overlay = LazyMounted(base)
    overlay.write("big", b"x")
    files, inode = overlay.overlay.files, overlay.file_inode("big")
    mtime_ns = overlay.overlay.tree.stat(inode).mtime_ns
    settler = overlay.overlay.settler
    assert settler is not None
    seen: set[int] = set()
    expected = bytearray(b"x" + DATA[1:])
    settled = threading.Event()

    def look() -> None:
        while not settled.is_set():
            seen.add(overlay.overlay.tree.stat(inode).mtime_ns)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        pieces = itertools.count()
        with pytest.raises(InterruptedError):
            settler.run(lambda: next(pieces) > SIZE // 1000, id)
    finally:
        settled.set()
        looking.join()
    assert seen == {mtime_ns}
    settling = threading.Thread(target=settler.run, args=(never, id))
    handle = files.open(inode, Access.READ_WRITE)
    settling.start()
    for offset in reversed(range(0, SIZE, 700)):
        files.write(handle, offset, b"written", clear_set_ids=False)
        expected[offset : offset + 7] = b"written"
    settling.join()
    assert files.read(handle, 0, 2 * SIZE) == expected[: SIZE + 7]
    files.release(handle)
    overlay.close()
    assert not maps(base)
    assert (base / "upper" / "big").read_bytes() == expected


def test_many_at_a_time(base: Path) -> None:
    overlay = LazyMounted(base)
    files = overlay.overlay.files
    handle = files.open(overlay.file_inode("big"), Access.READ_WRITE)

    def write(start: int) -> None:
        for offset in range(start, SIZE, 800):
            files.write(handle, offset, b"w" * 50, clear_set_ids=False)
            assert files.read(handle, offset, 51) == b"w" * 50 + DATA[offset + 50 : offset + 51]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(0, 800, 100)))
    files.release(handle)
    overlay.close()
    expected = bytearray(DATA)
    for offset in range(0, SIZE, 100):
        expected[offset : offset + 50] = b"w" * 50
    again = LazyMounted(base)
    assert again.read("big") == expected
    again.close()
