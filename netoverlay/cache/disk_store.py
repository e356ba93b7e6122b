"""What was read of layers, on local disk: shared by all mounts of a user, bounded, checked when it is read.

    DIRECTORY/content-2/SHARD/KEY        records (records.py): one, or those of a pack, to which more are added
    DIRECTORY/content-2/incoming/        what is being written, renamed when it is whole

A key stands for one content for ever, so two processes that write one entry write the same, and no locks are needed.
Where they do not (what is known of a layer, kept_layer.py) the later one is found. What is added to a pack (packs.py)
is added in one write(2), behind what others have added. The last characters of a key say of which layer it is, to drop
all of it. Nothing is synced: after a crash an entry may be short or zeros, which its digest shows. The modification
time of an entry is the time of its last use. Each shard is held to its part of the limit by whoever writes to it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import stat as stat_bits
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from cachetools import LRUCache

from netoverlay.cache.keys import is_of_layer
from netoverlay.cache.records import HEADER_BYTES, DamagedError, Extent, check, header

T = TypeVar("T")

DEFAULT_LIMIT = 10 << 30
MAX_ENTRY = 1 << 20
SHARDS = 64
MIN_LIMIT = SHARDS * 2 * MAX_ENTRY

_LAYOUT = "content-2"
_INCOMING = "incoming"
_USE_SECONDS = 600
"""An entry's time of use is kept no more exactly than this."""
_ABANDONED_SECONDS = 3600
_PAUSE_SECONDS = 60.0
"""How long nothing is written after writing failed."""
_MAX_VERIFIED = 100_000

_log = logging.getLogger(__name__)


class _Directory:
    """A descriptor that is closed when the last thread that uses it lets go, so that its number stands for nothing else
    before."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class DiskStore:
    """The store below `directory`, held to about `limit` bytes on disk (at least MIN_LIMIT).

    It never fails: what cannot be read is not there, and what cannot be written is not kept, with one warning.
    Thread-safe, and safe for many processes.
    """

    def __init__(self, directory: str, limit: int = DEFAULT_LIMIT) -> None:
        self._name = os.path.join(directory, _LAYOUT)
        self.limit = max(limit, MIN_LIMIT)
        """Bytes on disk, about."""
        self._shard_limit = self.limit // SHARDS
        self._lock = threading.Lock()
        self._verified: LRUCache[str, tuple[int, int]] = LRUCache(_MAX_VERIFIED)
        """Of entries whose digest was right: inode number and size."""
        self._written: Counter[str] = Counter()
        """Bytes by shard since it was last held to its limit."""
        self._names = itertools.count()
        self._warned = False
        self._resume = 0.0
        self._root: _Directory | None = None
        try:
            self._root = _Directory(self._open_root(directory))
            self._clear_incoming(self._root.descriptor)
        except OSError as error:
            self._warn(error)

    @property
    def is_writable(self) -> bool:
        """Whether put() has a chance now."""
        return self._root is not None and time.monotonic() >= self._resume

    def close(self) -> None:
        """Release the directory; nothing is found or kept any more."""
        self._root = None

    def open(self, key: str) -> int | None:
        """A read-only descriptor of the entry, which the caller closes; None if there is none, or it is damaged.

        The content starts at HEADER_BYTES.
        """

        def checked(descriptor: int, status: os.stat_result) -> int:
            if not self._is_verified(key, status):
                self._sound_content(key, descriptor, status)
            return os.dup(descriptor)

        return self._with_entry(key, checked)

    def read(self, key: str) -> bytes | None:
        """The whole content, or None."""

        def content(descriptor: int, status: os.stat_result) -> bytes:
            if self._is_verified(key, status):
                return os.pread(descriptor, status.st_size - HEADER_BYTES, HEADER_BYTES)
            return self._sound_content(key, descriptor, status)

        return self._with_entry(key, content)

    def read_beyond(self, key: str, known: Extent | None) -> tuple[Extent, bytes] | None:
        """Of a pack, what is behind what is `known` of it, unchecked; all of it, if it is another one by now."""

        def added(descriptor: int, status: os.stat_result) -> tuple[Extent, bytes]:
            is_same = known is not None and known.inode == status.st_ino and known.end <= status.st_size
            start = known.end if known is not None and is_same else 0
            data = os.pread(descriptor, status.st_size - start, start) if start < status.st_size else b""
            return Extent(status.st_ino, start, start + len(data)), data

        return self._with_entry(key, added)

    def read_part(self, key: str, part: Extent) -> bytes | None:
        """Of a pack, the bytes there, unchecked; None if it is another one by now."""

        def there(descriptor: int, status: os.stat_result) -> bytes | None:
            if status.st_ino != part.inode:
                return None
            return os.pread(descriptor, part.end - part.start, part.start)

        return self._with_entry(key, there)

    def expect(self, key: str) -> bool:
        """Have the disk read the entry, without waiting for that; False if there is none."""

        def advise(descriptor: int, _: os.stat_result) -> bool:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            return True

        return self._with_entry(key, advise) or False

    def __contains__(self, key: str) -> bool:
        root = self._root
        if root is None:
            return False
        try:
            os.stat(_path(key), dir_fd=root.descriptor, follow_symlinks=False)
        except OSError:
            return False  # open() tells of what is not merely absent
        return True

    def put(self, key: str, data: bytes | memoryview) -> bool:
        """Keep `data` (at most MAX_ENTRY bytes); False if that is not possible."""
        if len(data) > MAX_ENTRY:
            return False
        incoming = f"{_INCOMING}/{os.getpid()}-{next(self._names)}"
        size = HEADER_BYTES + len(data)

        def write(root: int) -> int:
            inode = self._write(root, incoming, data)
            os.rename(incoming, _path(key), src_dir_fd=root, dst_dir_fd=root)
            return inode

        inode = self._change(key, size, write, incoming)
        if inode is None:
            return False
        with self._lock:
            self._verified[key] = (inode, size)
        return True

    def append(self, key: str, data: bytes) -> Extent | None:
        """Add records to a pack: where they are; None if that is not possible."""

        def write(root: int) -> Extent:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(_path(key), flags, 0o600, dir_fd=root)
            try:
                _write_all(descriptor, data)
                end = os.lseek(descriptor, 0, os.SEEK_CUR)
                return Extent(os.fstat(descriptor).st_ino, end - len(data), end)
            finally:
                os.close(descriptor)

        return self._change(key, len(data), write, _path(key))

    def drop(self, key: str) -> None:
        """Remove an entry, if it is there: it is damaged, or not wanted any more."""
        try:
            if self._root is not None:
                self._drop(self._root.descriptor, _path(key))
        except OSError as error:
            self._warn(error)

    def drop_layer(self, layer: str) -> int:
        """Remove what is kept of the layer with the identity `layer`, and tell how many bytes it took. OSError."""
        root = self._root
        if root is None:
            return 0
        freed = 0
        for number in range(SHARDS):
            shard = os.open(_shard_name(number), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root.descriptor)
            try:
                for _, size, name in _survey(shard):
                    if is_of_layer(name, layer):
                        self._drop(shard, name)
                        freed += size
            finally:
                os.close(shard)
        return freed

    def _with_entry(self, key: str, use: Callable[[int, os.stat_result], T | None]) -> T | None:
        """What `use` makes of the open entry; None if there is none, or it is damaged, which ends it."""
        root = self._root
        if root is None:
            return None
        try:
            descriptor = os.open(_path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=root.descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
            return None
        try:
            status = os.fstat(descriptor)
            found = use(descriptor, status)
            self._note_use(descriptor, status)
        except DamagedError:
            self.drop(key)
        except OSError as error:
            self._warn(error)
        else:
            return found
        finally:
            os.close(descriptor)
        return None

    def _is_verified(self, key: str, status: os.stat_result) -> bool:
        with self._lock:
            return self._verified.get(key) == (status.st_ino, status.st_size)

    def _sound_content(self, key: str, descriptor: int, status: os.stat_result) -> bytes:
        """DamagedError."""
        if not stat_bits.S_ISREG(status.st_mode) or not HEADER_BYTES <= status.st_size <= HEADER_BYTES + MAX_ENTRY:
            raise DamagedError
        content = os.pread(descriptor, status.st_size - HEADER_BYTES, HEADER_BYTES)
        check(os.pread(descriptor, HEADER_BYTES, 0), content)
        with self._lock:
            self._verified[key] = (status.st_ino, status.st_size)
        return content

    def _note_use(self, descriptor: int, status: os.stat_result) -> None:
        if abs(time.time() - status.st_mtime) > _USE_SECONDS:
            try:
                os.utime(descriptor)
            except OSError as error:
                self._warn(error)

    def _change(self, key: str, size: int, write: Callable[[int], T], written: str) -> T | None:
        """What `write` returns; None if it failed, after which the path `written` is gone."""
        root = self._root
        if root is None or not self.is_writable:
            return None
        try:
            result = write(root.descriptor)
        except OSError as error:
            self._resume = time.monotonic() + _PAUSE_SECONDS
            self._warn(error)
            with contextlib.suppress(OSError):  # the warning has told of it
                os.unlink(written, dir_fd=root.descriptor)
            return None
        self._account(root.descriptor, key, size)
        return result

    def _write(self, root: int, incoming: str, data: bytes | memoryview) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(incoming, flags, 0o600, dir_fd=root)
        try:
            _write_all(descriptor, header(b"", data), data)
            return os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)

    def _account(self, root: int, key: str, size: int) -> None:
        shard = _shard(key)
        with self._lock:
            is_first = shard not in self._written
            self._written[shard] += size
            is_due = is_first or self._written[shard] > self._shard_limit // 8
            if is_due:
                self._written[shard] = 0
        if is_due:
            try:
                self._evict(root, shard)
            except OSError as error:
                self._warn(error)

    def _evict(self, root: int, shard: str) -> None:
        """Hold a shard to its limit."""
        directory = os.open(shard, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            used = _survey(directory)
            total = sum(size for _, size, _ in used)
            if total > self._shard_limit:
                for _, size, name in sorted(used):
                    self._drop(directory, name)
                    total -= size
                    if total <= self._shard_limit * 7 // 8:
                        break
        finally:
            os.close(directory)

    def _drop(self, directory: int, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            os.unlink(path, dir_fd=directory)

    def _drop_abandoned(self, directory: int, name: str) -> None:
        """Remove what another process may be about to complete, unless it is too old for that."""
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if abs(time.time() - status.st_mtime) > _ABANDONED_SECONDS:
                os.unlink(name, dir_fd=directory)

    def _open_root(self, directory: str) -> int:
        os.makedirs(directory, 0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._name, 0o700)
        root = os.open(self._name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(root)
            if status.st_uid != os.geteuid():
                raise OSError(errno.EACCES, f"it belongs to user {status.st_uid}, not to {os.geteuid()}", self._name)
            if stat_bits.S_IMODE(status.st_mode) != 0o700:
                os.fchmod(root, 0o700)
            for name in (_INCOMING, *map(_shard_name, range(SHARDS))):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=root)
        except BaseException:
            os.close(root)
            raise
        return root

    def _clear_incoming(self, root: int) -> None:
        directory = os.open(_INCOMING, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            for name in os.listdir(directory):
                self._drop_abandoned(directory, name)
        finally:
            os.close(directory)

    def _warn(self, error: OSError) -> None:
        with self._lock:
            warned, self._warned = self._warned, True
        if not warned:
            _log.warning(
                "the content cache %s is bypassed where it cannot be used: make room for it, or name another directory "
                "(cache.directory): %s",
                self._name,
                error,
            )


def _shard(key: str) -> str:
    return _shard_name(int(key[:2], 16) % SHARDS)


def _shard_name(number: int) -> str:
    return f"{number:02x}"


def _path(key: str) -> str:
    return f"{_shard(key)}/{key}"


def _write_all(descriptor: int, *parts: bytes | memoryview) -> None:
    """In one write(2), unless the disk has no room for all: the next one then says why (ENOSPC, EDQUOT)."""
    written, size = os.writev(descriptor, parts), sum(map(len, parts))
    while written < size:
        written += os.write(descriptor, b"".join(parts)[written:])


def _survey(directory: int) -> list[tuple[float, int, str]]:
    """Of a shard: time of last use, bytes on disk and name of each entry."""
    used = []
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                status = entry.stat(follow_symlinks=False)
                used.append((status.st_mtime, status.st_blocks * 512, entry.name))
    return used
