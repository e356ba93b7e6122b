"""The locks on one open file: what programs hold, who waits, and what the file's layer holds for us."""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from netoverlay.overlay.lock_mirror import LockMirror
from netoverlay.overlay.lock_table import LockTable, Owner, Wanted
from netoverlay.overlay.locks import Rank, RankedLock

if TYPE_CHECKING:
    from netoverlay.backend_api import BackendFile, FileStat
    from netoverlay.overlay.handles import FileHandle
    from netoverlay.overlay.layers import Layer

logger = logging.getLogger(__name__)

_GRANULARITY_SECONDS: Final = 2.1
"""Two changes within this time may have the same modification time (FAT has two seconds)."""

Done: TypeAlias = "Callable[[OSError | None], None]"


class RequestState(enum.Enum):
    """Where a request for a lock stands. Changed with the leaf lock of the tables held."""

    ASKING = "asking"
    WAITING = "waiting"
    ANSWERED = "answered"


@dataclass(eq=False, slots=True)
class LockRequest:
    """A program asks for a lock."""

    handle: FileHandle
    wanted: Wanted
    waits: bool
    """If something is in the way, until it is not."""
    done: Done
    """Told what came of it, where that was not known at once."""
    state: RequestState = RequestState.ASKING
    is_cancelled: bool = False
    """The program does not want to wait any more. With the leaf lock of the tables held."""


class InodeLocks:
    """Of one inode, as long as it is open."""

    def __init__(self) -> None:
        self.lock = RankedLock(Rank.FILE_LOCKS)
        self.table = LockTable()
        """Changed with FILE_LOCKS held, and the leaf lock of the tables; read with either."""
        self.waiting: list[LockRequest] = []
        """In the order in which they came. With the leaf lock of the tables held."""
        self.handles: dict[Owner, set[FileHandle]] = {}
        """Through which open files an owner locked. FILE_LOCKS."""
        self.mirror: LockMirror | None = None
        """Changed with COPY_UP and FILE_LOCKS held."""
        self.checked = CacheCheck()
        self._told_lost = False

    def move_to(self, file: BackendFile) -> None:
        """The inode is read and written through `file` from now on, in the same layer. COPY_UP is held."""
        old = self.mirror
        if old is None or old.file is file:
            return
        with self.lock:
            new = LockMirror(old.layer, file)
            try:
                new.follow(self.table)
            except BlockingIOError:
                # What is in the way may be the lock of our own other open file.
                old.release()
                self._take_again(new)
            else:
                old.release()
            new.lost |= old.lost
            self.mirror = new
            self.tell_lost_locked()

    @contextmanager
    def moving_up(self, layer: Layer | None, file: BackendFile) -> Iterator[None]:
        """Inside, the file comes to be in the upper, as `file`: its locks are there first, and then no longer below.

        `layer`: the upper, if it keeps locks. Precondition: COPY_UP is held. What it raises, nothing has moved.
        """
        with self.lock:
            old = self.mirror
            new = None if layer is None else LockMirror(layer, file)
            if new is not None:
                new.follow(self.table)
                new.lost = old is not None and old.lost
            self.mirror = new
            try:
                yield
            except BaseException:
                self.mirror = old
                raise  # the new file is discarded, and what was locked of it goes with it
            if old is not None:
                old.release()

    def _take_again(self, mirror: LockMirror) -> None:
        try:
            mirror.follow(self.table)
        except OSError as error:
            logger.info("locks cannot be taken again: %s", error)
            mirror.lost = True

    def notice_loss(self) -> bool:
        """After a failure: whether it is because the layer has just lost the locks. The log then says whose."""
        with self.lock:
            if self.mirror is None:
                return False
            self.mirror.notice_loss()
            return self.tell_lost_locked()

    def tell_lost_locked(self) -> bool:
        """If locks were lost, log whose, once; whether that was now. Precondition: FILE_LOCKS is held."""
        is_lost = self.mirror is not None and self.mirror.lost
        is_news, self._told_lost = is_lost and not self._told_lost, is_lost
        if is_news:
            for held in self.table:
                logger.error(
                    "process %d lost its %s lock on bytes %d to %d (%s), which the layer could not keep; "
                    "the file cannot be read or written until all locks on it are given up",
                    held.pid,
                    held.kind.value,
                    held.start,
                    held.end - 1,
                    held.owner.call.value,
                )
        return is_news


@dataclass(slots=True)
class CacheCheck:
    """Whether what is cached of a file can still be what its layer has."""

    version: tuple[int, int, int | None] | None = None
    seen_at: float = field(default=0.0)
    """When that version was first seen."""
    dropped_at: float = field(default=0.0)

    def must_drop(self, stat: FileStat) -> bool:
        """Whether to drop what is cached, now that the layer tells `stat`.

        Also where that is as it was, if what is cached may have been read while a change could still hide in the
        granularity of the time.
        """
        now = time.monotonic()
        version = (stat.size, stat.mtime_ns, stat.ctime_ns)
        if version != self.version:
            self.version, self.seen_at = version, now
        elif self.dropped_at > self.seen_at + _GRANULARITY_SECONDS:
            return False
        self.dropped_at = now
        return True
