"""An upper that is not private: what others make, change and remove in it is seen in time, and under a lock at once."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, layer_table, smb_login
from tests.servers.smbd import SmbServer

UpperKeys = Callable[[Path], list[str]]

PATIENCE_SECONDS = 10.0


@pytest.fixture(params=["local", "smb"])
def upper_keys(request: pytest.FixtureRequest, smbd: SmbServer) -> UpperKeys:
    """The keys of an `[upper]` that keeps locks, without its ttl."""
    if request.param == "local":
        return lambda path: [f'url = "{path}"']
    return lambda path: [f'url = "{smbd.url_of(path)}"', *smb_login(smbd)]


@pytest.fixture
def mounted(tmp_path: Path, upper_keys: UpperKeys) -> Callable[..., OverlayMount]:
    def mount(ttl: float) -> OverlayMount:
        base = tmp_path / "base"
        (base / "d").mkdir(parents=True)
        (base / "d/below").write_text("base")
        upper = tmp_path / "served" / "upper"
        keys = [*upper_keys(upper), f"ttl = {ttl}"]
        return OverlayMount(tmp_path / "m", layer_table(str(base)), upper=upper, upper_keys=keys)

    return mount


def names(directory: Path) -> set[str]:
    return {name for name in os.listdir(directory) if not name.startswith(".wh.")}


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within some seconds."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.05)
    return True


def test_what_others_change_is_seen_after_the_time_to_live(mounted: Callable[..., OverlayMount]) -> None:
    with mounted(0.2) as mount:
        here, there = mount.path / "d", mount.upper / "d"
        (here / "lost").write_text("mine")
        (here / "changed").write_text("short")
        (here / "replaced").write_text("mine")
        assert not (here / "new").exists()
        assert (here / "below").read_text() == "base"
        (there / "new").write_text("theirs")
        (there / "below").write_text("above")
        (there / "lost").unlink()
        (there / "changed").write_text("longer than it was")
        (there / "other").write_text("other")
        (there / "other").rename(there / "replaced")
        assert soon(lambda: (here / "new").exists() and not (here / "lost").exists())
        assert soon(lambda: (here / "changed").stat().st_size == len("longer than it was"))
        assert (here / "changed").read_text() == "longer than it was"
        assert soon(lambda: (here / "replaced").read_text() == "other")
        assert soon(lambda: (here / "below").read_text() == "above")
        assert names(here) == {"below", "changed", "new", "replaced"}
        (here / "lost").write_text("again")
        (here / "new").unlink()
        assert names(there) == {"below", "changed", "lost", "replaced"}


def test_a_lock_shows_what_its_last_holder_left(mounted: Callable[..., OverlayMount]) -> None:
    """Names beside the file, too: a program looks for what another one left there while it had the lock."""
    with mounted(3600.0) as mount:
        here, there = mount.path / "d", mount.upper / "d"
        for name in ("locked", "lost", "replaced"):
            (here / name).write_text("mine")
        with open(here / "locked", "r+b") as file:
            assert not (here / "new").exists()
            assert (here / "replaced").read_text() == "mine"
            assert names(here) == {"below", "locked", "lost", "replaced"}
            for turn in ("first", "second"):
                (there / "new").write_text(turn)
                (there / "lost").unlink()
                (there / "replaced").write_text(f"theirs: {turn}")
                (there / "locked").write_text(turn)
                fcntl.lockf(file, fcntl.LOCK_EX)
                assert names(here) == {"below", "locked", "new", "replaced"}
                assert not (here / "lost").exists()
                assert (here / "new").read_text() == turn
                assert (here / "replaced").read_text() == f"theirs: {turn}"
                assert os.pread(file.fileno(), 100, 0).decode() == turn
                (here / "new").unlink()
                (here / "lost").write_text(turn)
                fcntl.lockf(file, fcntl.LOCK_UN)
                assert names(there) == {"locked", "lost", "replaced"}


def test_a_name_is_listed_in_time_though_its_directory_shows_no_change(mounted: Callable[..., OverlayMount]) -> None:
    """As where the clock of the file system has not moved on in between."""
    with mounted(0.5) as mount:
        (mount.path / "d/mine").touch()
        for number in range(3):
            names(mount.path / "d")
            before = (mount.upper / "d").stat()
            (mount.upper / f"d/theirs{number}").touch()
            os.utime(mount.upper / "d", ns=(before.st_atime_ns, before.st_mtime_ns))
            assert soon(lambda name=f"theirs{number}": name in names(mount.path / "d"))


def test_who_pauses_while_he_lists_leaves_no_old_listing_to_others(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    upper = tmp_path / "upper"
    there = upper / "d"
    there.mkdir(parents=True)
    for number in range(1000):
        (there / f"name{number}").touch()
    before = there.stat()
    keys = [f'url = "{upper}"', "ttl = 2.0"]
    with OverlayMount(tmp_path / "m", layer_table(str(tmp_path / "base")), upper=upper, upper_keys=keys) as mount:
        with os.scandir(mount.path / "d") as reader:
            next(reader)
            (there / "theirs").touch()
            os.utime(there, ns=(before.st_atime_ns, before.st_mtime_ns))
            time.sleep(2.1)
            assert sum(1 for _ in reader) >= 999
        time.sleep(0.5)  # in which it is dropped
        assert "theirs" in names(mount.path / "d")


def test_names_that_others_make_in_a_directory_that_has_come_to_the_upper(mounted: Callable[..., OverlayMount]) -> None:
    with mounted(0.5) as mount:
        assert names(mount.path / "d") == names(mount.path / "d") == {"below"}
        (mount.path / "d/below").chmod(0o600)  # which the kernel does not take to change the directory
        before = (mount.upper / "d").stat()
        (mount.upper / "d/theirs").touch()
        os.utime(mount.upper / "d", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert soon(lambda: "theirs" in names(mount.path / "d"))


def test_an_open_file_stays_what_it_is_when_others_remove_its_name(mounted: Callable[..., OverlayMount]) -> None:
    with mounted(0.0) as mount:
        (mount.path / "gone").write_text("old")
        with open(mount.path / "gone", "r+") as gone:
            (mount.upper / "gone").unlink()
            assert not (mount.path / "gone").exists()
            assert gone.read() == "old"


def test_sub_directories_that_others_make_are_counted(mounted: Callable[..., OverlayMount]) -> None:
    with mounted(0.0) as mount:
        (mount.path / "d/mine").mkdir()
        before = (mount.path / "d").stat().st_nlink
        (mount.upper / "d/theirs").mkdir()
        assert (mount.path / "d").stat().st_nlink == (before + 1 if before > 1 else before)  # 1: not counted
        assert (mount.path / "d/theirs").is_dir()


def test_an_open_file_stays_what_it_is_when_others_put_another_in_its_place(tmp_path: Path) -> None:
    """In a local upper: docs/locks.md says what a server's does."""
    (tmp_path / "base").mkdir()
    upper = tmp_path / "upper"
    keys = [f'url = "{upper}"', "ttl = 0.0"]
    with OverlayMount(tmp_path / "m", layer_table(str(tmp_path / "base")), upper=upper, upper_keys=keys) as mount:
        (mount.path / "file").write_text("old")
        with open(mount.path / "file", "r+") as old:
            (upper / "other").write_text("new one")
            (upper / "other").rename(upper / "file")
            assert (mount.path / "file").read_text() == "new one"
            assert old.read() == "old"
