"""Open files and the server's handles for them, which can be lost, or given up while a file stays open.

An open file borrows its handle while it is in use; when there is none, because the connection was lost or the handle
was needed elsewhere, it is opened again, by path. Two things follow:

- A file whose name is removed or replaced through this backend must keep its handle, since no path leads to it any
  more; and one whose name changes must learn the new one, also if no answer came and it turns out later that it did.
- A file that is opened again must be the same one, else it is stale (ESTALE). What tells that is the backend's
  business; where it is size and time, a change through this backend has to be remembered.

What was written through a handle that was lost, and not synced, the server may have lost, too: the next sync says so.
"""

from __future__ import annotations

import abc
import errno
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from netoverlay.backend_api.errors import StaleHandleError, UnavailableError, os_error

H = TypeVar("H")

_REOPEN_ATTEMPTS = 5
_PAUSE_SECONDS = 0.001


@dataclass(eq=False, slots=True, kw_only=True)
class OpenFile(Generic[H]):
    """One open file. Guarded by the table's lock."""

    path: bytes | None
    """The server's; None once the name is gone."""
    handle: H | None = None
    users: int = 0
    closed: bool = False
    written: bool = False
    """Changed through its handle, so that closing that one may tell of an error."""
    failure: OSError | None = None
    """Of a close that nobody has seen yet."""
    writes: int = 0
    """How often its content was changed."""
    synced: int = 0
    """How many of these changes are on stable storage, or are no longer hoped to be."""
    is_doubtful: bool = False
    """A handle was lost with changes that were not synced, and nobody has been told."""
    reopening: threading.Lock = field(default_factory=threading.Lock)


F = TypeVar("F", bound=OpenFile)  # type: ignore[type-arg]  # of any handle; Python has no higher-kinded bound


@dataclass(slots=True)
class Place(Generic[F]):
    """What is known of the files open under one path."""

    files: set[F] = field(default_factory=set)
    changed: bool = False
    """Changed through this backend since the first of them was opened: size and time tell nothing any more."""


@dataclass(eq=False, slots=True)
class Opening:
    """A file that is being opened."""

    changed: bool
    """Changed through this backend, maybe since it was looked at."""


class HandleTable(abc.ABC, Generic[F, H]):
    """All open files of a backend. Its lock is a leaf; nothing is asked of the server under it."""

    def __init__(self, separator: bytes) -> None:
        """`separator` stands between the components of a path."""
        self._separator = separator
        self._lock = threading.Lock()
        self._places: dict[bytes, Place[F]] = {}
        self._openings: dict[bytes, list[Opening]] = {}
        self._unanswered: dict[bytes, bytes] = {}
        """The renames of which it is not known whether they were done, by the old path."""

    @abc.abstractmethod
    def _is_usable(self, handle: H) -> bool:
        """Whether the connection that `handle` belongs to is there still."""

    @abc.abstractmethod
    def _close_handle(self, file: F, handle: H) -> None:
        """Give a handle back to the server; what that tells of written data becomes file.failure."""

    @abc.abstractmethod
    def _reopen_at(self, file: F, path: bytes) -> H | None:
        """A new handle; None if what stands at `path` is not `file`."""

    def _reopened(self, file: F, handle: H) -> None:
        """`file` is about to get a new handle: take again what was held at the server through the old one."""

    @contextmanager
    def borrow(self, file: F) -> Iterator[H]:
        """A handle for `file`, which stays open at least until the block ends. EBADF, ESTALE."""
        handle = self._take(file)
        if handle is None:
            with file.reopening:
                handle = self._take(file) or self._reopen(file)
        try:
            yield handle
        finally:
            with self._lock:
                file.users -= 1

    def close(self, file: F) -> None:
        """Give up `file`; raises what closing it, now or when its handle was needed, told of its data."""
        with self._lock:
            if file.closed:
                return
            file.closed = True
            handle = self._disown(file)
            self._forget_path(file)
        if handle is not None and self._is_usable(handle):
            self._close_handle(file, handle)
        failure, file.failure = file.failure, None
        if failure is not None:
            raise failure

    def note_change(self, file: F) -> None:
        """`file` is being changed through its handle."""
        with self._lock:
            file.written = True
            if file.path is not None:
                self._mark_changed(file.path)

    def note_written(self, file: F, handle: H) -> None:
        """The content of `file` has been changed through `handle`, which was borrowed for that."""
        with self._lock:
            file.writes += 1
            if file.handle is not handle and not self._is_usable(handle):
                self._doubt(file)

    @contextmanager
    def syncing(self, file: F) -> Iterator[None]:
        """Around a sync of `file` through a handle that was borrowed for it.

        EIO, once, if the handle that something was written through was lost before that was synced.
        """
        with self._lock:
            doubtful, file.is_doubtful = file.is_doubtful, False
            writes = file.writes
        if doubtful:
            raise OSError(errno.EIO, "the connection was lost, and what was written before may be, too")
        yield
        with self._lock:
            file.synced = max(file.synced, writes)

    @contextmanager
    def changing_path(self, path: bytes) -> Iterator[None]:
        """What stands at `path` is changed inside: whoever opens it meanwhile has seen it before, or after."""
        with self._lock:
            self._mark_changed(path)
        try:
            yield
        finally:
            with self._lock:
                self._mark_changed(path)

    @contextmanager
    def opening(self, path: bytes) -> Iterator[Opening]:
        """Around looking at what stands at `path`, and opening it: tells whether it may have been changed between."""
        with self._lock:
            opening = Opening(self._was_changed(path))
            self._openings.setdefault(path, []).append(opening)
        try:
            yield opening
        finally:
            with self._lock:
                self._openings[path].remove(opening)
                if not self._openings[path]:
                    del self._openings[path]

    @contextmanager
    def removing(self, path: bytes) -> Iterator[None]:
        """Around an operation that takes the name `path` away: the files open under it keep their handles for good."""
        place = self._places.get(path)
        with ExitStack() as borrowed:
            files = list(place.files) if place is not None else []
            for file in files:
                try:
                    borrowed.enter_context(self.borrow(file))
                except StaleHandleError:
                    continue  # it is lost already, and will say so to whoever uses it
                except OSError:
                    if not file.closed:  # by its user, just now
                        raise
            yield
            with self._lock:
                self._unanswered.pop(path, None)
                for file in files:
                    self._forget_path(file)

    @contextmanager
    def released_below(self, path: bytes, patience: float) -> Iterator[None]:
        """Around an operation that a server refuses while anything below `path` is open: no handle is, meanwhile.

        EBUSY if one is in use for more than `patience` seconds.
        """
        below = path + self._separator
        with ExitStack() as held:
            with self._lock:
                files = {file for name, place in self._places.items() if name.startswith(below) for file in place.files}
            for file in sorted(files, key=id):
                held.enter_context(file.reopening)
            for file in files:
                with self._lock:
                    handle = self._disown(file)
                if handle is not None:
                    try:
                        self._wait_until_unused(file, patience)
                    finally:  # whoever uses it has it until then, or learns that it is gone
                        if self._is_usable(handle):
                            self._close_handle(file, handle)
                        else:
                            with self._lock:
                                self._doubt(file)
            yield

    @contextmanager
    def renaming(self, old: bytes, new: bytes) -> Iterator[None]:
        """Around a rename: whatever was at `old`, or below it, is at `new` then; at either if no answer comes."""
        try:
            yield
        except UnavailableError:
            with self._lock:
                if any(self._is_within(path, old) for path in self._places):
                    self._unanswered[old] = new
            raise
        self.renamed(old, new)

    def found_absent(self, path: bytes) -> bool:
        """Nothing is at `path`: so a rename was done that moved it, if there was one without an answer (True)."""
        new = self._unanswered.get(path)
        if new is None:
            return False
        self.renamed(path, new)
        return True

    def renamed(self, old: bytes, new: bytes) -> None:
        """Whatever was at `old`, or below it, is now at `new`."""
        below = old + self._separator
        with self._lock:
            self._unanswered.pop(old, None)
            self._unanswered = {
                self._after_rename(source, old, new): self._after_rename(target, old, new)
                for source, target in self._unanswered.items()
            }
            moved = [path for path in self._places if path == old or path.startswith(below)]
            for path in moved:
                place = self._places.pop(path)
                target = self._places.setdefault(new + path[len(old) :], Place())
                target.changed |= place.changed
                for file in place.files:
                    file.path = new + path[len(old) :]
                target.files |= place.files
            for path in (old, new):
                for opening in self._openings.get(path, ()):
                    opening.changed = True

    def _register(self, file: F, handle: H, *, changed: bool) -> None:
        """`file` has been opened, at its path."""
        with self._lock:
            self._adopt(file, handle)
            if file.path is not None:
                place = self._places.setdefault(file.path, Place())
                place.files.add(file)
                place.changed |= changed

    def _is_within(self, path: bytes, top: bytes) -> bool:
        return path == top or path.startswith(top + self._separator)

    def _after_rename(self, path: bytes, old: bytes, new: bytes) -> bytes:
        return new + path[len(old) :] if self._is_within(path, old) else path

    # Under the lock.

    def _mark_changed(self, path: bytes) -> None:
        if path in self._places:
            self._places[path].changed = True
        for opening in self._openings.get(path, ()):
            opening.changed = True

    def _adopt(self, file: F, handle: H) -> None:
        file.handle = handle

    def _disown(self, file: F) -> H | None:
        handle: H | None = file.handle
        file.handle = None
        return handle

    def _doubt(self, file: F) -> None:
        """A handle of `file` is lost."""
        file.is_doubtful |= file.writes > file.synced
        file.synced = file.writes

    def _forget_path(self, file: F) -> None:
        path, file.path = file.path, None
        if path is not None:
            place = self._places[path]
            place.files.discard(file)
            if not place.files:
                del self._places[path]

    # Taking the lock.

    def _was_changed(self, path: bytes) -> bool:
        place = self._places.get(path)
        return place is not None and place.changed

    def _take(self, file: F) -> H | None:
        with self._lock:
            if file.closed:
                raise os_error(errno.EBADF)
            handle: H | None = file.handle
            if handle is not None and not self._is_usable(handle):
                self._disown(file)
                self._doubt(file)
                handle = None
            if handle is not None:
                file.users += 1
                self._used(file)
            return handle

    def _used(self, file: F) -> None:
        """`file` was used just now. Under the lock."""

    def _unused(self, handle: H) -> None:
        """A handle that was opened again belongs to nobody after all."""

    def _wait_until_unused(self, file: F, patience: float) -> None:
        give_up_at = time.monotonic() + patience
        while file.users:
            if time.monotonic() > give_up_at:
                raise os_error(errno.EBUSY)
            time.sleep(_PAUSE_SECONDS)

    def _reopen(self, file: F) -> H:
        for _ in range(_REOPEN_ATTEMPTS):
            path = file.path
            if path is None:
                raise StaleHandleError("the file was removed, and the connection that held it open was lost")
            handle = self._reopen_at(file, path)
            if handle is None:
                if file.path == path and not self.found_absent(path):
                    raise StaleHandleError("what stands where the file was is no longer the file that was opened")
                continue  # it was renamed meanwhile
            try:
                self._reopened(file, handle)
            except BaseException:
                self._unused(handle)
                raise
            with self._lock:
                if file.path == path and not file.closed:
                    self._adopt(file, handle)
                    file.users += 1
                    return handle
            self._unused(handle)
            if file.closed:
                raise os_error(errno.EBADF)
        raise StaleHandleError("the file was renamed again and again while it was opened anew")
