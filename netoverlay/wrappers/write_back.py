"""Write-back: what programs write is gathered in memory, and sent in large requests, many in flight.

A write returns when its data is copied; the outbox sends it (outbox.py). Bounded: a writer waits while the mount has
more than the limit to send. What was written is read back from memory. Everything else that is asked of the file, its
attributes as well, comes after what was written has been sent, as on NFS: so sizes and times are the layer's own, and
nothing is reordered.

What programs are told of errors:

- A failed write-out (ENOSPC, EDQUOT, EIO, ESTALE, ...) drops the data that could not be written. The next flush
  (close(2)) and the next sync (fsync(2)) fail with its error, each once for every such failure, and so does the next
  write, if it comes before them; then it is forgotten, as by Linux (errseq). All handles of a file share one open file:
  of several programs that write to one file, the first that calls is told.
- If the layer cannot be reached the data stays, and is sent again. Flush, sync, and whatever else needs it to be there,
  fail as long as it is not; a write fails only if there is no more room. With the last close the data is given up.
- Sync returns when all of it was written and the layer has synced. Where the layer could not be reached after some of
  it was sent, the next sync fails once even if the rest arrives: the server may have lost what it had not synced.

Names that were links of one file before it was opened show what was written when it has been sent. Whoever else has a
file open, for writing too, ends the gathering: then everything is written at once.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator
from contextlib import contextmanager

from netoverlay.backend_api.backend import Backend, BackendFile, Readable, Writable
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from netoverlay.backend_api.errors import UnavailableError, os_error
from netoverlay.backend_api.types import (
    Access,
    AllocateMode,
    AttributeChange,
    Capabilities,
    Creation,
    DirEntry,
    FileStat,
    LayerPath,
    LockKind,
    RenameFlags,
    XattrMode,
)
from netoverlay.wrappers.open_names import OpenNames
from netoverlay.wrappers.outbox import Call, Outbox, Pending, again, raise_unseen, raise_untold

LIMIT_BYTES = 32 << 20
PIECE_BYTES = 4 << 20
_FEWEST_PIECES = 4
"""Of the size of which the limit has room for so many: some are sent while the next one is filled."""
IDLE_SECONDS = 1.0
MAX_SENDERS = 8
_MAX_FILE_BYTES = (1 << 63) - 1


class WriteBackBackend(DelegatingBackend):
    """Gathers what is written to the files of `inner`, which is a layer that only this process changes.

    `limit_bytes`: of memory, for all files together. `piece_bytes`: what is sent at once of a file that is written from
    end to end. `idle_seconds`: after this long everything is sent. `max_senders`: threads that send.
    """

    def __init__(
        self,
        inner: Backend,
        *,
        limit_bytes: int = LIMIT_BYTES,
        piece_bytes: int = PIECE_BYTES,
        idle_seconds: float = IDLE_SECONDS,
        max_senders: int = MAX_SENDERS,
    ) -> None:
        super().__init__(inner)
        self.piece_bytes = max(1, min(piece_bytes, limit_bytes // _FEWEST_PIECES))
        self.outbox = Outbox(limit_bytes, idle_seconds, max_senders)
        self.names = OpenNames(self.outbox.lock, lambda: Pending(self.piece_bytes))

    def connect(self) -> Capabilities:
        # A descriptor would show what has been sent only.
        return dataclasses.replace(self.inner.connect(), local=False)

    def close(self) -> None:
        """Sends what is left first. The first error of that is raised in the end, if nobody has been told."""
        failure: OSError | None = None
        for pending in self.outbox.unclean():
            try:
                with self.outbox.settled(pending), self.outbox.lock:
                    raise_unseen(pending)
            except OSError as error:
                failure = failure or error
                self.outbox.drop(pending)
        self.outbox.close()
        self.inner.close()
        if failure is not None:
            raise failure

    def stat(self, path: LayerPath) -> FileStat:
        with self._settled(path):
            pass
        return self.inner.stat(path)

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        """Sizes are those with what is still to be sent; for the times nobody is kept waiting."""
        if not self.outbox.unclean():
            return self.inner.list_dir(path)
        ends = {name: self._end(pending) for name, pending in self.names.inside(path).items()}
        return [_at_least(entry, ends.get(entry.name, 0)) for entry in self.inner.list_dir(path)]

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        pending = self.names.enter(path, writes=access.writes)
        try:
            if access.writes or truncate:
                # From here on there may be two who write, neither of whom gathers.
                with self.outbox.settled(pending):
                    inner = self.inner.open(path, access, create=create, truncate=truncate, mode=mode)
            else:
                inner = self.inner.open(path, access, create=create, truncate=truncate, mode=mode)
        except BaseException:
            self.names.leave(pending, writes=access.writes)
            raise
        if create is Creation.EXCLUSIVE:
            pending = self.names.renew(path, pending, writes=access.writes)
        return WriteBackFile(inner, self, pending, access)

    def unlink(self, path: LayerPath) -> None:
        with self._names_change(path):
            self.inner.unlink(path)
            self.names.gone(path)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        with self._names_change(old, new):
            self.inner.rename(old, new, flags)
            self.names.moved(old, new, exchange=RenameFlags.EXCHANGE in flags)

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        self.inner.link(existing, new)
        self.names.linked(existing, new)

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        with self._settled(path):
            self.inner.set_attributes(path, change)

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        with self._settled(path):  # a write takes file capabilities away
            self.inner.set_xattr(path, name, value, mode)

    def remove_xattr(self, path: LayerPath, name: str) -> None:
        with self._settled(path):
            self.inner.remove_xattr(path, name)

    def sync(self) -> None:
        """Raises the last error of any file that this has not told yet, as syncfs(2)."""
        for pending in self.outbox.unclean():
            with self.outbox.settled(pending):
                pass
        self.inner.sync()
        failure = self.outbox.last_failure()
        if failure is not None:
            raise again(failure)

    @contextmanager
    def _settled(self, path: LayerPath) -> Iterator[None]:
        """What was written to the file at `path` is on the layer, and nothing is added to it inside."""
        pending = self.names.find(path)
        if pending is None:
            yield
            return
        with self.outbox.settled(pending):
            yield

    @contextmanager
    def _names_change(self, *paths: LayerPath) -> Iterator[None]:
        """If it stays unknown whether names were removed, nothing is known of the open files that had them."""
        try:
            yield
        except UnavailableError:
            self.names.lost(*paths)
            raise

    def _end(self, pending: Pending) -> int:
        with self.outbox.lock:
            return pending.end


class WriteBackFile(DelegatingFile):
    """An open file of a WriteBackBackend."""

    def __init__(self, inner: BackendFile, backend: WriteBackBackend, pending: Pending, access: Access) -> None:
        super().__init__(inner)
        self._outbox = backend.outbox
        self._names = backend.names
        self._piece_bytes = backend.piece_bytes
        self._pending = pending
        self._access = access
        self._closed = False

    def read_into(self, offset: int, buffer: Writable) -> int:
        view = memoryview(buffer).cast("B")
        until = offset + len(view)
        with self._outbox.lock:
            copies, end = self._pending.copies(offset, until), self._pending.end
        if end <= offset or self._closed or not self._access.reads:
            return self.inner.read_into(offset, buffer)
        if _covers(copies, offset, until):
            count = len(view)
        else:
            count = self.inner.read_into(offset, view)
            shown = max(count, min(len(view), end - offset))
            view[count:shown] = bytes(shown - count)  # a gap between what the layer has and what is to be sent
            count = shown
        for start, data in copies:
            view[start - offset : start - offset + len(data)] = data
        return count

    def read_at(self, offset: int, size: int) -> bytes:
        with self._outbox.lock:
            is_clean = self._pending.is_clean
        if is_clean:
            return self.inner.read_at(offset, size)
        buffer = bytearray(size)
        return bytes(memoryview(buffer)[: self.read_into(offset, buffer)])

    def write_at(self, offset: int, data: Readable) -> None:
        view = memoryview(data).cast("B")
        if self._closed or not self._access.writes or not view:
            self.inner.write_at(offset, data)
            return
        if offset < 0:
            raise os_error(errno.EINVAL)
        if offset + len(view) > _MAX_FILE_BYTES:
            raise os_error(errno.EFBIG)
        if self._pending.writers > 1:
            with self._outbox.settled(self._pending):
                self.inner.write_at(offset, view)
            return
        for start in range(0, len(view), self._piece_bytes):
            self._outbox.add(self._pending, self.inner, offset + start, view[start : start + self._piece_bytes])

    def flush(self) -> None:
        """Of a file that is open for reading there is nothing to tell."""
        if self._access.writes:
            with self._outbox.settled(self._pending), self._outbox.lock:
                raise_untold(self._pending, Call.FLUSH)
            self.inner.flush()

    def sync(self, *, data_only: bool = False) -> None:
        pending = self._pending
        with self._outbox.settled(pending):
            try:
                self.inner.sync(data_only=data_only)
            except OSError as error:
                self._outbox.sync_failed(pending, error)
                raise
            self._outbox.synced(pending)

    def close(self) -> None:
        """Raises what nobody has been told yet, and what cannot be sent now."""
        with self._outbox.lock:
            was_closed, self._closed = self._closed, True
        if was_closed:
            return
        try:
            if self._access.writes:
                self._send_last()
        finally:
            try:
                self.inner.close()
            finally:
                self._names.leave(self._pending, writes=self._access.writes)
                self._outbox.forget(self._pending)

    def _send_last(self) -> None:
        pending = self._pending
        try:
            with self._outbox.settled(pending), self._outbox.lock:
                raise_unseen(pending)
        except OSError:
            self._outbox.drop(pending)
            raise

    def stat(self) -> FileStat:
        with self._outbox.settled(self._pending):
            pass
        return self.inner.stat()

    def truncate(self, size: int) -> None:
        dropped = self._access.writes and size >= 0 and self._outbox.cut(self._pending, size)
        try:
            with self._outbox.settled(self._pending):
                self.inner.truncate(size)
        except OSError as error:
            if dropped:
                self._outbox.note_loss(self._pending, error)
            raise

    def set_attributes(self, change: AttributeChange) -> None:
        with self._outbox.settled(self._pending):
            self.inner.set_attributes(change)

    def seek_data(self, offset: int) -> int:
        with self._outbox.settled(self._pending):
            return self.inner.seek_data(offset)

    def seek_hole(self, offset: int) -> int:
        with self._outbox.settled(self._pending):
            return self.inner.seek_hole(offset)

    def allocate(self, mode: AllocateMode, offset: int, length: int) -> None:
        with self._outbox.settled(self._pending):
            self.inner.allocate(mode, offset, length)

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        with self._outbox.settled(self._pending):
            return super().copy_range(source, source_offset, offset, length)

    def set_xattr(self, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        with self._outbox.settled(self._pending):  # a write takes file capabilities away
            self.inner.set_xattr(name, value, mode)

    def remove_xattr(self, name: str) -> None:
        with self._outbox.settled(self._pending):
            self.inner.remove_xattr(name)

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        """What was written before a lock is given up is there for the next who takes it."""
        with self._outbox.settled(self._pending):
            self.inner.lock(kind, start, length)

    def lock_whole(self, kind: LockKind) -> None:
        with self._outbox.settled(self._pending):
            self.inner.lock_whole(kind)

    def revalidate(self) -> FileStat:
        with self._outbox.settled(self._pending):
            return self.inner.revalidate()

    def fileno(self) -> int | None:
        return None


def _covers(copies: list[tuple[int, bytes]], start: int, end: int) -> bool:
    """Whether all between two offsets is in `copies`."""
    for at, data in sorted(copies, key=lambda copy: copy[0]):
        if at > start:
            return False
        start = max(start, at + len(data))
    return start >= end


def _at_least(entry: DirEntry, size: int) -> DirEntry:
    return entry if entry.stat.size >= size else DirEntry(entry.name, entry.stat._replace(size=size))
