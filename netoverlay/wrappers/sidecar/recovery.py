"""What became of a change whose outcome nobody was told: the server's names tell.

After a crash, of the intents that the journal has without an outcome; and while mounted, when the connection was lost
in the middle of a change. Half of an exchange is completed or taken back.

An exchange of A and B renames A aside, B to A, and then, having noted so in the journal, what is aside to B:

| aside | A | B | journal | what is done |
|---|---|---|---|---|
| there | - | there | | taken back: aside to A |
| there | there | - | | completed: aside to B |
| - | there | there | no step | it has not begun |
| - | there | there | the step | it is done |
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading

from netoverlay.backend_api import Backend, FileType, LayerPath, join_path
from netoverlay.wrappers.sidecar import markers
from netoverlay.wrappers.sidecar.intents import Intent, Kind
from netoverlay.wrappers.sidecar.journal import Journal
from netoverlay.wrappers.sidecar.marks import Marks
from netoverlay.wrappers.sidecar.nodes import Place, place_path

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR})

logger = logging.getLogger(__name__)


class Recovery:
    """Settles the intents of one journal."""

    def __init__(self, inner: Backend, directory: LayerPath, journal: Journal, marks: Marks) -> None:
        """`directory` is the work directory."""
        self._inner = inner
        self._directory = directory
        self._journal = journal
        self._tree = journal.tree
        self._marks = marks
        self._settling = threading.RLock()
        self._doubts: list[Intent] = []

    def doubt(self, intent: Intent) -> None:
        """Nobody knows what became of it: settle() has to find out before anything else is done."""
        with self._settling:
            self._doubts.append(intent)

    def settle(self) -> None:
        """Find out what became of every intent in doubt. OSError if the server does not tell."""
        if not self._doubts:
            return
        with self._settling:
            while self._doubts:
                self.conclude(self._doubts[0])
                del self._doubts[0]

    def conclude(self, intent: Intent) -> bool:
        """Whether it was done, as the server tells; the tree and the journal follow. OSError if it does not tell."""
        done = self._was_done(intent)
        self._journal.end(intent, done=done)
        with contextlib.suppress(OSError):
            self._tidy(intent)
        return done

    def sweep(self) -> None:
        """Remove what is still out of the way in the work directory, when no intent needs it any more."""
        for entry in self._inner.list_dir(self._directory):
            if entry.name.startswith(markers.ASIDE_PREFIX):
                self.discard(join_path(self._directory, entry.name))

    def discard(self, path: LayerPath) -> None:
        """Remove a directory that shows nothing, but may hold marks. What cannot be removed stays, unseen."""
        try:
            if self._inner.stat(path).type is FileType.DIRECTORY:
                for entry in self._inner.list_dir(path):
                    if entry.name == markers.LONG_DIRECTORY and entry.stat.type is FileType.DIRECTORY:
                        self._inner.rmdir(join_path(path, entry.name))
                    elif markers.is_marker(entry.name):
                        self._inner.unlink(join_path(path, entry.name))
                self._inner.rmdir(path)
            else:
                logger.warning("left in the work directory: %s", path)
        except OSError as error:
            logger.warning("left in the work directory, until the next mount: %s: %s", path, error)

    def aside(self, intent: Intent) -> LayerPath:
        """Where an intent puts out of the way what is in it."""
        return join_path(self._directory, intent.aside or "")

    def _was_done(self, intent: Intent) -> bool:
        try:
            paths = [place_path(self._tree, place) for place in intent.places]
        except FileNotFoundError:
            return False
        there = [self._is_there(path) for path in paths]
        if intent.kind is Kind.ENTER:
            return there[0]
        if intent.kind is Kind.EXCHANGE:
            return self._finish_exchange(intent, paths, there)
        if there[0] and intent.aside is not None and not there[-1] and self._is_there(self.aside(intent)):
            self._inner.rename(self.aside(intent), paths[-1])
        return not there[0]

    def _finish_exchange(self, intent: Intent, paths: list[LayerPath], there: list[bool]) -> bool:
        aside = self.aside(intent)
        if not self._is_there(aside):
            return intent.stepped
        for path, is_there, done in zip(paths, there, (False, True), strict=True):
            if not is_there:
                self._inner.rename(aside, path)
                return done
        return False

    def _tidy(self, intent: Intent) -> None:
        """Remove whiteout files beside what is there: those that were made too early, or not removed any more."""
        for directory, name in intent.places:
            place = Place(directory, name, place_path(self._tree, (directory, name)))
            if self._marks.hides(place) and self._is_there(place.path):
                self._marks.remove(place)

    def _is_there(self, path: LayerPath) -> bool:
        try:
            self._inner.stat(path)
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            raise
        return True
