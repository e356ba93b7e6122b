"""Try again when a layer could not be reached, as far as that is safe.

UnavailableError says that no answer came, not that nothing happened: the request may have been carried out, or may be
yet. So only what may happen twice is repeated blindly; for a change of names this looks at what is there instead. What
looking cannot prove is in UnknownOutcomeError, and in the methods.
"""

from __future__ import annotations

import enum
import errno
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception,
    stop_before_delay,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)

from netoverlay.backend_api.backend import Backend, BackendFile
from netoverlay.backend_api.errors import LayerClosedError, UnavailableError
from netoverlay.backend_api.types import (
    Access,
    Creation,
    FileStat,
    FileType,
    LayerPath,
    RenameFlags,
    XattrMode,
    join_path,
)
from netoverlay.backend_api.waiting import Patience, asking, check_interrupted, give_up_at, lost_since
from netoverlay.wrappers.intercept import InterceptingBackend, Operation

P = ParamSpec("P")
T = TypeVar("T")

LATE_SECONDS = 1.0
"""After which what was sent over a connection that was lost has arrived, if it ever does."""
FIRST_WAIT = 0.1
"""Seconds before the second repeat; the first comes at once, for a connection that was merely old."""
MAX_WAIT = 1.0
"""Seconds, so that who waits goes on soon after the layer is there again: connecting is one try for all."""
_INTERRUPT_SECONDS = 0.25


class Safe(enum.Enum):
    """Why an operation may be repeated blindly."""

    READS = "it changes nothing"
    SETS = "it says what shall be, so that twice is as once"


SAFE_TO_REPEAT = {
    Operation.STAT: Safe.READS,
    Operation.LIST_DIR: Safe.READS,
    Operation.LIST_DIRS: Safe.READS,
    Operation.LIST_NAMES: Safe.READS,
    Operation.READ_FILES: Safe.READS,
    Operation.SPACE_USAGE: Safe.READS,
    Operation.READLINK: Safe.READS,
    Operation.GET_XATTR: Safe.READS,
    Operation.LIST_XATTRS: Safe.READS,
    Operation.FILE_READ: Safe.READS,
    Operation.FILE_STAT: Safe.READS,
    Operation.FILE_SEEK: Safe.READS,
    Operation.FILE_GET_XATTR: Safe.READS,
    Operation.FILE_LIST_XATTRS: Safe.READS,
    Operation.SET_ATTRIBUTES: Safe.SETS,
    Operation.FILE_SET_ATTRIBUTES: Safe.SETS,
    Operation.FILE_LOCK: Safe.SETS,
}
"""What is neither here nor below, and has no method of its own in RetryingBackend, is tried once.

copy_range(): copy-up begins anew, with another file. sync(): a server tells a failed write-back once, so a second
sync() would call lost data safe. close(): what it is about went with the connection. connect(): whoever mounts decides
how long to try.
"""

SAFE_LATER = frozenset({Operation.FILE_WRITE, Operation.FILE_TRUNCATE, Operation.FILE_ALLOCATE})
"""A first try that arrives late would undo what was written after the second, which is so made LATE_SECONDS after it;
and in the layers of this mount only (Makes)."""


class Makes(enum.Enum):
    """Who else makes and changes what is in a layer."""

    ANYBODY = "anybody: nothing is repeated that could undo what others did"
    MOUNT = "this mount, others beside it"
    MOUNT_ALONE = "this mount alone: what was asked to be made, and is there, was made by it"


class UnknownOutcomeError(UnavailableError):
    """A change was asked for, its answer was lost, and nothing that can be looked at tells whether it was made."""

    def __init__(self, operation: str, path: LayerPath) -> None:
        super().__init__(f"no answer came to {operation} of {path!r}, and whether it was done cannot be told")


_FINAL = (UnknownOutcomeError, LayerClosedError, InterruptedError)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, UnavailableError) and not isinstance(error, _FINAL)


class RetryingBackend(InterceptingBackend):
    """Repeats for at most `deadline` seconds from the start of a call; no try starts later.

    Between the tries: exponentially longer, with jitter, and over when the request is interrupted (EINTR) or the
    backend is closed. If not `patient` there is one repeat, at once, for a connection that was merely old.

    `work`: a directory in which this mount alone makes anything, whoever does elsewhere.
    """

    def __init__(
        self,
        inner: Backend,
        deadline: float,
        *,
        patient: bool = True,
        makes: Makes = Makes.ANYBODY,
        work: LayerPath | None = None,
    ) -> None:
        super().__init__(inner)
        self._deadline = deadline
        self._patient = patient
        self._makes = makes
        self._in_work = None if work is None else join_path(work, "")
        self._patience = Patience(deadline)
        self._closing = threading.Event()

    def around(self, operation: Operation, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(function, *args, **kwargs)
        if operation in SAFE_TO_REPEAT:
            return self._repeat(call)
        if operation in SAFE_LATER and self._makes is not Makes.ANYBODY:
            return self._resolve(call, call, pause=min(LATE_SECONDS, self._deadline / 4))
        return self._once(call)

    def close(self) -> None:
        self._closing.set()
        self.inner.close()

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        """Opening what exists is repeated, but not when it truncates: somebody may have written in between."""
        call = partial(self.inner.open, path, access, create=create, truncate=truncate, mode=mode)
        if create is Creation.EXCLUSIVE:
            return self.wrap_file(self._create("exclusive creation", path, call))
        return self.wrap_file(self._once(call) if truncate else self._repeat(call))

    def mkdir(self, path: LayerPath, mode: int) -> None:
        self._create("mkdir", path, partial(self.inner.mkdir, path, mode))

    def symlink(self, path: LayerPath, target: str) -> None:
        self._create("symlink", path, partial(self.inner.symlink, path, target))

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        self._create("link", new, partial(self.inner.link, existing, new))

    def mknod(self, path: LayerPath, type: FileType, mode: int, rdev: int = 0) -> None:
        self._create("mknod", path, partial(self.inner.mknod, path, type, mode, rdev))

    def unlink(self, path: LayerPath) -> None:
        """Not provable: that a name which is gone at the second try was removed by the first and not by others, and
        that one which is still there is not a newer file of others."""
        self._remove(partial(self.inner.unlink, path), errno.ENOENT)

    def rmdir(self, path: LayerPath) -> None:
        """As unlink()."""
        self._remove(partial(self.inner.rmdir, path), errno.ENOENT)

    def remove_xattr(self, path: LayerPath, name: str) -> None:
        """As unlink()."""
        self._remove(partial(self.inner.remove_xattr, path, name), errno.ENODATA)

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        """Repeated unless it must create the attribute: one that is there afterwards could be that of others."""
        call = partial(self.inner.set_xattr, path, name, value, mode)
        if mode is XattrMode.CREATE:
            self._once(call)
        else:
            self._repeat(call)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        """Repeated as long as `old` is there; done when `old` is gone and `new` is there.

        Not provable: that `old` was there before the first try, which callers know, and that it is no newer file of
        others. EXCHANGE and WHITEOUT leave something under both names, which tells nothing: they are tried once.
        """
        call = partial(self.inner.rename, old, new, flags)
        if flags & (RenameFlags.EXCHANGE | RenameFlags.WHITEOUT):
            self._once(call)
            return
        self._resolve(call, lambda: self._rename_again(call, old, new))

    def _once(self, call: Callable[[], T]) -> T:
        with asking(self._patience):
            return call()

    def _repeat(self, call: Callable[[], T]) -> T:
        return self._resolve(call, call)

    def _create(self, operation: str, path: LayerPath, call: Callable[[], T]) -> T:
        """Create a name. One that is there after a lost reply is not provably ours, if others make names here."""

        def again() -> T:
            found = self._look(path)
            if found is not None and not self._take_back(path, found):
                raise UnknownOutcomeError(operation, path)
            try:
                return call()
            except FileExistsError as error:
                # The first try may have arrived after the look.
                if self._makes_alone(path):
                    raise UnavailableError(f"{operation} of {path!r} has arrived late") from error
                raise UnknownOutcomeError(operation, path) from error

        return self._resolve(call, again)

    def _take_back(self, path: LayerPath, made: FileStat) -> bool:
        """Remove what a lost request to make it has made: it may lack what was to be done next. False if that is not
        what it is."""
        if not self._makes_alone(path) or (made.type is FileType.REGULAR and made.size):
            return False
        try:
            (self.inner.rmdir if made.type is FileType.DIRECTORY else self.inner.unlink)(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            return False
        return True

    def _makes_alone(self, path: LayerPath) -> bool:
        if self._makes is Makes.MOUNT_ALONE:
            return True
        return self._in_work is not None and path.startswith(self._in_work)

    def _remove(self, call: Callable[[], None], gone: int) -> None:
        """Remove something; the errno `gone` says that it is not there, which after a lost reply is success."""

        def again() -> None:
            try:
                call()
            except OSError as error:
                if error.errno != gone:
                    raise

        self._resolve(call, again)

    def _rename_again(self, call: Callable[[], None], old: LayerPath, new: LayerPath) -> None:
        if self._look(old) is not None:
            try:
                call()
            except FileNotFoundError:
                # The first try arrived after the look, or a directory on the way is gone: the names tell.
                if self._look(old) is not None:
                    raise
            else:
                return
        if self._look(new) is None:
            raise UnknownOutcomeError("rename", old)

    def _look(self, path: LayerPath) -> FileStat | None:
        try:
            return self.inner.stat(path)
        except FileNotFoundError:
            return None

    def _resolve(self, call: Callable[[], T], again: Callable[[], T], *, pause: float = 0.0) -> T:
        """Do `call`; while that or what follows could not reach the layer do `again`, `pause` seconds or more later."""
        with asking(self._patience):
            start = time.monotonic()
            try:
                return call()
            except UnavailableError as error:
                left = min(start + self._deadline, give_up_at(self._deadline)) - time.monotonic()
                if left <= pause or self._closing.is_set() or not _may_pass(error):
                    raise
            check_interrupted()
            return self._try_again(again, left, pause) if self._patient else again()

    def _try_again(self, again: Callable[[], T], left: float, pause: float) -> T:
        self._sleep(pause)
        return Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_before_delay(left - pause) | stop_when_event_set(self._closing),
            wait=wait_exponential(multiplier=FIRST_WAIT, min=pause, max=MAX_WAIT) + wait_random(0, FIRST_WAIT),
            sleep=self._sleep,
            reraise=True,
        )(again)

    def _sleep(self, seconds: float) -> None:
        began_at = time.monotonic()
        end = began_at + seconds
        while (left := end - time.monotonic()) > 0 and not self._closing.wait(min(left, _INTERRUPT_SECONDS)):
            check_interrupted()
        lost_since(began_at)
        check_interrupted()
