"""What was read of layers, on local disk: shared by all mounts of a user, bounded, checked when it is read.

    DIRECTORY/content-1/SHARD/KEY        the content, nothing else, so that its descriptor can stand for the file
    DIRECTORY/content-1/SHARD/KEY.sum    a symbolic link whose target is the BLAKE2b digest of the content
    DIRECTORY/content-1/incoming/        what is being written, renamed when it is whole

A key stands for one content for ever, so two processes that write one entry write the same, and no locks are needed.
Where they do not (what is known of a layer, kept_layer.py), an entry read between the two renames looks damaged, and is
gone: it is to be such as can be had again. The last characters of a key say of which layer it is, to drop all of it.
Nothing is synced: after a crash an entry may be short or zeros, which its digest shows. The modification time of an
entry is the time of its last use. Each shard is held to its part of the limit by whoever writes to it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import stat as stat_bits
import threading
import time
from collections import Counter

from cachetools import LRUCache

DEFAULT_LIMIT = 10 << 30
MAX_ENTRY = 1 << 20
SHARDS = 64
MIN_LIMIT = SHARDS * 2 * MAX_ENTRY

_LAYOUT = "content-1"
_INCOMING = "incoming"
_SUM = ".sum"
_USE_SECONDS = 600
"""An entry's time of use is kept no more exactly than this."""
_ABANDONED_SECONDS = 3600
_PAUSE_SECONDS = 60.0
"""How long nothing is written after writing failed."""
_MAX_VERIFIED = 100_000
_KEY_CHARACTERS = 40
_MARK_CHARACTERS = 16

_log = logging.getLogger(__name__)


class _Directory:
    """A descriptor that is closed when the last thread that uses it lets go, so that its number stands for nothing else
    before."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


def entry_key(*parts: str | int | None) -> str:
    """The key of what `parts` describe, which must be the same parts for the same content only."""
    text = "\0".join("-" if part is None else str(part) for part in parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()


def layer_key(layer: str, *parts: str | int | None) -> str:
    """As entry_key(), of something of the layer with the identity `layer`: DiskStore.drop_layer() finds it."""
    return entry_key(layer, *parts) + _layer_mark(layer)


def part_key(whole: str, *parts: str | int | None) -> str:
    """The key of a part of what has the key `whole`, of the same layer."""
    return entry_key(whole, *parts) + whole[_KEY_CHARACTERS:]


def _layer_mark(layer: str) -> str:
    return entry_key("layer", layer)[:_MARK_CHARACTERS]


def _digest(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=20).hexdigest()


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
        """A read-only descriptor of the entry, which the caller closes; None if there is none, or it is damaged."""
        root = self._root
        if root is None:
            return None
        path = _path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=root.descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
            return None
        try:
            if self._is_sound(root.descriptor, key, descriptor):
                return descriptor
            self._drop(root.descriptor, path)
        except OSError as error:
            self._warn(error)
        os.close(descriptor)
        return None

    def read(self, key: str) -> bytes | None:
        """The whole entry, or None."""
        descriptor = self.open(key)
        if descriptor is None:
            return None
        try:
            return os.pread(descriptor, MAX_ENTRY, 0)
        except OSError as error:
            self._warn(error)
            return None
        finally:
            os.close(descriptor)

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
        root = self._root
        if root is None or not self.is_writable or len(data) > MAX_ENTRY:
            return False
        incoming = f"{_INCOMING}/{os.getpid()}-{next(self._names)}"
        try:
            inode = self._write(root.descriptor, incoming, key, data)
        except OSError as error:
            self._resume = time.monotonic() + _PAUSE_SECONDS
            self._warn(error)
            for name in (incoming, incoming + _SUM):
                with contextlib.suppress(OSError):  # the warning has told of it
                    os.unlink(name, dir_fd=root.descriptor)
            return False
        self._account(root.descriptor, key, len(data), inode)
        return True

    def drop_layer(self, layer: str) -> int:
        """Remove what is kept of the layer with the identity `layer`, and tell how many bytes it took. OSError."""
        root = self._root
        if root is None:
            return 0
        mark = _layer_mark(layer)
        freed = 0
        for number in range(SHARDS):
            shard = os.open(_shard_name(number), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root.descriptor)
            try:
                used, _ = _survey(shard)
                for _, size, name in used:
                    if name[_KEY_CHARACTERS:] == mark:
                        self._drop(shard, name)
                        freed += size
            finally:
                os.close(shard)
        return freed

    def _write(self, root: int, incoming: str, key: str, data: bytes | memoryview) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(incoming, flags, 0o600, dir_fd=root)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            inode = os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)
        os.symlink(_digest(data), incoming + _SUM, dir_fd=root)
        path = _path(key)
        # The digest first: content without one would be dropped by whoever finds it.
        os.rename(incoming + _SUM, path + _SUM, src_dir_fd=root, dst_dir_fd=root)
        os.rename(incoming, path, src_dir_fd=root, dst_dir_fd=root)
        return inode

    def _account(self, root: int, key: str, size: int, inode: int) -> None:
        shard = _shard(key)
        with self._lock:
            self._verified[key] = (inode, size)
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

    def _is_sound(self, root: int, key: str, descriptor: int) -> bool:
        """Whether the entry is what was written, checked once by each process; and note that it was used."""
        status = os.fstat(descriptor)
        if not stat_bits.S_ISREG(status.st_mode) or status.st_size > MAX_ENTRY:
            return False
        found = (status.st_ino, status.st_size)
        with self._lock:
            known = self._verified.get(key)
        if known != found:
            try:
                digest = os.readlink(_path(key) + _SUM, dir_fd=root)
            except FileNotFoundError:
                return False
            if digest != _digest(os.pread(descriptor, MAX_ENTRY, 0)):
                return False
            with self._lock:
                self._verified[key] = found
        if abs(time.time() - status.st_mtime) > _USE_SECONDS:
            try:
                os.utime(descriptor)
            except OSError as error:
                self._warn(error)
        return True

    def _evict(self, root: int, shard: str) -> None:
        """Hold a shard to its limit, and remove digests whose content is gone."""
        directory = os.open(shard, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
        try:
            used, digests = _survey(directory)
            total = sum(size for _, size, _ in used)
            if total > self._shard_limit:
                for _, size, name in sorted(used):
                    self._drop(directory, name)
                    total -= size
                    if total <= self._shard_limit * 7 // 8:
                        break
            contents = {name for _, _, name in used}
            for name in digests:
                if name.removesuffix(_SUM) not in contents:
                    self._drop_abandoned(directory, name)
        finally:
            os.close(directory)

    def _drop(self, directory: int, path: str) -> None:
        for name in (path, path + _SUM):
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.unlink(name, dir_fd=directory)

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
            _log.warning("the content cache %s is bypassed where it cannot be used: %s", self._name, error)


def _shard(key: str) -> str:
    return _shard_name(int(key[:2], 16) % SHARDS)


def _shard_name(number: int) -> str:
    return f"{number:02x}"


def _path(key: str) -> str:
    return f"{_shard(key)}/{key}"


def _survey(directory: int) -> tuple[list[tuple[float, int, str]], list[str]]:
    """Of a shard: time of last use, bytes on disk and name of each content; and the names of the digests."""
    used, digests = [], []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(_SUM):
                digests.append(entry.name)
                continue
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                status = entry.stat(follow_symlinks=False)
                used.append((status.st_mtime, status.st_blocks * 512, entry.name))
    return used, digests
