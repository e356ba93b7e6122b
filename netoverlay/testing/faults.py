"""Rules that say which calls to a backend fail, wait or are the last, and the count of all calls."""

from __future__ import annotations

import errno
import fnmatch
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from netoverlay.backend_api import LayerPath

T = TypeVar("T")
ErrorFactory = Callable[[], Exception]
"""Makes a new exception for each call that fails."""

CHANGES = frozenset(
    {
        "mkdir",
        "unlink",
        "rmdir",
        "rename",
        "symlink",
        "link",
        "mknod",
        "set_attributes",
        "set_xattr",
        "remove_xattr",
        "create",
        "truncate",
        "file.write_at",
        "file.truncate",
        "file.set_attributes",
        "file.allocate",
        "file.copy_range",
        "file.set_xattr",
        "file.remove_xattr",
    }
)
"""The operations that change what a layer stores, by the names that rules use."""


class CrashedError(OSError):
    """What every call raises after a crash (EIO): whoever made it is dead, and must change nothing any more."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the faulty backend has crashed")


class Gate:
    """Holds up the calls that come to it until it is opened."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def wait_until_reached(self, timeout: float = 30.0) -> None:
        """Return once a call is held up. TimeoutError after `timeout` seconds."""
        if not self._reached.wait(timeout):
            raise TimeoutError(errno.ETIMEDOUT, "no call came to the gate")

    def open(self) -> None:
        """Let pass what waits and what comes."""
        self._opened.set()

    def hold(self, timeout: float = 60.0) -> None:
        """Wait until the gate is open. TimeoutError after `timeout` seconds, so that no test hangs."""
        self._reached.set()
        if not self._opened.wait(timeout):
            raise TimeoutError(errno.ETIMEDOUT, "the gate was never opened")


@dataclass(eq=False, slots=True)
class Rule:
    """Strikes the calls from the `nth` that match, `times` of them (None: all)."""

    operations: frozenset[str]
    """Empty: every operation."""
    path: str
    """fnmatch pattern; of a call with two paths either may match."""
    nth: int
    times: int | None
    after: bool
    """Strike once the call is carried out: the layer has changed, but the caller is not told."""
    action: Callable[[], None]
    seen: int = 0

    def strikes(self, operation: str, paths: Iterable[LayerPath]) -> bool:
        """Count the call if it matches, and tell whether it is one to strike."""
        if self.operations and operation not in self.operations:
            return False
        if not any(fnmatch.fnmatchcase(path, self.path) for path in paths):
            return False
        self.seen += 1
        return self.nth <= self.seen and (self.times is None or self.seen < self.nth + self.times)


@dataclass(eq=False)
class Faults:
    """The rules and counts of one FaultyBackend. Thread-safe.

    Operations are named as the methods of Backend ("stat", "rename"), those of BackendFile with "file." before it
    ("file.write_at"). open() counts as "create" if it may make the file, as "truncate" if it empties one, and as
    "open" otherwise.
    """

    calls: Counter[str] = field(default_factory=Counter)
    """How often each operation was called."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._crashed = False

    @property
    def total_calls(self) -> int:
        """How many calls of all operations there were."""
        with self._lock:
            return self.calls.total()

    @property
    def crashed(self) -> bool:
        return self._crashed

    def reset_counts(self) -> None:
        with self._lock:
            self.calls.clear()

    def clear(self) -> None:
        """Forget all rules, and the crash."""
        with self._lock:
            self._rules.clear()
            self._crashed = False

    def fail(
        self,
        *operations: str,
        error: int | ErrorFactory = errno.EIO,
        path: str = "*",
        nth: int = 1,
        times: int | None = 1,
        after: bool = False,
    ) -> Rule:
        """Let calls raise `error`: an errno, or what the factory makes."""

        def action() -> None:
            raise OSError(error, os.strerror(error)) if isinstance(error, int) else error()

        return self._add(operations, path, nth, times, after, action)

    def delay(self, *operations: str, seconds: float, path: str = "*") -> Rule:
        """Let every call that matches take `seconds` longer."""
        return self._add(operations, path, 1, None, False, lambda: time.sleep(seconds))

    def pause(self, *operations: str, path: str = "*", nth: int = 1, after: bool = False) -> Gate:
        """Let the nth call wait until the gate is opened."""
        gate = Gate()
        self._add(operations, path, nth, 1, after, gate.hold)
        return gate

    def crash(self, *operations: str, path: str = "*", nth: int = 1, after: bool = False) -> Rule:
        """Let the nth call, and every call of any operation from then on, raise CrashedError."""
        return self._add(operations, path, nth, 1, after, self._crash)

    def run(self, operation: str, paths: tuple[LayerPath, ...], call: Callable[[], T]) -> T:
        """Carry out `call`, as far as the rules let it."""
        with self._lock:
            self.calls[operation] += 1
            struck = [rule for rule in self._rules if rule.strikes(operation, paths)]
        self._check_alive()
        for rule in struck:
            if not rule.after:
                rule.action()
        self._check_alive()
        result = call()
        for rule in struck:
            if rule.after:
                rule.action()
        return result

    def _check_alive(self) -> None:
        if self._crashed:
            raise CrashedError

    def _crash(self) -> None:
        self._crashed = True
        raise CrashedError

    def _add(
        self,
        operations: tuple[str, ...],
        path: str,
        nth: int,
        times: int | None,
        after: bool,
        action: Callable[[], None],
    ) -> Rule:
        rule = Rule(frozenset(operations), path, nth, times, after, action)
        with self._lock:
            self._rules.append(rule)
        return rule
