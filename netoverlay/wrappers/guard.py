"""Let nothing change a layer any more once it is another's.

Every call goes through one place, which knows what only reads: what it does not know is refused, so that a new
operation is not forgotten. Put it next to the backend that does the work, inside of whatever tries again or waits for
its turn, so that each try is looked at when it is made. It does not see what is done to the descriptor of a local file
(BackendFile.fileno()): an upper of this machine is held by a lock that cannot be lost, and needs no guard.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from netoverlay.backend_api.backend import Backend, BackendFile
from netoverlay.backend_api.types import Access, Creation, LayerPath
from netoverlay.wrappers.intercept import InterceptingBackend, Operation

P = ParamSpec("P")
T = TypeVar("T")

CHANGES_NOTHING = frozenset(
    {
        Operation.CONNECT,
        Operation.CLOSE,
        Operation.STAT,
        Operation.LIST_DIR,
        Operation.LIST_DIRS,
        Operation.LIST_NAMES,
        Operation.OPEN,
        Operation.READ_FILES,
        Operation.SPACE_USAGE,
        Operation.READLINK,
        Operation.GET_XATTR,
        Operation.LIST_XATTRS,
        Operation.FILE_READ,
        Operation.FILE_STAT,
        Operation.FILE_CLOSE,
        Operation.FILE_SEEK,
        Operation.FILE_GET_XATTR,
        Operation.FILE_LIST_XATTRS,
    }
)
"""OPEN as far as it neither creates nor truncates. The syncs are not here: they would promise that what was written
stays, and that is up to the new owner."""


class GuardedBackend(InterceptingBackend):
    """Refuses every change (EIO) while `lost` says so; reading goes on. Gives the layer back when it is closed."""

    def __init__(self, inner: Backend, lost: Callable[[], bool] = lambda: False) -> None:
        super().__init__(inner)
        self._lost = lost
        self._give_back: Callable[[], None] = lambda: None

    def watch(self, lost: Callable[[], bool], give_back: Callable[[], None]) -> None:
        """The layer is owned now: ask `lost` before each change. `give_back` ends that, and raises nothing."""
        self._lost, self._give_back = lost, give_back

    def close(self) -> None:
        """The last change of whatever is around this has been made: others may have the layer."""
        self._give_back()
        self.inner.close()

    def around(self, operation: Operation, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if operation not in CHANGES_NOTHING:
            self._check()
        return function(*args, **kwargs)

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        if create is not Creation.NEVER or truncate:
            self._check()
        return super().open(path, access, create=create, truncate=truncate, mode=mode)

    def _check(self) -> None:
        if self._lost():
            raise OSError(errno.EIO, "the upper is another mount's now, or may be: nothing is changed in it")
