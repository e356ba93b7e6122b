"""Changes, what they show, what they leave in the upper, and what is there after a remount. The lowers never change."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, AttributeChange, RenameFlags
from netoverlay.overlay.owner import UpperHeldError
from tests.overlay.trees import ME, Mounted, Tree, read_tree, write_tree

BASE: Tree = {
    "file": b"content",
    "other": b"other content",
    "dir": {"a": b"A", "b": b"B", "sub": {"deep": b"D"}},
    "empty": {},
    "link": "file",
}


def rename(overlay: Mounted, old: str, new: str, flags: RenameFlags = RenameFlags.NONE) -> None:
    overlay.overlay.changes().renamer.rename(overlay.name(old), overlay.name(new), flags)


CHANGES: dict[str, tuple[Callable[[Mounted], None], Callable[[Tree], object]]] = {
    "write": (lambda o: o.write("file", b"CON"), lambda t: t.update(file=b"CONtent")),
    "write deep": (lambda o: o.write("dir/sub/deep", b"xy"), lambda t: t["dir"]["sub"].update(deep=b"xy")),
    "truncate": (
        lambda o: o.overlay.files.truncate(o.file_inode("file"), 3),
        lambda t: t.update(file=b"con"),
    ),
    "grow": (
        lambda o: o.overlay.files.truncate(o.file_inode("file"), 9),
        lambda t: t.update(file=b"content\0\0"),
    ),
    "create": (lambda o: o.create("dir/new", b"n"), lambda t: t["dir"].update(new=b"n")),
    "mkdir": (lambda o: o.mkdir("dir/new"), lambda t: t["dir"].update(new={})),
    "unlink": (lambda o: o.unlink("dir/a"), lambda t: t["dir"].pop("a")),
    "unlink, create": (
        lambda o: (o.unlink("file"), o.create("file", b"again")),
        lambda t: t.update(file=b"again"),
    ),
    "unlink, mkdir": (lambda o: (o.unlink("file"), o.mkdir("file")), lambda t: t.update(file={})),
    "rmdir": (lambda o: o.rmdir("empty"), lambda t: t.pop("empty")),
    "empty, rmdir, mkdir": (
        lambda o: (
            o.unlink("dir/sub/deep"),
            o.rmdir("dir/sub"),
            o.unlink("dir/a"),
            o.unlink("dir/b"),
            o.rmdir("dir"),
            o.mkdir("dir"),
        ),
        lambda t: t.update(dir={}),
    ),
    "rename file": (lambda o: rename(o, "file", "dir/moved"), lambda t: t["dir"].update(moved=t.pop("file"))),
    "rename file over file": (lambda o: rename(o, "file", "other"), lambda t: t.update(other=t.pop("file"))),
    "rename new over whiteout": (
        lambda o: (o.create("n", b"N"), o.unlink("file"), rename(o, "n", "file")),
        lambda t: t.update(file=b"N"),
    ),
    "rename new over lower": (
        lambda o: (o.create("n", b"N"), rename(o, "n", "file")),
        lambda t: t.update(file=b"N"),
    ),
    "rename directory": (lambda o: rename(o, "dir", "moved"), lambda t: t.update(moved=t.pop("dir"))),
    "rename directory deeper": (
        lambda o: rename(o, "dir", "empty/moved"),
        lambda t: t["empty"].update(moved=t.pop("dir")),
    ),
    "rename directory twice": (
        lambda o: (rename(o, "dir", "one"), rename(o, "one", "empty/two"), o.write("empty/two/sub/deep", b"!")),
        lambda t: (t["empty"].update(two=t.pop("dir")), t["empty"]["two"]["sub"].update(deep=b"!")),
    ),
    "rename directory and back": (
        lambda o: (rename(o, "dir", "one"), rename(o, "one", "dir")),
        lambda t: None,
    ),
    "rename directory over an empty one": (
        lambda o: rename(o, "dir", "empty"),
        lambda t: t.update(empty=t.pop("dir")),
    ),
    "rename directory over an emptied one": (
        lambda o: (o.mkdir("new"), o.create("new/x"), o.unlink("dir/sub/deep"), rename(o, "new", "dir/sub")),
        lambda t: t["dir"].update(sub={"x": b""}),
    ),
    "rename directory over a removed one": (
        lambda o: (o.rmdir("empty"), rename(o, "dir", "empty")),
        lambda t: t.update(empty=t.pop("dir")),
    ),
    "rename directory, make it again": (
        lambda o: (rename(o, "dir", "moved"), o.mkdir("dir"), o.create("dir/fresh")),
        lambda t: (t.update(moved=t["dir"]), t.update(dir={"fresh": b""})),
    ),
    "rename pure directory over a lower name": (
        lambda o: (o.mkdir("new"), o.create("new/x"), o.rmdir("empty"), rename(o, "new", "empty")),
        lambda t: t.update(empty={"x": b""}),
    ),
    "rename child out of a renamed directory": (
        lambda o: (rename(o, "dir", "moved"), rename(o, "moved/sub", "sub"), o.create("sub/n", b"1")),
        lambda t: (t.update(moved=t.pop("dir")), t.update(sub={**t["moved"].pop("sub"), "n": b"1"})),
    ),
    "exchange files": (
        lambda o: rename(o, "file", "dir/a", RenameFlags.EXCHANGE),
        lambda t: (t.update(file=b"A"), t["dir"].update(a=b"content")),
    ),
    "exchange file and directory": (
        lambda o: rename(o, "file", "dir", RenameFlags.EXCHANGE),
        lambda t: t.update(file=t["dir"], dir=t["file"]),
    ),
    "exchange directories": (
        lambda o: rename(o, "dir", "empty", RenameFlags.EXCHANGE),
        lambda t: t.update(dir=t["empty"], empty=t["dir"]),
    ),
    "symlink": (
        lambda o: o.overlay.changes().creator.symlink(*o.name("dir/s"), "../file", ME),
        lambda t: t["dir"].update(s="../file"),
    ),
    "rename symlink": (lambda o: rename(o, "link", "dir/link"), lambda t: t["dir"].update(link=t.pop("link"))),
    "link": (
        lambda o: (
            o.overlay.changes().creator.link(o.file_inode("file"), *o.name("dir/hard")),
            o.write("dir/hard", b"HARD"),
        ),
        lambda t: (t.update(file=b"HARDent"), t["dir"].update(hard=b"HARDent")),
    ),
    "link over a whiteout": (
        lambda o: (o.unlink("other"), o.overlay.changes().creator.link(o.file_inode("file"), *o.name("other"))),
        lambda t: t.update(other=b"content"),
    ),
}


def copy_of(tree: Tree) -> Tree:
    return {name: copy_of(content) if isinstance(content, dict) else content for name, content in tree.items()}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_change_is_seen_and_stays(tmp_path: Path, change: str, layers: int) -> None:
    if layers == 1:
        write_tree(tmp_path / "lower0", BASE)
    else:
        write_tree(tmp_path / "lower0", {"file": b"content", "dir": {"a": b"A", "sub": {}}})
        write_tree(tmp_path / "lower1", {**BASE, "dir": {"a": b"no", "b": b"B", "sub": {"deep": b"D"}}})
    before = [read_tree(path) for path in sorted(tmp_path.glob("lower*"))]
    act, expect = CHANGES[change]
    expected = copy_of(BASE)
    expect(expected)

    overlay = Mounted(tmp_path)
    act(overlay)
    assert overlay.tree() == expected
    overlay.close()
    assert set(os.listdir(tmp_path / "upper.work")) <= {"lock", "ctimes"}

    again = Mounted(tmp_path)
    assert again.tree() == expected
    again.close()
    assert [read_tree(path) for path in sorted(tmp_path.glob("lower*"))] == before


REFUSED: dict[str, tuple[Callable[[Mounted], None], type[OSError]]] = {
    "unlink absent": (lambda o: o.unlink("absent"), FileNotFoundError),
    "unlink directory": (lambda o: o.unlink("dir"), IsADirectoryError),
    "rmdir file": (lambda o: o.rmdir("file"), NotADirectoryError),
    "rmdir full": (lambda o: o.rmdir("dir"), OSError),
    "create existing": (lambda o: o.create("file"), FileExistsError),
    "mkdir existing": (lambda o: o.mkdir("dir"), FileExistsError),
    "mkdir over file": (lambda o: o.mkdir("file"), FileExistsError),
    "rename absent": (lambda o: rename(o, "absent", "x"), FileNotFoundError),
    "rename directory over file": (lambda o: rename(o, "dir", "file"), NotADirectoryError),
    "rename file over directory": (lambda o: rename(o, "file", "empty"), IsADirectoryError),
    "rename directory over full": (lambda o: rename(o, "empty", "dir"), OSError),
    "rename into itself": (lambda o: rename(o, "dir", "dir/sub/x"), OSError),
    "rename over its own directory": (lambda o: rename(o, "dir/sub", "dir"), OSError),
    "noreplace": (lambda o: rename(o, "file", "other", RenameFlags.NOREPLACE), FileExistsError),
    "exchange with absent": (lambda o: rename(o, "file", "absent", RenameFlags.EXCHANGE), FileNotFoundError),
    "link existing": (
        lambda o: o.overlay.changes().creator.link(o.file_inode("file"), *o.name("other")),
        FileExistsError,
    ),
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_refused_change_changes_nothing(tmp_path: Path, change: str) -> None:
    write_tree(tmp_path / "lower0", BASE)
    overlay = Mounted(tmp_path)
    act, error = REFUSED[change]
    with pytest.raises(error):
        act(overlay)
    assert overlay.tree() == BASE
    overlay.close()


def test_copy_up_keeps_attributes_and_inode_number(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", BASE)
    path = tmp_path / "lower0" / "dir" / "a"
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"\0\xff")
    os.utime(path, ns=(1_000_000_000_123_456_789, 1_500_000_000_987_654_321))
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    os.utime(path.parent, ns=(1_111_111_111_000_000_001, 1_222_222_222_000_000_002))
    overlay = Mounted(tmp_path)
    inode, directory = overlay.inode("dir/a"), overlay.inode("dir")
    before, number = overlay.overlay.tree.stat(inode), inode.ino
    overlay.overlay.changes().attributes.change(inode, AttributeChange(mode=0o600))
    assert inode.in_upper
    after = overlay.overlay.tree.stat(inode)
    kept = ("type", "size", "uid", "gid", "mtime_ns")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert (after.mode, before.mode) == (0o600, 0o640)
    assert overlay.overlay.xattrs.get(inode, "user.note") == b"\0\xff"
    assert overlay.overlay.xattrs.list(inode, privileged=True) == ["user.note"]
    assert overlay.overlay.tree.stat(directory).mtime_ns == 1_222_222_222_000_000_002
    overlay.close()
    again = Mounted(tmp_path)
    assert again.inode("dir/a").ino == number
    again.close()


def test_a_reader_sees_what_is_written_after_copy_up(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", BASE)
    overlay = Mounted(tmp_path)
    files = overlay.overlay.files
    reader = files.open(overlay.file_inode("file"), Access.READ)
    assert files.read(reader, 0, 100) == b"content"
    overlay.write("file", b"CON")
    assert files.read(reader, 0, 100) == b"CONtent"
    overlay.unlink("file")
    assert files.read(reader, 0, 100) == b"CONtent"
    assert overlay.overlay.tree.stat(reader.inode).nlink == 0
    files.release(reader)
    overlay.close()


def test_a_file_of_the_lower_is_written_after_its_name_is_gone(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", BASE)
    overlay = Mounted(tmp_path)
    files = overlay.overlay.files
    handle = files.open(overlay.file_inode("file"), Access.READ_WRITE)
    overlay.unlink("file")
    assert overlay.overlay.tree.stat(handle.inode).nlink == 0
    files.write(handle, 0, b"CON", clear_set_ids=False)
    assert files.read(handle, 0, 100) == b"CONtent"
    files.release(handle)
    assert "file" not in overlay.tree()
    overlay.close()
    assert read_tree(tmp_path / "lower0") == BASE


def test_all_names_of_a_hard_linked_base_file_follow_it(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"one": b"content", "d": {}})
    os.link(tmp_path / "lower0" / "one", tmp_path / "lower0" / "two")
    os.link(tmp_path / "lower0" / "one", tmp_path / "lower0" / "d" / "three")
    overlay = Mounted(tmp_path)
    assert overlay.inode("one") is overlay.inode("two")
    overlay.write("one", b"CON")
    assert overlay.read("two") == b"CONtent"
    assert overlay.read("d/three") == b"CONtent"
    assert overlay.inode("d/three") is overlay.inode("one")
    overlay.unlink("one")
    assert overlay.read("d/three") == b"CONtent"
    overlay.close()


def test_holes_stay_holes(tmp_path: Path) -> None:
    (tmp_path / "lower0").mkdir()
    with (tmp_path / "lower0" / "sparse").open("wb") as file:
        file.write(b"start")
        file.seek(5 << 30)
        file.write(b"end")
    overlay = Mounted(tmp_path)
    overlay.write("sparse", b"START")
    overlay.close()
    copy = (tmp_path / "upper" / "sparse").stat()
    assert copy.st_size == (5 << 30) + 3
    assert copy.st_blocks < 1000


def test_setuid_goes_with_a_change_of_owner_and_when_told(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"program": b"#!"})
    (tmp_path / "lower0" / "program").chmod(0o6755)
    overlay = Mounted(tmp_path)
    inode = overlay.file_inode("program")
    handle = overlay.overlay.files.open(inode, Access.READ_WRITE)
    overlay.overlay.files.write(handle, 0, b"x", clear_set_ids=False)
    assert overlay.overlay.tree.stat(inode).mode == 0o6755
    overlay.overlay.files.write(handle, 0, b"x", clear_set_ids=True)
    assert overlay.overlay.tree.stat(inode).mode == 0o755
    overlay.overlay.files.release(handle)
    overlay.overlay.changes().attributes.change(inode, AttributeChange(mode=0o4755))
    overlay.overlay.changes().attributes.change(inode, AttributeChange(uid=os.getuid()))
    assert overlay.overlay.tree.stat(inode).mode == 0o755
    overlay.close()


def test_a_directory_in_a_set_group_id_directory_inherits_both(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", BASE)
    (tmp_path / "lower0" / "dir").chmod(0o2775)
    overlay = Mounted(tmp_path)
    overlay.mkdir("dir/new")
    assert stat.S_IMODE((tmp_path / "upper" / "dir" / "new").stat().st_mode) == 0o2755
    overlay.close()


def test_one_mount_owns_an_upper(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", BASE)
    overlay = Mounted(tmp_path)
    with pytest.raises(UpperHeldError, match=rf"{tmp_path}/mnt, process {os.getpid()} on "):
        Mounted(tmp_path)
    overlay.close()
    Mounted(tmp_path).close()


def test_what_a_crash_left_in_the_work_directory_is_swept(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", BASE)
    write_tree(tmp_path / "upper.work", {"#0": b"part", "#1": {"x": {"y": b""}}})
    Mounted(tmp_path).close()
    assert set(os.listdir(tmp_path / "upper.work")) <= {"lock", "ctimes"}


def test_forgotten_inodes_leave_no_trace(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", BASE)
    overlay = Mounted(tmp_path)
    inodes = overlay.overlay.tree.inodes
    deep, sub, directory = overlay.inode("dir/sub/deep"), overlay.inode("dir/sub"), overlay.inode("dir")
    assert len(inodes) == 4
    for inode in (directory, sub, deep):
        inodes.forget(inode.nodeid, inode.lookups)
    assert len(inodes) == 1
    assert not overlay.overlay.tree.root.children
    overlay.close()


def test_what_is_moved_below_a_long_path_is_still_there(tmp_path: Path) -> None:
    """A rename can make paths longer than the kernel takes in one call."""
    name = "n" * 250
    deep: Tree = {"file": b"deep"}
    for _ in range(9):
        deep = {name: deep}
    write_tree(tmp_path / "lower0", {"one": deep, "other": deep})
    overlay = Mounted(tmp_path)
    below = "/".join([name] * 9)
    overlay.overlay.changes().renamer.rename(overlay.name("one"), overlay.name(f"other/{below}/one"), RenameFlags.NONE)
    far = f"other/{below}/one/{below}"
    assert overlay.read(f"{far}/file") == b"deep"
    overlay.write(f"{far}/file", b"D")
    overlay.create(f"{far}/new", b"new")
    assert overlay.tree(far) == {"file": b"Deep", "new": b"new"}
    overlay.unlink(f"{far}/file")
    overlay.close()
    again = Mounted(tmp_path)
    assert again.tree(far) == {"new": b"new"}
    again.close()


def test_a_refused_rename_leaves_the_source_as_it_was(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"source": {"x": b""}, "target": {"y": b""}})
    overlay = Mounted(tmp_path)
    before = overlay.overlay.tree.stat(overlay.inode("source"))
    with pytest.raises(OSError, match="not empty"):
        overlay.overlay.changes().renamer.rename(overlay.name("source"), overlay.name("target"), RenameFlags.NONE)
    assert overlay.overlay.tree.stat(overlay.inode("source")) == before
    assert os.listdir(tmp_path / "upper") == []
    overlay.close()
