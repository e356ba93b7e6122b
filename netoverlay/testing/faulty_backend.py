"""A backend that fails, waits or dies on demand, and counts the calls that reach it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from netoverlay.backend_api import Access, Backend, BackendFile, Creation, LayerPath
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from netoverlay.testing.faults import Faults

P = ParamSpec("P")
T = TypeVar("T")

ONE_PATH = (
    "stat",
    "list_dir",
    "readlink",
    "mkdir",
    "unlink",
    "rmdir",
    "symlink",
    "mknod",
    "set_attributes",
    "get_xattr",
    "list_xattrs",
    "set_xattr",
    "remove_xattr",
    "sync_directory",
)
TWO_PATHS = ("rename", "link")
NO_PATH = ("connect", "space_usage", "sync")
"""A rule's path pattern sees "" for these."""
FILE_OPERATIONS = (
    "read_into",
    "read_at",
    "stat",
    "write_at",
    "flush",
    "truncate",
    "sync",
    "set_attributes",
    "seek_data",
    "seek_hole",
    "allocate",
    "copy_range",
    "get_xattr",
    "list_xattrs",
    "set_xattr",
    "remove_xattr",
    "lock",
    "lock_whole",
    "revalidate",
)


class FaultyBackend(DelegatingBackend):
    """Hands every call to `inner`, as far as the rules of `faults` let it.

    close() is never struck, so that a test can always end; closing a file is "file.close", which releases the file
    below even when it is told to fail or comes after a crash.
    """

    def __init__(self, inner: Backend, faults: Faults | None = None) -> None:
        super().__init__(inner)
        self.faults = Faults() if faults is None else faults

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        operation = "truncate" if truncate else "open"
        if create is not Creation.NEVER:
            operation = "create"

        def call() -> BackendFile:
            return self.inner.open(path, access, create=create, truncate=truncate, mode=mode)

        return FaultyFile(self.faults.run(operation, (path,), call), path, self.faults)


class FaultyFile(DelegatingFile):
    """Its path, for the rules, is the one that it was opened by, also after a rename."""

    def __init__(self, inner: BackendFile, path: LayerPath, faults: Faults) -> None:
        super().__init__(inner)
        self.path = path
        self.faults = faults

    def close(self) -> None:
        try:
            self.faults.run("file.close", (self.path,), lambda: None)
        finally:
            self.inner.close()


def _faulty_method(
    method: Callable[Concatenate[FaultyBackend, P], T], path_count: int
) -> Callable[Concatenate[FaultyBackend, P], T]:
    operation = method.__name__

    @functools.wraps(method)
    def call(self: FaultyBackend, /, *arguments: P.args, **options: P.kwargs) -> T:
        given = (*arguments, *options.values())
        paths = tuple(str(path) for path in given[:path_count]) or ("",)
        return self.faults.run(operation, paths, lambda: method(self, *arguments, **options))

    return call


def _faulty_file_method(
    method: Callable[Concatenate[FaultyFile, P], T],
) -> Callable[Concatenate[FaultyFile, P], T]:
    operation = f"file.{method.__name__}"

    @functools.wraps(method)
    def call(self: FaultyFile, /, *arguments: P.args, **options: P.kwargs) -> T:
        return self.faults.run(operation, (self.path,), lambda: method(self, *arguments, **options))

    return call


for _names, _path_count in ((NO_PATH, 0), (ONE_PATH, 1), (TWO_PATHS, 2)):
    for _name in _names:
        setattr(FaultyBackend, _name, _faulty_method(getattr(DelegatingBackend, _name), _path_count))
for _name in FILE_OPERATIONS:
    setattr(FaultyFile, _name, _faulty_file_method(getattr(DelegatingFile, _name)))
