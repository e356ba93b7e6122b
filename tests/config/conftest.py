"""A home of its own for each test, so that no profile of the machine is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from netoverlay.config import find


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.setenv("HOME", str(directory))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(find, "SYSTEM_DIRECTORY", tmp_path / "etc" / "netoverlay")
    return directory


@pytest.fixture
def write_profile(home: Path) -> Callable[[str], Path]:
    def write(text: str, name: str = "dev") -> Path:
        path = home / ".config" / "netoverlay" / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write
