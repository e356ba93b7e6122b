"""An upper with a sidecar, on a poor server in memory: how the tests make it, look at it, and let it die."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from netoverlay.backend_api import Access, Backend, Capabilities, Creation, FileType, LayerPath, join_path
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.testing.memory_tree import MemoryTree
from netoverlay.testing.suite.layer import Layer
from netoverlay.wrappers.sidecar import SidecarBackend

WORK = "up.work"
JOURNAL = f"{WORK}/attributes.jsonl"
LIKE_SFTP = Capabilities(writable=True, modes=True, owners=True, symlinks=True, hard_links=True, atomic_replace=True)
NEVER = 3600.0
"""Seconds: nothing is written to the journal but when it must be."""
NULL_DEVICE = 0x103


class Seen(NamedTuple):
    """All that a name shows, but for times that nobody set."""

    type: FileType
    mode: int | None
    owner: tuple[int | None, int | None]
    rdev: int | None
    file_id: int | None
    xattrs: tuple[tuple[str, bytes], ...]
    content: bytes | str | None


class Server:
    """What outlives a mount."""

    def __init__(self, claims: Capabilities = LIKE_SFTP) -> None:
        self.claims = claims
        self.tree = MemoryTree(claims.time_granularity_ns)
        with self.plain() as plain:
            plain.mkdir("up", 0o755)

    @contextmanager
    def plain(self) -> Iterator[Backend]:
        """Another client, which knows nothing of sidecars."""
        with MemoryBackend(self.claims, self.tree) as plain:
            plain.connect()
            yield plain

    def backend(
        self, wrap: Callable[[Backend], Backend] = lambda inner: inner, flush_seconds: float = NEVER
    ) -> SidecarBackend:
        """A mount's, not connected."""
        return SidecarBackend(wrap(MemoryBackend(self.claims, self.tree)), WORK, flush_seconds=flush_seconds)

    @contextmanager
    def mounted(
        self, wrap: Callable[[Backend], Backend] = lambda inner: inner, flush_seconds: float = NEVER
    ) -> Iterator[SidecarBackend]:
        with self.backend(wrap, flush_seconds) as backend:
            backend.connect()
            yield backend

    def names(self, path: LayerPath = "up") -> list[str]:
        """What the plain client lists."""
        with self.plain() as plain:
            return sorted(entry.name for entry in plain.list_dir(path))

    def journal(self) -> bytes:
        with self.plain() as plain:
            return Layer(plain, self.claims, "").read(JOURNAL)

    def write_journal(self, data: bytes) -> None:
        with self.plain() as plain, plain.open(JOURNAL, Access.WRITE, truncate=True) as file:
            file.write_at(0, data)


def die(backend: SidecarBackend) -> None:
    """The process is killed: nothing is written any more."""
    backend._journal._closed = True
    backend._journal._closing.set()
    backend._journal._wanted.set()


def make(backend: Backend, path: LayerPath, data: bytes = b"", mode: int = 0o644) -> None:
    with backend.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=mode) as file:
        file.write_at(0, data)


def read(backend: Backend, path: LayerPath) -> bytes:
    with backend.open(path, Access.READ) as file:
        return file.read_at(0, file.stat().size + 1)


def seen(backend: Backend, path: LayerPath) -> Seen:
    """By every way to look at it; they must agree."""
    stat = backend.stat(path)
    content = None
    if stat.type is FileType.REGULAR:
        content = read(backend, path)
    elif stat.type is FileType.SYMLINK:
        content = backend.readlink(path)
    xattrs = tuple(sorted((name, backend.get_xattr(path, name)) for name in backend.list_xattrs(path)))
    return Seen(stat.type, stat.mode, (stat.uid, stat.gid), stat.rdev, stat.file_id, xattrs, content)


def shown(backend: Backend, path: LayerPath = "") -> dict[LayerPath, Seen]:
    """Everything below `path`, but for the journal."""
    found = {}
    for name, stat in backend.list_dir(path):
        child = join_path(path, name)
        if child in (JOURNAL, f"{JOURNAL}.new"):
            continue
        found[child] = seen(backend, child)
        assert (stat.type, stat.mode, stat.rdev) == (found[child].type, found[child].mode, found[child].rdev)
        if stat.type is FileType.DIRECTORY:
            found |= shown(backend, child)
    return found


def is_whiteout(backend: Backend, path: LayerPath) -> bool:
    stat = backend.stat(path)
    return (stat.type, stat.rdev) == (FileType.CHARACTER_DEVICE, 0)


def absent(backend: Backend, path: LayerPath) -> bool:
    try:
        backend.stat(path)
    except OSError as error:
        return error.errno == errno.ENOENT
    return False
