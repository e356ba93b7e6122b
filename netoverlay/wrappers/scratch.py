"""A layer with changes that are made in memory only: to see what putting it in order would give, without doing it.

Files can be written, made, renamed and removed, directories made, renamed and removed. That is what the journal of a
sidecar, its recovery and the maps of lazily copied files need; other changes are refused (EROFS). What is written to
is held in memory whole, so it is for such small files.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from typing import Final, NoReturn

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Backend,
    BackendFile,
    Creation,
    DirEntry,
    FileStat,
    FileType,
    LayerPath,
    Readable,
    RenameFlags,
    Writable,
    XattrMode,
    join_path,
    os_error,
    split_path,
)
from netoverlay.backend_api.delegate import DelegatingBackend


@dataclass(frozen=True, slots=True)
class _Moved:
    """Is what `inner` has at another path, with all that is in it."""

    path: LayerPath


@dataclass(slots=True)
class _Written:
    data: bytearray
    stat: FileStat


@dataclass(frozen=True, slots=True)
class _Made:
    """A directory, which `inner` does not have."""

    stat: FileStat


@dataclass(frozen=True, slots=True)
class _Gone:
    pass


_GONE: Final = _Gone()


class ScratchBackend(DelegatingBackend):
    """Shows `inner`, and over it the changes of this object. For one thread at a time that changes names."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self._changes: dict[LayerPath, _Moved | _Written | _Made | _Gone] = {}
        """By the path at which they show; what is below a path that is not here is as its directory says."""

    def stat(self, path: LayerPath) -> FileStat:
        found = self._find(path)
        if isinstance(found, _Written):
            return found.stat._replace(size=len(found.data))
        return found.stat if isinstance(found, _Made) else self.inner.stat(found)

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        found = self._find(path)
        if isinstance(found, _Written):
            raise os_error(errno.ENOTDIR, path)
        told = [] if isinstance(found, _Made) else self.inner.list_dir(found)
        changed = {split_path(place)[1]: place for place in self._changes if place and split_path(place)[0] == path}
        entries = [entry for entry in told if entry.name not in changed]
        return entries + [
            DirEntry(name, self.stat(place))
            for name, place in changed.items()
            if not isinstance(self._changes[place], _Gone)
        ]

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        if create is Creation.EXCLUSIVE:
            self._require_free(path)
            stat = FileStat(FileType.REGULAR, 0, mode, None, None, time.time_ns())
            self._changes[path] = _Written(bytearray(), stat)
        found = self._find(path)
        if isinstance(found, _Made):
            raise os_error(errno.EISDIR, path)
        if isinstance(found, str):
            if not access.writes and not truncate:
                return self.inner.open(found, access)
            found = self._copied(path, found)
        if truncate:
            found.data.clear()
        return _ScratchFile(found, access)

    def readlink(self, path: LayerPath) -> str:
        return self.inner.readlink(self._told(path))

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        return self.inner.get_xattr(self._told(path), name)

    def list_xattrs(self, path: LayerPath) -> list[str]:
        return self.inner.list_xattrs(self._told(path))

    def mkdir(self, path: LayerPath, mode: int) -> None:
        self._require_free(path)
        self._changes[path] = _Made(FileStat(FileType.DIRECTORY, 0, mode, None, None, time.time_ns()))

    def unlink(self, path: LayerPath) -> None:
        if self.stat(path).type is FileType.DIRECTORY:
            raise os_error(errno.EISDIR, path)
        self._changes[path] = _GONE

    def rmdir(self, path: LayerPath) -> None:
        if self.list_dir(path):
            raise os_error(errno.ENOTEMPTY, path)
        self._drop_below(path)
        self._changes[path] = _GONE

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        if flags & ~RenameFlags.NOREPLACE:
            _refuse()
        if flags:
            self._require_free(new)
        found = self._find(old)
        if isinstance(found, str):
            self.inner.stat(found)
        moved = self._drop_below(old)
        self._drop_below(new)
        self._changes[old] = _GONE
        self._changes[new] = _Moved(found) if isinstance(found, str) else found
        for path, change in moved.items():
            self._changes[new + path[len(old) :]] = change

    def symlink(self, path: LayerPath, target: str) -> None:  # noqa: ARG002 - the seam's signature, as below
        _refuse()

    def link(self, existing: LayerPath, new: LayerPath) -> None:  # noqa: ARG002
        _refuse()

    def mknod(self, path: LayerPath, type: FileType, mode: int, rdev: int = 0) -> None:  # noqa: ARG002
        _refuse()

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:  # noqa: ARG002
        _refuse()

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:  # noqa: ARG002
        _refuse()

    def remove_xattr(self, path: LayerPath, name: str) -> None:  # noqa: ARG002
        _refuse()

    def sync_directory(self, path: LayerPath) -> None:
        pass

    def sync(self) -> None:
        pass

    def _find(self, path: LayerPath) -> _Written | _Made | LayerPath:
        """What shows at `path`; a path of `inner` that is not asked whether it is there. ENOENT, ENOTDIR."""
        place = path
        while True:
            change = self._changes.get(place)
            if change is not None:
                break
            if not place:
                return path
            place = split_path(place)[0]
        if isinstance(change, _Moved):
            return change.path + path[len(place) :]
        if isinstance(change, _Written) and place != path:
            raise os_error(errno.ENOTDIR, path)
        if isinstance(change, _Gone) or place != path:
            raise os_error(errno.ENOENT, path)
        return change

    def _told(self, path: LayerPath) -> LayerPath:
        """The path at which `inner` has it. ENODATA for what was made here: it has no attributes."""
        found = self._find(path)
        if not isinstance(found, str):
            raise os_error(errno.ENODATA, path)
        return found

    def _require_free(self, path: LayerPath) -> None:
        try:
            self.stat(path)
        except FileNotFoundError:
            self.stat(split_path(path)[0])
        else:
            raise os_error(errno.EEXIST, path)

    def _copied(self, path: LayerPath, told: LayerPath) -> _Written:
        with self.inner.open(told, Access.READ) as file:
            stat = file.stat()
            written = _Written(bytearray(file.read_at(0, stat.size)), stat)
        self._changes[path] = written
        return written

    def _drop_below(self, path: LayerPath) -> dict[LayerPath, _Moved | _Written | _Made | _Gone]:
        """Forget the changes below `path`, and tell which they were."""
        prefix = join_path(path, "")
        return {place: self._changes.pop(place) for place in list(self._changes) if place.startswith(prefix)}


class _ScratchFile(BackendFile):
    """A file whose content is in memory."""

    def __init__(self, written: _Written, access: Access) -> None:
        self._written = written
        self._access = access

    def read_into(self, offset: int, buffer: Writable) -> int:
        if not self._access.reads:
            raise os_error(errno.EBADF)
        data = self._written.data[offset : offset + len(buffer)]
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def stat(self) -> FileStat:
        return self._written.stat._replace(size=len(self._written.data))

    def write_at(self, offset: int, data: Readable) -> None:
        content = self._written.data
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        content = self._written.data
        del content[size:]
        content.extend(bytes(size - len(content)))

    def sync(self, *, data_only: bool = False) -> None:
        pass

    def close(self) -> None:
        pass


def _refuse() -> NoReturn:
    raise os_error(errno.EROFS)
