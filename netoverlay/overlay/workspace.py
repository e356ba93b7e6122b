"""The work directory of the upper: where things are made before they are renamed into place.

It lies beside the upper's root, on the same file system, as overlayfs's workdir does. The "#..." in it when a mount
starts are left from a crash, and of no use: every change is complete once it has left the directory. The other entries
stay: the lock or lease of the owner (ownership.py), the index of hard links (links.py), kept times (kept_times.py), the
maps of lazily copied files (lazy_map.py), and what the kernel's overlayfs keeps there ("work" and "index").
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
from collections import deque

from netoverlay.backend_api import Backend, FileType, LayerPath, UnavailableError, join_path
from netoverlay.overlay.acl import ACCESS, DEFAULT
from netoverlay.overlay.ownership import Held

logger = logging.getLogger(__name__)

_TEMPORARY_MARK = "#"


class Workspace:
    """The work directory of a mounted upper."""

    def __init__(self, backend: Backend, path: LayerPath, held: Held) -> None:
        """The work directory `path`, of an upper that is `held`."""
        self._backend = backend
        self._path = path
        self._numbers = itertools.count()
        self._held = held
        self._left: deque[LayerPath] = deque()
        """What could not be removed, because the upper could not be reached."""
        self._remove_acls()
        self._sweep()

    def _remove_acls(self) -> None:
        """What is made in it must inherit nothing: the directory that it lies in may have a default ACL."""
        for name in (ACCESS, DEFAULT):
            try:
                self._backend.remove_xattr(self._path, name)
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                    raise

    def temporary(self) -> LayerPath:
        """A path in the work directory at which nothing stands."""
        while self._left:
            with contextlib.suppress(IndexError):  # another thread was faster
                if not self.abandon(self._left.popleft()):
                    break
        return temporary_path(self._path, next(self._numbers))

    def discard(self, path: LayerPath) -> None:
        """Remove what stands at `path` in the work directory, if anything: a directory with all that is in it."""
        remove_tree(self._backend, path)

    def abandon(self, path: LayerPath) -> bool:
        """discard() what is a temporary() path. False if the upper cannot be reached: then it goes later."""
        try:
            self.discard(path)
        except UnavailableError as error:
            logger.warning(
                "what is of no use stays in the work directory, and is removed later: %s: %s", path, error.strerror
            )
            self._left.append(path)
            return False
        return True

    @property
    def lost(self) -> bool:
        """Somebody else owns the upper by now."""
        return self._held.lost()

    def close(self) -> None:
        """Leave it swept, if the upper is still ours."""
        if not self.lost:
            self._sweep()

    def _sweep(self) -> None:
        for path in leftovers(self._backend, self._path):
            self.discard(path)


def temporary_path(work: LayerPath, number: int) -> LayerPath:
    """A path in a work directory, of which nothing is kept when the upper is next taken or given back."""
    return join_path(work, f"{_TEMPORARY_MARK}{number:x}")


def leftovers(backend: Backend, work: LayerPath) -> list[LayerPath]:
    """What is of no use in a work directory that nobody uses."""
    entries = backend.list_dir(work)
    return [join_path(work, entry.name) for entry in entries if entry.name.startswith(_TEMPORARY_MARK)]


def remove_tree(backend: Backend, path: LayerPath) -> None:
    """Remove what stands at `path`, if anything: a directory with all that is in it."""
    try:
        stat = backend.stat(path)
    except FileNotFoundError:
        return
    if stat.type is not FileType.DIRECTORY:
        with contextlib.suppress(FileNotFoundError):  # others who want the upper have files here for a moment
            backend.unlink(path)
        return
    for entry in backend.list_dir(path):
        remove_tree(backend, join_path(path, entry.name))
    backend.rmdir(path)
