"""What stat(2) says of directories does not tell which of them were copied up."""

from __future__ import annotations

import os
from pathlib import Path

from netoverlay.backend_api import AttributeChange, RenameFlags
from tests.overlay.trees import Mounted, write_tree


def links(overlay: Mounted, path: str = "") -> int | None:
    return overlay.overlay.tree.stat(overlay.inode(path)).nlink


def ctime(overlay: Mounted, path: str) -> int | None:
    return overlay.overlay.tree.stat(overlay.inode(path)).ctime_ns


def rename(overlay: Mounted, old: str, new: str, flags: RenameFlags = RenameFlags.NONE) -> None:
    overlay.overlay.changes().renamer.rename(overlay.name(old), overlay.name(new), flags)


def test_the_links_of_a_directory_count_what_is_in_it(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"dir": {"a": {}, "b": {"x": b""}, "c": {}, "file": b""}})
    overlay = Mounted(tmp_path)
    assert links(overlay, "dir") == 5
    overlay.create("dir/new")
    assert links(overlay, "dir") == 5, "copied up"
    overlay.write("dir/b/x", b"1")
    assert links(overlay, "dir") == 5, "a sub-directory copied up"
    overlay.mkdir("dir/d")
    assert links(overlay, "dir") == 6
    overlay.rmdir("dir/a")
    assert links(overlay, "dir") == 5
    rename(overlay, "dir/c", "c")
    assert links(overlay, "dir") == 4
    assert links(overlay) == 2 + 2
    rename(overlay, "dir/b", "dir/new", RenameFlags.EXCHANGE)
    rename(overlay, "c", "dir/file", RenameFlags.EXCHANGE)
    assert links(overlay, "dir") == 5
    assert links(overlay) == 2 + 1
    overlay.close()
    again = Mounted(tmp_path)
    assert links(again, "dir") == 5
    again.close()


def test_the_links_of_a_directory_of_several_lowers(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"dir": {"a": {}, "b": {}}})
    write_tree(tmp_path / "lower1", {"dir": {"b": {}, "c": {}}})
    overlay = Mounted(tmp_path)
    assert links(overlay, "dir") == 5
    overlay.create("dir/new")
    assert links(overlay, "dir") == 5
    overlay.close()


def test_what_only_leads_to_a_change_keeps_its_times(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"top": {"dir": {"file": b"x"}}})
    overlay = Mounted(tmp_path)
    before = {path: ctime(overlay, path) for path in ("", "top", "top/dir")}
    overlay.write("top/dir/file", b"y")
    assert {path: ctime(overlay, path) for path in before} == before
    overlay.create("top/new")
    assert ctime(overlay, "top") != before["top"]
    assert ctime(overlay, "top/dir") == before["top/dir"]
    changed = ctime(overlay, "top")
    overlay.overlay.tree.inodes.forget(overlay.inode("top/dir").nodeid, 1000)
    assert ctime(overlay, "top/dir") == before["top/dir"], "although the kernel has forgotten it"
    for _ in range(2):
        overlay.close()
        overlay = Mounted(tmp_path)
        assert {path: ctime(overlay, path) for path in before} == {**before, "top": changed}
    overlay.close()


def test_a_removed_directory_can_still_be_changed(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"base": {}})
    overlay = Mounted(tmp_path)
    overlay.mkdir("own")
    for path in ("base", "own"):
        removed = overlay.inode(path)
        overlay.rmdir(path)
        overlay.overlay.changes().attributes.change(removed, AttributeChange(mode=0o711, mtime_ns=5))
        stat = overlay.overlay.tree.stat(removed)
        assert (stat.mode, stat.mtime_ns, stat.nlink) == (0o711, 5, 0)
    overlay.close()
    assert not os.listdir(tmp_path / "upper") or (tmp_path / "upper" / "base").is_char_device()
