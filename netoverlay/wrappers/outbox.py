"""What has been written through a mount and is not on its layer yet: bounded, and sent by threads in the background.

A file's data is sent when a piece is full, when the oldest of it has waited long enough, when memory runs short, or
when somebody waits for all of it (settled()). Pieces of one file that overlap are sent one after the other, others at
the same time. The threads start when there is something to send, and end when there has been nothing for a while.

What cannot be sent is dropped, and its error kept for those who wrote: flush and sync tell it once each, and the next
write, if it comes first. Only where the layer could not be reached (UnavailableError) the data stays, and is sent again
a little later: whatever is left of the first try has arrived by then, so that it cannot undo what is written next.
"""

from __future__ import annotations

import enum
import errno
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from netoverlay.backend_api.backend import BackendFile
from netoverlay.backend_api.errors import NotSupportedError, StaleHandleError, UnavailableError
from netoverlay.backend_api.waiting import LOOK_SECONDS, about_to_wait, check_interrupted
from netoverlay.wrappers.extents import RUN_OVERHEAD_BYTES, Extents, Piece

RETRY_SECONDS = 1.0
"""After the layer could not be reached."""
AWAY_SECONDS = 5.0
"""After so long in which nothing could be sent a signal ends the wait: a piece takes some time on a slow line."""
LINGER_SECONDS = 2.0
"""How long a thread waits for more to send before it ends."""


class Call(enum.Enum):
    """Who tells a program that something could not be written."""

    WRITE = "write"
    FLUSH = "flush"
    SYNC = "sync"


class Pending:
    """What of one file is to be sent, and what became of it. Guarded by the lock of its Outbox."""

    def __init__(self, piece_bytes: int) -> None:
        self.extents = Extents(piece_bytes)
        self.sending: list[Piece] = []
        self.through: BackendFile | None = None
        """Where to write it."""
        self.holders = 0
        """How many wait for all of it to be sent, or need it to stay so: nothing is added meanwhile."""
        self.retry_at = 0.0
        self.setbacks = 0
        """How often the layer could not be reached."""
        self.setback: BaseException | None = None
        self.untold: dict[Call, OSError] = {}
        self.users = 0
        """How many have the file open."""
        self.writers = 0
        """How many of them may write. Only what a single one writes is gathered."""

    @property
    def is_clean(self) -> bool:
        """Whether all is on the layer, as far as it could be."""
        return not (self.extents or self.sending)

    @property
    def end(self) -> int:
        """Behind the last byte of what is not on the layer."""
        return max(self.extents.end, max((piece.end for piece in self.sending), default=0))

    def copies(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """What is not on the layer of a range, as (offset, bytes); later ones lie over earlier ones."""
        found = []
        for piece in self.sending:
            low, high = max(start, piece.start), min(end, piece.end)
            if low < high:
                found.append((low, bytes(memoryview(piece.data)[low - piece.start : high - piece.start])))
        return [*found, *self.extents.copies(start, end)]


class Outbox:
    """All that is to be sent to one layer."""

    def __init__(self, limit_bytes: int, idle_seconds: float, max_senders: int) -> None:
        self._limit = limit_bytes
        self._idle_seconds = idle_seconds
        self._max_senders = max_senders
        self.lock = threading.Lock()
        """Guards this and every Pending. A leaf: nothing is asked of the layer under it."""
        self._sent = threading.Condition(self.lock)
        """Notified when something was sent, or could not be."""
        self._work = threading.Condition(self.lock)
        """Notified when there is something to send."""
        self._unclean: dict[Pending, None] = {}
        self._cost = 0
        """Bytes of memory of all that is pending, and of what of it is being sent."""
        self._cost_sending = 0
        self._blocked = 0
        """Writers that wait for room."""
        self._unsynced: set[Pending] = set()
        """Of which something has been sent since the last sync."""
        self._setbacks = 0
        self._moved_at = 0.0
        """When something was sent last."""
        self._failure: OSError | None = None
        self._senders: set[threading.Thread] = set()
        self._idle_senders = 0
        self._closed = False

    @property
    def cost(self) -> int:
        """Bytes of memory that are in use."""
        return self._cost

    def add(self, pending: Pending, through: BackendFile, start: int, data: memoryview) -> None:
        """Gather what a program wrote, at most a piece, to be written to `through`; waits for room.

        Raises what could not be written earlier, and UnavailableError if there is no room because nothing can be sent.
        """
        with self.lock:
            if self._closed:
                raise UnavailableError("the layer is closed")
            self._wait_for_room(pending, len(data) + RUN_OVERHEAD_BYTES)
            raise_untold(pending, Call.WRITE)
            before = pending.extents.cost
            pending.extents.add(start, data, time.monotonic())
            self._cost += pending.extents.cost - before
            pending.through = through
            self._unclean[pending] = None
            if not self._senders or pending.extents.is_ready(-math.inf) or self._is_short():
                self._wake_sender()

    @contextmanager
    def settled(self, pending: Pending) -> Iterator[None]:
        """All of a file has been sent, as far as the layer takes it, and nothing is added to it inside.

        UnavailableError if the layer could not be reached: it stays to be sent then.
        """
        with self.lock:
            pending.holders += 1
            setbacks = pending.setbacks
        try:
            while (job := self._own_job(pending, setbacks)) is not None:
                self._send(pending, *job)
            yield
        finally:
            with self.lock:
                pending.holders -= 1
                self._sent.notify_all()

    def cut(self, pending: Pending, size: int) -> bool:
        """What lies behind byte `size` need not be sent: the file is about to be truncated. Whether there was any."""
        with self.lock:
            before = pending.extents.cost
            pending.extents.cut(size)
            freed = before - pending.extents.cost
            self._cost -= freed
            self._settle_accounts(pending)
            return freed > 0

    def note_loss(self, pending: Pending, failure: OSError) -> None:
        """Something that was written will never be on the layer: let those who wrote it be told."""
        with self.lock:
            self._note_loss(pending, failure)

    def synced(self, pending: Pending) -> None:
        """All that was sent of a file is on stable storage. Raises what could not be, unless a sync has told it."""
        with self.lock:
            self._unsynced.discard(pending)
            raise_untold(pending, Call.SYNC)

    def sync_failed(self, pending: Pending, failure: OSError) -> None:
        """The layer's own sync has failed. If it says that data may be lost, it has told what was only feared here."""
        with self.lock:
            feared = isinstance(pending.untold.get(Call.SYNC), UnavailableError)
            if feared and not isinstance(failure, UnavailableError):
                del pending.untold[Call.SYNC]

    def forget(self, pending: Pending) -> None:
        """A file is closed, and nobody will sync it any more."""
        with self.lock:
            if not pending.users:
                self._unsynced.discard(pending)

    def drop(self, pending: Pending) -> None:
        """Forget what could not be sent, also what is being tried once more: the file is closed."""
        with self.lock:
            pending.through = None
        self.cut(pending, 0)

    def unclean(self) -> list[Pending]:
        """All of which something is not on the layer."""
        with self.lock:
            return list(self._unclean)

    def last_failure(self) -> OSError | None:
        """The last error of any file since this was asked."""
        with self.lock:
            failure, self._failure = self._failure, None
            return failure

    def close(self) -> None:
        """End the threads, once they have sent what they are at. Whoever waits for room is told so."""
        with self.lock:
            self._closed = True
            self._sent.notify_all()
            self._work.notify_all()
            senders = list(self._senders)
        for sender in senders:
            sender.join()

    # Under the lock.

    def _wait_for_room(self, pending: Pending, cost: int) -> None:
        setbacks = self._setbacks
        began_at = time.monotonic()
        while pending.holders or (self._cost and self._cost + cost > self._limit):
            if self._closed:
                raise UnavailableError("the layer is closed")
            if self._setbacks != setbacks and not pending.holders:
                raise UnavailableError("the layer cannot be reached, and there is no room for more")
            about_to_wait()
            is_blocked = not pending.holders
            self._blocked += is_blocked
            self._wake_sender()
            self._sent.wait(LOOK_SECONDS)
            self._blocked -= is_blocked
            self._look_up(began_at)

    def _look_up(self, began_at: float) -> None:
        """EINTR if the request that waits since then was interrupted, and nothing is sent any more."""
        if time.monotonic() - max(began_at, self._moved_at) > AWAY_SECONDS:
            check_interrupted()

    def _is_short(self) -> bool:
        """Whether memory runs short although nothing is full: many files have a little each."""
        waiting = self._cost - self._cost_sending
        return waiting > self._limit * 3 // 4 or (self._blocked > 0 and not self._cost_sending)

    def _due(self, pending: Pending, now: float) -> float:
        """What was begun no later than this is to be sent."""
        if pending.retry_at > now:
            return -math.inf
        if pending.holders or self._is_short():
            return math.inf
        return now - self._idle_seconds

    def _next_job(self) -> tuple[Pending, BackendFile, Piece] | None:
        now = time.monotonic()
        for pending in self._unclean:
            if pending.retry_at <= now and (job := self._take(pending, self._due(pending, now))) is not None:
                # The others are next, so that one that is written all the time keeps none waiting.
                del self._unclean[pending]
                self._unclean[pending] = None
                return pending, *job
        return None

    def _take(self, pending: Pending, before: float) -> tuple[BackendFile, Piece] | None:
        through = pending.through
        piece = None if through is None else pending.extents.take(pending.sending, before)
        if piece is None or through is None:
            return None
        pending.sending.append(piece)
        self._cost_sending += piece.cost
        now = time.monotonic()
        if any(other.retry_at <= now and other.extents.is_ready(self._due(other, now)) for other in self._unclean):
            self._wake_sender()
        return through, piece

    def _wake_sender(self) -> None:
        if self._idle_senders:
            self._work.notify()
        elif len(self._senders) < self._max_senders and not self._closed:
            sender = threading.Thread(target=self._run, name="write-back", daemon=True)
            sender.start()
            self._senders.add(sender)

    def _finished(self, pending: Pending, piece: Piece, failure: BaseException | None) -> None:
        pending.sending = [other for other in pending.sending if other is not piece]
        self._cost_sending -= piece.cost
        self._cost -= piece.cost
        if failure is None:
            self._moved_at = time.monotonic()
            self._unsynced.add(pending)
        elif isinstance(failure, UnavailableError | InterruptedError) or not isinstance(failure, Exception):
            self._put_back(pending, piece, failure)
        else:
            self._note_loss(pending, failure if isinstance(failure, OSError) else OSError(errno.EIO, repr(failure)))
        self._settle_accounts(pending)

    def _put_back(self, pending: Pending, piece: Piece, failure: BaseException) -> None:
        now = time.monotonic()
        if pending.through is not None:
            before = pending.extents.cost
            pending.extents.put_back(piece, now)
            self._cost += pending.extents.cost - before
        pending.setbacks += 1
        pending.setback = failure
        if isinstance(failure, UnavailableError):
            pending.retry_at = now + RETRY_SECONDS
            self._setbacks += 1
            # What was sent before may be lost, if it was the server that failed and not the line.
            for other in self._unsynced:
                other.untold.setdefault(Call.SYNC, failure)
            self._unsynced.clear()

    def _note_loss(self, pending: Pending, failure: OSError) -> None:
        self._failure = failure
        pending.untold = dict.fromkeys(Call, failure)

    def _settle_accounts(self, pending: Pending) -> None:
        if pending.is_clean:
            self._unclean.pop(pending, None)
        self._sent.notify_all()

    # Taking the lock.

    def _own_job(self, pending: Pending, setbacks: int) -> tuple[BackendFile, Piece] | None:
        """What the calling thread is to send of a file for which it waits; None once all is sent. EINTR."""
        with self.lock:
            began_at = time.monotonic()
            while not pending.is_clean:
                self._look_up(began_at)
                if pending.setbacks != setbacks:
                    raise again(pending.setback)
                pause = pending.retry_at - time.monotonic()
                job = self._take(pending, math.inf) if pause <= 0 else None
                if job is not None:
                    return job
                about_to_wait()
                self._sent.wait(min(pause, LOOK_SECONDS) if pause > 0 else LOOK_SECONDS)
        return None

    def _send(self, pending: Pending, through: BackendFile, piece: Piece) -> None:
        failure: BaseException | None = None
        try:
            through.write_at(piece.start, piece.data)
        except BaseException as error:  # noqa: BLE001  (kept for whoever wrote; what ends a program is raised below)
            failure = error
        with self.lock:
            self._finished(pending, piece, failure)
        if failure is not None and not isinstance(failure, Exception):
            raise failure

    def _run(self) -> None:
        """A thread that sends."""
        while (job := self._await_job()) is not None:
            self._send(*job)

    def _await_job(self) -> tuple[Pending, BackendFile, Piece] | None:
        """None when the thread is to end."""
        with self.lock:
            quiet_since = time.monotonic()
            while not self._closed:
                job = self._next_job()
                if job is not None:
                    return job
                now = time.monotonic()
                if self._unclean:
                    quiet_since = now
                elif now - quiet_since > LINGER_SECONDS:
                    break
                self._idle_senders += 1
                self._work.wait(min(self._idle_seconds, RETRY_SECONDS) / 2)
                self._idle_senders -= 1
            self._senders.discard(threading.current_thread())
        return None


def raise_untold(pending: Pending, call: Call) -> None:
    """Raise what could not be written, unless `call` told it already. The lock is held."""
    failure = pending.untold.pop(call, None)
    if failure is not None:
        pending.untold.pop(Call.WRITE, None)  # who was told, and writes again, has seen to it
        raise again(failure)


def raise_unseen(pending: Pending) -> None:
    """Raise what could not be written, if nobody has been told at all. The lock is held."""
    if len(pending.untold) == len(Call):
        raise_untold(pending, Call.FLUSH)


def again(error: BaseException | None) -> OSError:
    """The same error for another thread: one exception raised in two would mix their tracebacks."""
    if not isinstance(error, OSError):
        return UnavailableError("writing was broken off")
    message = error.strerror or str(error)
    if isinstance(error, UnavailableError):
        return UnavailableError(message, error.errno or errno.EIO)
    if isinstance(error, StaleHandleError):
        return StaleHandleError(message)
    if isinstance(error, NotSupportedError):
        return NotSupportedError("write")
    return OSError(error.errno or errno.EIO, message)
