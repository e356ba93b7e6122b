"""The names of whiteouts and of opaque directories on a server, as OCI image layers have them.

A whiteout of NAME is the empty file `.wh.NAME` beside it; a directory that holds `.wh..wh..opq` is opaque. Other names
that begin with `.wh..wh.` are this package's own. None of these is ever shown, and none can be made by a program.

Where NAME is so long that the server cannot have `.wh.NAME`, the whiteout is the empty file `.wh..wh..long/NAME`: one
step makes it, one rename moves it, as with the others.
"""

from __future__ import annotations

from netoverlay.backend_api.types import LayerPath, join_path, split_path

PREFIX = ".wh."
RESERVED_PREFIX = ".wh..wh."
OPAQUE = ".wh..wh..opq"
LONG_DIRECTORY = ".wh..wh..long"
"""Holds the whiteouts of the names that are too long for the usual form."""
ASIDE_PREFIX = ".wh..wh..aside-"
"""In the work directory: what is out of the way for the length of one change."""


def is_marker(name: str) -> bool:
    """Whether the name is one of ours on the server."""
    return name.startswith(PREFIX)


def leads_to_marker(path: LayerPath) -> bool:
    """Whether any component of the path is."""
    return path.startswith(PREFIX) or f"/{PREFIX}" in path


def marker_path(path: LayerPath) -> LayerPath:
    """Where the whiteout of `path` lies, if the server can have such a name."""
    parent, name = split_path(path)
    return join_path(parent, PREFIX + name)


def long_marker_path(path: LayerPath) -> LayerPath:
    """Where it lies otherwise."""
    parent, name = split_path(path)
    return join_path(join_path(parent, LONG_DIRECTORY), name)


def hidden_name(marker: str) -> str | None:
    """Which name a file of the server says to be a whiteout; None if it says that of none."""
    if not marker.startswith(PREFIX) or marker.startswith(RESERVED_PREFIX):
        return None
    return marker.removeprefix(PREFIX) or None
