"""Where log records go, and which."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from netoverlay import floods, logs, recent_faults


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


def test_what_comes_with_every_request_is_told_and_counted() -> None:
    now = 1000.0
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, handler = logging.Logger("flooded"), Lines()
    handler.addFilter(floods.FloodFilter(lambda: now))
    logger.addHandler(handler)

    def one_place(text: str, level: int = logging.WARNING) -> None:
        logger.log(level, "it is %s", text)

    for number in range(1000):
        one_place("100% lost")
        one_place(f"lost {number}")
    assert lines == ["it is 100% lost", *(f"it is lost {number}" for number in range(floods.MOST - 1))]
    logger.error("of another place")
    one_place("no warning", logging.INFO)
    assert lines[floods.MOST :] == ["of another place", "it is no warning"]
    lines.clear()
    now += floods.SECONDS
    one_place("100% lost")
    one_place("lost")
    assert lines == [
        f"it is 100% lost (and {2000 - floods.MOST} more like those before, which were left out)",
        "it is lost",
    ]


def test_the_latest_faults_are_kept_for_the_status() -> None:
    logger, recent = logging.Logger("faulty"), recent_faults.RecentFaults()
    logger.addHandler(recent)
    for number in range(3):
        logger.warning("it is %d", number)
    logger.info("all is well")
    (fault,) = recent.told()
    assert (fault.count, fault.level, fault.text) == (3, "warning", "it is 2")
    code = "\n".join(f"logger.error('place {place}')" for place in range(2 * recent_faults.MOST))
    exec(compile(code, "places", "exec"), {"logger": logger})
    logger.handle(logger.makeRecord("faulty", logging.ERROR, "places", recent_faults.MOST + 1, "again", (), None))
    texts = [fault.text for fault in recent.told()]
    assert texts == [*(f"place {place}" for place in range(recent_faults.MOST + 1, 2 * recent_faults.MOST)), "again"]
