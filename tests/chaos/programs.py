"""Programs as people use them, at work on a mount: rsync and git, run again until they succeed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path

from tests.chaos.random_io import contents
from tests.chaos.told import Told, errors_in

_ATTEMPTS = 60
_COMMAND_SECONDS = 300.0
_PAUSE_SECONDS = 0.3
_SIZES = ((0.6, 1, 4_000), (0.3, 4_000, 60_000), (0.1, 60_000, 1_500_000))
_FSCK_EVERY, _GC_EVERY, _CLONE_EVERY = 3, 5, 8
"""Commits."""


def some_bytes(rng: random.Random) -> bytes:
    """The content of a file, as sizes are: most are small."""
    _, low, high = rng.choices(_SIZES, [chance for chance, _, _ in _SIZES])[0]
    return rng.randbytes(rng.randint(low, high))


class Program(ABC):
    """Works below `top`, a directory of a mount, in a thread of its own; `beside` is a directory that is not."""

    def __init__(self, top: Path, beside: Path, rng: random.Random) -> None:
        self.top = top
        self.beside = beside
        self.rng = rng
        self.told = Told()
        self.done: Counter[str] = Counter()
        """How often each command has succeeded."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=top.name, daemon=True)
        beside.mkdir(parents=True)

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        """Return when it has finished its round."""
        self._thread.join()

    @abstractmethod
    def round(self, number: int) -> None:
        """Some work, and the comparison of what came of it."""

    def _run(self) -> None:
        number = 0
        try:
            while not self._stop.is_set():
                self.round(number)
                number += 1
        except (OSError, subprocess.SubprocessError) as error:
            self.told.differences.append(f"{self.top.name}: it cannot go on: {error}")

    def _command(self, *words: str | Path, where: Path | None = None) -> str:
        """What a command said that succeeded in the end."""
        said = ""
        for _ in range(_ATTEMPTS):
            ended = subprocess.run(
                [str(word) for word in words],
                cwd=where,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_COMMAND_SECONDS,
            )
            said = (ended.stdout + ended.stderr).decode(errors="replace")
            for line, code in errors_in(said):
                self.told.failed(f"{words[0]}: {self._generic(line)}", code)
            if ended.returncode == 0:
                self.done[f"{words[0]} {words[1]}" if words[0] == "git" else str(words[0])] += 1
                return said
            self.after_failure(said)
            self._stop.wait(_PAUSE_SECONDS)
        raise OSError(f"{' '.join(map(str, words))} fails again and again: {said[-2000:]}")

    def _generic(self, line: str) -> str:
        """A complaint without the names in it."""
        return " ".join(word for word in line.split() if "/" not in word and not any(map(str.isdigit, word)))

    def environment(self) -> dict[str, str]:
        """What its commands find in theirs, beside what we have."""
        return {}

    def after_failure(self, said: str) -> None:  # noqa: B027  (most have nothing to do)
        """A command has failed, and is about to be run again."""

    def compare(self, what: str, found: dict[str, bytes], wanted: dict[str, bytes]) -> None:
        """Two directories' files."""
        self.told.bytes_compared += sum(map(len, wanted.values()))
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                sizes = [None if each is None else len(each) for each in (found.get(name), wanted.get(name))]
                self.told.differences.append(f"{what}: {name}: differs, {sizes[0]} bytes for {sizes[1]}")


class Rsync(Program):
    """Keeps a tree on the mount as one beside it, and fetches it back."""

    def round(self, number: int) -> None:
        source, back = self.beside / "source", self.beside / "back"
        source.mkdir(exist_ok=True)
        files = sorted(source.iterdir())
        for path in self.rng.sample(files, min(3, len(files))):
            path.unlink()
        for index in range(20 if not number else 6):
            (source / f"f{number}-{index}").write_bytes(some_bytes(self.rng))
        if files and files[-1].exists():
            with files[-1].open("ab") as file:
                file.write(self.rng.randbytes(1000))
        self._command("rsync", "-a", "--delete", f"{source}/", f"{self.top}/tree/")
        self._command("rsync", "-a", "--delete", "--checksum", f"{self.top}/tree/", f"{back}/")
        self.compare("rsync", dict(contents(back)), dict(contents(source)))


class Git(Program):
    """Clones, commits, packs and checks a repository on the mount."""

    def environment(self) -> dict[str, str]:
        identity = {
            f"GIT_{who}_{what}": "chaos@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        return {**identity, "HOME": str(self.beside), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}

    def round(self, number: int) -> None:
        if number == 0:
            self._seed()
        if number % _CLONE_EVERY == 0:
            self._clone(number)
        tree = self._tree
        for index in range(4):
            name, data = f"f{self.rng.randint(0, 40)}-{index}", some_bytes(self.rng)
            self._wanted[name] = data
            (self.beside / "new").write_bytes(data)
            self._command("cp", self.beside / "new", tree / name)
        self._command("git", "add", "--all", where=tree)
        self._command("git", "commit", "--quiet", "--allow-empty", "--message", f"round {number}", where=tree)
        if number % _FSCK_EVERY == 0:
            self._command("git", "fsck", "--full", "--strict", where=tree)
        if number % _GC_EVERY == _GC_EVERY - 1:
            self._command("git", "gc", "--quiet", where=tree)
        self._check()

    def _seed(self) -> None:
        seed = self.beside / "seed"
        seed.mkdir()
        self._command("git", "init", "--quiet", where=seed)
        self._seeded = {f"seed{index}": some_bytes(self.rng) for index in range(40)}
        for name, data in self._seeded.items():
            (seed / name).write_bytes(data)
        self._command("git", "add", "--all", where=seed)
        self._command("git", "commit", "--quiet", "--message", "seed", where=seed)

    def _clone(self, number: int) -> None:
        self._tree = self.top / f"clone{number}"
        self._wanted = dict(self._seeded)
        self._command("git", "clone", "--quiet", "--no-local", self.beside / "seed", self._tree)

    def after_failure(self, said: str) -> None:
        """What git leaves of a command that failed, and does not go over by itself."""
        if "already exists and is not an empty directory" in said:
            shutil.rmtree(self._tree, ignore_errors=True)
        for lock in (self._tree / ".git").rglob("*.lock") if ".lock" in said else ():
            lock.unlink(missing_ok=True)

    def _check(self) -> None:
        """What was committed is what was written, and so is what stands in the tree."""
        out = self.beside / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        archive = self.beside / "archive.tar"
        self._command("git", "archive", f"--output={archive}", "HEAD", where=self._tree)
        self._command("tar", "-xf", archive, "-C", out)
        self.compare("git", dict(contents(out)), self._wanted)
        self._command("git", "diff", "--quiet", "HEAD", where=self._tree)
