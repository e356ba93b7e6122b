"""Small files, read whole and many at once: what is asked for, what is told, and how any backend can do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from netoverlay.backend_api.errors import UnavailableError
from netoverlay.backend_api.types import Access, FileVersion, LayerPath

if TYPE_CHECKING:
    from netoverlay.backend_api.backend import Backend


class WantedFile(NamedTuple):
    """A file to be read."""

    path: LayerPath
    size: int
    """Bytes to read from its beginning: all of them, as far as the caller knows."""


class FileContent(NamedTuple):
    """What was read."""

    data: bytes
    """Less than was wanted if the file is shorter."""
    version: FileVersion | None
    """Of the open file, after it was read; None if it was not looked at."""


def read_one_by_one(backend: Backend, wanted: Sequence[WantedFile], *, unchanging: bool) -> list[FileContent | OSError]:
    """Backend.read_files(), where a transport has nothing better."""
    return [read_one(backend, each, unchanging=unchanging) for each in wanted]


def read_one(backend: Backend, wanted: WantedFile, *, unchanging: bool) -> FileContent | OSError:
    """As Backend.read_files(), of one file, by open(), reading and close()."""
    try:
        with backend.open(wanted.path, Access.READ) as file:
            data = file.read_at(0, wanted.size) if wanted.size else b""
            return FileContent(data, None if unchanging else file.stat().version)
    except UnavailableError:
        raise
    except OSError as error:
        return error
