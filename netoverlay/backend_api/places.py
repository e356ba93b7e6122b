"""Where open files lie, for a backend that can reach them there by itself: so it copies without their data coming here.

Two layers on one server are two backends with a connection each, and a server copies only between what is open on one
connection. So the target's backend opens the source once more, by the place that it tells.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

from netoverlay.backend_api.backend import BackendFile
from netoverlay.backend_api.types import FileStat, LayerPath
from netoverlay.backend_api.url import LayerUrl, parse_url


@dataclass(frozen=True, slots=True)
class FilePlace:
    """Where an open file lies, and what it was when it was opened: what is there by now may be another one."""

    layer: str
    """Backend.identity()."""
    path: LayerPath
    """In that layer."""
    size: int
    mtime_ns: int
    file_id: int | None

    @classmethod
    def of(cls, layer: str, path: LayerPath, stat: FileStat) -> FilePlace:
        """The place of what is at `path` of `layer`, and looks like `stat`."""
        return cls(layer, path, stat.size, stat.mtime_ns, stat.file_id)

    def url_if_reached(self, url: LayerUrl, default_port: int | None = None) -> LayerUrl | None:
        """The url of its layer, if who is connected to `url` is so to that, too: one user at one server."""
        try:
            own = parse_url(self.layer)
        except ValueError:  # a backend may name its layers as it likes
            return None
        return own if _login(own, default_port) == _login(url, default_port) else None

    def holds(self, size: int, mtime_ns: int, file_id: int | None = None) -> bool:
        """Whether what was found there, with these attributes, is what was opened, unchanged."""
        same_id = None in (self.file_id, file_id) or self.file_id == file_id
        return same_id and (self.size, self.mtime_ns) == (size, mtime_ns)


class PlacedFile(BackendFile):
    """An open file that knows its place, or is around one that does."""

    @property
    @abc.abstractmethod
    def place(self) -> FilePlace | None:
        """None if it cannot be had by its place: it was removed, say, or may not be read. Asks no server."""


def place_of(file: BackendFile) -> FilePlace | None:
    """The place of `file`, whatever is around it; None if it tells none."""
    return file.place if isinstance(file, PlacedFile) else None


def _login(url: LayerUrl, default_port: int | None) -> tuple[str, str | None, str, int | None]:
    return url.scheme, url.user, (url.host or "").casefold(), url.port or default_port
