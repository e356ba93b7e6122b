"""Directories for local layers, and a way to be an ordinary user for a while."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ORDINARY_ID = 65534
"""nobody."""
MEMORY_DIRECTORY = "/dev/shm"


@contextmanager
def fresh_directory(parent: str | None = None, owner: int | None = None) -> Iterator[Path]:
    """An empty directory that others may enter, beneath `parent` or the directory for temporary files."""
    path = Path(tempfile.mkdtemp(prefix="netoverlay-local-", dir=parent))
    try:
        path.chmod(0o755)
        if owner is not None and os.geteuid() == 0:
            os.chown(path, owner, owner)
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Give up root's rights until the end of the block; nothing for who has none.

    In this process, because the interpreter and the checkout may lie where only root can read.
    """
    if os.geteuid() != 0:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(ORDINARY_ID)
    os.seteuid(ORDINARY_ID)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
