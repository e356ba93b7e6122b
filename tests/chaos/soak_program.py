"""A program on a mount that counts its calls, and compares what they read and show with what it knows."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tests.chaos.soak_model import Directory, File, Progress

P = ParamSpec("P")
T = TypeVar("T")

_SIZES = ((0.7, 1, 3_000), (0.25, 3_000, 12_000), (0.05, 12_000, 70_000))
_MOST_OPEN = 8
_MOST_DIFFERENCES = 20
_SOURCE = random.Random(26).randbytes(1 << 20)
"""What is written are pieces of it, at random: so it need not be made."""


class Program:
    """Works in the directory where its process is."""

    def __init__(self, rng: random.Random) -> None:
        self.progress = Progress()
        self._rng = rng
        self._root = Directory("")
        self._directories: list[Directory] = []
        self._files: list[File] = []
        self._number = 0

    def take_progress(self) -> Progress:
        """Since the last time."""
        taken, self.progress = self.progress, Progress()
        return taken

    def _call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.progress.operations += 1
        return function(*args, **kwargs)

    def _refused(self, code: int, function: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """It must fail so."""
        try:
            self._call(function, *args, **kwargs)
        except OSError as error:
            self._same(f"errno of {function} {args}", error.errno, code)
        else:
            self._same(f"errno of {function} {args}", 0, code)

    def _same(self, what: str, found: object, wanted: object) -> None:
        if found != wanted and len(self.progress.differences) < _MOST_DIFFERENCES:
            self.progress.differences.append(f"{os.getcwd()}: {what}: {found!r:.200}, and not {wanted!r:.200}")

    def _same_bytes(self, what: str, found: bytes | bytearray, wanted: bytes | bytearray) -> None:
        self.progress.bytes_compared += len(wanted)
        if found != wanted:
            pairs = enumerate(zip(found, wanted, strict=False))
            first = next((at for at, (one, other) in pairs if one != other), None)
            self._same(what, f"{len(found)} bytes, first wrong at {first}", f"{len(wanted)} bytes")

    def _a_file(self) -> File:
        if not self._files:
            self._make_file()
        return self._rng.choice(self._files)

    def _make_file(self) -> None:
        directory, name = self._a_directory(), self._fresh_name()
        mode = self._rng.choice((0o600, 0o644, 0o755))
        data = self._some_bytes()
        descriptor = self._call(os.open, directory.path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        self._same("written", self._call(os.write, descriptor, data), len(data))
        self._call(os.close, descriptor)
        directory.entries.add(name)
        self._files.append(File(bytearray(data), [(directory, name)], mode))

    def _put(self, file: File, descriptor: int, offset: int, data: bytes) -> None:
        file.content.extend(bytes(max(0, offset - len(file.content))))
        file.content[offset : offset + len(data)] = data
        self._same("written", self._call(os.pwrite, descriptor, data, offset), len(data))

    def _a_directory(self) -> Directory:
        return self._rng.choice([self._root, *self._directories])

    def _fresh_name(self) -> str:
        self._number += 1
        return f"n{self._number}"

    def _some_bytes(self) -> bytes:
        _, low, high = self._rng.choices(_SIZES, [chance for chance, _, _ in _SIZES])[0]
        length = self._rng.randint(low, high)
        start = self._rng.randrange(len(_SOURCE) - length)
        return _SOURCE[start : start + length]

    def _opened(self, file: File) -> int:
        if file.descriptor is None:
            held = [other for other in self._files if other.descriptor is not None]
            if len(held) >= _MOST_OPEN:
                self._close(self._rng.choice(held))
            file.descriptor = self._call(os.open, file.path, os.O_RDWR)
        return file.descriptor

    def _close(self, file: File) -> None:
        descriptor, file.descriptor = file.descriptor, None
        if descriptor is not None:
            self._call(os.close, descriptor)

    def _read_whole(self, path: str, content: bytes | bytearray, *, forget: bool = False) -> None:
        descriptor = self._call(os.open, path, os.O_RDONLY)
        if forget:
            self._call(os.posix_fadvise, descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        found = self._call(os.pread, descriptor, len(content) + 1, 0)
        self._call(os.close, descriptor)
        self._same_bytes(path, found, content)
