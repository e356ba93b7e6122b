"""Control sockets in a directory of the test's own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from netoverlay.status import sockets


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
