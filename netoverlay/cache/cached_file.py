"""Open files whose content comes from the cache, and which open the file below only when they must."""

from __future__ import annotations

import abc
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from netoverlay.backend_api.backend import Backend, BackendFile, Writable
from netoverlay.backend_api.delegate import DelegatingFile
from netoverlay.backend_api.errors import NotSupportedError, StaleHandleError, os_error
from netoverlay.backend_api.places import FilePlace
from netoverlay.backend_api.types import Access, FileStat, LayerPath
from netoverlay.cache.blocks import BLOCK, Blocks, Reader
from netoverlay.cache.records import HEADER_BYTES
from netoverlay.cache.single_flight import SingleFlight


class Origin(NamedTuple):
    """The file that an open file stands for."""

    backend: Backend
    path: LayerPath
    stat: FileStat
    """When it was opened."""
    immutable: bool
    """It never changes, so nobody needs to look."""
    has_holes: bool
    """The layer tells where there is data."""


class LazyFile(DelegatingFile):
    """Opens the file below, for reading, at the first call that needs it, and never when none does.

    What has its name by then is what is opened. Where the layer tells file ids, another file is ESTALE.
    """

    def __init__(self, origin: Origin) -> None:
        # Without DelegatingFile.__init__, which would set `inner`.
        self._origin = origin
        self._openings: SingleFlight[None, bool] = SingleFlight()
        self._lock = threading.Lock()
        self._opened: BackendFile | None = None
        self._users = 0
        self._closed = False

    @property
    def inner(self) -> BackendFile:
        """The file below. EBADF after close()."""
        with self.use() as file:
            return file

    @inner.setter
    def inner(self, file: BackendFile) -> None:
        self._opened = file

    @property
    def is_closed(self) -> bool:
        return self._closed

    @property
    def place(self) -> FilePlace | None:
        """Of the file that this one stands for: known without opening it."""
        origin = self._origin
        try:
            return FilePlace.of(origin.backend.identity(), origin.path, origin.stat)
        except NotSupportedError:
            return None

    def unwrapped(self) -> BackendFile:
        """Itself: whoever copies it shall not open the file below in vain."""
        return self

    def seek_data(self, offset: int) -> int:
        self._require_holes("seek_data")
        return self.inner.seek_data(offset)

    def seek_hole(self, offset: int) -> int:
        self._require_holes("seek_hole")
        return self.inner.seek_hole(offset)

    def _require_holes(self, operation: str) -> None:
        if not self._origin.has_holes:
            raise NotSupportedError(operation)

    def fileno(self) -> int | None:
        """None: opening the file below would tell no more, for what is cached is not local."""
        return None

    @property
    def lost_locks(self) -> tuple[tuple[int, int], ...]:
        """What is not open below has no locks there."""
        with self._lock:
            file = self._opened
        return () if file is None else file.lost_locks

    def flush(self) -> None:
        """Nothing is written through it, and nothing opened for that."""

    def close(self) -> None:
        with self._lock:
            self._closed = True
            file = self._take_unused()
        if file is not None:
            file.close()

    @contextmanager
    def use(self) -> Iterator[BackendFile]:
        """The file below, which close() leaves open until the end of the block."""
        file = self._enter()
        try:
            yield file
        finally:
            with self._lock:
                self._users -= 1
                unused = self._take_unused() if self._closed else None
            if unused is not None:
                unused.close()

    def _enter(self) -> BackendFile:
        while (file := self._enter_opened()) is None:
            # Whoever waits fails with who opens it, lest each of many waits in turn for a server that is silent.
            self._openings.do(None, self._open_once)
        return file

    def _open_once(self) -> bool:
        """Always true; then it is open, or was closed meanwhile."""
        with self._lock:
            if self._opened is not None:
                return True
        file = self._open()
        with self._lock:
            self._opened = file
            unused = self._take_unused() if self._closed else None
        if unused is not None:
            unused.close()
        return True

    def _enter_opened(self) -> BackendFile | None:
        with self._lock:
            if self._closed:
                raise os_error(errno.EBADF, self._origin.path)
            if self._opened is not None:
                self._users += 1
            return self._opened

    def _take_unused(self) -> BackendFile | None:
        """The file below, to be closed, if nobody uses it."""
        if self._users:
            return None
        file, self._opened = self._opened, None
        return file

    def _open(self) -> BackendFile:
        origin = self._origin
        file = origin.backend.open(origin.path, Access.READ)
        if origin.immutable or origin.stat.file_id is None:
            return file
        try:
            file_id = file.stat().file_id
            if file_id != origin.stat.file_id:
                raise StaleHandleError(f"{origin.path!r} is another file than the one that was opened")
        except BaseException:
            file.close()
            raise
        return file


class CachedFile(LazyFile, abc.ABC):
    """Reads from the cache as long as the file is what it was when it was opened, then from the layer."""

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._changed = False

    @abc.abstractmethod
    def read_cached(self, offset: int, size: int) -> bytes:
        """As read_at(), of the content that was opened, within its size; `size` is not 0."""

    def read_into(self, offset: int, buffer: Writable) -> int:
        if self._has_changed():
            return self.inner.read_into(offset, buffer)
        view = memoryview(buffer)
        data = self.read_at(offset, len(view))
        view[: len(data)] = data
        return len(data)

    def revalidate(self) -> FileStat:
        now = self.inner.revalidate()
        if now.version != self._origin.stat.version:
            self._changed = True
        return now

    def read_at(self, offset: int, size: int) -> bytes:
        if self._closed:
            raise os_error(errno.EBADF, self._origin.path)
        if self._has_changed():
            return self.inner.read_at(offset, size)
        size = min(size, self._origin.stat.size - offset)
        return self.read_cached(offset, size) if size > 0 else b""

    def stat(self) -> FileStat:
        if self._has_changed():
            return self.inner.stat()
        return self._origin.stat

    def _has_changed(self) -> bool:
        """Whether the file was seen to change. One that was removed is still what it was."""
        origin = self._origin
        if origin.immutable or self._changed:
            return self._changed
        try:
            now = origin.backend.stat(origin.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if now.version != origin.stat.version and now.file_id == origin.stat.file_id:
            self._changed = True
        return self._changed


class WholeFile(CachedFile):
    """A small file: its bytes, or a descriptor of the store's entry."""

    def __init__(self, origin: Origin, content: int | bytes) -> None:
        """`content`: a descriptor, which this closes, or the bytes."""
        super().__init__(origin)
        self._descriptor = content if isinstance(content, int) else None
        self._data = content if isinstance(content, bytes) else b""
        self._readers = 0

    def read_cached(self, offset: int, size: int) -> bytes:
        if self._data:
            return self._data[offset : offset + size]
        descriptor = self._borrow()
        try:
            return b"" if descriptor is None else os.pread(descriptor, size, HEADER_BYTES + offset)
        finally:
            self._give_back()

    def seek_data(self, offset: int) -> int:
        """All of it is data: so little is not worth asking the layer, which may be out of reach."""
        return offset if self._is_within(offset) else super().seek_data(offset)

    def seek_hole(self, offset: int) -> int:
        """As seek_data()."""
        return self._origin.stat.size if self._is_within(offset) else super().seek_hole(offset)

    def _is_within(self, offset: int) -> bool:
        """Whether there is data at `offset`. ENXIO if there can be none; False if the layer has to be asked."""
        if self._closed or not self._origin.has_holes or self._has_changed():
            return False
        if not 0 <= offset < self._origin.stat.size:
            raise os_error(errno.ENXIO, self._origin.path)
        return True

    def close(self) -> None:
        super().close()
        if self._descriptor is not None:
            with self._lock:
                self._release()

    def _borrow(self) -> int | None:
        with self._lock:
            if self._closed:
                raise os_error(errno.EBADF, self._origin.path)
            self._readers += 1
            return self._descriptor

    def _give_back(self) -> None:
        with self._lock:
            self._readers -= 1
            if self._closed:
                self._release()

    def _release(self) -> None:
        """Close the descriptor once nobody reads: its number could be another file's at once."""
        if self._descriptor is not None and not self._readers:
            os.close(self._descriptor)
            self._descriptor = None


class BlockFile(CachedFile):
    """A large file, block by block."""

    def __init__(self, origin: Origin, key: str, blocks: Blocks) -> None:
        super().__init__(origin)
        self.key = key
        self._blocks = blocks
        self._reader = Reader(origin.stat.size)

    @property
    def size(self) -> int:
        return self._origin.stat.size

    def read_cached(self, offset: int, size: int) -> bytes:
        plan = self._reader.note(offset, size)
        self._blocks.ahead(self, plan.ahead)
        pieces: list[bytes] = []
        end = offset + size
        while offset < end:
            index, start = divmod(offset, BLOCK)
            wanted = min(end - offset, BLOCK - start)
            if plan.at_random:
                piece = self._blocks.read_part(self, index, start, wanted)
            elif wanted == min(BLOCK, self.size - index * BLOCK):
                piece = self._blocks.read_once(self, index)
            else:
                piece = self._blocks.read(self, index)[start : start + wanted]
            pieces.append(piece)
            if len(piece) < wanted:
                break  # it has changed, and is shorter now
            offset += wanted
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def fetch(self, offset: int, size: int) -> tuple[bytes, bool]:
        """As BlockSource.fetch()."""
        with self.use() as file:
            data = file.read_at(offset, size)
            is_ours = self._origin.immutable or file.stat().version == self._origin.stat.version
        if not is_ours:
            self._changed = True
        return data, is_ours
