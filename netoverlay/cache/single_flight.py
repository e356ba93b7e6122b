"""Do a thing once for all who want it at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from netoverlay.backend_api.waiting import about_to_wait, check_interrupted, check_patience

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_INTERRUPT_SECONDS = 0.25


def outcome(future: Future[T]) -> T | None:
    """Wait for what another thread does, and have its result or error; None if it was interrupted, which is no concern
    of ours. EINTR if the request of the calling thread is; UnavailableError if it has no time (waiting_at_most)."""
    if not future.done():
        about_to_wait()
        while not wait((future,), _INTERRUPT_SECONDS).done:
            check_interrupted()
            check_patience()
    if isinstance(future.exception(), InterruptedError):
        return None
    return future.result()


class SingleFlight(Generic[K, T]):
    """Calls under way, by key; results must not be None."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[K, Future[T]] = {}

    def __contains__(self, key: K) -> bool:
        with self._lock:
            return key in self._under_way

    def do(self, key: K, call: Callable[[], T]) -> T:
        """What `call` returns or raises, or what the call under way for `key` does."""
        while True:
            with self._lock:
                future = self._under_way.get(key)
                is_ours = future is None
                if future is None:
                    future = self._under_way[key] = Future()
            if is_ours:
                return self._lead(key, call)
            result = outcome(future)
            if result is not None:
                return result

    def claim(self, keys: Iterable[K]) -> list[K]:
        """Those that nobody is at: the caller is from now on, and has to settle() or fail() each."""
        with self._lock:
            claimed = [key for key in keys if key not in self._under_way]
            self._under_way.update((key, Future()) for key in claimed)
        return claimed

    def settle(self, key: K, result: T) -> None:
        """It is done."""
        self._end(key).set_result(result)

    def fail(self, key: K, error: BaseException) -> None:
        """It could not be done."""
        self._end(key).set_exception(error)

    def _lead(self, key: K, call: Callable[[], T]) -> T:
        try:
            result = call()
        except BaseException as error:
            self.fail(key, error)
            raise
        self.settle(key, result)
        return result

    def _end(self, key: K) -> Future[T]:
        with self._lock:
            return self._under_way.pop(key)
