"""Control sockets in a directory of the test's own, and a state to tell."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netoverlay.backend_api.types import Capabilities
from netoverlay.status import sockets
from netoverlay.status.snapshot import LayerStatus, MountStatus, StatusSnapshot, capability_table


@pytest.fixture
def socket_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this process and its clients have their sockets. Outside pytest's directory, which others cannot enter."""
    with tempfile.TemporaryDirectory(prefix="netoverlay-") as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "netoverlay"
        monkeypatch.setattr(sockets, "SYSTEM_DIRECTORY", str(path))
        monkeypatch.setattr(sockets, "directories_of", lambda user_id: [str(path)])
        monkeypatch.setattr("netoverlay.status.control_client.directories_of", lambda user_id: [str(path)])
        yield path


def make_snapshot(mountpoint: str = "/mnt/dev", *, url: str = "/srv/base") -> StatusSnapshot:
    layers = [
        LayerStatus(
            role=role,
            url=layer_url,
            state="connected",
            capabilities=capability_table(Capabilities(local=True, writable=role == "upper")),
            counters={"calls": 7, "errors": 1, "bytes_read": 1536, "bytes_written": 0, "stat.seconds": 0.25},
        )
        for role, layer_url in (("upper", "/var/upper"), ("lower", url))
    ]
    mount = MountStatus(
        mountpoint=mountpoint,
        profile="dev",
        pid=os.getpid(),
        since=time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1)),
        read_only=False,
    )
    return StatusSnapshot(mount=mount, layers=tuple(layers), requests={"lookup": 5, "getattr": 12})
