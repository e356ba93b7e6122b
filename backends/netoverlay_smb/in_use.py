"""Requests of ours that have something open, kept apart from renames and removals of directories above that.

A listing has its directory open for several requests, and a file that was just opened is nobody's yet. Samba does not
rename a directory while its connection has anything below it open, and keeps the name of a removed one for as long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from netoverlay.backend_api import LayerPath, UnavailableError, waiting


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    paths: Sequence[LayerPath]
    is_vacating: bool

    def must_wait_for(self, other: _Entry) -> bool:
        if self.is_vacating == other.is_vacating:
            return False
        tops, users = (self, other) if self.is_vacating else (other, self)
        return any(_is_within(path, top) for path in users.paths for top in tops.paths)


class PathsInUse:
    """Of one layer, in the order of arrival. Any thread may call, inside of neither using() nor vacated()."""

    def __init__(self, patience: float) -> None:
        """`patience`: in seconds, how long one waits for another, or less if its request has waited already."""
        self._patience = patience
        self._changed = threading.Condition(threading.Lock())
        self._entries: list[_Entry] = []
        self._vacating = 0

    @contextmanager
    def using(self, *paths: LayerPath) -> Iterator[None]:
        """Around what opens something at the paths, and closes it or hands it on."""
        entry = _Entry(paths, is_vacating=False)
        with self._changed:
            self._entries.append(entry)
            may_have_to_wait = self._vacating > 0
        try:
            if may_have_to_wait:
                # What keeps a rename that long is the server's silence, which is met by who goes on, too.
                self._comes_first(entry)
            yield
        finally:
            self._leave(entry)

    @contextmanager
    def vacated(self, *paths: LayerPath) -> Iterator[None]:
        """Around what needs nothing to be open at the paths or below. UnavailableError if that takes too long."""
        entry = _Entry(paths, is_vacating=True)
        with self._changed:
            self._entries.append(entry)
            self._vacating += 1
        try:
            if not self._comes_first(entry):
                raise UnavailableError("what the server was asked for before has no answer yet")
            yield
        finally:
            self._leave(entry)

    def _comes_first(self, entry: _Entry) -> bool:
        """Wait for those before it that it must wait for; False if that takes too long."""
        left = waiting.give_up_at(self._patience) - time.monotonic()
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_kept(entry), max(0.0, left))

    def _is_kept(self, entry: _Entry) -> bool:
        before = self._entries[: self._entries.index(entry)]
        return any(entry.must_wait_for(other) for other in before)

    def _leave(self, entry: _Entry) -> None:
        with self._changed:
            self._entries.remove(entry)
            self._vacating -= entry.is_vacating
            self._changed.notify_all()


def _is_within(path: LayerPath, top: LayerPath) -> bool:
    return path == top or path.startswith(f"{top}/")
