"""The ctimes that copy-up moved on in the upper, and that a program must not see, kept over remounts.

While an inode is known they are its `kept_ctime`; the table of inodes has those of inodes that the kernel has
forgotten. At the end of a mount all are written to a file of the work directory: by st_ino, what the upper tells and
what is shown. One that is out of date does no harm, for it counts only while the upper tells that very time.
"""

from __future__ import annotations

import errno
import json
from typing import Final

from netoverlay.backend_api import Access, Backend, Creation, LayerPath, LayerSetupError, join_path
from netoverlay.overlay.inode_table import InodeTable
from netoverlay.overlay.inodes import KeptTime
from netoverlay.overlay.workspace import Workspace

FILE_NAME: Final = "ctimes"


class DamagedKeptTimesError(LayerSetupError):
    """The file with the times cannot be read as one."""

    def __init__(self, path: LayerPath) -> None:
        super().__init__(f"{path} is damaged: `netoverlay fsck` removes it", errno.EINVAL)


def read_kept_times(backend: Backend, work: LayerPath) -> dict[int, KeptTime]:
    """What the last mount has written, by st_ino; nothing if that is nothing. DamagedKeptTimesError."""
    path = join_path(work, FILE_NAME)
    try:
        file = backend.open(path, Access.READ)
    except FileNotFoundError:
        return {}
    with file:
        text = file.read_at(0, file.stat().size)
    try:
        times = {int(ino): KeptTime(*map(int, pair)) for ino, pair in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise DamagedKeptTimesError(path) from None
    return times


def load_kept_times(backend: Backend, work: LayerPath, inodes: InodeTable) -> None:
    """Give the table what the last mount has written. DamagedKeptTimesError."""
    inodes.restore_kept(read_kept_times(backend, work))


def save_kept_times(backend: Backend, work: LayerPath, inodes: InodeTable, workspace: Workspace) -> None:
    """Write what the table and its inodes have, if anything."""
    kept = inodes.all_kept()
    if kept:
        write_kept_times(backend, work, kept, workspace.temporary())


def write_kept_times(backend: Backend, work: LayerPath, kept: dict[int, KeptTime], temporary: LayerPath) -> None:
    """Write times; `temporary` is a path in the work directory at which nothing stands."""
    with backend.open(temporary, Access.WRITE, create=Creation.EXCLUSIVE, mode=0o600) as file:
        file.write_at(0, json.dumps(kept).encode())
    backend.rename(temporary, join_path(work, FILE_NAME))
