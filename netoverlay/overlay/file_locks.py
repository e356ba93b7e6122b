"""The locks that programs take on files: fcntl(2), open file descriptions' (F_OFD_SETLK), and flock(2).

All are in the table of their inode, which stays the same through copy-up and rename. Where others than this mount may
use the file (lock_rules.py), the layer that holds it holds the lock as well, before it is granted. A request that has
to wait holds no thread: who gives up what is in its way, or the poller, answers it.

A lock that the layer holds is a barrier for caches, as on NFS: when it is granted, what is cached of the file is
dropped if the layer has another content by now; before it is given up, what was written goes to the layer.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from netoverlay.backend_api import BackendFile, LockKind, os_error
from netoverlay.backend_api.waiting import about_to_wait
from netoverlay.overlay.copy_up import CopyUp
from netoverlay.overlay.files import Files
from netoverlay.overlay.handles import FileHandle
from netoverlay.overlay.inode_locks import InodeLocks, LockRequest, RequestState
from netoverlay.overlay.inodes import FileInode
from netoverlay.overlay.layers import Layer
from netoverlay.overlay.lock_mirror import LockMirror
from netoverlay.overlay.lock_poller import LockPoller
from netoverlay.overlay.lock_rules import Keeping, LockMode, keeping
from netoverlay.overlay.lock_table import END, Held, LockCall, Owner, Wanted
from netoverlay.overlay.lock_waiting import Waiting
from netoverlay.overlay.tree import Tree

logger = logging.getLogger(__name__)

_THREADS: Final = 4
KEEP_SECONDS: Final = 5.0
"""How often a layer on a server is asked whether it has a file's locks still."""


class FileLocks:
    """The locks of one mount."""

    def __init__(self, tree: Tree, files: Files, copy_up: CopyUp | None, mode: LockMode) -> None:
        """`copy_up` is None if the mount has no upper."""
        self._tree = tree
        self._files = files
        self._copy_up = copy_up
        self._mode = mode
        self._waiting = Waiting()
        self._poller = LockPoller("lock-poller", self._ask_again)
        self._keeper = LockPoller("lock-keeper", self._keep, KEEP_SECONDS, KEEP_SECONDS)
        self._pool = ThreadPoolExecutor(_THREADS, "locks")
        self.drop_cached: Callable[[FileInode], object] = id
        """Has the kernel drop what it has cached of a file. Called on a thread that serves no request."""
        self.drop_names: Callable[[FileInode], object] = id
        """Of the names beside a file, as `drop_cached`."""

    def close(self) -> None:
        """Nothing waits any more."""
        self._poller.stop()
        self._keeper.stop()
        self._pool.shutdown(cancel_futures=True)

    def find(self, handle: FileHandle, wanted: Wanted) -> Held | None:
        """F_GETLK: a lock that is in the way, or for UNLOCK one of its own. ENOLCK, UnavailableError.

        Of one that is held outside of this mount only that is known.
        """
        inode = handle.inode
        self._require_keepable(inode)
        locks = self._locks_of(inode)
        if wanted.kind is LockKind.UNLOCK:
            with self._waiting.tables():
                return next(locks.table.own(wanted), None)
        with inode.copy_up_lock:
            mirror = self._mirror_locked(inode, locks)
            if mirror is not None:
                about_to_wait()
            with locks.lock:
                with self._waiting.tables():
                    found = min(locks.table.conflicts(wanted), key=lambda held: held.start, default=None)
                if found is None and mirror is not None and not self._moves(inode, wanted):
                    # What is open for reading only can be asked only whether somebody has it alone.
                    asked = wanted if inode.writable else wanted._replace(kind=LockKind.SHARED)
                    if mirror.refuses(asked):
                        return Held(wanted.owner, LockKind.EXCLUSIVE, wanted.start, wanted.end, 0)
        return found

    def set(self, request: LockRequest) -> bool:
        """Lock or unlock: True if that is done, False if `request.done` will be called.

        BlockingIOError (EAGAIN) if something is in the way and it does not wait, EDEADLK, ENOLCK, UnavailableError.
        """
        inode, wanted = request.handle.inode, request.wanted
        if wanted.kind is LockKind.UNLOCK:
            self._unlock(inode, wanted)
            return True
        gives_up = self._give_up_converted(inode, wanted)
        try:
            return self._ask(inode, request)
        finally:
            if gives_up:
                self._settle(inode)

    def _ask(self, inode: FileInode, request: LockRequest) -> bool:
        self._bring_home(request)
        locks = self._locks_of(inode)
        with inode.copy_up_lock:
            mirror = self._mirror_locked(inode, locks)
            if mirror is not None:
                about_to_wait()
            with locks.lock:
                granted = self._try_locked(inode, locks, request)
                self._settle_locked(inode, locks)
        if granted and mirror is not None:
            self._pool.submit(self._grant, inode, locks, request)
            return False
        return granted

    def cancel(self, request: LockRequest) -> None:
        """The program does not wait any more (EINTR). Nothing if it has its answer, or will have it at once."""
        locks = request.handle.inode.locks
        if locks is None:
            return
        with self._waiting.tables():
            request.is_cancelled = True
            waited = self._waiting.end_locked(locks, request)
        if waited:
            request.done(_interrupted())

    def flushed(self, handle: FileHandle, number: int) -> None:
        """A process, or what `number` stands for, has closed a descriptor of the file: its fcntl(2) locks go."""
        locks = handle.inode.locks
        if locks is not None:
            with locks.lock:
                self._drop_locked(handle.inode, locks, [Owner(LockCall.FCNTL, number)])

    def released(self, handle: FileHandle, flock_number: int | None) -> None:
        """The last descriptor of an open file is closed: what it owns goes. `flock_number`: whose flock(2) that is.

        Before a later request is served: the program does not wait for it, and may tell others that the file is free.
        """
        locks = handle.inode.locks
        if locks is None:
            return
        with locks.lock:
            gone = [owner for owner, handles in locks.handles.items() if handles == {handle}]
            if flock_number is not None:
                gone.append(Owner(LockCall.FLOCK, flock_number))
            for handles in locks.handles.values():
                handles.discard(handle)
            self._drop_locked(handle.inode, locks, gone)

    def notice_loss(self, inode: FileInode) -> None:
        """Reading or writing failed: if its locks were lost, what is cached goes as well, until they are given up."""
        locks = inode.locks
        if locks is not None and locks.notice_loss():
            self._pool.submit(self.drop_cached, inode)

    def all_held(self) -> Iterator[tuple[FileInode, InodeLocks]]:
        """The files that have locks, or somebody who waits for one."""
        for inode in self._tree.inodes.open_files():
            locks = inode.locks
            if locks is not None and (locks.table or locks.waiting):
                yield inode, locks

    def waiting_for(self, locks: InodeLocks) -> tuple[list[Held], list[LockRequest]]:
        """What is held of a file, and who waits."""
        with self._waiting.tables():
            return list(locks.table), list(locks.waiting)

    @contextmanager
    def moving_up(self, inode: FileInode, file: BackendFile) -> Iterator[None]:
        """Inside, copy-up publishes the inode's new file. Precondition: COPY_UP is held."""
        locks = inode.locks
        if locks is None:
            yield
            return
        upper = self._tree.stack.writable_upper()
        with locks.moving_up(upper if keeping(self._mode, upper) is Keeping.LAYER else None, file):
            yield

    # -- where a lock is kept

    def _home(self, inode: FileInode) -> Layer:
        return self._tree.stack.writable_upper() if inode.in_upper else inode.lower_place().layer

    def _require_keepable(self, inode: FileInode) -> None:
        """ENOLCK if the layer of the file has no locks, or that has not to which a change may bring it at any time."""
        upper = self._tree.stack.upper
        for layer in {self._home(inode), upper or self._home(inode)}:
            if keeping(self._mode, layer) is Keeping.NOWHERE:
                raise os_error(errno.ENOLCK)

    def _moves(self, inode: FileInode, wanted: Wanted) -> bool:
        """Whether the file is brought to the upper for a lock, and that is held there only."""
        return (
            wanted.kind is LockKind.EXCLUSIVE
            and self._mode is LockMode.DELEGATE
            and self._copy_up is not None
            and not inode.in_upper
            and inode.lower_place().layer.has_outsiders
        )

    def _bring_home(self, request: LockRequest) -> None:
        """Bring the file to where the lock can be kept: what a writer locks is the file that he will write."""
        inode, wanted = request.handle.inode, request.wanted
        if self._copy_up is None or not self._moves(inode, wanted):
            self._require_keepable(inode)
            return
        if keeping(self._mode, self._tree.stack.writable_upper()) is Keeping.NOWHERE:
            raise os_error(errno.ENOLCK)
        locks = inode.locks
        if not request.waits and locks is not None:
            with self._waiting.tables():
                if any(locks.table.conflicts(wanted)):
                    raise os_error(errno.EAGAIN)
        self._copy_up.file(inode)

    def _locks_of(self, inode: FileInode) -> InodeLocks:
        """Precondition: a handle is open, with the last of which they go."""
        locks = inode.locks
        if locks is None:
            with self._waiting.tables():
                if inode.locks is None:
                    inode.locks = InodeLocks()
                locks = inode.locks
        return locks

    def _mirror_locked(self, inode: FileInode, locks: InodeLocks) -> LockMirror | None:
        """What the layer holds for us; None if this mount alone keeps the locks. Precondition: COPY_UP is held."""
        layer = self._home(inode)
        if keeping(self._mode, layer) is not Keeping.LAYER:
            return None
        if locks.mirror is None:
            mirror = LockMirror(layer, self._files.lockable_file_locked(inode))
            with locks.lock:
                locks.mirror = mirror
        return locks.mirror

    # -- taking and giving up; FILE_LOCKS of the inode is held where it says _locked

    def _try_locked(self, inode: FileInode, locks: InodeLocks, request: LockRequest) -> bool:
        """Whether the lock was granted; False if it waits. What it raises, nothing has changed."""
        wanted = request.wanted
        with self._waiting.tables():
            blockers = list(locks.table.conflicts(wanted))
            if blockers:
                if not request.waits:
                    raise os_error(errno.EAGAIN)
                self._waiting.wait_locked(locks, request, blockers)
                return False
        try:
            self._take_locked(locks, request)
        except BlockingIOError:
            if not request.waits:
                raise
            with self._waiting.tables():
                self._waiting.wait_locked(locks, request, ())
            self._poller.add(inode)
            return False
        request.state = RequestState.ANSWERED
        self._refuse_circles_locked(locks, wanted.owner)
        return True

    def _take_locked(self, locks: InodeLocks, request: LockRequest) -> bool:
        """Enter a lock that no other here is in the way of, and have the layer hold it. As LockMirror.follow().

        Whether its owner held more there before.
        """
        wanted = request.wanted
        with self._waiting.tables():
            before = locks.table.saved(wanted)
            locks.table.set(wanted)
        if locks.mirror is not None:
            try:
                locks.mirror.follow(locks.table, wanted.start, wanted.end)
            except OSError:
                with self._waiting.tables():
                    locks.table.restore(wanted.owner, before)
                locks.tell_lost_locked()
                raise
        locks.handles.setdefault(wanted.owner, set()).add(request.handle)
        return wanted.kind is LockKind.SHARED and any(piece.value is LockKind.EXCLUSIVE for piece in before)

    def _settle(self, inode: FileInode) -> None:
        locks = inode.locks
        if locks is not None:
            with locks.lock:
                self._settle_locked(inode, locks)

    def _settle_locked(self, inode: FileInode, locks: InodeLocks) -> None:
        """Grant what waits and has nothing in its way any more, in the order in which it came."""
        # From the start again if who was granted a lock gave up another by that, for which others wait.
        while any(self._serve_locked(inode, locks, request) for request in list(locks.waiting)):
            pass

    def _serve_locked(self, inode: FileInode, locks: InodeLocks, request: LockRequest) -> bool:
        """Grant what waits if nothing is in its way any more; whether its owner gave something up by that."""
        with self._waiting.tables():
            if request.state is not RequestState.WAITING or any(locks.table.conflicts(request.wanted)):
                return False
            request.state = RequestState.ASKING
        gave_up, error = False, None
        try:
            gave_up = self._take_locked(locks, request)
        except BlockingIOError:
            self._wait_on_locked(inode, locks, request)
            return False
        except OSError as failure:
            error = failure
        with self._waiting.tables():
            request.state = RequestState.WAITING
            self._waiting.end_locked(locks, request)
        if error is not None or locks.mirror is None:
            request.done(error)
        else:
            self._pool.submit(self._grant, inode, locks, request)
        self._refuse_circles_locked(locks, request.wanted.owner)
        return gave_up

    def _wait_on_locked(self, inode: FileInode, locks: InodeLocks, request: LockRequest) -> None:
        """Somebody outside is in the way of what waits."""
        with self._waiting.tables():
            request.state = RequestState.WAITING
            ends = request.is_cancelled and self._waiting.end_locked(locks, request)
        if ends:
            request.done(_interrupted())
        else:
            self._poller.add(inode)

    def _refuse_circles_locked(self, locks: InodeLocks, owner: Owner) -> None:
        """After a grant to an owner who waits elsewhere: tell who waits for himself by that, by way of this file."""
        with self._waiting.tables():
            refused = self._waiting.end_circles_locked(locks, owner)
        for request in refused:
            request.done(os_error(errno.EDEADLK))

    def _give_up_converted(self, inode: FileInode, wanted: Wanted) -> bool:
        """Give up the flock(2) of another kind that is to be converted; whether there was one.

        As flock(2) has it: of two that share a file and both want it alone, the first to ask would wait for ever.
        """
        locks = inode.locks
        if locks is None or wanted.owner.call is not LockCall.FLOCK:
            return False
        with locks.lock:
            converts = any(piece.value not in {None, wanted.kind} for piece in locks.table.saved(wanted))
            if converts:
                self._give_up_locked(locks, wanted)
        return converts

    def _give_up_locked(self, locks: InodeLocks, wanted: Wanted) -> None:
        with self._waiting.tables():
            locks.table.set(wanted._replace(kind=LockKind.UNLOCK))
        if locks.mirror is not None:
            about_to_wait()  # only now, with the lock held, so that no request that is read meanwhile comes first
            locks.mirror.weaken(locks.table, wanted.start, wanted.end)

    def _unlock(self, inode: FileInode, wanted: Wanted) -> None:
        locks = inode.locks
        if locks is not None:
            with locks.lock:
                self._give_up_locked(locks, wanted)
                self._settle_locked(inode, locks)

    def _drop_locked(self, inode: FileInode, locks: InodeLocks, owners: list[Owner]) -> None:
        """All that some owners have of a file goes."""
        for owner in [owner for owner in owners if locks.handles.pop(owner, None) is not None]:
            self._give_up_locked(locks, Wanted(owner, LockKind.UNLOCK, 0, END, 0))
        self._settle_locked(inode, locks)

    # -- on threads of their own

    def _grant(self, inode: FileInode, locks: InodeLocks, request: LockRequest) -> None:
        """Before the program goes on: drop what is cached of the file, if it changed behind us."""
        error: OSError | None = None
        try:
            mirror = locks.mirror
            if mirror is not None and locks.checked.must_drop(mirror.file.revalidate()):
                self.drop_cached(inode)
            self.drop_names(inode)
            if mirror is not None and not mirror.layer.capabilities.local:
                self._keeper.add(inode)
        except OSError as failure:
            error = failure
        except Exception:
            logger.exception("what is cached of a locked file could not be dropped")
            error = os_error(errno.EIO)
        if error is not None:
            self._unlock(inode, request.wanted)
        request.done(error)

    def _keep(self, inode: FileInode) -> bool:
        """Use the connection that holds locks: if it was lost, they are taken again now, or known to be lost."""
        locks = inode.locks
        mirror = None if locks is None else locks.mirror
        if locks is None or mirror is None or not locks.table:
            return False
        try:
            mirror.file.revalidate()
        except OSError as error:
            logger.info("whether locks are held still is not known: %s", error)
        self.notice_loss(inode)
        return True

    def _ask_again(self, inode: FileInode) -> bool:
        """Ask the layer again for what somebody outside was in the way of; whether anybody waits still."""
        self._settle(inode)
        locks = inode.locks
        return locks is not None and bool(locks.waiting)


def _interrupted() -> OSError:
    return InterruptedError(errno.EINTR, "a signal came while it waited for a lock")
