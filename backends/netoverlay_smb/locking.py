"""Byte-range locks as OFD locks are (fcntl(2)), made of SMB2 LOCK (MS-SMB2 2.2.26, 3.3.5.14).

A server knows no splitting, no merging and no changing of kinds: what was locked is unlocked with the same offset and
length, and an exclusive lock is refused over a shared one of the same open. So there is a table of what is locked.

- A shared lock may be laid over an exclusive one of the same open, and the first unlock of such a range takes the
  exclusive one away (LockFileEx in the Windows SDK; measured on Samba). So weakening and splitting shared ranges opens
  no window: the new ones are laid over the old one before that is unlocked.
- What has to be unlocked first is unlocked and locked again in one message: to slip in between, another's request must
  be there in the very moment.
- Strengthening has the old locks back in the same message if it is refused, and only one of us tries that at a time on
  a file: see _upgrade().
- What nobody knows after a lost reply is made known by giving up the connection, and with it everything that it held.
"""

from __future__ import annotations

import errno
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from netoverlay.backend_api import LockKind, NotSupportedError, UnavailableError
from netoverlay_smb import commands
from netoverlay_smb.commands import LockElement
from netoverlay_smb.errors import StatusError
from netoverlay_smb.lock_ranges import END, Held, Span, gaps, without
from netoverlay_smb.protocol import LockFlags
from netoverlay_smb.session import ServerHandle
from netoverlay_smb.status import CONNECTION_LOST, Status

_T = TypeVar("_T")

MAX_ELEMENTS = 64
"""Of one request. No limit is written down; Samba refuses 256."""
RELOCK_SECONDS = 1.0
"""How long to try to have locks back after the connection was lost: the server may not have noticed that yet."""
_RELOCK_PAUSE_SECONDS = 0.02
TURN_SECONDS = 1.0
"""How long to wait for another who has his turn to strengthen a lock, which takes him a round trip."""
_TURN_PAUSE_SECONDS = 0.002
_CONFLICTS = frozenset({Status.FILE_LOCK_CONFLICT, Status.LOCK_NOT_GRANTED})
_FLAGS = {
    LockKind.UNLOCK: LockFlags.UNLOCK,
    LockKind.SHARED: LockFlags.SHARED | LockFlags.FAIL_IMMEDIATELY,
    LockKind.EXCLUSIVE: LockFlags.EXCLUSIVE | LockFlags.FAIL_IMMEDIATELY,
}
_TURN = LockElement(END, 1, _FLAGS[LockKind.EXCLUSIVE])
"""Whoever strengthens a lock on a file has locked this byte of it, which no program can: the same for all mounts."""
_AGAIN = Retrying(
    retry=retry_if_exception(
        lambda error: isinstance(error, StatusError) and error.status == Status.FILE_LOCK_CONFLICT
    ),
    wait=wait_exponential(multiplier=0.002, exp_base=3),
    stop=stop_after_attempt(7),
    reraise=True,
)
"""Programs hold locks for moments mostly: up to 0.7 s are waited for that."""


def patiently(call: Callable[[], _T]) -> _T:
    """What `call` returns, which reads or writes what another may have locked for a moment. StatusError."""
    try:
        return call()
    except StatusError as error:
        if error.status != Status.FILE_LOCK_CONFLICT:
            raise
    return _AGAIN(call)


class FileLocks:
    """The locks of one open file. The methods that get a handle ask the server, and raise StatusError.

    Its mutex is taken with a handle borrowed, and nothing is borrowed under it: whoever reopens the file needs it.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held: list[Held] = []
        """Disjoint, but in the middle of a change. Replaced, never changed in place."""
        self._lost: list[Span] = []
        # A byte that no program can lock, and hardly another mount has for its own: see _upgrade().
        self._mark = LockElement(END + 1 + secrets.randbelow(END - 4), 1, _FLAGS[LockKind.EXCLUSIVE])

    @property
    def lost(self) -> Sequence[Span]:
        """What was held, is held no more, and was not let go by its owner yet."""
        return self._lost

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held at the server."""
        return not self._held

    def require_kept(self) -> None:
        """EIO if any of the locks was lost: what they protected may have been changed by others."""
        if self._lost:
            raise OSError(errno.EIO, "the locks on this file were lost")

    def set(self, handle: ServerHandle, kind: LockKind, span: Span) -> None:
        """As BackendFile.lock(). STATUS_LOCK_NOT_GRANTED where another is in the way; ENOLCK."""
        change = {LockKind.UNLOCK: self._unlock, LockKind.SHARED: self._share, LockKind.EXCLUSIVE: self._exclude}[kind]
        with self._mutex:
            if kind is not LockKind.UNLOCK:
                self._require_usable(handle)
            before = self._held
            try:
                change(handle, span)
            except UnavailableError:
                self._held = before  # which will be taken again: nobody was told of anything else
                raise

    def forget(self, span: Span) -> None:
        """Its owner lets `span` go, and the connection that held it is gone."""
        with self._mutex:
            self._held = without(self._held, span)
            self._forget_lost(span)

    def lose(self) -> None:
        """Nothing of it can be had back."""
        with self._mutex:
            self._lose(self._held)

    def change(self, handle: ServerHandle, span: Span, call: Callable[[], _T]) -> _T:
        """call(), which writes to `span`. Shared locks refuse even their owner's writes: they are exclusive meanwhile.

        STATUS_FILE_LOCK_CONFLICT where others share it.
        """
        self.require_kept()
        if not self._overlapping(LockKind.SHARED, span):
            return call()
        with self._mutex:
            shared = [each.span for each in self._overlapping(LockKind.SHARED, span)]
            if not shared:
                return call()
            status = self._upgrade(handle, shared, shared)
            self.require_kept()
            if status != Status.SUCCESS:
                raise StatusError(Status.FILE_LOCK_CONFLICT if status in _CONFLICTS else status)
            try:
                return call()
            finally:
                statuses = _ask(handle, _elements(LockKind.SHARED, shared), _elements(LockKind.UNLOCK, shared))
                _expect(handle, *statuses)

    def take_again(self, handle: ServerHandle) -> None:
        """The file has a new handle: lock what the old one had locked, or know it lost. All of it, or none."""
        with self._mutex:
            held = self._held
            if not held:
                return
            give_up_at = time.monotonic() + RELOCK_SECONDS
            while (status := self._try_all(handle, held)) in _CONFLICTS and time.monotonic() < give_up_at:
                time.sleep(_RELOCK_PAUSE_SECONDS)
            if status != Status.SUCCESS:
                self._lose(held)

    def _try_all(self, handle: ServerHandle, held: list[Held]) -> int:
        try:
            self._lock(handle, held)
        except StatusError as error:
            return error.status
        return Status.SUCCESS

    # The three kinds. The mutex is held.

    def _unlock(self, handle: ServerHandle, span: Span) -> None:
        self._forget_lost(span)
        self._let_go(handle, [each for each in self._held if each.span.overlaps(span)], span)

    def _share(self, handle: ServerHandle, span: Span) -> None:
        wanted = gaps(span, self._spans(LockKind.SHARED))
        self._take(handle, LockKind.SHARED, wanted)  # also over what is exclusive, which no one else can have meanwhile
        self._let_go(handle, self._overlapping(LockKind.EXCLUSIVE, span), span)

    def _exclude(self, handle: ServerHandle, span: Span) -> None:
        self._split(handle, span)
        shared = self._overlapping(LockKind.SHARED, span)
        wanted = gaps(span, self._spans(LockKind.EXCLUSIVE))
        if not shared:
            self._take(handle, LockKind.EXCLUSIVE, wanted)
            return
        status = self._upgrade(handle, [each.span for each in shared], wanted)
        self._require_nothing_lost()
        if status != Status.SUCCESS:
            raise _refusal(status)
        kept = [each for each in self._held if each not in shared]
        self._held = [*kept, *(Held(each, LockKind.EXCLUSIVE) for each in wanted)]

    # Their steps.

    def _let_go(self, handle: ServerHandle, given: list[Held], span: Span) -> None:
        """Give up what `given` has of `span`; the rest stays."""
        crossing = [each for each in given if not span.contains(each.span)]
        inside = [each for each in given if each not in crossing]
        _unlock_all(handle, [each.span for each in inside])
        self._held = [each for each in self._held if each not in inside]
        if crossing:
            self._cut(handle, crossing, span)

    def _cut(self, handle: ServerHandle, crossing: list[Held], span: Span) -> None:
        """Give up the parts of `crossing`, one or two ranges, that lie in `span`. ENOLCK if that loses the rest."""
        rest = without(crossing, span)
        parts = {kind: [each.span for each in rest if each.kind is kind] for kind in LockKind}
        steps = {
            LockKind.SHARED: _elements(LockKind.SHARED, parts[LockKind.SHARED]),  # laid over what is unlocked next
            LockKind.UNLOCK: _elements(LockKind.UNLOCK, [each.span for each in crossing]),
            LockKind.EXCLUSIVE: _elements(LockKind.EXCLUSIVE, parts[LockKind.EXCLUSIVE]),
        }
        asked = {kind: elements for kind, elements in steps.items() if elements}
        statuses = dict(zip(asked, _ask(handle, *asked.values()), strict=True))
        _expect(handle, statuses[LockKind.UNLOCK])
        failed = {kind for kind, status in statuses.items() if status != Status.SUCCESS}
        self._held = [*(each for each in self._held if each not in crossing), *rest]
        self._lose([each for each in rest if each.kind in failed])
        self._require_nothing_lost()

    def _split(self, handle: ServerHandle, span: Span) -> None:
        """Have each shared range lie in `span`, or outside of it."""
        crossing = [each for each in self._overlapping(LockKind.SHARED, span) if not span.contains(each.span)]
        if crossing:
            parts = [part for each in crossing for part in (each.span.inside(span), *each.span.outside(span))]
            self._take(handle, LockKind.SHARED, parts)
            _unlock_all(handle, [each.span for each in crossing])
            self._held = [each for each in self._held if each not in crossing]

    def _upgrade(self, handle: ServerHandle, shared: list[Span], wanted: list[Span]) -> int:
        """Give up `shared` ranges, and have the `wanted` ones exclusively; the status says whether that was granted.

        If not, the shared ones are kept. That is one message, in which nobody is asked anything: the second step has
        all that is wanted and the mark, or nothing. The third takes the mark and the shared ranges: which is refused
        if, and only if, the second step has got the mark.

        Another mount that shares the range, and has it given up in the same moment, would be granted it exclusively:
        so they take turns.
        """
        if max(len(shared), len(wanted)) >= MAX_ELEMENTS:
            raise OSError(errno.ENOLCK, "the range consists of too many parts")
        status = _take_turn(handle)
        if status != Status.SUCCESS:
            return status
        given_up, granted, kept, unmarked, ended = _ask(
            handle,
            _elements(LockKind.UNLOCK, shared),
            [*_elements(LockKind.EXCLUSIVE, wanted), self._mark],
            [self._mark, *_elements(LockKind.SHARED, shared)],
            [_unlocking(self._mark)],
            [_unlocking(_TURN)],
        )
        _expect(handle, given_up, ended)
        if Status.SUCCESS in (granted, kept):
            _expect(handle, unmarked)
        else:  # somebody was quicker, for less than a round trip
            self._have_back(handle, shared)
        return granted

    def _have_back(self, handle: ServerHandle, shared: list[Span]) -> None:
        lost = [each for each in shared if _ask(handle, _elements(LockKind.SHARED, [each])) != [Status.SUCCESS]]
        self._lose([Held(each, LockKind.SHARED) for each in lost])

    def _take(self, handle: ServerHandle, kind: LockKind, spans: list[Span]) -> None:
        taken = [Held(span, kind) for span in spans]
        self._lock(handle, taken)
        self._held = [*self._held, *taken]

    @staticmethod
    def _lock(handle: ServerHandle, wanted: list[Held]) -> None:
        """All, or none."""
        done: list[Span] = []
        for some in _chunks(wanted):
            (status,) = _ask(handle, [_element(each.kind, each.span) for each in some])
            if status != Status.SUCCESS:
                _unlock_all(handle, done)
                raise _refusal(status)
            done += [each.span for each in some]

    # What is known.

    def _overlapping(self, kind: LockKind, span: Span) -> list[Held]:
        return [each for each in self._held if each.kind is kind and each.span.overlaps(span)]

    def _spans(self, kind: LockKind) -> list[Span]:
        return [each.span for each in self._held if each.kind is kind]

    def _lose(self, lost: list[Held]) -> None:
        self._held = [each for each in self._held if each not in lost]
        self._lost = sorted([*self._lost, *(each.span for each in lost)])

    def _forget_lost(self, span: Span) -> None:
        self._lost = [part for each in self._lost for part in each.outside(span)]

    def _require_nothing_lost(self) -> None:
        if self._lost:
            raise OSError(errno.ENOLCK, "the locks on this file were lost")

    def _require_usable(self, handle: ServerHandle) -> None:
        """Refuse where the server grants everything to everybody (Samba: locking = no), found out once a session."""
        self._require_nothing_lost()
        session = handle.session
        if session.keeps_locks is None:
            unmark = _unlocking(self._mark)
            granted, twice, *_ = _ask(handle, [self._mark], [self._mark], [unmark], [unmark])
            if granted == Status.SUCCESS:  # else somebody has locked even this: the next one will find out
                session.keeps_locks = twice != Status.SUCCESS
        if session.keeps_locks is False:
            raise NotSupportedError("lock")


def _element(kind: LockKind, span: Span) -> LockElement:
    return LockElement(span.start, span.length, _FLAGS[kind])


def _elements(kind: LockKind, spans: Iterable[Span]) -> list[LockElement]:
    return [_element(kind, span) for span in spans]


def _unlocking(element: LockElement) -> LockElement:
    return element._replace(flags=LockFlags.UNLOCK)


def _take_turn(handle: ServerHandle) -> int:
    give_up_at = time.monotonic() + TURN_SECONDS
    while True:
        (status,) = _ask(handle, [_TURN])
        if status not in _CONFLICTS or time.monotonic() > give_up_at:
            return status
        time.sleep(_TURN_PAUSE_SECONDS)


def _chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), MAX_ELEMENTS):
        yield items[start : start + MAX_ELEMENTS]


def _refusal(status: int) -> StatusError:
    """For a lock that is refused servers have two statuses, of which one says something else of reads and writes."""
    return StatusError(Status.LOCK_NOT_GRANTED if status in _CONFLICTS else status)


def _ask(handle: ServerHandle, *steps: Sequence[LockElement]) -> list[int]:
    """One request a step, all in one message, done one after the other: their statuses."""
    session = handle.session
    try:
        requests = session.engine.call(*[commands.lock(handle.raw, step) for step in steps])
    except BaseException:
        session.engine.fail("a request for a lock was not answered")
        raise
    for request in requests:
        if request.status in CONNECTION_LOST:
            raise session.refusal(request.status)
    return [request.status for request in requests]


def _unlock_all(handle: ServerHandle, spans: list[Span]) -> None:
    for some in _chunks(spans):
        _expect(handle, *_ask(handle, _elements(LockKind.UNLOCK, some)))


def _expect(handle: ServerHandle, *statuses: int) -> None:
    """The server has done what it cannot refuse, as things are known here; else they are known wrongly."""
    for status in statuses:
        if status != Status.SUCCESS:
            reason = f"the server has other locks than are known here: {StatusError(status)}"
            handle.session.engine.fail(reason)
            raise UnavailableError(f"{handle.session.link.server}: {reason}")
