"""What the tests of the suite work with: a connected backend, a directory in it of their own, and expectations."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from netoverlay.backend_api import (
    Access,
    Backend,
    BackendFile,
    Capabilities,
    Creation,
    FileStat,
    FileType,
    LayerPath,
    NotSupportedError,
    join_path,
    split_path,
)

THREADS = 8
HANG_SECONDS = 90.0
"""After this long a thread counts as hanging; shorter than the usual time limit of a test."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A connected backend and the directory `home`, which is empty when a test starts and removed after it."""

    backend: Backend
    claims: Capabilities
    home: LayerPath

    def path(self, *names: str) -> LayerPath:
        """A path beneath home."""
        return "/".join((self.home, *names))

    def directory(self, *names: str) -> LayerPath:
        """Make a directory."""
        path = self.path(*names)
        self.backend.mkdir(path, 0o755)
        return path

    def file(self, *names: str, data: bytes = b"") -> LayerPath:
        """Make a file that holds `data`."""
        path = self.path(*names)
        with self.create(path) as file:
            if data:
                file.write_at(0, data)
        return path

    def create(self, path: LayerPath, mode: int = 0o644) -> BackendFile:
        """Make a file and keep it open for reading and writing."""
        return self.backend.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=mode)

    def read(self, path: LayerPath) -> bytes:
        """The whole content of a file."""
        with self.backend.open(path, Access.READ) as file:
            return file.read_at(0, file.stat().size + 1)

    def names(self, path: LayerPath) -> list[str]:
        """The sorted names of a directory."""
        return sorted(entry.name for entry in self.backend.list_dir(path))

    def listed(self, path: LayerPath) -> FileStat:
        """What the listing of its directory tells of `path`."""
        directory, name = split_path(path)
        return next(entry.stat for entry in self.backend.list_dir(directory) if entry.name == name)

    def exists(self, path: LayerPath) -> bool:
        try:
            self.backend.stat(path)
        except FileNotFoundError:
            return False
        return True


def remove_tree(backend: Backend, path: LayerPath) -> None:
    """Remove a directory and all beneath it, large directories with several threads."""
    plain: list[LayerPath] = []
    for entry in backend.list_dir(path):
        child = join_path(path, entry.name)
        if entry.stat.type is FileType.DIRECTORY:
            remove_tree(backend, child)
        else:
            plain.append(child)
    if len(plain) < THREADS * 4:
        for child in plain:
            backend.unlink(child)
    else:
        for_each(plain, backend.unlink)
    backend.rmdir(path)


def for_each(paths: list[LayerPath], call: Callable[[LayerPath], object]) -> None:
    """Call with every path, with several threads; the first error is raised."""
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(call, paths):
            pass


def run_threads(work: Callable[[int], None], count: int = THREADS) -> None:
    """Run work(0) to work(count - 1) at the same time; the first error is raised, and so is a hang."""
    errors: queue.Queue[BaseException] = queue.Queue()
    start = threading.Barrier(count)

    def body(number: int) -> None:
        try:
            start.wait(HANG_SECONDS)
            work(number)
        except BaseException as error:  # noqa: BLE001 - carried to the thread of the test
            errors.put(error)

    threads = [threading.Thread(target=body, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_SECONDS)
    if not errors.empty():
        raise errors.get()
    hanging = sum(thread.is_alive() for thread in threads)
    assert not hanging, f"{hanging} of {count} threads hang: every call must return or raise within its deadline"


@contextmanager
def refused(*codes: int, advice: str) -> Iterator[None]:
    """The block must raise an OSError with one of the errnos; `advice` says what is expected of the backend."""
    names = " or ".join(os.strerror(code) for code in codes)
    try:
        yield
    except NotSupportedError as error:
        pytest.fail(f"{advice}: raise {names}; it raised NotSupportedError ({error})")
    except OSError as error:
        if error.errno not in codes:
            pytest.fail(f"{advice}: raise {names}; it raised {error!r}")
    else:
        pytest.fail(f"{advice}: raise {names}; it raised nothing")


@contextmanager
def supported(claimed: bool, claim: str) -> Iterator[None]:
    """The block must work if `claimed`, and must raise NotSupportedError if not."""
    try:
        yield
    except NotSupportedError as error:
        if claimed:
            pytest.fail(f"Capabilities.{claim} is claimed, but not so: {error}. Implement it or do not claim it")
        return
    if not claimed:
        pytest.fail(f"Capabilities.{claim} is not claimed, so raise NotSupportedError; it raised nothing")


def require(claimed: bool, claim: str) -> None:
    """Skip a test of what is not claimed: that it then raises is proved by the claims' own tests."""
    if not claimed:
        pytest.skip(f"Capabilities.{claim} is not claimed")


def pattern(size: int, seed: int = 0) -> bytes:
    """`size` bytes in which no two neighbouring kibibytes are alike, so that misplaced data shows."""
    return b"".join((number * 2654435761 + seed).to_bytes(8, "little") for number in range(-(-size // 8)))[:size]
