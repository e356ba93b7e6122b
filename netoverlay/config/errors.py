"""What is wrong with a profile, as one line for a person."""

from __future__ import annotations

import os
from pathlib import Path


class ConfigError(Exception):
    """A profile cannot be used as it is. str() is one line: the file, the key if one is to blame, and the remedy.

    The message never quotes the value of a backend's option, which may be a secret.
    """

    def __init__(self, file: Path, key: str, problem: str) -> None:
        """`key` is written as in `lower[0].immutable`; "" if the whole file is meant."""
        self.file = file
        self.key = key
        self.problem = " ".join(problem.split())
        super().__init__(": ".join(part for part in (str(file), key, self.problem) if part))


def error_line(error: Exception) -> str:
    """One line for a person: the file if one is to blame, and what is wrong."""
    if isinstance(error, OSError) and error.strerror:
        parts = (error.filename, error.strerror)
        return ": ".join(os.fsdecode(part) for part in parts if part)
    return str(error)
