"""The lazily copied files of an upper: large ones of immutable bases, of whose data only what was written is here.

Such a file is sparse, has its full size and all attributes, and is marked (whiteouts.py) with the name of its map in
the work directory (lazy_map.py). It is read from both, and becomes a plain file once it lacks nothing: when all of it
was written, when it was cut, or when it is settled (settling.py).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import secrets
import threading
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Backend,
    BackendFile,
    Capabilities,
    FileStat,
    LayerPath,
    join_path,
    split_path,
)
from netoverlay.overlay.layers import FOR_EVER_NS, Layer, LowerPlace
from netoverlay.overlay.lazy_file import BrokenFile, PartialFile, refuse
from netoverlay.overlay.lazy_map import NEW_SUFFIX, BaseFile, DamagedMapError, LazyMap, MapFacts, boot_id, read_map
from netoverlay.overlay.lazy_state import LazyState
from netoverlay.overlay.steady_times import SteadyTimes
from netoverlay.overlay.whiteouts import OverlayfsFormat

logger = logging.getLogger(__name__)

DIRECTORY_NAME: Final = "lazy"
LAZY_BYTES: Final = 8 << 20
"""Larger files are copied lazily: less takes a server no longer than a person waits for a program to start."""

_TOKEN_BYTES: Final = 8
_OWNER_READS: Final = 0o400
_OWNER_WRITES: Final = 0o200
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})


class LostBaseError(OSError):
    """What a lazily copied file lacks is nowhere: its base's file is not there as it was (EIO)."""

    def __init__(self, base: BaseFile, reason: str) -> None:
        super().__init__(errno.EIO, f"the rest of a lazily copied file is {base.path!r} of {base.layer}: {reason}")


class LazyUsage(NamedTuple):
    """How much of an upper is still in a base."""

    files: int
    bytes: int
    """Of their data, what is in the base only."""


class LazyFiles:
    """Those of one upper. Thread-safe."""

    def __init__(
        self,
        backend: Backend,
        format: OverlayfsFormat,
        capabilities: Capabilities,
        work: LayerPath,
        lowers: Sequence[Layer],
        *,
        larger_than: int = LAZY_BYTES,
    ) -> None:
        """`backend` is the upper's, without what opens its files with their data."""
        self._backend = backend
        self._format = format
        self._anybody_may_mark = capabilities.privileged_xattrs
        self.directory = join_path(work, DIRECTORY_NAME)
        """Where the maps are; not there before there is one."""
        self._lowers = {layer.identity: layer for layer in reversed(lowers)}
        self._larger_than = larger_than
        self._boot = boot_id()
        self._lock = threading.Lock()
        self._states: dict[str, LazyState] = {}
        """Of those that are open."""
        self._missing: dict[str, int] = {}
        """How many bytes those lack that are not open, as far as that is known."""
        self._listed: set[str] | None = None
        self.times = SteadyTimes()

    @staticmethod
    def takes_from(layer: Layer) -> bool:
        """Whether large files of a lower are better left there: it never changes, and is not on this machine.

        What is on this machine the kernel copies, or shares the blocks of, and the upper is whole then.
        """
        return layer.ttl_ns == FOR_EVER_NS and not layer.capabilities.local

    def wants(self, stat: FileStat, size: int) -> bool:
        """Whether the first `size` bytes of such a file are many. Not if who mounts could not see the mark."""
        may_see = self._anybody_may_mark or stat.mode is None or bool(stat.mode & _OWNER_READS)
        return size > self._larger_than and may_see

    def hinders(self, change: AttributeChange) -> bool:
        """Whether with these attributes a file could not be lazy any more."""
        mode = change.mode
        return mode is not None and not mode & _OWNER_READS and not self._anybody_may_mark and bool(self.tokens())

    def begin(self, file: BackendFile, place: LowerPlace, stat: FileStat, size: int) -> BackendFile:
        """Make the new, empty `file` of the upper one that has the first `size` bytes of a lower's, and `stat`.

        What is returned is to be closed in its place. The map is on stable storage; the file is not.
        """
        token = secrets.token_hex(_TOKEN_BYTES)
        base = BaseFile(place.layer.identity, place.path, stat.size, stat.mtime_ns, stat.file_id)
        known = self.tokens()
        with contextlib.suppress(FileExistsError):
            self._backend.mkdir(self.directory, 0o700)
            self._backend.sync_directory(split_path(self.directory)[0])
        lazy_map = LazyMap.create(self._backend, self.map_path(token), base, size, self._boot)
        with self._lock:
            known.add(token)
            self._states[token] = self._state(token, lazy_map)
        opened = self._opened(file, token)
        try:
            file.truncate(size)
            self._format.mark_lazy(file, token)
        except BaseException:
            self.forget(token)
            self._let_go(token, self._states[token])
            raise
        return opened

    def open(self, file: BackendFile, token: str) -> BackendFile:
        """`file` of the upper, which has the mark, with all its data; to be closed in its place."""
        try:
            with self._lock:
                if token not in self._states:
                    self._states[token] = self._state(token, self.load_map(token))
                opened = self._opened(file, token)
        except DamagedMapError as error:
            logger.error(
                "a file of the upper cannot be read; unmount, and see what `netoverlay fsck` says: %s", error.strerror
            )
            return BrokenFile(file, str(error.strerror), partial(self._make_plain, token))
        try:
            self._states[token].fit(file)
        except BaseException:
            self._let_go(token, self._states[token])
            raise
        return opened

    def tokens(self) -> set[str]:
        """The names of the maps; that of a file which is gone may be among them, after a crash."""
        with self._lock:
            if self._listed is None:
                try:
                    names = {entry.name for entry in self._backend.list_dir(self.directory)}
                except FileNotFoundError:
                    names = set()
                unfinished = {name for name in names if name.endswith(NEW_SUFFIX)}
                for name in unfinished:
                    self._backend.unlink(join_path(self.directory, name))
                self._listed = names - unfinished
            return self._listed

    def open_tokens(self) -> set[str]:
        """Those of the files that are open."""
        with self._lock:
            return set(self._states)

    def usage(self) -> LazyUsage:
        """How many files lack data, and how much."""
        missing = []
        for token in list(self.tokens()):
            with self._lock, contextlib.suppress(DamagedMapError):
                missing.append(self._missing_locked(token))
        return LazyUsage(len(missing), sum(missing))

    def _missing_locked(self, token: str) -> int:
        state = self._states.get(token)
        if state is not None:
            return state.map.missing_bytes
        if token not in self._missing:
            lazy_map = self.load_map(token)
            self._missing[token] = lazy_map.missing_bytes
            lazy_map.close()
        return self._missing[token]

    def forget(self, token: str) -> None:
        """The file is gone with its last name, or lacks nothing: its map goes, too."""
        known = self.tokens()
        with self._lock:
            known.discard(token)
            self._missing.pop(token, None)
            state = self._states.get(token)
        if state is not None:
            state.is_removed = True
        with contextlib.suppress(FileNotFoundError):
            self._backend.unlink(self.map_path(token))

    def sync(self) -> None:
        """syncfs(2) of the upper."""
        with self._lock:
            states = list(self._states.values())
        positions = [(state, state.position()) for state in states]
        self._backend.sync()
        for state, position in positions:
            if position is not None:
                state.note_synced(position)

    def _state(self, token: str, lazy_map: LazyMap) -> LazyState:
        open_base, make_plain = partial(self._open_base, lazy_map.base), partial(self._make_plain, token)
        return LazyState(lazy_map, open_base, make_plain, self.hinders, self.times)

    def _opened(self, file: BackendFile, token: str) -> PartialFile:
        """Precondition: the lock is held, or nobody else knows the token yet."""
        state = self._states[token]
        state.users += 1
        return PartialFile(file, state, partial(self._let_go, token))

    def _let_go(self, token: str, state: LazyState) -> None:
        with self._lock:
            state.users -= 1
            if state.users:
                return
            self._states.pop(token, None)
            self._missing[token] = state.map.missing_bytes
        state.close()

    def load_map(self, token: str) -> LazyMap:
        """The map of that name, open. DamagedMapError."""
        return LazyMap.load(self._backend, self._checked_path(token), self._boot)

    def map_facts(self, token: str) -> MapFacts:
        """What the map of that name says; nothing is changed. DamagedMapError."""
        return read_map(self._backend, self._checked_path(token), self._boot)

    def _checked_path(self, token: str) -> LayerPath:
        if "/" in token or not token:
            raise DamagedMapError(f"{token!r} is no name of one")
        return self.map_path(token)

    def map_path(self, token: str) -> LayerPath:
        """Where the map of that name is."""
        return join_path(self.directory, token)

    def find_base(self, base: BaseFile) -> BackendFile:
        """The base's file, open for reading. LostBaseError."""
        layer = self._lowers.get(base.layer)
        if layer is None:
            raise LostBaseError(base, "no lower of the profile is that layer")
        try:
            file = layer.backend.open(base.path, Access.READ)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            raise LostBaseError(base, "it is not there") from None
        try:
            if not _is_still(base, file.stat()):
                raise LostBaseError(base, "it is another file by now")
        except BaseException:
            file.close()
            raise
        return file

    def _open_base(self, base: BaseFile) -> BackendFile:
        """EIO, and a line in the log, if it is not there any more, or another file."""
        try:
            return self.find_base(base)
        except LostBaseError as error:
            logger.error("%s", error.strerror)
            refuse(str(error.strerror))

    def _make_plain(self, token: str, file: BackendFile) -> None:
        """In this order, each step on stable storage: the file is as it was until it loses its mark."""
        mode = file.stat().mode
        closed = mode is not None and not mode & _OWNER_WRITES and not self._anybody_may_mark
        if closed and mode is not None:  # an ordinary user may change no attribute of what he may not write
            file.set_attributes(AttributeChange(mode=mode | _OWNER_WRITES))
        try:
            self._format.mark_complete(file)
        finally:
            if closed:
                file.set_attributes(AttributeChange(mode=mode))
        file.sync()
        self.forget(token)


def _is_still(base: BaseFile, stat: FileStat) -> bool:
    same_id = None in (base.file_id, stat.file_id) or base.file_id == stat.file_id
    return same_id and (stat.size, stat.mtime_ns) == (base.size, base.mtime_ns)
