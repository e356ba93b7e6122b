"""A program that reads and writes at random, knows what each byte must be, and times each of its calls.

A call that fails is made again until it succeeds, as a patient program would: so what is on the mount is known whatever
it was told. Its files are below a directory of its own, some of which are the base's.
"""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from tests.chaos.told import Told

T = TypeVar("T")

_PASSING = frozenset({errno.EIO, errno.ETIMEDOUT, errno.EINTR, errno.ESTALE, errno.ENOTCONN})
_ATTEMPTS = 200
_PAUSE_SECONDS = 0.1
_MOST_BYTES = 6 << 20
_SIZES = ((0.5, 1, 2_000), (0.35, 4_000, 100_000), (0.15, 100_000, 900_000))
_FEWEST_FILES, _MOST_FILES = 12, 40
_MOST_OPEN = 8


@dataclass(eq=False, slots=True)
class _File:
    name: str
    content: bytearray
    descriptor: int | None = None


@dataclass(slots=True)
class RandomIo:
    """One such program."""

    top: Path
    rng: random.Random
    files: list[_File] = field(default_factory=list)
    told: Told = field(default_factory=Told)
    _number: int = 0

    def step(self) -> None:
        """One operation."""
        chances = [chance for chance, _ in self._operations()]
        _, operation = self.rng.choices(self._operations(), chances)[0]
        operation(self.rng.choice(self.files))

    def finish(self) -> None:
        """Close everything, and see that it is as it should be."""
        for file in self.files:
            self._close(file)
        self._list(self.files[0])
        for file in self.files:
            self._reread(file)

    def _operations(self) -> list[tuple[float, Callable[[_File], None]]]:
        return [
            (20, self._write),
            (14, self._read),
            (8, self._append),
            (4, self._truncate),
            (6, self._sync),
            (8, self._close),
            (6, self._reread),
            (5, self._create),
            (3, self._rename),
            (3, self._unlink),
            (6, self._look),
            (3, self._list),
        ]

    # Calls.

    def _once(self, call: str, function: Callable[[], T]) -> T:
        began = time.monotonic()
        try:
            return function()
        except OSError as error:
            self.told.failed(call, error.errno or 0)
            raise
        finally:
            self.told.took(call, time.monotonic() - began)

    def _made(
        self, call: str, function: Callable[[], T], already: Callable[[OSError], bool] = lambda _: False
    ) -> T | None:
        """What the call gave in the end; None if it failed, and then turned out to be done `already`."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._once(call, function)
            except OSError as error:
                if attempt and already(error):
                    return None
                if error.errno not in _PASSING:
                    raise
            time.sleep(_PAUSE_SECONDS)
        raise TimeoutError(f"{call} fails again and again")

    def _path(self, file: _File) -> Path:
        return self.top / file.name

    def _opened(self, file: _File) -> int:
        if file.descriptor is None:
            held = [other for other in self.files if other.descriptor is not None]
            if len(held) >= _MOST_OPEN:
                self._close(self.rng.choice(held))
            file.descriptor = self._made("open", lambda: os.open(self._path(file), os.O_RDWR))
        if file.descriptor is None:
            raise RuntimeError("open(2) gave nothing")
        return file.descriptor

    # Content.

    def _length(self) -> int:
        _, low, high = self.rng.choices(_SIZES, [chance for chance, _, _ in _SIZES])[0]
        return self.rng.randint(low, high)

    def _write_at(self, file: _File, offset: int, data: bytes) -> None:
        descriptor = self._opened(file)
        file.content.extend(bytes(max(0, offset - len(file.content))))
        file.content[offset : offset + len(data)] = data
        self._write_out(descriptor, offset, data)

    def _write_out(self, descriptor: int, offset: int, data: bytes) -> None:
        """A regular file takes less than it is given only if there is no room."""
        written = self._made("write", lambda: os.pwrite(descriptor, data, offset))
        if written != len(data):
            raise OSError(errno.EIO, f"{written} of {len(data)} bytes were written")

    def _write(self, file: _File) -> None:
        offset = self.rng.randint(0, min(len(file.content) + 5_000, _MOST_BYTES))
        self._write_at(file, offset, self.rng.randbytes(self._length()))

    def _append(self, file: _File) -> None:
        if len(file.content) < _MOST_BYTES:
            self._write_at(file, len(file.content), self.rng.randbytes(self._length()))

    def _read(self, file: _File) -> None:
        descriptor = self._opened(file)
        if self.rng.random() < 0.5:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        offset = self.rng.randint(0, len(file.content))
        length = self._length()
        self._compare(file, offset, length, self._made("read", lambda: os.pread(descriptor, length, offset)) or b"")

    def _compare(self, file: _File, offset: int, length: int, found: bytes) -> None:
        wanted = file.content[offset : offset + length]
        self.told.bytes_compared += len(wanted)
        if found != wanted:
            same = next((at for at, pair in enumerate(zip(found, wanted, strict=False)) if pair[0] != pair[1]), None)
            where = f"from byte {offset + same} on" if same is not None else "in length"
            told = (
                f"{file.name}: {len(found)} bytes read from {offset} on, {len(wanted)} expected, which differ {where}"
            )
            self.told.differences.append(told)

    def _reread(self, file: _File) -> None:
        """As a program that opens it just for that."""
        self._compare(
            file, 0, len(file.content) + 1, self._made("read whole", lambda: self._path(file).read_bytes()) or b""
        )

    def _truncate(self, file: _File) -> None:
        descriptor = self._opened(file)
        size = self.rng.randint(0, len(file.content) + 1_000)
        file.content[size:] = bytes(max(0, size - len(file.content)))
        self._made("ftruncate", lambda: os.ftruncate(descriptor, size))

    def _sync(self, file: _File) -> None:
        """After a failure everything may be lost, and is written again."""
        descriptor = self._opened(file)
        for _ in range(_ATTEMPTS):
            try:
                self._once("fsync", lambda: os.fsync(descriptor))
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
            else:
                return
            time.sleep(_PAUSE_SECONDS)
            self._write_out(descriptor, 0, bytes(file.content))
        raise TimeoutError("fsync fails again and again")

    def _close(self, file: _File) -> None:
        descriptor, file.descriptor = file.descriptor, None
        if descriptor is None:
            return
        try:
            self._once("close", lambda: os.close(descriptor))
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            self._write_out(self._opened(file), 0, bytes(file.content))
            self._sync(file)
            self._close(file)

    # Names.

    def _fresh_name(self) -> str:
        self._number += 1
        return f"made{self._number}"

    def _create(self, _: _File) -> None:
        if len(self.files) >= _MOST_FILES:
            return
        file = _File(self._fresh_name(), bytearray())
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        file.descriptor = self._made("create", lambda: os.open(self._path(file), flags, 0o644), _is_there)
        self.files.append(file)
        self._append(file)

    def _rename(self, file: _File) -> None:
        if file.descriptor is not None and self.rng.random() < 0.5:
            self._close(file)
        new = self.top / self._fresh_name()
        old = self._path(file)
        self._made("rename", lambda: old.rename(new), _is_gone)
        file.name = new.name

    def _unlink(self, file: _File) -> None:
        if len(self.files) > _FEWEST_FILES:
            self._close(file)
            self._made("unlink", self._path(file).unlink, _is_gone)
            self.files.remove(file)

    def _look(self, file: _File) -> None:
        found = self._made("stat", self._path(file).stat)
        if found is not None and found.st_size != len(file.content):
            self.told.differences.append(f"{file.name}: a size of {found.st_size}, {len(file.content)} expected")

    def _list(self, _: _File) -> None:
        found = set(self._made("list", lambda: os.listdir(self.top)) or ())
        wanted = {file.name for file in self.files}
        if found != wanted:
            self.told.differences.append(f"{self.top}: lists {sorted(found ^ wanted)} wrongly")


def _is_there(error: OSError) -> bool:
    return error.errno == errno.EEXIST


def _is_gone(error: OSError) -> bool:
    return error.errno == errno.ENOENT


def contents(top: Path) -> Iterator[tuple[str, bytes]]:
    """The files right below a directory."""
    for path in sorted(top.iterdir()):
        yield path.name, path.read_bytes()


def work(top: Path, known: dict[str, bytes], seed: str, told: Connection) -> None:
    """Work below `top`, where there is what is known, until something comes; then send what came of it.

    That is what was told, and what each file holds.
    """
    program = RandomIo(top, random.Random(seed))
    program.files = [_File(name, bytearray(content)) for name, content in known.items()]
    try:
        while not told.poll():
            program.step()
        program.finish()
    except OSError as error:
        program.told.differences.append(f"{top}: it cannot go on: {type(error).__name__}: {error}")
    told.send((program.told, {file.name: bytes(file.content) for file in program.files}))
