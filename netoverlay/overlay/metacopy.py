"""Files of which a layer holds the attributes only: their data is in a layer below, until it is written to.

The kernel's overlayfs makes such files with the option metacopy=on ("Metadata only copy up" in overlayfs.rst): they
have the right size but no data, and the attribute overlay.metacopy. The data is in the layers below, under the name
that the file has, or under that which its overlay.redirect tells. In a lower they are read so; in the upper they get
their data when they are opened for writing. This program makes no such files; those that it marks so, to keep overlayfs
away from them (lazy_files.py), are told by the content of the mark.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Backend,
    BackendFile,
    Creation,
    FileStat,
    LayerPath,
    LockKind,
    RenameFlags,
    XattrMode,
    join_path,
    split_path,
)
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from netoverlay.backend_api.waiting import about_to_wait
from netoverlay.overlay.capabilities import attributes_kept
from netoverlay.overlay.content import copy_content
from netoverlay.overlay.layers import Layer, LayerStack, LowerPlace
from netoverlay.overlay.merge import Merge
from netoverlay.overlay.whiteouts import LayerFormat, OverlayfsFormat, lazy_token

logger = logging.getLogger(__name__)

_CANNOT_HOLD = frozenset({errno.ENOSPC, errno.E2BIG, errno.ERANGE})


def with_data_below(backend: Backend, format: LayerFormat, root: LayerPath, below: Sequence[Layer]) -> Backend:
    """The backend of a layer whose tree is at `root`, with the data of files that have theirs in the layers `below`."""
    if not isinstance(format, OverlayfsFormat):
        return backend
    return DataBelow(backend, format, root, tuple(below))


class DataBelow(DelegatingBackend):
    """Opens files that lack their data with it."""

    def __init__(self, inner: Backend, format: OverlayfsFormat, root: LayerPath, below: tuple[Layer, ...]) -> None:
        super().__init__(inner)
        self._format = format
        self._root = root
        self._merge = Merge(LayerStack(None, below))

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        """EIO if the data is nowhere: the file is not shown as if it were empty."""
        file = self.inner.open(path, access, create=create, truncate=truncate, mode=mode)
        if create is Creation.EXCLUSIVE:
            return file
        try:
            mark = self._format.data_mark(file)
            if mark is None:
                return file
            token = lazy_token(mark)
            if token is not None:
                return self.open_lazy(file, path, token)
            about_to_wait()
            data = self._open_data(path)
        except BaseException:
            file.close()
            raise
        if not access.writes:
            return _FileWithDataBelow(file, data)
        try:
            self._complete(file, data)
        except BaseException:
            file.close()
            raise
        finally:
            data.close()
        return file

    def open_lazy(self, file: BackendFile, path: LayerPath, token: str) -> BackendFile:
        """`file`, which was just opened and was copied up lazily, with all its data. Only the upper's can be had."""
        del file, token
        message = f"a part of its data is in a base: settle the profile that has written it (netoverlay settle): {path}"
        logger.error("%s", message)
        raise OSError(errno.EIO, message)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        """As overlayfs: a file that lacks its data takes the path of that with it."""
        self._before_move(old)
        if RenameFlags.EXCHANGE in flags:
            self._before_move(new)
        self.inner.rename(old, new, flags)

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        """As rename()."""
        self._before_move(existing)
        self.inner.link(existing, new)

    def _before_move(self, path: LayerPath) -> None:
        """Let the data be found from anywhere in the layer; where that cannot be written, bring it to the file."""
        if self._below_root(path) is None:
            return
        mark = self._format.data_mark_at(path)
        if mark is None or lazy_token(mark) is not None:  # whose map tells where the data is, wherever the file is
            return
        if (self._format.redirect(path) or "").startswith("/"):
            return
        place = self._place(path)
        absolute = f"/{place.path}"
        # A whiteout or redirect between the layers can make that path lead elsewhere from the root.
        if self._merge.data(absolute, (), "") == place:
            try:
                self._format.set_redirect(path, absolute)
            except OSError as error:
                if error.errno not in _CANNOT_HOLD:
                    raise
            else:
                return
        self.open(path, Access.READ_WRITE).close()

    def _open_data(self, path: LayerPath) -> BackendFile:
        layer, data_path = self._place(path)
        return layer.backend.open(data_path, Access.READ)

    def _place(self, path: LayerPath) -> LowerPlace:
        """Where the data of the file at `path` is; it may be one that lacks its data itself."""
        inside = self._below_root(path)
        place = None
        if inside is not None:
            directory, name = split_path(inside)
            place = self._merge.data(self._format.redirect(path), self._merged_below(directory), name)
        if place is None:
            raise OSError(errno.EIO, f"the data of a file is in no layer below: overlay.metacopy at {path!r}")
        return place

    def _merged_below(self, directory: LayerPath) -> tuple[LowerPlace, ...]:
        """The directories of the layers below that are merged into one of this layer, given from its root."""
        places = self._merge.root()
        path = self._root
        for name in directory.split("/") if directory else ():
            path = join_path(path, name)
            places = self._merge.below_directory(self._format, path, places)
        return places

    def _below_root(self, path: LayerPath) -> LayerPath | None:
        """`path` from the layer's root; None for what is in the work directory."""
        if not self._root:
            return path
        return path[len(self._root) + 1 :] if path.startswith(f"{self._root}/") else None

    def _complete(self, file: BackendFile, data: BackendFile) -> None:
        """Bring the data to a file that is open for writing.

        In place, as overlayfs does it, so that the file stays the same under all its names. Until the mark is taken
        away, all of it can be done again after a crash.
        """
        with attributes_kept(file):
            copy_content(data, file, file.stat().size)
        file.sync()
        self._format.mark_complete(file)


class _FileWithDataBelow(DelegatingFile):
    """A file that is open for reading: its data is another file's, all else its own."""

    def __init__(self, file: BackendFile, data: BackendFile) -> None:
        super().__init__(data)
        self._file = file

    def fileno(self) -> int | None:
        """None: the data's would lead a write into a base."""
        return None

    def stat(self) -> FileStat:
        return self._file.stat()

    def close(self) -> None:
        try:
            self.inner.close()
        finally:
            self._file.close()

    def sync(self, *, data_only: bool = False) -> None:
        self._file.sync(data_only=data_only)

    def set_attributes(self, change: AttributeChange) -> None:
        self._file.set_attributes(change)

    def get_xattr(self, name: str) -> bytes:
        return self._file.get_xattr(name)

    def list_xattrs(self) -> list[str]:
        return self._file.list_xattrs()

    def set_xattr(self, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self._file.set_xattr(name, value, mode)

    def remove_xattr(self, name: str) -> None:
        self._file.remove_xattr(name)

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        self._file.lock(kind, start, length)

    def lock_whole(self, kind: LockKind) -> None:
        self._file.lock_whole(kind)

    def revalidate(self) -> FileStat:
        return self._file.revalidate()
