"""Many threads wait for what arrives on one connection, and none is there only to receive.

Of the threads that wait one leads: it receives for all of them, and wakes those whose replies came; when it has what it
waits for, it hands over to one that still waits. A lone caller so waits in its own system call, and no reply costs a
thread switch that it could do without.

Whatever is waited for has a deadline. What passes it fails alone while the server shows signs of life; otherwise the
connection is declared broken, and everything that waits on it fails at once. A signal ends the wait for a server that
gives no sign of life: what is only slow must not fail because a program has timers, or children that end.
"""

from __future__ import annotations

import abc
import queue
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from netoverlay.backend_api import waiting
from netoverlay.backend_api.errors import InterruptedWaitError, UnavailableError

TICK_SECONDS = 0.5
"""The longest that receiving waits before its caller looks at the clocks again."""
_POLL_BELOW_SECONDS = TICK_SECONDS / 2
"""Only for less is poll(2) worth a system call, where the socket itself waits for TICK_SECONDS (SO_RCVTIMEO)."""


def receive_into(connected: socket.socket, readable: select.poll, target: memoryview, timeout: float) -> int:
    """What has come on `connected`, which times out after TICK_SECONDS (SO_RCVTIMEO); the count, 0 at the end.

    `readable` watches it. TimeoutError if nothing came within `timeout` seconds, or TICK_SECONDS if that is less.
    """
    if timeout < _POLL_BELOW_SECONDS and not readable.poll(max(0.0, timeout) * 1000):
        raise TimeoutError
    try:
        return connected.recv_into(target)
    except BlockingIOError:
        raise TimeoutError from None


class Awaited:
    """Something that one thread waits for, and that arrives on the connection."""

    __slots__ = ("done", "expires_at", "promoted", "waker")

    def __init__(self, expires_at: float) -> None:
        self.done = False
        """Set last, when everything that the waiting thread will look at is there."""
        self.expires_at = expires_at
        """On the clock of time.monotonic()."""
        self.waker: queue.SimpleQueue[None] | None = None
        self.promoted = False

    @property
    def is_awaited_by_leader(self) -> bool:
        """Whether the thread that waits for it is the one that receives."""
        return self.waker is None or self.promoted

    def finish(self) -> None:
        """It is there: let its thread go on."""
        self.done = True
        # The waiting thread sets the waker first and looks at `done` then, so that one of the two sees the other.
        if self.waker is not None:
            self.waker.put(None)


class LeaderFollower(abc.ABC):
    """The waiting side of a connection; a subclass receives and sends. `deadline` in seconds."""

    def __init__(self, server: str, deadline: float) -> None:
        self.server = server
        """For messages."""
        self._deadline = deadline
        self._lock = threading.Lock()
        self._led = False
        self._followers: dict[Awaited, None] = {}
        """Those that wait while another thread receives, in the order in which they came."""
        self._joined = 0
        """How many have ever followed."""
        self._broken: str | None = None
        self._probed_at = 0.0

    @property
    def broken(self) -> bool:
        """Whether the connection is lost: nothing can be asked any more."""
        return self._broken is not None

    def await_arrival(self, awaited: Awaited) -> None:
        """Return once `awaited` is done. UnavailableError at its deadline, or if the connection is lost.

        InterruptedWaitError if the request of the calling thread is interrupted.
        """
        if awaited.done:
            waiting.answered()
            return
        with self._lock:
            leads = not self._led and self._broken is None
            if leads:
                self._led = True
            elif self._broken is None:
                # What was promoted, and has expired, may be waited for once more.
                awaited.waker, awaited.promoted = queue.SimpleQueue(), False
                self._followers[awaited] = None
                self._joined += 1
        if leads or self._follow(awaited):
            self._lead(awaited)
        if not awaited.done:
            self._let_go(awaited)
            if self._broken is None and waiting.is_interrupted():
                raise InterruptedWaitError
            raise UnavailableError(self._broken or f"{self.server}: the server did not answer in time")
        waiting.answered()

    def fail(self, reason: str) -> None:
        """Declare the connection broken: whoever waits, or asks from now on, gets UnavailableError with `reason`."""
        with self._lock:
            if self._broken is not None:
                return
            self._broken = f"{self.server}: {reason}"
            waiting = [*self._take_all(), *self._followers]
            self._followers.clear()
        self._abort()
        for awaited in waiting:
            if awaited.waker is not None:
                awaited.waker.put(None)

    def _follow(self, awaited: Awaited) -> bool:
        """Wait until it is there, or it is this thread's turn to lead (True)."""
        waker = awaited.waker
        if waker is None or awaited.done:
            self._leave(awaited)
            return awaited.promoted  # one that is no reply may be served after the lead was handed over to it
        try:
            while not self._look_in(waker, awaited):
                if self._is_over(awaited):
                    self._leave(awaited)
                    if not awaited.promoted:
                        self._overdue(awaited)
                    break
        except BaseException:  # of a signal handler, say: nobody must wait for this thread to lead
            self._leave(awaited)
            if awaited.promoted:
                self._hand_over()
            raise
        else:
            self._leave(awaited)
        return awaited.promoted

    @staticmethod
    def _look_in(waker: queue.SimpleQueue[None], awaited: Awaited) -> bool:
        """Whether the thread that waits for it is woken; False after a while."""
        left = awaited.expires_at - time.monotonic()
        try:
            waker.get(timeout=max(0.0, min(left, TICK_SECONDS)))
        except queue.Empty:
            return False
        return True

    def _is_over(self, awaited: Awaited) -> bool:
        """Whether the calling thread waits for it no longer."""
        return time.monotonic() >= awaited.expires_at or self._is_interrupted()

    def _is_interrupted(self) -> bool:
        """Whether the request is, and the server has not answered a probe."""
        silence = self._silence()
        if silence < TICK_SECONDS or not waiting.is_interrupted():
            return False
        now = time.monotonic()
        since_probe = now - self._probed_at
        if since_probe >= silence:
            self._probed_at = now
            self._probe()
            return False
        return since_probe >= TICK_SECONDS

    def _leave(self, awaited: Awaited) -> None:
        with self._lock:
            self._followers.pop(awaited, None)

    def _lead(self, awaited: Awaited) -> None:
        with self._leading():
            while not awaited.done and self._broken is None:
                if self._receive(min(awaited.expires_at, time.monotonic() + TICK_SECONDS)):
                    continue
                if self._is_over(awaited):
                    self._overdue(awaited)
                    break
                self._probe_if_silent()

    def lead_while_idle(self) -> None:
        """Receive for as long as nobody waits; for a thread that waits for nothing of its own."""
        with self._lock:
            if self._led or self._broken is not None:
                return
            self._led = True
            joined = self._joined
        with self._leading():
            while not self.broken and self._joined == joined:
                self._receive(time.monotonic() + TICK_SECONDS)

    @contextmanager
    def _leading(self) -> Iterator[None]:
        """Around receiving: whatever ends it breaks the connection or hands the lead over."""
        try:
            yield
        except BaseException as error:
            self.fail(self._describe(error))
            if not isinstance(error, Exception):
                raise
        finally:
            self._hand_over()

    def _hand_over(self) -> None:
        with self._lock:
            while self._followers:
                follower = next(iter(self._followers))
                del self._followers[follower]
                if not follower.done and follower.waker is not None:
                    follower.promoted = True
                    follower.waker.put(None)
                    return
            self._led = False

    def _overdue(self, awaited: Awaited) -> None:
        if awaited.done:
            return
        if self._silence() > self._deadline / 2:
            self.fail(f"the server has been silent for {self._deadline:g} s")
        self._expire(awaited)

    def _probe_if_silent(self) -> None:
        """For the leader, while nothing comes."""
        now = time.monotonic()
        pause = max(TICK_SECONDS, self._deadline / 4)
        if self._silence() > pause / 2 and now - self._probed_at > pause:
            self._probed_at = now
            self._probe()

    @abc.abstractmethod
    def _receive(self, expires_at: float) -> bool:
        """Receive until something has arrived in full. False at `expires_at`; what came in part is kept."""

    @abc.abstractmethod
    def _silence(self) -> float:
        """Seconds since the server was last heard."""

    @abc.abstractmethod
    def _probe(self) -> None:
        """Ask the server for a sign of life, without waiting."""

    @abc.abstractmethod
    def _expire(self, awaited: Awaited) -> None:
        """Nobody waits for it any more: whatever comes of it must do no harm."""

    @abc.abstractmethod
    def _let_go(self, awaited: Awaited) -> None:
        """Return once nothing touches the memory that was given for its reply."""

    @abc.abstractmethod
    def _take_all(self) -> Iterable[Awaited]:
        """Forget everything that is waited for, and give it back. Called with the lock held."""

    @abc.abstractmethod
    def _abort(self) -> None:
        """Break the connection, without waiting: threads that send or receive return or raise."""

    @abc.abstractmethod
    def _describe(self, error: BaseException) -> str:
        """One phrase for a person about what broke the connection."""
