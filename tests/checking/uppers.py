"""Uppers to be checked: directories of this machine, as they are or reached through a server, with a base below."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from netoverlay.checking.findings import ExitCode, Kind, Severity
from netoverlay.config.load import load_profile
from netoverlay.fsck import Repairs, fsck
from tests.mounted.mounting import layer_table

NAME_SPACE = "trusted" if os.geteuid() == 0 else "user"
LEFT = frozenset(kind for kind in Kind if kind.row.severity is Severity.EXPLAINED)


class Result(NamedTuple):
    """What a check has told."""

    found: set[tuple[Kind, str]]
    """Kinds and paths."""
    lines: list[str]
    exit_code: ExitCode


class CheckedUpper:
    """A profile's, in `directory`: `base`, `served/upper` and `served/upper.work`."""

    def __init__(self, directory: Path, upper_keys: Sequence[str] = ()) -> None:
        self.base = directory / "base"
        self.root = directory / "served" / "upper"
        self.work = directory / "served" / "upper.work"
        self.profile = directory / "profile.toml"
        for made in (self.base, self.root):
            made.mkdir(parents=True)
        keys = "\n".join(upper_keys or [f'url = "{self.root}"'])
        cache = f'[cache]\ndirectory = "{directory}/cache"\n'
        self.profile.write_text(f"{layer_table(str(self.base))}\n[upper]\n{keys}\n{cache}")

    def check(self, repairs: Repairs = Repairs.NONE) -> Result:
        return check(self.profile, repairs)

    def tree(self) -> dict[str, tuple[object, ...]]:
        """All that could be changed of the upper and its work directory."""
        top = self.root.parent
        return {str(path.relative_to(top)): _look(path) for path in (top, *sorted(top.rglob("*")))}


def check(profile: Path, repairs: Repairs = Repairs.NONE) -> Result:
    """As the command, in this process. Who is asked says no."""
    lines: list[str] = []
    tally = fsck(load_profile(str(profile)), repairs, lines.append, lambda line: False)
    assert tally is not None
    return Result({_parse(line) for line in lines}, lines, tally.exit_code)


def _parse(line: str) -> tuple[Kind, str]:
    for kind in Kind:
        path, middle, _ = line.partition(f": {kind.row.sentence}")
        if middle:
            return kind, path
    raise AssertionError(f"of no kind: {line}")


def _look(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    attributes = {
        name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
    }
    content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
    about = (status.st_mode, status.st_ino, status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return (*about, attributes, content)


def mark(path: Path, name: str, value: bytes) -> None:
    """Give it an attribute of overlayfs."""
    os.setxattr(path, f"{NAME_SPACE}.overlay.{name}", value)


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)
