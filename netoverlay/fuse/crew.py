"""The threads of a session: at most one of them reads the device.

Local operations are so short that a second reader only costs hand-overs of the interpreter lock. So the thread that
read a request serves it, and meanwhile nobody reads, until it is about to wait: from then on the idle threads watch the
device (epoll(7)), and the first request that comes makes one of them the reader. If none comes before the wait is over,
no other thread has run at all. A thread that is done reads again, or becomes idle if another does. Where all threads
wait, nobody reads until one is done.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable
from typing import Final

_log = logging.getLogger(__name__)

_ONE_REQUEST: Final = select.EPOLLIN | select.EPOLLONESHOT
_ANYTHING: Final = select.EPOLLOUT
"""A device can be written to at any time."""


class Crew:
    """Threads that pass the reading on."""

    def __init__(self, name: str, work: Callable[[], None], max_threads: int, idle_threads: int) -> None:
        """`work` is what each thread runs; it starts with the reading, and asks await_reading() for it again."""
        self._name = name
        self._work = work
        self._max_threads = max_threads
        self._idle_threads = idle_threads
        self._lock = threading.Lock()
        self._idle = 0
        """How many threads watch the device, or are about to."""
        self._members: set[threading.Thread] = set()
        self._reader: threading.Thread | None = None
        self._watch: select.epoll
        self._device = -1
        self._is_watched = False
        self._number = 0
        self._ended = False

    def start(self, device: int) -> None:
        """Start the first thread, which reads `device`; RuntimeError if the system refuses."""
        self._device, self._watch = device, select.epoll()
        with self._lock:
            thread = self._add_member()
        self._start(thread)

    def pass_reading(self) -> None:
        """Called by the thread that reads: from now on another does, or, if none is left, the first that is done."""
        with self._lock:
            if self._be_watched():
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
                if not self._be_watched():
                    self._reader = None

    def regain_reading(self) -> bool:
        """Called by a thread that passed the reading on: whether it has it again, for nobody has begun to read."""
        with self._lock:
            if self._ended or self._reader is not None:
                return False
            self._take_reading(threading.current_thread())
            return True

    def await_reading(self) -> bool:
        """Called by a thread that passed the reading on: True once it has it again, False if it is to end."""
        thread = threading.current_thread()
        with self._lock:
            if self._ended:
                return False
            if self._reader is None:
                self._take_reading(thread)
                return True
            if self._idle >= self._idle_threads:
                # No longer a member at once, lest a pass_reading() before the thread's end counts it.
                self._members.discard(thread)
                return False
            self._idle += 1
        while True:
            self._watch.poll(maxevents=1)
            with self._lock:
                if self._ended:
                    return False
                if self._reader is None:
                    self._idle -= 1
                    self._take_reading(thread)
                    return True

    def end(self) -> None:
        """Let every thread end as soon as it is idle."""
        with self._lock:
            if not self._ended and self._members:
                self._stop_watching()
                self._watch.register(self._device, _ANYTHING)
            self._ended = True

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

    def _be_watched(self) -> bool:
        """With the lock held: let the next request find a reader among the idle threads; False if there is none."""
        if not self._idle or self._ended:
            return False
        self._reader = None
        self._is_watched = True
        self._watch.register(self._device, _ONE_REQUEST)
        return True

    def _take_reading(self, thread: threading.Thread) -> None:
        """With the lock held."""
        self._reader = thread
        self._stop_watching()

    def _stop_watching(self) -> None:
        """With the lock held. A device that is registered, for nothing even, wakes who reads it far more slowly."""
        if self._is_watched:
            self._is_watched = False
            self._watch.unregister(self._device)

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
