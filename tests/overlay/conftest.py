"""Uppers on servers, for the tests of who owns one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netoverlay.backend_api import Backend
from netoverlay.overlay.lease import Timing
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.testing.memory_tree import MemoryTree
from tests.backends.sftp_layer import sftp_backend
from tests.backends.smb_layer import smb_backend
from tests.overlay.owners import FAST, WORK, Server, memory_server

COARSE = Timing(beat_seconds=0.4, expires_seconds=3.0, margin_seconds=1.0)
"""For whole seconds."""
SLOW = Timing(beat_seconds=0.2, expires_seconds=1.5, margin_seconds=0.5)


@pytest.fixture(params=["memory", "sftp", "smb"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A place for an upper, with its work directory, and any number of connections to it."""
    with ExitStack() as cleanup:
        create: Callable[[], Backend]
        if request.param == "memory":
            tree = MemoryTree()
            create, timing = (lambda: MemoryBackend(tree=tree)), FAST
        elif request.param == "sftp":
            sshd = request.getfixturevalue("sshd")
            create, timing = (lambda: sftp_backend(sshd, tmp_path)), COARSE
        else:
            smbd = request.getfixturevalue("smbd")
            create, timing = (lambda: smb_backend(smbd, tmp_path)), SLOW
        place = Server(request.param, create, timing, cleanup)
        place.connect().mkdir(WORK, 0o700)
        yield place


@pytest.fixture
def memory() -> Iterator[Server]:
    """The same, in memory."""
    with memory_server() as place:
        yield place
