"""Files of which a layer holds the attributes only, and one below it the data: overlayfs makes them (metacopy=on)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, RenameFlags
from tests.overlay.trees import Mounted, Tree, write_tree

NAME_SPACE = "trusted" if os.geteuid() == 0 else "user"
METACOPY, REDIRECT, OPAQUE = (f"{NAME_SPACE}.overlay.{name}" for name in ("metacopy", "redirect", "opaque"))


def hollow(path: Path, size: int, redirect: bytes | None = None) -> None:
    """A file of `size` bytes whose data is below."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    os.setxattr(path, METACOPY, b"")
    if redirect is not None:
        os.setxattr(path, REDIRECT, redirect)


@pytest.mark.parametrize(
    ("at", "redirect"),
    [
        ("d/file", None),
        ("d/other", b"file"),
        ("other", b"/d/file"),
        ("x/y/other", b"/d/file"),
    ],
)
@pytest.mark.parametrize("layer", ["upper", "lower0"])
def test_the_data_is_where_overlayfs_finds_it(layer: str, at: str, redirect: bytes | None, tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {})
    write_tree(tmp_path / "lower1", {"d": {"file": b"content"}})
    hollow(tmp_path / layer / at, 7, redirect)
    overlay = Mounted(tmp_path)
    assert overlay.read(at) == b"content"
    assert METACOPY in os.listxattr(tmp_path / layer / at)
    overlay.write(at, b"C")
    assert overlay.read(at) == b"Content"
    overlay.close()
    assert (tmp_path / "upper" / at).read_bytes() == b"Content"
    assert not {METACOPY, REDIRECT}.intersection(os.listxattr(tmp_path / "upper" / at))
    assert (tmp_path / "lower1" / "d" / "file").read_bytes() == b"content"


def test_one_that_leads_to_another(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower2", {"old": {"file": b"content"}})
    hollow(tmp_path / "lower1" / "old" / "file2", 7, b"file")
    (tmp_path / "lower0" / "new").mkdir(parents=True)
    os.setxattr(tmp_path / "lower0" / "new", REDIRECT, b"/old")
    hollow(tmp_path / "upper" / "new" / "file2", 7)
    overlay = Mounted(tmp_path)
    assert overlay.read("new/file2") == b"content"
    overlay.close()


def test_a_move_takes_the_data_with_it(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"d": {"file": b"content", "same": b"1234567"}, "e": {}})
    for name in ("file", "same"):
        hollow(tmp_path / "upper" / "d" / name, 7)
    overlay = Mounted(tmp_path)
    renamer = overlay.overlay.changes().renamer
    renamer.rename(overlay.name("d/file"), overlay.name("e/moved"), RenameFlags.NONE)
    renamer.rename(overlay.name("d"), overlay.name("e/d"), RenameFlags.NONE)
    renamer.rename(overlay.name("e/moved"), overlay.name("e/d/same"), RenameFlags.EXCHANGE)
    overlay.overlay.changes().creator.link(overlay.file_inode("e/d/same"), *overlay.name("link"))
    shown: Tree = {"e": {"moved": b"1234567", "d": {"same": b"content"}}, "link": b"content"}
    assert overlay.tree() == shown
    overlay.close()
    assert METACOPY in os.listxattr(tmp_path / "upper" / "link"), "no data was copied"
    again = Mounted(tmp_path)
    assert again.tree() == shown
    again.write("link", b"C")
    assert again.read("e/d/same") == b"Content"
    again.close()


def test_a_move_brings_the_data_where_no_path_leads_to_it(tmp_path: Path) -> None:
    """The directory in the lower is hidden from the root by one that was moved to its place."""
    write_tree(tmp_path / "lower1", {"a": {"file": b"content"}, "b": {"file": b"wrong!!"}})
    (tmp_path / "lower0" / "a").mkdir(parents=True)
    os.setxattr(tmp_path / "lower0" / "a", REDIRECT, b"/b")
    (tmp_path / "lower0" / "b").mkdir(parents=True)
    os.setxattr(tmp_path / "lower0" / "b", REDIRECT, b"/a")
    hollow(tmp_path / "upper" / "b" / "file", 7)
    overlay = Mounted(tmp_path)
    overlay.overlay.changes().renamer.rename(overlay.name("b/file"), overlay.name("moved"), RenameFlags.NONE)
    assert overlay.read("moved") == b"content"
    overlay.close()
    assert METACOPY not in os.listxattr(tmp_path / "upper" / "moved")


@pytest.mark.parametrize("redirect", [None, b"nothing", b"/nothing", b"/d/sub", b"../file", b"/d/../file", b""])
def test_data_that_is_nowhere_is_an_error(redirect: bytes | None, tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"d": {"sub": {}}, "file": b"content"})
    hollow(tmp_path / "upper" / "d" / "other", 7, redirect)
    overlay = Mounted(tmp_path)
    for access in (Access.READ, Access.READ_WRITE):
        with pytest.raises(OSError, match=r"overlay\.(metacopy|redirect)") as failed:
            overlay.overlay.files.open(overlay.file_inode("d/other"), access)
        assert failed.value.errno == errno.EIO
    overlay.close()


def test_an_opaque_directory_cuts_it_off(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"d": {"file": b"content"}})
    hollow(tmp_path / "upper" / "d" / "file", 7)
    os.setxattr(tmp_path / "upper" / "d", OPAQUE, b"y")
    overlay = Mounted(tmp_path)
    with pytest.raises(OSError, match=r"overlay\.metacopy"):
        overlay.read("d/file")
    overlay.close()


def test_bringing_the_data_changes_nothing_else(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"file": b"content"})
    held = tmp_path / "upper" / "file"
    hollow(held, 7)
    os.link(held, tmp_path / "upper" / "link")
    os.setxattr(held, "user.note", b"note")
    held.chmod(0o640)
    os.utime(held, ns=(1, 2))
    overlay = Mounted(tmp_path)
    before = overlay.overlay.tree.stat(overlay.inode("file"))
    overlay.overlay.files.release(overlay.overlay.files.open(overlay.file_inode("link"), Access.READ_WRITE))
    after = overlay.overlay.tree.stat(overlay.inode("file"))
    assert after._replace(ctime_ns=0, atime_ns=0, blocks=0) == before._replace(ctime_ns=0, atime_ns=0, blocks=0)
    overlay.close()
    assert METACOPY not in os.listxattr(held)
    assert os.getxattr(held, "user.note") == b"note"
    assert held.read_bytes() == b"content"
