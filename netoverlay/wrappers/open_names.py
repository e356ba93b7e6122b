"""Which files are open, by all the names that are known of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from netoverlay.backend_api.types import LayerPath, split_path
from netoverlay.wrappers.outbox import Pending


class OpenNames:
    """From paths to what is pending of the files there. Thread-safe, under the lock of the outbox."""

    def __init__(self, lock: threading.Lock, make: Callable[[], Pending]) -> None:
        self._lock = lock
        self._make = make
        self._files: dict[LayerPath, Pending] = {}

    def enter(self, path: LayerPath, *, writes: bool) -> Pending:
        """The file at `path` is about to be opened. Before it is, so that a rename in between is not missed."""
        with self._lock:
            pending = self._files.get(path)
            if pending is None:
                pending = self._files[path] = self._make()
            pending.users += 1
            pending.writers += writes
            return pending

    def leave(self, pending: Pending, *, writes: bool) -> None:
        """The file is closed."""
        with self._lock:
            pending.users -= 1
            pending.writers -= writes
            if not pending.users:
                for path in [path for path, file in self._files.items() if file is pending]:
                    del self._files[path]

    def renew(self, path: LayerPath, pending: Pending, *, writes: bool) -> Pending:
        """What was just created at `path` is another file than the one that others have open, which had that name."""
        if pending.users == 1:
            return pending
        self.leave(pending, writes=writes)
        self.gone(path)
        return self.enter(path, writes=writes)

    def find(self, path: LayerPath) -> Pending | None:
        """Of the file at `path`, if it is open."""
        return self._files.get(path)

    def inside(self, directory: LayerPath) -> dict[str, Pending]:
        """Of the open files in a directory, by name."""
        with self._lock:
            found = ((split_path(path), pending) for path, pending in self._files.items())
            return {name: pending for (parent, name), pending in found if parent == directory}

    def linked(self, existing: LayerPath, new: LayerPath) -> None:
        """The file at `existing` has got another name."""
        with self._lock:
            if existing in self._files:
                self._files[new] = self._files[existing]

    def gone(self, path: LayerPath) -> None:
        """The name was removed, or taken by another file."""
        with self._lock:
            self._files.pop(path, None)

    def moved(self, old: LayerPath, new: LayerPath, *, exchange: bool) -> None:
        """What stood at `old` and below stands at `new`; for an exchange also the other way round."""
        with self._lock:
            if not self._files or old == new:
                return
            there = self._take_tree(new)
            here = self._take_tree(old)
            self._files |= {new + path[len(old) :]: pending for path, pending in here.items()}
            if exchange:
                self._files |= {old + path[len(new) :]: pending for path, pending in there.items()}

    def lost(self, *tops: LayerPath) -> None:
        """Nobody knows under which names the files at `tops` and below stand."""
        with self._lock:
            for top in tops:
                self._take_tree(top)

    def _take_tree(self, top: LayerPath) -> dict[LayerPath, Pending]:
        below = f"{top}/"
        paths = [path for path in self._files if path == top or path.startswith(below)]
        return {path: self._files.pop(path) for path in paths}
