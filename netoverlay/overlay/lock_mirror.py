"""The locks of this mount on one open file, as the layer that holds the file keeps them for us.

To the layer the mount is one owner. For each byte it holds the strongest kind that any program here holds, on the open
file that carries the data, so that locks that forbid others to read and write (SMB) do not forbid it to ourselves.
"""

from __future__ import annotations

import errno
import logging
from typing import Final, NamedTuple

from netoverlay.backend_api import BackendFile, LockKind, NotSupportedError, UnavailableError, os_error
from netoverlay.overlay.layers import Layer
from netoverlay.overlay.lock_table import END, LockCall, LockTable, Wanted
from netoverlay.overlay.range_map import RangeMap

logger = logging.getLogger(__name__)

_STRENGTH: Final = {LockKind.UNLOCK: 0, LockKind.SHARED: 1, LockKind.EXCLUSIVE: 2}
_BOTH: Final = (LockCall.FCNTL, LockCall.FLOCK)


class _Step(NamedTuple):
    """A range that the layer is to hold otherwise; `whole`: the file, by lock_whole()."""

    start: int
    end: int
    before: LockKind
    after: LockKind
    whole: bool = False

    @property
    def is_stronger(self) -> bool:
        return _STRENGTH[self.after] > _STRENGTH[self.before]


class LockMirror:
    """What the layer holds. Precondition of every method: FILE_LOCKS of the file's inode is held."""

    def __init__(self, layer: Layer, file: BackendFile) -> None:
        self.layer = layer
        self.file = file
        self.lost = False
        """The layer let go of a lock that a program holds still. Until all are given up, nothing is granted."""
        self._ranges: RangeMap[LockKind] = RangeMap()
        self._whole = LockKind.UNLOCK
        has_whole = layer.capabilities.whole_locks
        self._range_calls = (LockCall.FCNTL,) if has_whole else _BOTH
        self._whole_calls = (LockCall.FLOCK,) if has_whole else ()

    def follow(self, table: LockTable, start: int = 0, end: int = END) -> None:
        """Have the layer hold what `table` says of a range, now.

        BlockingIOError (EAGAIN) if somebody outside is in the way, ENOLCK if the layer cannot, UnavailableError: then
        the layer holds what it held before. If not even that can be had, the locks are `lost`, and it is ENOLCK.
        """
        self.notice_loss()
        if self.lost:
            if table:
                raise os_error(errno.ENOLCK)
            self._recover()
        steps = self._steps(table, start, end)
        self._strengthen(steps)
        self._weaken(steps)
        if self.lost:
            raise os_error(errno.ENOLCK)

    def weaken(self, table: LockTable, start: int, end: int) -> None:
        """As follow(), after locks were given up in `table`: never fails."""
        if self.lost and table:
            return
        if self.lost:
            self._recover()
        self._weaken(self._steps(table, start, end))

    def notice_loss(self) -> None:
        """See whether the layer has lost locks."""
        if self.file.lost_locks:
            self.lost = True

    def release(self) -> None:
        """Have the layer hold nothing."""
        self.weaken(LockTable(), 0, END)

    def refuses(self, wanted: Wanted) -> bool:
        """Whether somebody outside is in the way of a lock, found out by taking it for a moment where that is needed.

        ENOLCK, UnavailableError.
        """
        attempt = LockTable()
        attempt.set(wanted)
        try:
            done = self._strengthen(self._steps(attempt, wanted.start, wanted.end))
        except BlockingIOError:
            return True
        self._take_back(done, None)
        return False

    def _steps(self, table: LockTable, start: int, end: int) -> list[_Step]:
        steps = []
        union = table.union(start, end, self._range_calls)
        for piece in union.covering(start, end):
            after = piece.value or LockKind.UNLOCK
            for below in self._ranges.covering(piece.start, piece.end):
                before = below.value or LockKind.UNLOCK
                if before is not after:
                    steps.append(_Step(below.start, below.end, before, after))
        if self._whole_calls:
            kinds = [held.value for held in table.union(0, END, self._whole_calls)]
            after = max(kinds, key=_STRENGTH.__getitem__, default=LockKind.UNLOCK)
            if after is not self._whole:
                steps.append(_Step(0, END, self._whole, after, whole=True))
        return steps

    def _ask(self, step: _Step, kind: LockKind) -> None:
        try:
            if step.whole:
                self.file.lock_whole(kind)
            else:
                self.file.lock(kind, step.start, 0 if step.end == END else step.end - step.start)
        except (BlockingIOError, UnavailableError):
            raise
        except NotSupportedError as error:
            raise os_error(errno.ENOLCK) from error
        except OSError as error:
            if error.errno == errno.ENOLCK:
                self.lost = bool(self._ranges) or self._whole is not LockKind.UNLOCK
            raise os_error(errno.ENOLCK) from error
        self._note(step, kind)

    def _note(self, step: _Step, kind: LockKind) -> None:
        if step.whole:
            self._whole = kind
        else:
            self._ranges.set(step.start, step.end, None if kind is LockKind.UNLOCK else kind)

    def _strengthen(self, steps: list[_Step]) -> list[_Step]:
        """Have what is to be stronger, or raise, with all as it was: the steps that were taken."""
        done: list[_Step] = []
        try:
            for step in steps:
                if step.is_stronger:
                    if step.whole:
                        done.append(step)  # even a refused flock(2) gives up the lock that was there
                    self._ask(step, step.after)
                    if not step.whole:
                        done.append(step)
        except OSError as error:
            self._take_back(done, error)
            raise
        return done

    def _take_back(self, done: list[_Step], cause: OSError | None) -> None:
        """Undo steps. Where what was held before cannot be had again, it is lost: ENOLCK."""
        for step in reversed(done):
            try:
                self._ask(step, step.before)
            except OSError as error:
                if step.before is LockKind.UNLOCK:
                    self._given_up(step, LockKind.UNLOCK, error)
                    continue
                self.lost = True
                raise os_error(errno.ENOLCK) from (cause or error)

    def _weaken(self, steps: list[_Step]) -> None:
        """Hold no more than is wanted. Never fails."""
        for step in steps:
            if step.is_stronger:
                continue
            try:
                self._ask(step, step.after)
            except OSError as error:
                if step.after is not LockKind.UNLOCK:
                    self.lost = True
                self._given_up(step, step.after, error)

    def _given_up(self, step: _Step, kind: LockKind, error: OSError) -> None:
        """A range that could not be unlocked goes with the open file, or has gone with the connection."""
        logger.info("a lock could not be given back to its layer: %s", error)
        self._note(step, kind)

    def _recover(self) -> None:
        """Nobody here holds a lock any more: begin anew."""
        self.lost = False
        self._ranges = RangeMap()
        self._whole = LockKind.UNLOCK
        try:
            self.file.lock(LockKind.UNLOCK, 0, 0)
            if self._whole_calls:
                self.file.lock_whole(LockKind.UNLOCK)
        except OSError as error:
            logger.info("locks could not be given back to their layer: %s", error)
