"""Who waits for a lock: found by owner, so that two that wait for each other are told (EDEADLK)."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from netoverlay.backend_api import os_error
from netoverlay.overlay.inode_locks import InodeLocks, LockRequest, RequestState
from netoverlay.overlay.lock_table import Held, LockCall, Owner
from netoverlay.overlay.locks import Rank, RankedLock


class Waiting:
    """All that wait, in one mount, and the leaf lock of all its lock tables."""

    def __init__(self) -> None:
        self._leaf = RankedLock(Rank.TABLE)
        self._by_owner: dict[Owner, list[tuple[InodeLocks, LockRequest]]] = {}

    def tables(self) -> RankedLock:
        """Lock tables may be changed, and those of other files read, inside."""
        return self._leaf

    def wait_locked(self, locks: InodeLocks, request: LockRequest, blockers: Iterable[Held]) -> None:
        """Let a request wait. EDEADLK if that would never end. Precondition: tables()."""
        owner = request.wanted.owner
        if owner.call is LockCall.FCNTL and self._leads_to(owner, blockers):
            raise os_error(errno.EDEADLK)
        request.state = RequestState.WAITING
        locks.waiting.append(request)
        self._by_owner.setdefault(owner, []).append((locks, request))

    def end_locked(self, locks: InodeLocks, request: LockRequest) -> bool:
        """A request waits no more; False if it did not. Precondition: tables()."""
        if request.state is not RequestState.WAITING:
            return False
        request.state = RequestState.ANSWERED
        locks.waiting.remove(request)
        owner = request.wanted.owner
        entries = self._by_owner[owner]
        entries.remove((locks, request))
        if not entries:
            del self._by_owner[owner]
        return True

    def end_circles_locked(self, locks: InodeLocks, owner: Owner) -> list[LockRequest]:
        """The requests for one file that came to wait for themselves as `owner` got a lock: they wait no more.

        That can only be where he waits for another one: threads of a process may. Precondition: tables().
        """
        if owner not in self._by_owner:
            return []
        return [
            request
            for request in list(locks.waiting)
            if request.wanted.owner.call is LockCall.FCNTL
            and self._leads_to(request.wanted.owner, locks.table.conflicts(request.wanted))
            and self.end_locked(locks, request)
        ]

    def _leads_to(self, owner: Owner, blockers: Iterable[Held]) -> bool:
        """Whether one of those who hold `blockers` waits, however indirectly, for `owner`."""
        seen: set[Owner] = set()
        to_see = [held.owner for held in blockers]
        while to_see:
            other = to_see.pop()
            if other == owner:
                return True
            if other not in seen:
                seen.add(other)
                for locks, request in self._by_owner.get(other, ()):
                    to_see += [held.owner for held in locks.table.conflicts(request.wanted)]
        return False
