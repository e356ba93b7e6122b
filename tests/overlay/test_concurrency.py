"""Many threads change one tree at once: locks are taken in order (trees.py turns the check on), what is shown stays."""

from __future__ import annotations

import errno
import random
import threading
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, AttributeChange, RenameFlags
from netoverlay.overlay.inodes import DirectoryInode, FileInode, Name
from tests.overlay.trees import ME, Mounted, Tree, write_tree

THREADS = 8
STEPS = 250
NAMES = [f"n{number}" for number in range(5)]
EXPECTED = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EINVAL,
    errno.ESTALE,
    errno.EPERM,
}
"""What a program may be told when others change the tree under it."""


class Worker(threading.Thread):
    """Does random things, holding and forgetting inodes as the kernel does."""

    def __init__(self, mounted: Mounted, seed: int) -> None:
        super().__init__(daemon=True)
        self.overlay = mounted.overlay
        self.rng = random.Random(seed)
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            for _ in range(STEPS):
                try:
                    self.step()
                except OSError as error:
                    if error.errno not in EXPECTED:
                        raise
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self.failure = error

    def step(self) -> None:
        held: list[int] = []
        try:
            directory = self.walk(held)
            name = self.rng.choice(NAMES)
            action = self.rng.choice(
                [self.create, self.mkdir, self.remove, self.rename, self.write, self.list, self.change, self.link]
            )
            action(directory, name, held)
        finally:
            for nodeid in held:
                self.overlay.tree.inodes.forget(nodeid)

    def walk(self, held: list[int]) -> DirectoryInode:
        directory = self.overlay.tree.root
        for _ in range(self.rng.randrange(4)):
            entry = self.overlay.lookup.lookup(directory, self.rng.choice(NAMES))
            if entry is None:
                break
            held.append(entry.inode.nodeid)
            if isinstance(entry.inode, DirectoryInode):
                directory = entry.inode
        return directory

    def create(self, directory: DirectoryInode, name: str, held: list[int]) -> None:
        made = self.overlay.changes().creator.create(directory, name, 0o644, ME)
        held.append(made.inode.nodeid)
        handle = self.overlay.files.adopt(made.inode, made.file)
        self.overlay.files.write(handle, 0, name.encode(), clear_set_ids=False)
        self.overlay.files.release(handle)

    def mkdir(self, directory: DirectoryInode, name: str, held: list[int]) -> None:
        held.append(self.overlay.changes().creator.mkdir(directory, name, 0o755, ME).inode.nodeid)

    def remove(self, directory: DirectoryInode, name: str, held: list[int]) -> None:
        remover = self.overlay.changes().remover
        self.rng.choice([remover.unlink, remover.rmdir])(directory, name)

    def rename(self, directory: DirectoryInode, name: str, held: list[int]) -> None:
        flags = self.rng.choice([RenameFlags.NONE, RenameFlags.NONE, RenameFlags.NOREPLACE, RenameFlags.EXCHANGE])
        new = Name(self.walk(held), self.rng.choice(NAMES))
        self.overlay.changes().renamer.rename(Name(directory, name), new, flags)

    def link(self, directory: DirectoryInode, name: str, held: list[int]) -> None:
        entry = self.overlay.lookup.lookup(directory, name)
        if entry is not None:
            held.append(entry.inode.nodeid)
            if isinstance(entry.inode, FileInode):
                made = self.overlay.changes().creator.link(entry.inode, self.walk(held), self.rng.choice(NAMES))
                held.append(made.inode.nodeid)

    def write(self, directory: DirectoryInode, name: str, held: list[int]) -> None:
        entry = self.overlay.lookup.lookup(directory, name)
        if entry is None:
            return
        held.append(entry.inode.nodeid)
        if isinstance(entry.inode, FileInode):
            handle = self.overlay.files.open(entry.inode, Access.READ_WRITE)
            try:
                self.overlay.files.read(handle, 0, 100)
                self.overlay.files.write(handle, self.rng.randrange(50), b"written", clear_set_ids=False)
                assert b"written" in self.overlay.files.read(handle, 0, 100)
            finally:
                self.overlay.files.release(handle)

    def change(self, directory: DirectoryInode, name: str, held: list[int]) -> None:
        entry = self.overlay.lookup.lookup(directory, name)
        if entry is not None:
            held.append(entry.inode.nodeid)
            mode = 0o755 if isinstance(entry.inode, DirectoryInode) else 0o600
            self.overlay.changes().attributes.change(entry.inode, AttributeChange(mode=mode))

    def list(self, directory: DirectoryInode, name: str, held: list[int]) -> None:
        handle = self.overlay.directories.open(directory)
        try:
            with directory.directory_lock:
                for *_, listed in self.overlay.directories.read_locked(handle, 0):
                    if listed is not None:
                        entry = self.overlay.directories.entry_locked(handle, listed)
                        if entry is not None:
                            held.append(entry.inode.nodeid)
        finally:
            self.overlay.directories.release(handle)


@pytest.mark.parametrize("seed", range(6))
def test_what_many_threads_left_is_there_after_a_remount(tmp_path: Path, seed: int) -> None:
    base: Tree = {"n0": {"n1": b"base", "n2": {"n3": b"deep"}}, "n3": b"file", "n4": {"n0": {}, "n1": b"x"}}
    write_tree(tmp_path / "lower0", base)
    write_tree(tmp_path / "lower1", {"n0": {"n4": b"below"}, "n1": {"n0": b"below"}})
    mounted = Mounted(tmp_path)
    workers = [Worker(mounted, seed * 100 + number) for number in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive(), "deadlock"
        if worker.failure is not None:
            raise worker.failure
    inodes = mounted.overlay.tree.inodes
    assert len(inodes) == 1, "what every thread has forgotten is still known"
    shown = mounted.tree()
    mounted.close()
    again = Mounted(tmp_path)
    assert again.tree() == shown
    again.close()
