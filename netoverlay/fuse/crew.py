"""The threads of a session: exactly one of them reads the device.

Local operations are so short that a second reader only costs hand-overs of the interpreter lock. So the thread that
read a request serves it, and meanwhile nobody reads, until it is about to wait: then it gives the reading to an idle
thread, or to a new one, and when it is done it becomes idle itself. Where all threads wait, nobody reads until one is
done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

_log = logging.getLogger(__name__)


class _Idle(NamedTuple):
    """A thread that waits for its turn to read: the lock is held until then."""

    thread: threading.Thread
    turn: threading.Lock


class Crew:
    """Threads that pass the reading on."""

    def __init__(self, name: str, work: Callable[[], None], max_threads: int, idle_threads: int) -> None:
        """`work` is what each thread runs; it starts with the reading, and asks await_reading() for it again."""
        self._name = name
        self._work = work
        self._max_threads = max_threads
        self._idle_threads = idle_threads
        self._lock = threading.Lock()
        self._idle: list[_Idle] = []
        self._members: set[threading.Thread] = set()
        self._reader: threading.Thread | None = None
        self._number = 0
        self._ended = False

    def start(self) -> None:
        """Start the first thread; RuntimeError if the system refuses."""
        with self._lock:
            thread = self._add_member()
        self._start(thread)

    def pass_reading(self) -> None:
        """Called by the thread that reads: from now on another does, or, if none is left, the first that is done."""
        with self._lock:
            if self._take_idle():
                return
            if len(self._members) >= self._max_threads or self._ended:
                self._reader = None
                return
            thread = self._add_member()
        try:
            self._start(thread)
        except RuntimeError:
            _log.exception("no further thread can be started: reading goes on when a request is done")
            with self._lock:
                if not self._take_idle():
                    self._reader = None

    def await_reading(self) -> bool:
        """Called by a thread that passed the reading on: True once it has it again, False if it is to end."""
        thread = threading.current_thread()
        with self._lock:
            if self._ended:
                return False
            if self._reader is None:
                self._reader = thread
                return True
            if len(self._idle) >= self._idle_threads:
                # No longer a member at once, lest a pass_reading() before the thread's end counts it.
                self._members.discard(thread)
                return False
            turn = threading.Lock()
            turn.acquire()
            self._idle.append(_Idle(thread, turn))
        turn.acquire()
        return not self._ended

    def end(self) -> None:
        """Let every thread end as soon as it is idle."""
        with self._lock:
            self._ended = True
            for idle in self._idle:
                idle.turn.release()
            self._idle.clear()

    def join(self) -> None:
        """Wait until all threads ended."""
        with self._lock:
            members = list(self._members)
        for member in members:
            member.join()

    def join_but_reader(self, seconds: float) -> bool:
        """Wait, for `seconds` at most, until all threads ended but the one that reads; False if one has not.

        Nothing of ours wakes a thread that waits for a request: not closing the device, which the waiting thread keeps
        open, and no signal, after which the read is resumed.
        """
        deadline = time.monotonic() + seconds
        with self._lock:
            members = [member for member in self._members if member is not self._reader]
        for member in members:
            member.join(max(0.0, deadline - time.monotonic()))
        return not any(member.is_alive() for member in members)

    def _take_idle(self) -> bool:
        """With the lock held: give the reading to an idle thread; False if there is none."""
        if not self._idle:
            return False
        # The one that became idle last: its memory is the most likely to be in the processor's cache.
        self._reader, turn = self._idle.pop()
        turn.release()
        return True

    def _add_member(self) -> threading.Thread:
        """With the lock held: a thread, not yet started, that has the reading."""
        self._number += 1
        # A daemon thread: one that waits for a request must not keep the process from ending.
        thread = threading.Thread(target=self._run, name=f"{self._name}-{self._number}", daemon=True)
        self._members.add(thread)
        self._reader = thread
        return thread

    def _start(self, thread: threading.Thread) -> None:
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._members.discard(thread)
            raise

    def _run(self) -> None:
        try:
            self._work()
        finally:
            with self._lock:
                self._members.discard(threading.current_thread())
