"""Which locks there are on a mount's files: for who asks for its status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from netoverlay.backend_api import LayerPath
from netoverlay.overlay.file_locks import FileLocks
from netoverlay.overlay.inodes import Inode
from netoverlay.overlay.layers import Layer
from netoverlay.overlay.lock_table import Held

State = Literal["held", "waiting", "lost"]


class ReportedLock(NamedTuple):
    """A lock that a program holds, or waits for."""

    path: LayerPath
    """From the root of the mount; "" if the file has no name."""
    lock: Held
    state: State
    layer: Layer | None
    """What holds it as well."""


def all_locks(locks: FileLocks) -> Iterator[ReportedLock]:
    """Every lock of a mount, file by file."""
    for inode, of_inode in locks.all_held():
        path = shown_path(inode)
        mirror = of_inode.mirror
        layer = None if mirror is None else mirror.layer
        state: State = "lost" if mirror is not None and mirror.lost else "held"
        held, waiting = locks.waiting_for(of_inode)
        for lock in held:
            yield ReportedLock(path, lock, state, layer)
        for request in waiting:
            yield ReportedLock(path, Held(*request.wanted), "waiting", layer)


def shown_path(inode: Inode) -> LayerPath:
    """Its path from the root of the mount, by one of its names; "" if it has none."""
    names: list[str] = []
    while inode.names:
        directory, name = inode.names[0]
        names.append(name)
        inode = directory
    return "/".join(reversed(names))
