"""A lower that is not immutable: what others change in it is seen within `ttl` seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, layer_table, run

TTL = 0.2
PATIENCE = 10.0


def eventually(check: Callable[[], bool]) -> None:
    """`check` comes true, and stays so."""
    give_up_at = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < give_up_at, "the change was never seen"
        time.sleep(TTL / 4)
    assert check()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    top = tmp_path / "base"
    (top / "dir").mkdir(parents=True)
    for name in ("file", "dir/a", "turning"):
        (top / name).write_text("before\n")
        os.utime(top / name, (1_500_000_000, 1_500_000_000))
    return top


@pytest.fixture
def mount(tmp_path: Path, lower, base: Path):
    with OverlayMount(tmp_path / "m", lower(base, immutable=False, keys=[f"ttl = {TTL}"])) as mounted:
        yield mounted


def test_a_change_of_content_is_seen(mount: OverlayMount, base: Path) -> None:
    assert (mount.path / "file").read_text() == "before\n"
    with (mount.path / "file").open("rb", buffering=0) as reader:
        assert reader.read() == b"before\n"
        (base / "file").write_text("after, and longer\n")
        eventually(lambda: (mount.path / "file").stat().st_size == 18)
        eventually(lambda: (mount.path / "file").read_text() == "after, and longer\n")
        eventually(lambda: os.pread(reader.fileno(), 100, 0) == b"after, and longer\n")


def test_names_that_come_and_go_are_seen(mount: OverlayMount, base: Path) -> None:
    assert sorted(os.listdir(mount.path / "dir")) == ["a"]
    assert not (mount.path / "dir" / "b").exists()
    (base / "dir" / "b").write_text("new\n")
    eventually((mount.path / "dir" / "b").exists)
    eventually(lambda: sorted(os.listdir(mount.path / "dir")) == ["a", "b"])
    (base / "dir" / "a").unlink()
    eventually(lambda: not (mount.path / "dir" / "a").exists())
    eventually(lambda: sorted(os.listdir(mount.path / "dir")) == ["b"])


def test_a_file_that_becomes_a_directory_is_seen(mount: OverlayMount, base: Path) -> None:
    assert (mount.path / "turning").is_file()
    (base / "turning").unlink()
    (base / "turning").mkdir()
    (base / "turning" / "inside").write_text("x\n")
    eventually((mount.path / "turning").is_dir)
    assert (mount.path / "turning" / "inside").read_text() == "x\n"


def test_what_was_copied_up_stays(mount: OverlayMount, base: Path) -> None:
    (mount.path / "file").write_text("mine\n")
    (mount.path / "dir" / "a").unlink()
    (base / "file").write_text("theirs\n")
    (base / "dir" / "a").write_text("theirs\n")
    time.sleep(2 * TTL)
    assert (mount.path / "file").read_text() == "mine\n"
    assert not (mount.path / "dir" / "a").exists()


def test_a_file_that_came_meanwhile_is_opened_and_not_made(tmp_path: Path, base: Path) -> None:
    with OverlayMount(tmp_path / "m", layer_table(str(base), ["ttl = 60"], immutable=False)) as mount:
        assert not (mount.path / "late").exists()
        (base / "late").write_text("from the base\n")
        descriptor = os.open(mount.path / "late", os.O_CREAT | os.O_RDWR)
        assert os.read(descriptor, 100) == b"from the base\n"
        os.close(descriptor)
        (base / "later").write_text("from the base\n")
        with pytest.raises(FileExistsError):
            os.open(mount.path / "later", os.O_CREAT | os.O_EXCL | os.O_RDWR)


def test_a_directory_that_cannot_be_merged_does_not_spoil_the_listing(tmp_path: Path, base: Path) -> None:
    upper = tmp_path / "upper"
    (upper / "dir").mkdir(parents=True)
    os.setxattr(upper / "dir", f"{'trusted' if os.geteuid() == 0 else 'user'}.overlay.redirect", b"/../out")
    with OverlayMount(tmp_path / "m", layer_table(str(base)), upper=upper) as mount:
        shown = run("ls", "-l", mount.path, check=False)
        assert "file" in shown
        assert "Input/output error" in shown
        assert sorted(os.listdir(mount.path)) == ["dir", "file", "turning"]


def test_files_that_are_renamed_below_keep_their_content(mount, base: Path) -> None:
    """As logs are that are rotated: neither name shows what is under the other one."""
    (base / "app.log").write_text("old log\n")
    (base / "other").write_text("other\n")
    eventually(lambda: (mount.path / "app.log").exists() and (mount.path / "other").exists())
    assert (mount.path / "app.log").read_text() == "old log\n"
    assert (mount.path / "other").read_text() == "other\n"
    (base / "app.log").rename(base / "app.log.1")
    (base / "app.log").write_text("new log, and longer\n")
    (base / "other").rename(base / "renamed")
    eventually(lambda: "renamed" in os.listdir(mount.path) and not (mount.path / "other").exists())
    eventually(lambda: (mount.path / "app.log").read_text() == "new log, and longer\n")
    assert (mount.path / "app.log.1").read_text() == "old log\n"
    assert (mount.path / "renamed").read_text() == "other\n"
