"""What must not happen when something fails half-way, or when a name was given to something else meanwhile."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, AttributeChange, RenameFlags, UnavailableError
from netoverlay.bridge import Bridge
from netoverlay.fuse.abi import Opcode
from netoverlay.fuse.requests import OpenRequest, ReadRequest, RequestHeader
from netoverlay.overlay.copies import COPY_ATTEMPTS
from netoverlay.overlay.creation import Caller
from netoverlay.overlay.inodes import Inode
from netoverlay.testing.faults import Faults
from netoverlay.testing.faulty_backend import FaultyBackend
from tests.overlay.trees import Mounted, write_tree

NAME_SPACE = "trusted" if os.geteuid() == 0 else "user"


def test_a_removed_directory_is_not_the_one_that_has_its_name_now(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"top": {}})
    overlay = Mounted(tmp_path)
    changer = overlay.overlay.changes().attributes
    overlay.mkdir("top/d")
    removed = overlay.inode("top/d")
    changer.change(removed, AttributeChange(mode=0o700))
    overlay.rmdir("top/d")
    overlay.mkdir("top/d")
    changer.change(removed, AttributeChange(mode=0o777))
    assert overlay.overlay.tree.stat(overlay.inode("top/d")).mode == 0o755
    assert overlay.overlay.tree.stat(removed).mode == 0o777
    overlay.close()


def test_a_failed_rename_brings_nothing_back(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"target": {"deleted": b"x"}, "source": {"kept": b"y"}})
    faults = Faults()
    overlay = Mounted(tmp_path, wrap_upper=lambda backend: FaultyBackend(backend, faults))
    overlay.unlink("target/deleted")
    faults.fail("rename", error=errno.ENOSPC, path="upper/target")
    with pytest.raises(OSError, match="No space"):
        overlay.overlay.changes().renamer.rename(overlay.name("source"), overlay.name("target"), RenameFlags.NONE)
    assert overlay.tree() == {"target": {}, "source": {"kept": b"y"}}
    overlay.close()


def test_a_failed_creation_leaves_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"dir": {"old": b""}})
    faults = Faults()
    overlay = Mounted(tmp_path, wrap_upper=lambda backend: FaultyBackend(backend, faults))
    overlay.unlink("dir/old")
    faults.fail("file.stat", error=errno.EDQUOT, path="upper/dir/new")
    with pytest.raises(OSError, match="quota"):
        overlay.create("dir/new")
    faults.clear()
    assert overlay.tree() == {"dir": {}}
    faults.fail("rename", error=errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        overlay.create("dir/old")
    assert overlay.tree() == {"dir": {}}
    assert set(os.listdir(tmp_path / "upper.work")) <= {"lock", "ctimes"}
    overlay.close()


def test_the_other_name_of_a_file_that_was_changed_and_removed_has_the_change(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"one": b"content"})
    os.link(tmp_path / "lower0" / "one", tmp_path / "lower0" / "two")
    overlay = Mounted(tmp_path)
    handle = overlay.overlay.files.open(overlay.file_inode("one"), Access.READ_WRITE)
    overlay.overlay.files.write(handle, 0, b"CON", clear_set_ids=False)
    overlay.unlink("one")
    assert overlay.tree() == {"two": b"CONtent"}
    overlay.overlay.files.release(handle)
    overlay.close()


def test_a_name_under_a_whiteout_that_hides_nothing_can_be_taken(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"dir": {"x": b"", "y": b""}})
    overlay = Mounted(tmp_path)
    overlay.unlink("dir/x")
    overlay.unlink("dir/y")
    overlay.close()
    for name in ("x", "y"):
        (tmp_path / "lower0" / "dir" / name).unlink()
    (tmp_path / "lower0" / "dir").rmdir()
    again = Mounted(tmp_path)
    again.create("dir/x", b"new")
    again.mkdir("dir/y")
    assert again.tree() == {"dir": {"x": b"new", "y": {}}}
    again.close()


def test_what_replaces_a_whiteout_has_the_group_of_its_directory(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"dir": {"x": b""}})
    group = 100 if os.geteuid() == 0 else os.getegid()
    os.chown(tmp_path / "lower0" / "dir", os.geteuid(), group)
    (tmp_path / "lower0" / "dir").chmod(0o2775)
    overlay = Mounted(tmp_path)
    overlay.unlink("dir/x")
    made = overlay.overlay.changes().creator.create(*overlay.name("dir/x"), 0o644, Caller(os.getuid(), os.getgid()))
    made.file.close()
    assert (tmp_path / "upper" / "dir" / "x").stat().st_gid == group
    overlay.close()


def test_a_directory_is_redirected_to_where_the_lowers_show_it(tmp_path: Path) -> None:
    """Which is not where it is in its own layer."""
    write_tree(tmp_path / "lower1", {"x": {"y": {"file": b"content"}}})
    write_tree(tmp_path / "lower0", {"a": {}})
    os.setxattr(tmp_path / "lower0" / "a", f"{NAME_SPACE}.overlay.redirect", b"/x")
    os.mknod(tmp_path / "lower0" / "x", 0o020000, os.makedev(0, 0))
    overlay = Mounted(tmp_path)
    assert overlay.tree() == {"a": {"y": {"file": b"content"}}}
    overlay.overlay.changes().renamer.rename(overlay.name("a/y"), overlay.name("z"), RenameFlags.NONE)
    assert os.getxattr(tmp_path / "upper" / "z", f"{NAME_SPACE}.overlay.redirect") == b"/a/y"
    assert overlay.tree() == {"a": {}, "z": {"file": b"content"}}
    overlay.close()
    again = Mounted(tmp_path)
    assert again.tree() == {"a": {}, "z": {"file": b"content"}}
    again.close()


def test_links_that_come_and_go_leave_no_keys_behind(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"file": b""})
    overlay = Mounted(tmp_path)
    inode = overlay.file_inode("file")
    for _ in range(20):
        overlay.overlay.changes().creator.link(inode, *overlay.name("hard"))
        overlay.unlink("hard")
    assert len(inode.keys) <= 2
    overlay.close()


def lost() -> UnavailableError:
    return UnavailableError("cut")


def test_a_listing_with_attributes_asks_a_layer_that_is_away_but_once(tmp_path: Path) -> None:
    names = [f"file{number}" for number in range(20)]
    write_tree(tmp_path / "lower0", {"dir": {}})
    faults = Faults()
    overlay = Mounted(tmp_path, wrap_upper=lambda backend: FaultyBackend(backend, faults))
    for name in names:
        overlay.create(f"dir/{name}", b"content")
    directory = overlay.directory_inode("dir")
    bridge = Bridge(overlay.overlay)
    raw = bytes(bridge.opendir(asking(Opcode.OPENDIR, directory), OpenRequest(0, 0)) or b"")
    reading = ReadRequest(int.from_bytes(raw[:8], "little"), 0, 1 << 16, 0, 0, 0)
    rule = faults.fail("stat", "file.stat", error=lost, times=None)
    listed = bytes(bridge.readdirplus(asking(Opcode.READDIRPLUS, directory), reading) or b"")
    assert rule.seen == 1
    assert all(name.encode() in listed for name in names)
    overlay.close()


def asking(opcode: Opcode, inode: Inode) -> RequestHeader:
    return RequestHeader(0, opcode, 1, inode.nodeid, os.geteuid(), os.getegid(), os.getpid(), 0)


def temporaries(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory / "upper.work") if name.startswith("#")]


@pytest.mark.parametrize("operation", ["file.copy_range", "file.truncate", "file.sync"])
def test_a_copy_up_is_begun_anew_if_the_upper_is_lost_in_the_middle(tmp_path: Path, operation: str) -> None:
    write_tree(tmp_path / "lower0", {"file": b"0123456789"})
    faults = Faults()
    overlay = Mounted(tmp_path, wrap_upper=lambda backend: FaultyBackend(backend, faults))
    faults.fail(operation, error=lost, path="upper.work/#*", times=COPY_ATTEMPTS - 1)
    overlay.write("file", b"ABC", 4)
    assert overlay.tree() == {"file": b"0123ABC789"}
    assert faults.calls["create"] >= COPY_ATTEMPTS, "what is on its way to the first must not arrive in the last"
    assert temporaries(tmp_path) == []
    overlay.close()


def test_a_copy_up_whose_sync_tells_of_lost_data_is_begun_anew(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"file": b"0123456789"})
    faults = Faults()
    overlay = Mounted(tmp_path, wrap_upper=lambda backend: FaultyBackend(backend, faults))
    faults.fail("file.sync", error=errno.EIO, path="upper.work/#*")
    overlay.write("file", b"ABC", 4)
    assert overlay.tree() == {"file": b"0123ABC789"}
    overlay.close()


def test_what_a_copy_up_leaves_without_the_upper_goes_later(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"file": b"0123456789", "other": b""})
    faults = Faults()
    overlay = Mounted(tmp_path, wrap_upper=lambda backend: FaultyBackend(backend, faults))
    faults.fail("file.copy_range", "stat", "unlink", error=lost, path="upper.work/#*", times=None)
    with pytest.raises(UnavailableError, match="cut"):
        overlay.write("file", b"ABC", 4)
    assert overlay.tree() == {"file": b"0123456789", "other": b""}
    assert len(temporaries(tmp_path)) == 1
    faults.clear()
    overlay.write("other", b"x")
    assert temporaries(tmp_path) == []
    overlay.close()
