"""Lazily copied files when something is lost: power, the daemon, the base, a map; and who else may use the upper."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from netoverlay.backend_api import Access
from netoverlay.testing.faults import Faults
from netoverlay.testing.faulty_backend import FaultyBackend
from tests.overlay.lazy import DATA, SIZE, THRESHOLD, LazyMounted, is_lazy, maps, settle
from tests.overlay.trees import Mounted, write_tree


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_tree(tmp_path / "lower0", {"big": DATA, "small": DATA[:THRESHOLD], "d": {}})
    os.utime(tmp_path / "lower0" / "big", ns=(10**18, 10**18))
    return tmp_path


def test_cut_and_not_noted_it_shows_zeros(base: Path) -> None:
    faults = Faults()
    overlay = LazyMounted(base, wrap_upper=lambda backend: FaultyBackend(backend, faults))
    overlay.write("big", b"x")
    files = overlay.overlay.files
    handle = files.open(overlay.file_inode("big"), Access.READ_WRITE)
    faults.fail("file.write_at", error=errno.ENOSPC, path="upper.work/lazy/*", times=2)
    with pytest.raises(OSError, match="No space"):
        files.truncate(handle.inode, 10)
    with pytest.raises(OSError, match="No space"):
        files.write(handle, 20, b"y", clear_set_ids=False)
    assert files.read(handle, 0, SIZE) == b"x" + DATA[1:10]
    files.write(handle, 20, b"y", clear_set_ids=False)
    assert files.read(handle, 0, SIZE) == b"x" + DATA[1:10] + bytes(10) + b"y"
    files.release(handle)
    overlay.close()


@pytest.mark.parametrize("change", ["gone", "other content", "other layer"])
def test_a_base_that_is_another_is_an_error(base: Path, change: str, caplog: pytest.LogCaptureFixture) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", b"x")
    overlay.close()
    if change == "gone":
        (base / "lower0" / "big").unlink()
    elif change == "other content":
        (base / "lower0" / "big").write_bytes(DATA)
    else:
        (base / "lower0").rename(base / "lower1")
    again = LazyMounted(base)
    with pytest.raises(OSError, match="the rest of a lazily copied file") as failed:
        again.read("big")
    assert failed.value.errno == errno.EIO
    assert "the rest of a lazily copied file is 'big' of lower0" in caplog.text
    [(path, reason)] = settle(again)
    assert path == "big"
    assert "the rest of" in reason
    again.write("big", b"own", 10)
    handle = again.overlay.files.open(again.file_inode("big"), Access.READ)
    assert again.overlay.files.read(handle, 10, 3) == b"own", "what is its own can be had"
    again.overlay.files.release(handle)
    again.unlink("big")
    again.close()
    assert not maps(base)


@pytest.mark.parametrize("damage", ["gone", "garbage"])
def test_a_map_that_cannot_be_read_is_an_error(base: Path, damage: str) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", b"x")
    overlay.close()
    place = base / "upper.work" / "lazy" / maps(base)[0]
    if damage == "gone":
        place.unlink()
    else:
        place.write_bytes(b"garbage\n" * 10)
    again = LazyMounted(base)
    for attempt in (lambda: again.read("big"), lambda: again.write("big", b"y")):
        with pytest.raises(OSError, match="map of a lazily copied file") as failed:
            attempt()
        assert failed.value.errno == errno.EIO
    if damage == "garbage":
        assert [path for path, _ in settle(again)] == ["big"]
    again.overlay.files.truncate(again.file_inode("big"), 0)
    assert again.read("big") == b""
    again.write("big", b"y")
    again.close()
    assert (base / "upper" / "big").read_bytes() == b"y"
    assert not is_lazy(base / "upper" / "big")


@pytest.mark.parametrize("alone", [False, True])
def test_as_a_lower_it_is_refused_until_it_is_settled(base: Path, alone: bool) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", b"x")
    overlay.close()
    other = base / "other"
    other.mkdir()
    (other / "lower0").symlink_to(base / "upper")
    if not alone:
        (other / "lower1").symlink_to(base / "lower0")
    above = Mounted(other)
    with pytest.raises(OSError, match="netoverlay settle"):
        above.read("big")
    above.close()
    again = LazyMounted(base)
    assert settle(again) == []
    again.close()
    above = Mounted(other)
    assert above.read("big") == b"x" + DATA[1:]
    above.close()


def test_after_a_power_cut_only_what_was_synced_counts(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = LazyMounted(base)
    files = overlay.overlay.files
    handle = files.open(overlay.file_inode("big"), Access.READ_WRITE)
    files.write(handle, 100, b"synced", clear_set_ids=False)
    files.sync(handle, data_only=True)
    files.write(handle, 20_000, b"lost", clear_set_ids=False)
    overlay.abandon()
    with (base / "upper" / "big").open("r+b") as file:  # what the disk has of a write that it never got
        file.seek(20_000)
        file.write(bytes(4))
    monkeypatch.setattr("netoverlay.overlay.lazy_files.boot_id", lambda: "another")
    expected = DATA[:100] + b"synced" + DATA[106:]
    again = LazyMounted(base)
    assert again.read("big") == expected
    again.write("big", b"more", 30_000)
    again.close()
    again = LazyMounted(base)
    expected = expected[:30_000] + b"more" + expected[30_004:]
    assert again.read("big") == expected
    assert settle(again) == []
    again.close()
    assert (base / "upper" / "big").read_bytes() == expected


def test_what_a_daemon_that_was_killed_has_written_counts(base: Path) -> None:
    overlay = LazyMounted(base)
    files = overlay.overlay.files
    handle = files.open(overlay.file_inode("big"), Access.READ_WRITE)
    files.write(handle, 20_000, b"kept", clear_set_ids=False)
    overlay.abandon()
    again = LazyMounted(base)
    assert again.read("big") == DATA[:20_000] + b"kept" + DATA[20_004:]
    again.close()


def test_a_map_of_nothing_goes(base: Path) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", b"x")
    overlay.close()
    (base / "upper" / "big").unlink()
    again = LazyMounted(base)
    assert again.overlay.settler is not None
    assert settle(again) == []
    assert again.overlay.settler.usage() == (0, 0)
    again.close()
    assert not maps(base)


def test_a_torn_line_at_the_end_counts_for_nothing(base: Path) -> None:
    overlay = LazyMounted(base)
    overlay.write("big", b"x")
    overlay.close()
    place = base / "upper.work" / "lazy" / maps(base)[0]
    text = place.read_bytes()
    for tail in (b'{"have":[0,5', b"\0" * 100, b'{"have":5}\n{"have":[1,2]}\n'):
        place.write_bytes(text + tail)
        again = LazyMounted(base)
        assert again.read("big") == b"x" + DATA[1:]
        again.close()
        assert place.read_bytes() == text
