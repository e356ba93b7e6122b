"""The base under a long load: many small directories for each program, and some files that all of them read.

The content of each file follows from its number, so that a program need not keep it to compare it.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

from tests.chaos.steps import bytes_of

COMMON = "common"
"""The directory that all programs read, and none changes."""
COMMON_FILES = 16
FILES_PER_DIRECTORY = 25
_SEEDS_PER_PROGRAM = 10_000_000
_SIZES = ((0.1, 0, 0), (0.697, 1, 5_000), (0.17, 5_000, 40_000), (0.03, 60_000, 140_000), (0.003, 1 << 20, 3 << 19))


class BaseFile(NamedTuple):
    """A file of the base, below the directory of its program."""

    directory: str
    name: str
    seed: int

    def content(self) -> bytes:
        """What was written there."""
        rng = random.Random(self.seed)
        _, low, high = rng.choices(_SIZES, [chance for chance, _, _ in _SIZES])[0]
        return bytes_of(self.seed, rng.randint(low, high))


def base_files(program: int, count: int) -> list[BaseFile]:
    """Those of one program."""
    first = (program + 1) * _SEEDS_PER_PROGRAM
    return [BaseFile(f"base{number // FILES_PER_DIRECTORY}", f"f{number}", first + number) for number in range(count)]


def common_files() -> list[BaseFile]:
    """Those that all programs read."""
    return [BaseFile(COMMON, f"f{number}", number) for number in range(COMMON_FILES)]


def make_soak_base(top: Path, programs: int, files: int) -> None:
    """Directories p0, p1 and so on with that many files each, and what all of them read."""
    for program in range(programs):
        _write(top / f"p{program}", base_files(program, files))
    _write(top, common_files())


def _write(top: Path, files: list[BaseFile]) -> None:
    for directory in {file.directory for file in files}:
        (top / directory).mkdir(parents=True)
    for file in files:
        (top / file.directory / file.name).write_bytes(file.content())
