"""The backend of an upper that may hold lazily copied files: opens them with their data, and lets maps go with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Backend,
    BackendFile,
    Capabilities,
    DirEntry,
    FileStat,
    FileType,
    LayerPath,
    RenameFlags,
    split_path,
)
from netoverlay.backend_api.waiting import about_to_wait, is_interrupted
from netoverlay.overlay.layers import Layer
from netoverlay.overlay.lazy_file import PartialFile
from netoverlay.overlay.lazy_files import LAZY_BYTES, LazyFiles
from netoverlay.overlay.metacopy import DataBelow
from netoverlay.overlay.whiteouts import OverlayfsFormat, lazy_token

_OWNER_MAY: Final = 0o600


class LazyUpper(DataBelow):
    """Around the backend of a local upper."""

    def __init__(
        self,
        inner: Backend,
        format: OverlayfsFormat,
        capabilities: Capabilities,
        root: LayerPath,
        work: LayerPath,
        below: Sequence[Layer],
        *,
        larger_than: int = LAZY_BYTES,
    ) -> None:
        """`larger_than`: of how many bytes a file must be more to be copied lazily."""
        super().__init__(inner, format, root, tuple(below))
        self._marks = format
        self.files = LazyFiles(inner, format, capabilities, work, below, larger_than=larger_than)
        self.moves = 0
        """Another number after every change of a name."""

    def open_lazy(self, file: BackendFile, path: LayerPath, token: str) -> BackendFile:
        del path
        return self.files.open(file, token)

    def token_at(self, path: LayerPath) -> str | None:
        """The name of the map of the file at `path`, None if that has none."""
        return lazy_token(self._marks.data_mark_at(path))

    def stat(self, path: LayerPath) -> FileStat:
        return self.files.times.steady(self.inner.stat, path)

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        return self.files.times.steady(self.inner.list_dir, path)

    def unlink(self, path: LayerPath) -> None:
        token = self._last_token(path)
        self.inner.unlink(path)
        self._forget(token, path)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        replaces = old != new and not flags & (RenameFlags.EXCHANGE | RenameFlags.NOREPLACE)
        replaced = self._last_token(new) if replaces else None
        self.moves += 1
        super().rename(old, new, flags)
        self.moves += 1
        self._forget(replaced, new)

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        self.moves += 1
        super().link(existing, new)
        self.moves += 1

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        if self.files.hinders(change) and self.token_at(path) is not None:
            about_to_wait()
            with self.open_to_complete(path) as file:
                if isinstance(file, PartialFile):
                    file.complete(is_interrupted, id)
        self.inner.set_attributes(path, change)

    def open_to_complete(self, path: LayerPath) -> BackendFile:
        """Open for reading and writing, also what its owner, an ordinary user, may not write."""
        try:
            return self.open(path, Access.READ_WRITE)
        except PermissionError:
            mode = self.inner.stat(path).mode or 0
        self.inner.set_attributes(path, AttributeChange(mode=mode | _OWNER_MAY))
        try:
            return self.open(path, Access.READ_WRITE)
        finally:
            self.inner.set_attributes(path, AttributeChange(mode=mode))

    def sync(self) -> None:
        self.files.sync()

    def _forget(self, token: str | None, path: LayerPath) -> None:
        """The file that had the name `path`, and that map, is gone: for good, before its map goes."""
        if token is not None:
            self.inner.sync_directory(split_path(path)[0])
            self.files.forget(token)

    def _last_token(self, path: LayerPath) -> str | None:
        """The name of the map of the file that would be gone if it lost the name `path`."""
        if not self.files.tokens():
            return None
        try:
            stat = self.inner.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return self.token_at(path) if stat.type is FileType.REGULAR and stat.nlink == 1 else None
