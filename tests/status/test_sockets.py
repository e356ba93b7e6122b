"""Where the control sockets lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netoverlay.status import sockets


def test_root_of_a_name_space_has_a_place_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may not write to /run."""
    monkeypatch.setattr(sockets, "SYSTEM_DIRECTORY", str(tmp_path / "absent" / "netoverlay"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setattr(sockets, "_is_private_directory", lambda path, user_id: path == str(runtime))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert sockets.usable_directory() == f"{runtime}/netoverlay"


def test_root_of_the_machine_has_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sockets, "SYSTEM_DIRECTORY", str(tmp_path / "netoverlay"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    assert sockets.usable_directory() == f"{tmp_path}/netoverlay"
