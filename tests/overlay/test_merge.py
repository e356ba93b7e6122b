"""What merged layers show."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netoverlay.backend_api import RenameFlags
from tests.overlay.trees import Mounted, write_tree


def test_the_topmost_of_each_name_is_shown(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"a": b"top", "d": {"one": b"1"}})
    write_tree(tmp_path / "lower1", {"a": b"below", "b": b"only below", "d": {"one": b"hidden", "two": b"2"}})
    write_tree(tmp_path / "upper", {"d": {"three": b"3"}, "c": "target"})
    overlay = Mounted(tmp_path)
    assert overlay.tree() == {
        "a": b"top",
        "b": b"only below",
        "c": "target",
        "d": {"one": b"1", "two": b"2", "three": b"3"},
    }
    overlay.close()


def test_a_file_hides_a_directory_below_and_the_other_way_round(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"x": b"file", "y": {"in": b""}})
    write_tree(tmp_path / "lower1", {"x": {"lost": b""}, "y": b"lost"})
    overlay = Mounted(tmp_path)
    assert overlay.tree() == {"x": b"file", "y": {"in": b""}}
    overlay.close()


def test_whiteouts_and_opaque_directories_of_a_lower_count(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"opaque": {"mine": b""}, "merged": {"mine": b""}})
    write_tree(tmp_path / "lower1", {"gone": b"x", "opaque": {"theirs": b""}, "merged": {"theirs": b""}})
    os.mknod(tmp_path / "lower0" / "gone", 0o020000, os.makedev(0, 0))
    name_space = "trusted" if os.geteuid() == 0 else "user"
    os.setxattr(tmp_path / "lower0" / "opaque", f"{name_space}.overlay.opaque", b"y")
    overlay = Mounted(tmp_path)
    assert overlay.tree() == {"opaque": {"mine": b""}, "merged": {"mine": b"", "theirs": b""}}
    overlay.close()


def test_a_redirect_of_a_lower_that_was_an_upper_is_followed(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower1", {"old": {"deep": {"file": b"content"}}})
    first = tmp_path / "first"
    first.mkdir()
    (first / "lower0").symlink_to(tmp_path / "lower1")
    overlay = Mounted(first)
    overlay.overlay.changes().renamer.rename(overlay.name("old"), overlay.name("new"), RenameFlags.NONE)
    overlay.create("new/added", b"added")
    overlay.close()
    (tmp_path / "lower0").symlink_to(first / "upper")
    again = Mounted(tmp_path)
    assert again.tree() == {"new": {"deep": {"file": b"content"}, "added": b"added"}}
    again.close()


@pytest.mark.parametrize("redirect", [b"/../etc", b"a/b", b"..", b""])
def test_a_redirect_that_leads_out_is_an_error(tmp_path: Path, redirect: bytes) -> None:
    write_tree(tmp_path / "lower0", {"d": {"file": b""}})
    write_tree(tmp_path / "upper", {"d": {}})
    name_space = "trusted" if os.geteuid() == 0 else "user"
    os.setxattr(tmp_path / "upper" / "d", f"{name_space}.overlay.redirect", redirect)
    overlay = Mounted(tmp_path)
    with pytest.raises(OSError, match="redirect leads nowhere"):
        overlay.inode("d")
    overlay.close()


def test_without_an_upper_every_change_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"a": b"content"})
    overlay = Mounted(tmp_path, upper=False)
    assert overlay.read("a") == b"content"
    with pytest.raises(OSError, match="Read-only"):
        overlay.overlay.changes()
    with pytest.raises(OSError, match="no upper"):
        overlay.write("a", b"x")
    assert overlay.tree() == {"a": b"content"}
    overlay.close()
