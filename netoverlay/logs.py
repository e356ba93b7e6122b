"""Where the log goes: a file, the terminal, or the system's log."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from netoverlay.floods import FloodFilter
from netoverlay.recent_faults import RECENT_FAULTS

LEVELS: Final = ("debug", "info", "warning", "error")
DEFAULT_LEVEL: Final = "info"
SYSTEM_LOG: Final = "/dev/log"
_OWN_LOGGERS: Final = "netoverlay"
_DATED_FORMAT: Final = "%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"
_SYSTEM_FORMAT: Final = "netoverlay[%(process)d]: %(levelname)s %(name)s: %(message)s"


def configure(level: str, *, file: Path | None, foreground: bool) -> None:
    """Log to `file` if there is one, else to standard error in the foreground, else to journald or syslog.

    Where the system has no log (a container), nothing is logged in the background without a file. Of the libraries
    only warnings are logged, whatever the level. What floods it is counted (floods.py). OSError if the file cannot be
    written.
    """
    handler = _handler(file, foreground=foreground)
    handler.addFilter(_is_ours_or_grave)
    handler.addFilter(FloodFilter())
    root = logging.getLogger()
    root.addHandler(RECENT_FAULTS)  # before the other one, whose filter changes what it counts
    root.addHandler(handler)
    root.setLevel(level.upper())


@contextmanager
def failures_logged(*, to_terminal_already: bool) -> Iterator[None]:
    """Log the error that the body ends with, unless it will be printed where the log goes."""
    try:
        yield
    except Exception as error:
        if not to_terminal_already:
            logging.getLogger(__name__).error("%s", error, exc_info=not isinstance(error, OSError))
        raise


def _handler(file: Path | None, *, foreground: bool) -> logging.Handler:
    handler: logging.Handler
    if file is not None:
        # Watched: logrotate may move it away.
        handler = logging.handlers.WatchedFileHandler(file, encoding="utf-8", errors="backslashreplace")
    elif foreground:
        handler = logging.StreamHandler(sys.stderr)
    elif os.path.exists(SYSTEM_LOG):
        handler = logging.handlers.SysLogHandler(SYSTEM_LOG, logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.setFormatter(logging.Formatter(_SYSTEM_FORMAT))
        return handler
    else:
        return logging.NullHandler()
    handler.setFormatter(logging.Formatter(_DATED_FORMAT))
    return handler


def _is_ours_or_grave(record: logging.LogRecord) -> bool:
    return record.name.startswith(_OWN_LOGGERS) or record.levelno >= logging.WARNING
