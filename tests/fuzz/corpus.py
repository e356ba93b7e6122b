"""What the search begins with, and what it has found: the inputs that once broke something, one file each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.fuzz.target import split
from tests.fuzz.targets import load_target

FOUND: Final = Path(__file__).parent / "found"
"""By target and name; a name tells what was wrong."""
KEPT: Final = Path(__file__).parent / "corpus"
"""By target: what a long search has found to reach most, in one file each (target.joined)."""


def found_inputs(name: str) -> Iterator[tuple[str, bytes]]:
    """Every input that once broke the target `name`, by what was wrong."""
    directory = FOUND / name
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        yield path.name, path.read_bytes()


def kept_inputs(name: str) -> list[bytes]:
    """The committed corpus of the target `name`."""

    path = KEPT / name
    return split(path.read_bytes()) if path.exists() else []


def seed_files(name: str, directory: Path) -> None:
    """Write what the search begins with: well-formed inputs, the kept corpus, and what was found."""
    found = [data for _, data in found_inputs(name)]
    for data in [*load_target(name).seeds(), *kept_inputs(name), *found]:
        (directory / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
