"""What is made: files without names, and what is inherited from a default ACL, in place or over a whiteout."""

from __future__ import annotations

import itertools
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from netoverlay.backend_api import FileType
from netoverlay.overlay.acl import ACCESS, DEFAULT, inherit
from netoverlay.overlay.creation import Caller
from tests.overlay.trees import ME, Mounted, write_tree

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY = 0xFFFF_FFFF
FIFO = FileType.FIFO


def acl(*entries: tuple[int, int] | tuple[int, int, int]) -> bytes:
    padded = ((*entry, NOBODY)[:3] for entry in entries)
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in padded)


DEFAULTS = {
    "minimal": acl((USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 1)),
    "narrow owner": acl((USER_OBJ, 5), (GROUP_OBJ, 0), (OTHER, 0)),
    "named user": acl((USER_OBJ, 7), (USER, 6, 1234), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 4)),
    "narrow mask": acl((USER_OBJ, 6), (GROUP_OBJ, 7), (GROUP, 7, 1234), (MASK, 4), (OTHER, 7)),
    "mask alone": acl((USER_OBJ, 7), (GROUP_OBJ, 7), (MASK, 3), (OTHER, 0)),
}
MODES = (0o666, 0o600, 0o750, 0o4777, 0o000)


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A directory beside the layers, on the same file system."""
    path = tmp_path / "native"
    path.mkdir()
    return path


def shown(path: Path) -> tuple[int, dict[str, bytes]]:
    kept = {name: os.getxattr(path, name) for name in os.listxattr(path) if name in (ACCESS, DEFAULT)}
    return path.stat().st_mode, kept


@pytest.mark.parametrize("over_whiteout", [False, True], ids=["in place", "over a whiteout"])
@pytest.mark.parametrize("default", DEFAULTS.values(), ids=DEFAULTS.keys())
@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
def test_default_acls_are_inherited_as_on_a_native_directory(
    tmp_path: Path, native: Path, kind: str, default: bytes, over_whiteout: bool
) -> None:
    names = [f"{mode:o}-{umask:o}" for mode, umask in itertools.product(MODES, (0o022, 0o077))]
    write_tree(tmp_path / "lower0", {"dir": dict.fromkeys(names, b"") if over_whiteout else {}})
    for directory in (tmp_path / "lower0" / "dir", native):
        os.setxattr(directory, DEFAULT, default)
    overlay = Mounted(tmp_path)
    creator = overlay.overlay.changes().creator
    make_native: dict[str, Callable[[Path, int], object]] = {
        "file": lambda path, mode: os.close(os.open(path, os.O_CREAT | os.O_EXCL, mode)),
        "directory": lambda path, mode: path.mkdir(mode),
        "fifo": os.mkfifo,
    }
    make: dict[str, Callable[[str, int, Caller], object]] = {
        "file": lambda name, mode, caller: creator.create(*overlay.name(f"dir/{name}"), mode, caller).file.close(),
        "directory": lambda name, mode, caller: creator.mkdir(*overlay.name(f"dir/{name}"), mode & 0o1777, caller),
        "fifo": lambda name, mode, caller: creator.mknod(*overlay.name(f"dir/{name}"), FIFO, mode, 0, caller),
    }
    for name, (mode, umask) in zip(names, itertools.product(MODES, (0o022, 0o077)), strict=True):
        if over_whiteout:
            overlay.unlink(f"dir/{name}")
        before = os.umask(umask)
        try:
            make_native[kind](native / name, mode)
        finally:
            os.umask(before)
        make[kind](name, mode, Caller(ME.uid, ME.gid, umask))
    for name in names:
        assert shown(tmp_path / "upper" / "dir" / name) == shown(native / name), name
    overlay.close()


def test_without_a_default_acl_the_umask_counts() -> None:
    assert inherit(None, 0o6777, 0o027) == (0o6750, None, None)


@pytest.mark.parametrize("broken", [b"", b"\2\0\0", acl(), acl((USER_OBJ, 7)), b"\1" + DEFAULTS["minimal"][1:]])
def test_what_is_no_acl(broken: bytes) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        inherit(broken, 0o666, 0)


def test_a_file_without_a_name(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"dir": {"old": b"old"}})
    overlay = Mounted(tmp_path)
    made = overlay.overlay.changes().creator.tmpfile(overlay.directory_inode("dir"), 0o640, ME)
    assert (made.stat.nlink, made.stat.mode) == (0, 0o640)
    handle = overlay.overlay.files.adopt(made.inode, made.file)
    overlay.overlay.files.write(handle, 0, b"content", clear_set_ids=False)
    assert overlay.tree("dir") == {"old": b"old"}
    entry = overlay.overlay.changes().creator.link(made.inode, overlay.directory_inode("dir"), "named")
    assert (entry.inode, entry.stat.nlink) == (made.inode, 1)
    overlay.overlay.changes().creator.link(made.inode, overlay.directory_inode(""), "other")
    assert overlay.overlay.tree.stat(made.inode).nlink == 2
    overlay.overlay.files.release(handle)
    assert overlay.tree() == {"dir": {"old": b"old", "named": b"content"}, "other": b"content"}
    overlay.close()
    again = Mounted(tmp_path)
    assert again.tree() == {"dir": {"old": b"old", "named": b"content"}, "other": b"content"}
    again.close()


def test_a_file_that_never_got_a_name_is_gone_when_it_is_closed(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"dir": {}})
    overlay = Mounted(tmp_path)
    made = overlay.overlay.changes().creator.tmpfile(overlay.directory_inode("dir"), 0o640, ME)
    handle = overlay.overlay.files.adopt(made.inode, made.file)
    overlay.overlay.files.release(handle)
    assert set(os.listdir(tmp_path / "upper.work")) <= {"lock", "ctimes"}
    with pytest.raises(FileNotFoundError):
        overlay.overlay.changes().creator.link(made.inode, overlay.directory_inode("dir"), "named")
    overlay.close()


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "symlink", "link"])
def test_what_stands_in_a_directory_of_the_upper_alone_is_heeded(tmp_path: Path, kind: str) -> None:
    write_tree(tmp_path / "lower0", {})
    overlay = Mounted(tmp_path)
    overlay.mkdir("own")
    overlay.create("file", b"content")
    # From another mount of the upper: this one has not seen them.
    (tmp_path / "upper/own/taken").write_bytes(b"taken")
    os.mknod(tmp_path / "upper/own/hidden", stat.S_IFCHR, os.makedev(0, 0))
    creator = overlay.overlay.changes().creator
    make: dict[str, Callable[[str], object]] = {
        "file": overlay.create,
        "directory": overlay.mkdir,
        "fifo": lambda path: creator.mknod(*overlay.name(path), FIFO, 0o600, 0, ME),
        "symlink": lambda path: creator.symlink(*overlay.name(path), "target", ME),
        "link": lambda path: creator.link(overlay.file_inode("file"), *overlay.name(path)),
    }
    with pytest.raises(FileExistsError):
        make[kind]("own/taken")
    assert (tmp_path / "upper/own/taken").read_bytes() == b"taken"
    make[kind]("own/hidden")
    assert not stat.S_ISCHR(os.lstat(tmp_path / "upper/own/hidden").st_mode)
    assert set(os.listdir(tmp_path / "upper.work")) <= {"lock", "ctimes"}
    overlay.close()
