"""Calls of a backend whose server is an input, and what must hold of their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from netoverlay.backend_api import Access, Backend, Creation, WantedFile
from tests.fuzz.checks import require_entries, require_errno, require_stat

_MOST_READ = 200_000
_WANTED = 10

B = TypeVar("B", bound=Backend)


class Script(Protocol):
    """What the server will say."""

    @property
    def records(self) -> Sequence[bytes]: ...


def make_calls(backend: B, calls: Sequence[Callable[[B], object]], numbers: bytes, script: Script) -> None:
    """The calls of those numbers, while there is something left to be said."""
    for number in numbers:
        try:
            calls[number % len(calls)](backend)
        except OSError as error:
            require_errno(error)
        if not script.records:
            return


def stat(backend: Backend) -> None:
    require_stat(backend.stat("d/a"))


def list_directory(backend: Backend) -> None:
    require_entries(backend.list_dir("d"))


def read(backend: Backend) -> None:
    with backend.open("d/a", Access.READ) as file:
        for offset in (0, 65_530):
            assert len(file.read_at(offset, _MOST_READ)) <= _MOST_READ
        require_stat(file.stat())


def read_files(backend: Backend) -> None:
    wanted = [WantedFile("d/a", _WANTED), WantedFile("d/b", _WANTED)]
    for found in backend.read_files(wanted, unchanging=False):
        assert isinstance(found, OSError) or len(found.data) <= _WANTED


def write(backend: Backend) -> None:
    with backend.open("d/a", Access.READ_WRITE, truncate=True) as file:
        file.write_at(10, b"x" * 100_000)
        file.truncate(5)
        file.sync()


def create(backend: Backend) -> None:
    backend.open("d/new", Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=0o640).close()


def copy(backend: Backend) -> None:
    with backend.open("d/a", Access.READ) as source, backend.open("d/b", Access.READ_WRITE) as target:
        target.copy_range(source, 0, 0, 1000)
