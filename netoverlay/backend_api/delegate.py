"""A backend that hands every call to another: the base of caches and wrappers, which override what they change."""

from __future__ import annotations

from collections.abc import Sequence

from netoverlay.backend_api.backend import Backend, BackendFile, Readable, Writable
from netoverlay.backend_api.places import FilePlace, PlacedFile, place_of
from netoverlay.backend_api.types import (
    Access,
    AllocateMode,
    AttributeChange,
    Capabilities,
    Creation,
    DirEntry,
    FileStat,
    FileType,
    LayerPath,
    LockKind,
    NamedEntry,
    RenameFlags,
    SpaceUsage,
    XattrMode,
)
from netoverlay.backend_api.whole_files import FileContent, WantedFile, read_one_by_one


class DelegatingFile(PlacedFile):
    """Hands every call to `inner`."""

    def __init__(self, inner: BackendFile) -> None:
        self.inner = inner

    @property
    def place(self) -> FilePlace | None:
        return place_of(self.inner)

    def unwrapped(self) -> BackendFile:
        """The file below all wrappers; of one that has its own content, and may have opened none, that one itself."""
        return innermost(self.inner)

    def read_into(self, offset: int, buffer: Writable) -> int:
        return self.inner.read_into(offset, buffer)

    def read_at(self, offset: int, size: int) -> bytes:
        return self.inner.read_at(offset, size)

    def stat(self) -> FileStat:
        return self.inner.stat()

    def close(self) -> None:
        self.inner.close()

    def write_at(self, offset: int, data: Readable) -> None:
        self.inner.write_at(offset, data)

    def flush(self) -> None:
        self.inner.flush()

    def truncate(self, size: int) -> None:
        self.inner.truncate(size)

    def sync(self, *, data_only: bool = False) -> None:
        self.inner.sync(data_only=data_only)

    def set_attributes(self, change: AttributeChange) -> None:
        self.inner.set_attributes(change)

    def seek_data(self, offset: int) -> int:
        return self.inner.seek_data(offset)

    def seek_hole(self, offset: int) -> int:
        return self.inner.seek_hole(offset)

    def allocate(self, mode: AllocateMode, offset: int, length: int) -> None:
        self.inner.allocate(mode, offset, length)

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        """The backend that copies gets its own file, or one that tells it its place (places.py)."""
        source.flush()  # what its wrappers hold back is not there to be copied
        return self.inner.copy_range(innermost(source), source_offset, offset, length)

    def get_xattr(self, name: str) -> bytes:
        return self.inner.get_xattr(name)

    def list_xattrs(self) -> list[str]:
        return self.inner.list_xattrs()

    def set_xattr(self, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self.inner.set_xattr(name, value, mode)

    def remove_xattr(self, name: str) -> None:
        self.inner.remove_xattr(name)

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        self.inner.lock(kind, start, length)

    @property
    def lost_locks(self) -> tuple[tuple[int, int], ...]:
        return self.inner.lost_locks

    def lock_whole(self, kind: LockKind) -> None:
        self.inner.lock_whole(kind)

    def revalidate(self) -> FileStat:
        return self.inner.revalidate()

    def fileno(self) -> int | None:
        return self.inner.fileno()


def innermost(file: BackendFile) -> BackendFile:
    """The backend's own file, of what may be in wrappers (DelegatingFile.unwrapped())."""
    return file.unwrapped() if isinstance(file, DelegatingFile) else file


class DelegatingBackend(Backend):
    """Hands every call to `inner`."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    def connect(self) -> Capabilities:
        return self.inner.connect()

    def close(self) -> None:
        self.inner.close()

    def stat(self, path: LayerPath) -> FileStat:
        return self.inner.stat(path)

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        return self.inner.list_dir(path)

    def list_dirs(self, paths: Sequence[LayerPath]) -> list[list[DirEntry] | OSError]:
        """By list_dir(), as read_files()."""
        return super().list_dirs(paths)

    def list_names(self, paths: Sequence[LayerPath]) -> list[list[NamedEntry] | OSError]:
        """By list_dirs(), as read_files()."""
        return super().list_names(paths)

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        return self.inner.open(path, access, create=create, truncate=truncate, mode=mode)

    def read_files(self, wanted: Sequence[WantedFile], *, unchanging: bool) -> list[FileContent | OSError]:
        """By open(): to hand it on is up to subclasses, for it would pass by what they do there."""
        return read_one_by_one(self, wanted, unchanging=unchanging)

    def space_usage(self) -> SpaceUsage:
        return self.inner.space_usage()

    def identity(self) -> str:
        return self.inner.identity()

    def appearance(self) -> str:
        return self.inner.appearance()

    def asks_user(self) -> bool:
        return self.inner.asks_user()

    def connection_state(self) -> str:
        return self.inner.connection_state()

    def connection_problem(self) -> str | None:
        return self.inner.connection_problem()

    def readlink(self, path: LayerPath) -> str:
        return self.inner.readlink(path)

    def mkdir(self, path: LayerPath, mode: int) -> None:
        self.inner.mkdir(path, mode)

    def unlink(self, path: LayerPath) -> None:
        self.inner.unlink(path)

    def rmdir(self, path: LayerPath) -> None:
        self.inner.rmdir(path)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        self.inner.rename(old, new, flags)

    def symlink(self, path: LayerPath, target: str) -> None:
        self.inner.symlink(path, target)

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        self.inner.link(existing, new)

    def mknod(self, path: LayerPath, type: FileType, mode: int, rdev: int = 0) -> None:
        self.inner.mknod(path, type, mode, rdev)

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        self.inner.set_attributes(path, change)

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        return self.inner.get_xattr(path, name)

    def list_xattrs(self, path: LayerPath) -> list[str]:
        return self.inner.list_xattrs(path)

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self.inner.set_xattr(path, name, value, mode)

    def remove_xattr(self, path: LayerPath, name: str) -> None:
        self.inner.remove_xattr(path, name)

    def sync_directory(self, path: LayerPath) -> None:
        self.inner.sync_directory(path)

    def sync(self) -> None:
        self.inner.sync()
