"""For layers that cannot be written to."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Backend,
    Capabilities,
    Creation,
    FileType,
    NotSupportedError,
)
from netoverlay.testing.suite.layer import refused

FILE, DIRECTORY, CONTENT = "file", "directory", b"content"
"""What the root must hold: a file of this content, and an empty directory."""

CHANGES: dict[str, Callable[[Backend], object]] = {
    "open(WRITE)": lambda backend: backend.open(FILE, Access.WRITE),
    "open(READ_WRITE)": lambda backend: backend.open(FILE, Access.READ_WRITE),
    "open(truncate)": lambda backend: backend.open(FILE, Access.WRITE, truncate=True),
    "open(EXCLUSIVE)": lambda backend: backend.open("new", Access.READ, create=Creation.EXCLUSIVE),
    "mkdir": lambda backend: backend.mkdir("new", 0o755),
    "unlink": lambda backend: backend.unlink(FILE),
    "rmdir": lambda backend: backend.rmdir(DIRECTORY),
    "rename": lambda backend: backend.rename(FILE, "new"),
    "symlink": lambda backend: backend.symlink("new", "target"),
    "link": lambda backend: backend.link(FILE, "new"),
    "mknod": lambda backend: backend.mknod("new", FileType.FIFO, 0o644),
    "set_attributes": lambda backend: backend.set_attributes(FILE, AttributeChange(mtime_ns=0)),
    "set_xattr": lambda backend: backend.set_xattr(FILE, "user.netoverlay.test", b"value"),
    "remove_xattr": lambda backend: backend.remove_xattr(FILE, "user.netoverlay.test"),
}


class BackendReadOnlySuite:
    """Subclass with the fixture `new_backend`: of a root that holds FILE and DIRECTORY and cannot be written to."""

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls) -> Callable[[], Backend]:
        """Makes a backend that is not connected yet."""
        raise NotImplementedError("override the fixture new_backend in your subclass of BackendReadOnlySuite")

    @pytest.fixture(scope="class")
    @classmethod
    def connected(cls, new_backend: Callable[[], Backend]) -> Iterator[tuple[Backend, Capabilities]]:
        """One connection for the tests of a class."""
        with new_backend() as backend:
            yield backend, backend.connect()

    def test_claim(self, connected: tuple[Backend, Capabilities]) -> None:
        assert not connected[1].writable, "writable must not be claimed of a layer that cannot be written to"

    def test_reading(self, connected: tuple[Backend, Capabilities]) -> None:
        backend, _ = connected
        assert backend.stat(FILE).size == len(CONTENT)
        assert sorted(entry.name for entry in backend.list_dir("")) == [DIRECTORY, FILE]
        assert backend.list_dir(DIRECTORY) == []
        with backend.open(FILE, Access.READ) as file:
            assert file.read_at(0, 99) == CONTENT
        with refused(errno.ENOENT, advice="open of a missing file"):
            backend.open("missing", Access.READ)

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
    def test_change(self, connected: tuple[Backend, Capabilities], change: Callable[[Backend], object]) -> None:
        backend, _ = connected
        before = sorted(backend.list_dir(""))
        with pytest.raises(NotSupportedError):
            change(backend)
        assert sorted(backend.list_dir("")) == before, "a refused change must change nothing"

    def test_change_of_an_open_file(self, connected: tuple[Backend, Capabilities]) -> None:
        backend, _ = connected
        with backend.open(FILE, Access.READ) as file:
            changes: tuple[Callable[[], object], ...] = (
                lambda: file.write_at(0, b"x"),
                lambda: file.truncate(0),
                lambda: file.set_attributes(AttributeChange(mtime_ns=0)),
                lambda: file.set_xattr("user.netoverlay.test", b"value"),
            )
            for change in changes:
                with pytest.raises(NotSupportedError):
                    change()
            assert file.read_at(0, 99) == CONTENT
