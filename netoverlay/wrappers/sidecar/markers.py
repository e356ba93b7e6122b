"""The names of whiteouts and of opaque directories on a server, as OCI image layers have them.

A whiteout of NAME is the empty file `.wh.NAME` beside it; a directory that holds `.wh..wh..opq` is opaque. Other names
that begin with `.wh..wh.` are this package's own. None of these is ever shown, and none can be made by a program.
"""

from __future__ import annotations

from netoverlay.backend_api.types import LayerPath, join_path, split_path

PREFIX = ".wh."
RESERVED_PREFIX = ".wh..wh."
OPAQUE = ".wh..wh..opq"
ASIDE_PREFIX = ".wh..wh..aside-"
"""In the work directory: what is out of the way for the length of one change."""


def is_marker(name: str) -> bool:
    """Whether the name is one of ours on the server."""
    return name.startswith(PREFIX)


def leads_to_marker(path: LayerPath) -> bool:
    """Whether any component of the path is."""
    return path.startswith(PREFIX) or f"/{PREFIX}" in path


def marker_path(path: LayerPath) -> LayerPath:
    """Where the whiteout of `path` lies."""
    parent, name = split_path(path)
    return join_path(parent, PREFIX + name)


def hidden_name(marker: str) -> str | None:
    """Which name a file of the server says to be a whiteout; None if it says that of none."""
    if not marker.startswith(PREFIX) or marker.startswith(RESERVED_PREFIX):
        return None
    return marker.removeprefix(PREFIX) or None
