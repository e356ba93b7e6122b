"""Changes in memory: shown as if they had been made, and never made."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from netoverlay.backend_api import Access, AttributeChange, Backend, Creation, FileType, RenameFlags, join_path
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.wrappers.guard import GuardedBackend
from netoverlay.wrappers.scratch import ScratchBackend
from tests.wrappers.sidecars import make, read


@pytest.fixture
def inner() -> Iterator[Backend]:
    with MemoryBackend() as backend:
        backend.connect()
        for path in ("a", "a/b", "a/b/c", "empty"):
            backend.mkdir(path, 0o755)
        for path in ("file", "a/one", "a/b/two"):
            make(backend, path, path.encode())
        yield backend


@pytest.fixture
def scratch(inner: Backend) -> Iterator[Backend]:
    before = content(inner)
    yield ScratchBackend(GuardedBackend(inner, lost=lambda: True))
    assert content(inner) == before


def content(backend: Backend, path: str = "") -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for name, stat in backend.list_dir(path):
        child = join_path(path, name)
        assert backend.stat(child)[:3] == stat[:3]
        if stat.type is FileType.DIRECTORY:
            found |= {child: None, **content(backend, child)}
        else:
            found[child] = read(backend, child)
    return found


def fails(code: int, call, *arguments) -> None:
    with pytest.raises(OSError, match=os.strerror(code)) as raised:
        call(*arguments)
    assert raised.value.errno == code


def test_what_is_not_changed_is_what_is_there(scratch: Backend, inner: Backend) -> None:
    assert content(scratch) == content(inner)
    assert scratch.stat("file") == inner.stat("file")


def test_files_are_written_made_and_removed(scratch: Backend) -> None:
    with scratch.open("file", Access.READ_WRITE) as file:
        file.write_at(6, b"longer")
        assert file.read_at(0, 99) == b"file\0\0longer"
        file.truncate(11)
        file.sync()
    make(scratch, "a/new", b"new")
    scratch.unlink("a/one")
    shown = content(scratch)
    assert (shown["file"], shown["a/new"], shown.get("a/one")) == (b"file\0\0longe", b"new", None)
    assert scratch.open("file", Access.WRITE, truncate=True).stat().size == 0
    fails(errno.ENOENT, scratch.stat, "a/one")
    fails(errno.EEXIST, make, scratch, "a/new")
    fails(errno.ENOENT, make, scratch, "none/new")


def test_what_is_in_a_directory_moves_with_it(scratch: Backend) -> None:
    make(scratch, "a/b/new", b"new")
    scratch.unlink("a/b/two")
    scratch.rename("a", "empty")
    scratch.rename("file", "empty/b/file", RenameFlags.NOREPLACE)
    expected = {"empty": None, "empty/b": None, "empty/b/c": None, "empty/b/new": b"new", "empty/b/file": b"file"}
    assert content(scratch) == {**expected, "empty/one": b"a/one"}
    scratch.rename("empty/b", "b")
    scratch.rename("empty/one", "b/new")
    assert content(scratch) == {"empty": None, "b": None, "b/c": None, "b/new": b"a/one", "b/file": b"file"}
    fails(errno.EEXIST, scratch.rename, "b/new", "b/file", RenameFlags.NOREPLACE)
    fails(errno.ENOENT, scratch.rename, "file", "other")


def test_directories_are_made_and_removed(scratch: Backend) -> None:
    scratch.mkdir("made", 0o700)
    make(scratch, "made/file", b"x")
    fails(errno.ENOTEMPTY, scratch.rmdir, "made")
    scratch.unlink("made/file")
    scratch.rmdir("made")
    scratch.rmdir("a/b/c")
    fails(errno.EEXIST, scratch.mkdir, "a", 0o700)
    fails(errno.EISDIR, scratch.unlink, "a")
    scratch.rmdir("empty")
    scratch.mkdir("empty", 0o700)
    assert sorted(content(scratch)) == ["a", "a/b", "a/b/two", "a/one", "empty", "file"]


def test_other_changes_are_refused(scratch: Backend) -> None:
    fails(errno.EROFS, scratch.symlink, "link", "target")
    fails(errno.EROFS, scratch.link, "file", "other")
    fails(errno.EROFS, scratch.mknod, "fifo", FileType.FIFO, 0o600)
    fails(errno.EROFS, scratch.set_attributes, "file", AttributeChange(mode=0))
    fails(errno.EROFS, scratch.set_xattr, "file", "user.a", b"")
    fails(errno.EROFS, scratch.remove_xattr, "file", "user.a")
    fails(errno.EROFS, scratch.rename, "file", "a", RenameFlags.EXCHANGE)
    with scratch.open("made", Access.WRITE, create=Creation.EXCLUSIVE) as file:
        fails(errno.EBADF, file.read_at, 0, 1)
