"""The base under the mounts: some hundred files of all sizes, directories, hard links and symbolic links."""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.chaos.plan import COMMON
from tests.chaos.steps import IDENTITY

_FIRST_UID = 20_000
_MODES = (0o600, 0o640, 0o644, 0o664, 0o755)
_FIRST_TIME_NS = 1_500_000_000_123_456_789
_SECOND_NS = 1_000_000_000
_SIZES = ((0.08, 0, 0), (0.62, 1, 8_000), (0.2, 8_000, 100_000), (0.08, 100_000, 900_000), (0.02, 1 << 20, 3 << 20))
_SYMLINKS = 6
_HARD_LINKS = 6
_COMMON_FILES = 12


class _Maker:
    """Makes files and directories, each with an owner, an identity and a time that nothing else has."""

    def __init__(self, top: Path, rng: random.Random) -> None:
        self._top = top
        self._rng = rng
        self._number = 0

    def file(self, path: Path) -> None:
        _, low, high = self._rng.choices(_SIZES, [chance for chance, _, _ in _SIZES])[0]
        path.write_bytes(self._rng.randbytes(self._rng.randint(low, high)))
        self._mark(path, self._rng.choice(_MODES))

    def directory(self, path: Path) -> None:
        path.mkdir()
        self._mark(path, self._rng.choice((0o700, 0o750, 0o755)))

    def _mark(self, path: Path, mode: int) -> None:
        self._number += 1
        os.chmod(path, mode)
        if os.geteuid() == 0:
            os.chown(path, _FIRST_UID + self._number, _FIRST_UID + self._number)
        os.setxattr(path, IDENTITY, str(path.relative_to(self._top)).encode())
        time_ns = _FIRST_TIME_NS + self._number * _SECOND_NS
        os.utime(path, ns=(time_ns, time_ns))


def make_base(top: Path, workers: list[str], files: int, rng: random.Random) -> None:
    """A tree with a directory for each worker, `files` files in all, and one for all of them."""
    maker = _Maker(top, rng)
    top.mkdir(parents=True)
    maker.directory(top / COMMON)
    for worker in workers:
        root = top / worker
        maker.directory(root)
        directories = [root]
        for number in range(files // len(workers) // 8):
            directory = rng.choice(directories[-4:]) / f"d{number}"
            maker.directory(directory)
            directories.append(directory)
        made = [rng.choice(directories) / f"f{number}" for number in range(files // len(workers))]
        made += [top / COMMON / f"{worker}-f{number}" for number in range(_COMMON_FILES)]
        for path in made:
            maker.file(path)
        for number in range(_HARD_LINKS):
            os.link(rng.choice(made), rng.choice(directories) / f"hard{number}")
        for number in range(_SYMLINKS):
            os.symlink(f"target-{number}", rng.choice(directories) / f"symbolic{number}")
