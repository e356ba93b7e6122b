"""An overlay whose upper gathers what is written: attributes, errors and times are as if it did not."""

from __future__ import annotations

import errno

import pytest

from netoverlay.backend_api import Access, AttributeChange, Creation, RenameFlags
from netoverlay.testing.faulty_backend import FaultyBackend
from netoverlay.wrappers.write_back import WriteBackBackend
from tests.overlay.trees import Mounted, write_tree

OLD_NS = 1_000_000_000 * 10**9
NEVER = 3600.0


class RemoteUpper(WriteBackBackend):
    """Whoever wants to own the upper has a descriptor, as of a local one."""

    def open(self, path, access, *, create=Creation.NEVER, truncate=False, mode=0o600):
        if path.startswith("upper.work/lock"):
            return self.inner.open(path, access, create=create, truncate=truncate, mode=mode)
        return super().open(path, access, create=create, truncate=truncate, mode=mode)


class Mount:
    def __init__(self, directory):
        write_tree(directory / "lower0", {"base": b"of the base"})
        self.directory = directory
        self.mounted = Mounted(directory, wrap_upper=self.wrap)
        self.files = self.mounted.overlay.files
        self.tree = self.mounted.overlay.tree

    def wrap(self, local):
        self.faulty = FaultyBackend(local)
        return RemoteUpper(self.faulty, idle_seconds=NEVER)

    def open(self, path, access=Access.READ_WRITE):
        return self.files.open(self.mounted.file_inode(path), access)

    def write(self, handle, data, offset=0, **options):
        self.files.write(handle, offset, data, **{"clear_set_ids": True} | options)

    def sent(self, path):
        return (self.directory / "upper" / path).read_bytes()


@pytest.fixture
def mount(tmp_path):
    mount = Mount(tmp_path)
    yield mount
    mount.mounted.overlay.close()
    mount.tree.stack.upper.backend.close()


def test_attributes_are_those_of_the_open_file(mount):
    handle = mount.open("base")
    mount.write(handle, b"much longer than the base")
    assert mount.tree.stat(handle.inode).size == 25
    mount.write(handle, b"again", 25)
    assert mount.mounted.overlay.lookup.lookup(mount.tree.root, "base").stat.size == 30
    mount.files.release(handle)
    assert mount.sent("base") == b"much longer than the baseagain"
    assert mount.tree.stat(handle.inode).size == 30


def test_a_writer_without_privileges_asks_for_the_mode_once(mount):
    handle = mount.open("base")
    for number in range(10):
        mount.write(handle, b"x", number)
    assert mount.faulty.faults.calls["file.stat"] <= 2
    assert mount.faulty.faults.calls["file.write_at"] <= 2
    inode = handle.inode
    mount.mounted.overlay.changes().attributes.change(inode, AttributeChange(mode=0o4755))
    assert mount.tree.stat(inode).mode == 0o4755
    mount.write(handle, b"y", 0)
    assert mount.tree.stat(inode).mode == 0o755
    mount.files.release(handle)


def test_times_that_are_set_stay(mount):
    handle = mount.open("base")
    mount.write(handle, b"changed")
    mount.mounted.overlay.changes().attributes.change(handle.inode, AttributeChange(mtime_ns=OLD_NS))
    mount.files.release(handle)
    assert mount.tree.stat(handle.inode).mtime_ns == OLD_NS


def test_who_wrote_is_told_when_it_closes(mount):
    mount.mounted.create("file")
    writer, reader = mount.open("file"), mount.open("file", Access.READ)
    mount.faulty.faults.fail("file.write_at", error=errno.ENOSPC)
    mount.write(writer, b"data")
    mount.files.flush(reader)
    with pytest.raises(OSError, match="No space"):
        mount.files.flush(writer)
    mount.files.flush(writer)
    with pytest.raises(OSError, match="No space"):
        mount.files.sync(writer, data_only=False)
    mount.files.sync(writer, data_only=True)
    mount.files.release(reader)
    mount.files.release(writer)


def test_all_handles_read_what_was_written(mount):
    reader = mount.open("base", Access.READ)
    assert mount.files.read(reader, 0, 99) == b"of the base"
    writer = mount.open("base")
    mount.write(writer, b"IN")
    assert mount.files.read(reader, 0, 99) == b"IN the base"
    mount.files.release(writer)
    mount.files.release(reader)


def test_names_may_go_and_change_meanwhile(mount):
    mount.mounted.create("file", b"data")
    handle = mount.open("file")
    mount.write(handle, b"more", 4)
    mount.mounted.overlay.changes().renamer.rename(
        mount.mounted.name("file"), mount.mounted.name("moved"), RenameFlags.NONE
    )
    entry = mount.mounted.overlay.changes().creator.link(handle.inode, mount.tree.root, "linked")
    assert (entry.stat.size, entry.stat.nlink) == (8, 2)
    mount.mounted.unlink("moved")
    mount.write(handle, b"end", 8)
    mount.mounted.overlay.changes().attributes.change(handle.inode, AttributeChange(mtime_ns=OLD_NS))
    assert mount.tree.stat(handle.inode).size == 11
    mount.mounted.unlink("linked")
    mount.write(handle, b"!", 11)
    assert (mount.tree.stat(handle.inode).size, mount.tree.stat(handle.inode).nlink) == (12, 0)
    assert mount.files.read(handle, 0, 99) == b"datamoreend!"
    mount.files.release(handle)


def test_what_is_open_at_the_end_is_written(tmp_path):
    mount = Mount(tmp_path)
    handle = mount.open("base")
    mount.mounted.overlay.handles.add_file(handle)
    mount.write(handle, b"IN")
    mount.mounted.overlay.close()
    assert mount.sent("base") == b"IN the base"
    mount.tree.stack.upper.backend.close()


def test_a_file_that_is_closed_meanwhile_is_asked_by_its_name(mount):
    mount.mounted.create("file", b"data")
    handle = mount.open("file")
    inode, file = handle.inode, handle.inode.file
    told = file.stat

    def close_and_tell():
        stat = told()
        mount.files.release(handle)
        return stat._replace(size=99)

    file.stat = close_and_tell
    assert mount.tree.stat(inode).size == 4
