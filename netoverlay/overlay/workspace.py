"""The work directory of the upper: where things are made before they are renamed into place, and who owns the upper.

It lies beside the upper's root, on the same file system, as overlayfs's workdir does. The "#..." in it when a mount
starts are left from a crash, and of no use: every change is complete once it has left the directory. The other entries
stay: the lock, the index of hard links (links.py), and what the kernel's overlayfs keeps there ("work" and "index").
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import socket
import time
from typing import Any

from netoverlay.backend_api import (
    Access,
    Backend,
    BackendFile,
    Creation,
    FileType,
    LayerPath,
    LayerSetupError,
    join_path,
)

LOCK_NAME = "lock"
_TEMPORARY_MARK = "#"


class UpperHeldError(LayerSetupError):
    """Another mount owns the upper; the message says which."""


class Workspace:
    """The work directory of a mounted upper, and the ownership that goes with it."""

    def __init__(self, backend: Backend, path: LayerPath, mountpoint: str) -> None:
        """Take the upper for this process, for the mount at `mountpoint`. UpperHeldError if another has it."""
        self._backend = backend
        self._path = path
        self._numbers = itertools.count()
        with contextlib.suppress(FileExistsError):
            backend.mkdir(path, 0o700)
        self._lock = self._acquire(mountpoint)
        self._sweep()

    def temporary(self) -> LayerPath:
        """A path in the work directory at which nothing stands."""
        return join_path(self._path, f"{_TEMPORARY_MARK}{next(self._numbers):x}")

    def discard(self, path: LayerPath) -> None:
        """Remove what stands at `path` in the work directory, if anything: a directory with all that is in it."""
        try:
            stat = self._backend.stat(path)
        except FileNotFoundError:
            return
        if stat.type is not FileType.DIRECTORY:
            self._backend.unlink(path)
            return
        for entry in self._backend.list_dir(path):
            self.discard(join_path(path, entry.name))
        self._backend.rmdir(path)

    def close(self) -> None:
        """Give the upper back."""
        self._sweep()
        self._lock.close()

    def _sweep(self) -> None:
        for entry in self._backend.list_dir(self._path):
            if entry.name.startswith(_TEMPORARY_MARK):
                self.discard(join_path(self._path, entry.name))

    def _acquire(self, mountpoint: str) -> BackendFile:
        path = join_path(self._path, LOCK_NAME)
        with contextlib.suppress(FileExistsError):
            self._backend.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=0o600).close()
        file = self._backend.open(path, Access.READ_WRITE)
        try:
            _lock_whole(file)
            owner = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "mountpoint": mountpoint,
                "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            }
            text = json.dumps(owner).encode()
            file.truncate(0)
            file.write_at(0, text)
        except BlockingIOError:
            owner = _read_owner(file)
            file.close()
            raise UpperHeldError(
                f"another mount owns it: {owner.get('mountpoint', '?')}, process {owner.get('pid', '?')} on "
                f"{owner.get('host', '?')} since {owner.get('since', '?')}; unmount that first",
                errno.EBUSY,
            ) from None
        except BaseException:
            file.close()
            raise
        return file


def _lock_whole(file: BackendFile) -> None:
    """BlockingIOError if another process holds it. The lock goes with the open file, so also with a crash."""
    descriptor = file.fileno()
    if descriptor is None:
        raise LayerSetupError("only a directory of this machine can be the upper")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read_owner(file: BackendFile) -> dict[str, Any]:
    """What the owner wrote about itself; nothing if it is just writing it."""
    try:
        owner = json.loads(file.read_at(0, 4096))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}
