"""The targets by name. Nothing of the project is imported before a target is: atheris instruments at the import."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.fuzz.target import Target

INSTRUMENTED: Final = {
    "kernel": "netoverlay",
    "sftp": "netoverlay_sftp",
    "ssh": "netoverlay_sftp",
    "smb": "netoverlay_smb",
    "files": "netoverlay",
}
"""By target, the top-level package whose branches guide the search."""


def load_target(name: str) -> Target:
    """The target `name`."""
    target: Target = importlib.import_module(f"tests.fuzz.{name}_target").TARGET
    return target
