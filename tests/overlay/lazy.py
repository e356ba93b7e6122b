"""Overlays whose large files are copied up lazily: small ones here, of lowers that say that they are not local."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from netoverlay.backend_api import Backend, BackendFile, Capabilities
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from tests.overlay.trees import Mounted

NAME_SPACE = "trusted" if os.geteuid() == 0 else "user"
MARK = f"{NAME_SPACE}.overlay.metacopy"
THRESHOLD = 1000
SIZE = 50_000
DATA = random.Random(1).randbytes(SIZE)


class Remote(DelegatingBackend):
    """A local directory that says that it is not, and counts what is read of its files."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.bytes_read = 0

    def connect(self) -> Capabilities:
        return replace(super().connect(), local=False)

    def open(self, path, access, **options):
        return _Counted(super().open(path, access, **options), self)


class _Counted(DelegatingFile):
    def __init__(self, inner: BackendFile, backend: Remote) -> None:
        super().__init__(inner)
        self._backend = backend

    def read_into(self, offset, buffer):
        count = self.inner.read_into(offset, buffer)
        self._backend.bytes_read += count
        return count

    def read_at(self, offset, size):
        data = self.inner.read_at(offset, size)
        self._backend.bytes_read += len(data)
        return data

    def fileno(self):
        return None


class _Unsynced(DelegatingBackend):
    """Waits for no disk: these tests cut no power."""

    def open(self, path, access, **options):
        return _UnsyncedFile(super().open(path, access, **options))

    def sync_directory(self, path):
        pass

    def sync(self):
        pass


class _UnsyncedFile(DelegatingFile):
    def sync(self, *, data_only=False):
        pass


class LazyMounted(Mounted):
    """Of the directories of Mounted."""

    def __init__(
        self,
        directory: Path,
        *,
        wrap_upper: Callable[[Backend], Backend] = lambda backend: backend,
        mounted: bool = True,
    ) -> None:
        self.lowers: list[Remote] = []
        super().__init__(
            directory,
            wrap_upper=lambda backend: wrap_upper(_Unsynced(backend)),
            wrap_lower=self._remote,
            lazy_from=THRESHOLD,
            mounted=mounted,
        )

    def _remote(self, backend: Backend) -> Remote:
        self.lowers.append(Remote(backend))
        return self.lowers[-1]

    @property
    def bytes_read(self) -> int:
        return sum(lower.bytes_read for lower in self.lowers)


def maps(directory: Path) -> list[str]:
    """The names of the maps of an overlay in `directory`."""
    place = directory / "upper.work" / "lazy"
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


def is_lazy(path: Path) -> bool:
    return MARK in os.listxattr(path)


def never() -> bool:
    """Nobody stops a settling."""
    return False


def settle(overlay: Mounted) -> list[tuple[str, str]]:
    """Settle the upper: what could not be, and why."""
    settler = overlay.overlay.settler
    assert settler is not None
    return [tuple(each) for each in settler.run(never, id)]
