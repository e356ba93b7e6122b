"""Hard links of a base: one file under all its names, as many as stat(2) says, whatever was changed, over remounts."""

from __future__ import annotations

import errno
import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from netoverlay.backend_api import AttributeChange, RenameFlags
from netoverlay.overlay.inodes import FileInode
from netoverlay.testing.faults import Faults
from netoverlay.testing.faulty_backend import FaultyBackend
from tests.overlay.trees import Mounted, write_tree

NAMES = ("one", "dir/two", "dir/sub/three")


def linked_base(path: Path) -> None:
    write_tree(path / "lower0", {"dir": {"sub": {}}, "other": b"other"})
    (path / "lower0" / "one").write_bytes(b"content")
    for name in NAMES[1:]:
        os.link(path / "lower0" / "one", path / "lower0" / name)


def links(overlay: Mounted, name: str) -> int | None:
    return overlay.overlay.tree.stat(overlay.inode(name)).nlink


def inode_number(overlay: Mounted, name: str) -> int:
    return overlay.inode(name).ino


@pytest.fixture(params=[False, True], ids=["remembered", "remounted"])
def again(request: pytest.FixtureRequest) -> Callable[[Mounted], Mounted]:
    """The overlay after a remount, or as it is, all other names still unknown to it."""

    def remount(overlay: Mounted) -> Mounted:
        if not request.param:
            return overlay
        overlay.close()
        return Mounted(overlay.directory)

    return remount


@pytest.mark.parametrize("changed", NAMES)
def test_all_names_follow_a_change(tmp_path: Path, changed: str, again: Callable[[Mounted], Mounted]) -> None:
    linked_base(tmp_path)
    overlay = Mounted(tmp_path)
    number = inode_number(overlay, changed)
    overlay.write(changed, b"CON")
    overlay = again(overlay)
    for name in NAMES:
        assert overlay.read(name) == b"CONtent"
        assert links(overlay, name) == 3
        assert inode_number(overlay, name) == number
    overlay = again(overlay)
    assert {overlay.read(name) for name in NAMES} == {b"CONtent"}
    overlay.close()
    assert os.listdir(tmp_path / "upper.work" / "links") == [], "the index holds only what may be found by it"
    assert (tmp_path / "upper" / "one").stat().st_nlink == 3


@pytest.mark.parametrize("change_first", [False, True], ids=["as it is", "changed"])
@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)), ids=",".join)
def test_the_count_goes_down_with_each_name(
    tmp_path: Path, order: tuple[str, ...], change_first: bool, again: Callable[[Mounted], Mounted]
) -> None:
    linked_base(tmp_path)
    overlay = Mounted(tmp_path)
    if change_first:
        overlay.write(order[1], b"CON")
        overlay = again(overlay)
    left = list(order)
    while left:
        assert links(overlay, left[0]) == len(left)
        assert links(overlay, left[-1]) == len(left)
        overlay.unlink(left.pop(0))
        overlay = again(overlay)
    assert overlay.tree() == {"dir": {"sub": {}}, "other": b"other"}
    overlay.close()
    index = tmp_path / "upper.work" / "links"
    assert not index.exists() or os.listdir(index) == []


def test_further_links_and_renames_are_counted(tmp_path: Path, again: Callable[[Mounted], Mounted]) -> None:
    linked_base(tmp_path)
    overlay = Mounted(tmp_path)
    changes = overlay.overlay.changes()
    changes.creator.link(overlay.file_inode("one"), *overlay.name("four"))
    overlay = again(overlay)
    assert links(overlay, "dir/two") == links(overlay, "four") == 4
    overlay = again(overlay)
    overlay.overlay.changes().renamer.rename(overlay.name("dir/two"), overlay.name("five"), RenameFlags.NONE)
    overlay = again(overlay)
    assert links(overlay, "five") == 4
    overlay.overlay.changes().renamer.rename(overlay.name("other"), overlay.name("dir/sub/three"), RenameFlags.NONE)
    overlay = again(overlay)
    assert [links(overlay, name) for name in ("one", "four", "five", "dir/sub/three")] == [3, 3, 3, 1]
    overlay.close()


def test_a_name_replaced_in_the_base_alone_is_counted(tmp_path: Path, again: Callable[[Mounted], Mounted]) -> None:
    linked_base(tmp_path)
    overlay = Mounted(tmp_path)
    overlay.overlay.changes().renamer.rename(overlay.name("other"), overlay.name("dir/two"), RenameFlags.NONE)
    overlay = again(overlay)
    assert [links(overlay, name) for name in NAMES] == [2, 1, 2]
    overlay.write("one", b"CON")
    overlay = again(overlay)
    assert overlay.read("dir/sub/three") == b"CONtent"
    assert links(overlay, "dir/sub/three") == 2
    overlay.close()


def test_a_write_through_a_descriptor_reaches_the_names_that_are_left(tmp_path: Path) -> None:
    linked_base(tmp_path)
    overlay = Mounted(tmp_path)
    inode = overlay.file_inode("one")
    overlay.overlay.tree.inodes.opened(inode)
    overlay.unlink("one")
    overlay.overlay.changes().attributes.change(inode, AttributeChange(mode=0o640))
    assert overlay.overlay.tree.stat(overlay.inode("dir/two")).mode == 0o640
    assert links(overlay, "dir/two") == 2
    overlay.close()


def test_a_directory_keeps_its_times_when_a_name_in_it_follows(tmp_path: Path) -> None:
    linked_base(tmp_path)
    os.utime(tmp_path / "lower0" / "dir", ns=(1, 2_000_000_003))
    overlay = Mounted(tmp_path)
    overlay.write("one", b"CON")
    assert overlay.read("dir/two") == b"CONtent"
    assert overlay.overlay.tree.stat(overlay.inode("dir")).mtime_ns == 2_000_000_003
    overlay.close()


def test_a_file_that_reuses_the_id_of_one_that_was_copied_up_is_another(tmp_path: Path) -> None:
    linked_base(tmp_path)
    overlay = Mounted(tmp_path)
    overlay.write("one", b"CON")
    overlay.close()
    # Under the same id, as after the removal of the one and the creation of the other.
    (tmp_path / "lower0" / "dir" / "two").write_bytes(b"another one")
    overlay = Mounted(tmp_path)
    assert overlay.read("dir/two") == b"another one"
    assert overlay.read("one") == b"CONtent"
    overlay.close()


def test_names_that_nobody_looked_at_are_one_inode(tmp_path: Path) -> None:
    linked_base(tmp_path)
    overlay = Mounted(tmp_path)
    overlay.write("one", b"CON")
    overlay.close()
    overlay = Mounted(tmp_path)
    found = [overlay.inode(name) for name in (NAMES[2], NAMES[0], NAMES[1])]
    assert all(isinstance(inode, FileInode) and inode is found[0] for inode in found)
    overlay.close()


def test_a_removal_that_fails_is_not_counted(tmp_path: Path, again: Callable[[Mounted], Mounted]) -> None:
    linked_base(tmp_path)
    faults = Faults()
    overlay = Mounted(tmp_path, wrap_upper=lambda backend: FaultyBackend(backend, faults))
    faults.fail("mknod", error=errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        overlay.unlink("one")
    faults.clear()
    overlay = again(overlay)
    assert [links(overlay, name) for name in NAMES] == [3, 3, 3]
    overlay.write("dir/two", b"CON")
    overlay = again(overlay)
    assert {overlay.read(name) for name in NAMES} == {b"CONtent"}
    overlay.close()


def test_a_file_that_takes_the_id_of_one_that_is_known_is_another(tmp_path: Path) -> None:
    linked_base(tmp_path)
    overlay = Mounted(tmp_path)
    overlay.write("one", b"CON")
    for name in NAMES[1:]:
        path = tmp_path / "lower0" / name
        path.write_bytes(b"another one")
    assert overlay.read("dir/two") == b"another one"
    assert overlay.read("one") == b"CONtent"
    overlay.write("dir/two", b"ANO")
    assert overlay.read("dir/sub/three") == b"ANOther one"
    assert overlay.read("one") == b"CONtent"
    overlay.close()


def test_names_of_a_changing_base_are_asked_each_for_itself(tmp_path: Path) -> None:
    linked_base(tmp_path)
    overlay = Mounted(tmp_path, ttl_ns=0)
    assert len({inode_number(overlay, name) for name in NAMES}) == 1
    (tmp_path / "lower0" / "one").unlink()
    replaced = tmp_path / "lower0" / "dir" / "two"
    replaced.unlink()
    replaced.write_bytes(b"another one")
    assert "one" not in overlay.tree()
    assert overlay.read("dir/two") == b"another one"
    assert overlay.read("dir/sub/three") == b"content"
    overlay.write("dir/sub/three", b"CON")
    assert overlay.read("dir/two") == b"another one"
    assert "one" not in overlay.tree()
    overlay.close()


def test_what_is_made_in_the_work_directory_inherits_nothing(tmp_path: Path) -> None:
    linked_base(tmp_path)
    default = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, 7, who) for tag, who in ((1, 0), (2, 1234), (4, 0), (16, 0), (32, 0))
    )
    os.setxattr(tmp_path, "system.posix_acl_default", default)
    overlay = Mounted(tmp_path)
    overlay.write("dir/two", b"CON")
    overlay.close()
    assert "system.posix_acl_access" not in os.listxattr(tmp_path / "upper" / "dir" / "two")
    assert "system.posix_acl_default" not in os.listxattr(tmp_path / "upper" / "dir")
