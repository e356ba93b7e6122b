"""Where log records go, and which."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from netoverlay import logs


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """What configure() does to the root logger, undone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


def speak() -> None:
    for name in ("netoverlay.daemon", "netoverlay_sftp.login", "library"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger(name).log(level, "%s of %s", logging.getLevelName(level), name)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING"]),
        ("info", ["INFO", "WARNING"]),
        ("warning", ["WARNING"]),
        ("error", []),
    ],
)
def test_levels_of_a_file(level: str, expected: list[str], tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.configure(level, file=file, foreground=False)
    speak()
    text = file.read_text()
    for name in ("netoverlay.daemon", "netoverlay_sftp.login"):
        assert [word for word in ("DEBUG", "INFO", "WARNING") if f"{word} of {name}" in text] == expected
    assert [word for word in ("DEBUG", "INFO") if f"{word} of library" in text] == []
    assert ("WARNING of library" in text) == ("WARNING" in expected)


def test_a_file_that_is_moved_away(tmp_path: Path) -> None:
    file = tmp_path / "log"
    logs.configure("info", file=file, foreground=False)
    speak()
    file.rename(tmp_path / "log.1")
    speak()
    assert file.read_text().count("INFO of netoverlay.daemon") == 1


def test_the_foreground_logs_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", file=None, foreground=True)
    speak()
    captured = capsys.readouterr()
    assert "INFO of netoverlay.daemon" in captured.err
    assert captured.out == ""


def test_the_background_logs_to_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.settimeout(30)
        journal.bind(str(tmp_path / "log"))
        monkeypatch.setattr(logs, "SYSTEM_LOG", str(tmp_path / "log"))
        logs.configure("warning", file=None, foreground=False)
        speak()
        record = journal.recv(1000).decode().rstrip("\0")
    assert record.startswith("<28>netoverlay[")
    assert record.endswith("]: WARNING netoverlay.daemon: WARNING of netoverlay.daemon")


def test_the_background_of_a_system_without_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SYSTEM_LOG", str(tmp_path / "none"))
    logs.configure("info", file=None, foreground=False)
    speak()


def test_failures_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="a defect"), logs.failures_logged(to_terminal_already=False):
        raise ValueError("a defect")
    assert "Traceback" in caplog.text
    caplog.clear()
    with pytest.raises(OSError, match="refused"), logs.failures_logged(to_terminal_already=False):
        raise OSError("refused")
    assert "refused" in caplog.text
    assert "Traceback" not in caplog.text
    caplog.clear()
    with pytest.raises(OSError, match="refused"), logs.failures_logged(to_terminal_already=True):
        raise OSError("refused")
    assert caplog.text == ""
