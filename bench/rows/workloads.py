"""The work that is timed: on trees of small files, a git repository and a large file, each below one mount."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DIRECTORIES = 100
FILES = 20
"""In each of them."""
PACKAGES = 300
"""Of four directories each, with one to four files."""
_PACKAGE = ("LICENSE", "README.md", "dist/esm/index.mjs", "index.js", "lib/a.js", "lib/b.js", "package.json")
BLOCK = 1 << 20
PAGE = 4096


@dataclass(frozen=True, slots=True)
class Workload:
    """One row: `work` is timed, on a mount with empty caches, or after `before` was done there."""

    work: Callable[[Path], None]
    before: Callable[[Path], None] | None = None
    remounted: bool = False
    """Between `before` and `work`, with the pages of the kernel dropped."""


def plant(base: Path, large_mebibytes: int, seed: int = 7) -> None:
    """The base: `tree`, `repository` (the same, committed), `packages` and `large`."""
    chance = random.Random(seed)
    for number in range(DIRECTORIES):
        directory = base / "tree" / f"package{number % 10}" / f"module{number:03}"
        directory.mkdir(parents=True)
        for file in range(FILES):
            lines = (f"line {line} of {number}/{file} {chance.random()}\n" for line in range(chance.randint(5, 300)))
            (directory / f"file{file:02}.py").write_text("".join(lines))
    for number in range(PACKAGES):
        for name in _PACKAGE:
            path = base / "packages" / f"package{number:03}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"line 7 of {number}/{name} {chance.random()}\n" * chance.randint(5, 100))
    with (base / "large").open("wb") as large:
        for _ in range(large_mebibytes):
            large.write(chance.randbytes(BLOCK))
    repository = base / "repository"
    _run("cp", "-a", str(base / "tree"), str(repository))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "base"]):
        _run("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", *command, cwd=repository)


def _run(*command: str, cwd: Path | None = None, accepted: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode not in accepted:
        raise OSError(done.returncode, f"{command[0]}: {done.stderr[-300:]}")


def walk(top: Path) -> None:
    _run("find", str(top / "tree"), "-printf", "%s %T@ %m %p\n")


def grep(top: Path) -> None:
    _run("grep", "-rc", "line 7 of", str(top / "tree"), accepted=(0, 1))


def grep_packages(top: Path) -> None:
    _run("grep", "-rc", "line 7 of", str(top / "packages"), accepted=(0, 1))


def read_large(top: Path) -> None:
    _run("dd", f"if={top}/large", "of=/dev/null", "bs=1M")


def read_at_random(top: Path) -> None:
    chance = random.Random(3)
    descriptor = os.open(top / "large", os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    pages = os.fstat(descriptor).st_size // PAGE
    for _ in range(200):
        os.pread(descriptor, PAGE, chance.randrange(pages) * PAGE)
    os.close(descriptor)


def git_status(top: Path) -> None:
    _run("git", "-c", "safe.directory=*", "status", "--short", cwd=top / "repository")


def look_for_absent_names(top: Path) -> None:
    for number in range(1000):
        with contextlib.suppress(FileNotFoundError):
            os.stat(top / "tree" / "package1" / f"absent{number}")


def append_to_large(top: Path) -> None:
    with (top / "large").open("ab") as file:
        file.write(b"x")


def edit(top: Path) -> None:
    """Fifty files of the base, in as many directories."""
    for number in range(0, DIRECTORIES, 2):
        with (top / "tree" / f"package{number % 10}" / f"module{number:03}" / "file03.py").open("a") as file:
            file.write("# edited\n")


def create(top: Path) -> None:
    for number in range(20):
        directory = top / "new" / f"directory{number}"
        directory.mkdir(parents=True)
        for file in range(100):
            (directory / f"file{file}").write_bytes(b"y" * 2000)


def write_large(top: Path) -> None:
    _run("dd", "if=/dev/zero", f"of={top}/written", "bs=1M", "count=256", "conv=fsync")


def remove(top: Path) -> None:
    _run("rm", "-rf", str(top / "tree"))


WORKLOADS: dict[str, Workload] = {
    "walk, cold": Workload(walk),
    "walk, warm": Workload(walk, walk),
    "walk, remounted": Workload(walk, walk, remounted=True),
    "grep, cold": Workload(grep),
    "grep, warm": Workload(grep, grep),
    "grep, remounted": Workload(grep, grep, remounted=True),
    "grep 1,200 directories, cold": Workload(grep_packages),
    "read 256 MiB, cold": Workload(read_large),
    "read 256 MiB, warm": Workload(read_large, read_large),
    "read 256 MiB, remounted": Workload(read_large, read_large, remounted=True),
    "200 random pages, cold": Workload(read_at_random),
    "git status, cold": Workload(git_status),
    "git status, warm": Workload(git_status, git_status),
    "1,000 absent names, cold": Workload(look_for_absent_names),
    "append to 256 MiB": Workload(append_to_large),
    "edit 50 files": Workload(edit),
    "create 2,000 files": Workload(create),
    "write 256 MiB": Workload(write_large),
    "remove 2,000 files": Workload(remove, walk),
}
