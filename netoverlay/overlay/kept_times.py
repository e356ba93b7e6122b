"""The ctimes that copy-up moved on in the upper, and that a program must not see, kept over remounts.

While an inode is known they are its `kept_ctime`; the table of inodes has those of inodes that the kernel has
forgotten. At the end of a mount all are written to a file of the work directory: by st_ino, what the upper tells and
what is shown. One that is out of date does no harm, for it counts only while the upper tells that very time.
"""

from __future__ import annotations

import json
from typing import Final

from netoverlay.backend_api import Access, Backend, Creation, LayerPath, join_path
from netoverlay.overlay.inodes import InodeTable, KeptTime
from netoverlay.overlay.workspace import Workspace

FILE_NAME: Final = "ctimes"


def load_kept_times(backend: Backend, work: LayerPath, inodes: InodeTable) -> None:
    """Give the table what the last mount has written. ValueError if that was no such file."""
    try:
        file = backend.open(join_path(work, FILE_NAME), Access.READ)
    except FileNotFoundError:
        return
    with file:
        written = json.loads(file.read_at(0, file.stat().size))
    inodes.restore_kept({int(ino): KeptTime(*times) for ino, times in written.items()})


def save_kept_times(backend: Backend, work: LayerPath, inodes: InodeTable, workspace: Workspace) -> None:
    """Write what the table and its inodes have, if anything."""
    kept = inodes.all_kept()
    if not kept:
        return
    temporary = workspace.temporary()
    with backend.open(temporary, Access.WRITE, create=Creation.EXCLUSIVE, mode=0o600) as file:
        file.write_at(0, json.dumps(kept).encode())
    backend.rename(temporary, join_path(work, FILE_NAME))
