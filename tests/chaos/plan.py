"""Random work: sequences of calls that succeed on a healthy mount, as editors, builds and people make them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from posixpath import dirname

from tests.chaos.model import Node, below
from tests.chaos.observe import Kind
from tests.chaos.steps import Call, Step

COMMON = "common"
"""A directory in which every worker has files, whose names begin with its own."""
_FEWEST_FILES = 40
_SIZES = ((0.45, 1, 200), (0.43, 4_000, 60_000), (0.1, 100_000, 600_000), (0.02, 1_000_000, 3_000_000))
_SECOND_NS = 1_000_000_000
_FIRST_TIME = 1_000_000_000
"""In seconds since 1970, of times that are set."""


@dataclass(slots=True)
class _Entry:
    """What the plan knows of a name."""

    kind: Kind
    size: int
    in_base_only: bool
    is_linked: bool


class Plan:
    """Plans the work of one worker from what its region holds."""

    def __init__(self, worker: str, names: Mapping[str, Node], rng: random.Random, first_number: int) -> None:
        """`first_number`: of names and identities, so that no two are the same in the life of an upper."""
        self._worker = worker
        self._rng = rng
        self.next_number = first_number
        self._slot = 0
        self._names = _entries(names)
        self._operations: list[tuple[float, Callable[[], Iterator[Step]]]] = [
            (12, self._append),
            (10, self._overwrite),
            (3, self._truncate),
            (3, self._empty),
            (14, self._save),
            (14, self._rename_file),
            (5, self._replace),
            (4, self._exchange),
            (8, self._rename_directory),
            (7, self._unlink),
            (2, self._rmdir),
            (4, self._mkdir),
            (5, self._create),
            (5, self._chmod),
            (4, self._chown),
            (4, self._set_identity),
            (3, self._utime),
            (3, self._symlink),
            (3, self._link),
        ]

    def steps(self, operations: int) -> list[Step]:
        """The calls of so many operations."""
        weights = [weight for weight, _ in self._operations]
        made: list[Step] = []
        while operations:
            _, operation = self._rng.choices(self._operations, weights)[0]
            steps = list(operation())
            operations -= bool(steps)
            made += steps
        return made

    # What there is.

    def _files(self) -> list[str]:
        return [path for path, entry in self._names.items() if entry.kind is Kind.FILE]

    def _directories(self) -> list[str]:
        return [path for path, entry in self._names.items() if entry.kind is Kind.DIRECTORY]

    def _some_file(self) -> str:
        """Rather one that is to be copied up."""
        files = self._files()
        low = [path for path in files if self._names[path].in_base_only]
        return self._rng.choice(low if low and self._rng.random() < 0.6 else files)

    def _number(self) -> int:
        self.next_number += 1
        return self.next_number

    def _free_name(self) -> str:
        """In a random directory."""
        place = self._rng.choice([*self._directories(), COMMON])
        return f"{place}/{self._worker}-{self._number()}"

    def _touch(self, path: str) -> bool:
        """Whether changing it copies it up, once."""
        was, self._names[path].in_base_only = self._names[path].in_base_only, False
        return was

    def _length(self) -> int:
        chances = [chance for chance, _, _ in _SIZES]
        _, low, high = self._rng.choices(_SIZES, chances)[0]
        return self._rng.randint(low, high)

    # Of content.

    def _opened(self, path: str, call: Call = Call.OPEN, mode: int = 0, *, copies_up: bool = False) -> Step:
        self._slot += 1
        return Step(call, path, slot=self._slot, number=mode, copies_up=copies_up)

    def _written(self, offset: int, length: int, *, copies_up: bool = False) -> Step:
        seed = self._rng.getrandbits(48)
        return Step(Call.WRITE, slot=self._slot, offset=offset, seed=seed, number=length, copies_up=copies_up)

    def _closed(self, chance_of_sync: float = 0.5) -> Iterator[Step]:
        if self._rng.random() < chance_of_sync:
            yield Step(Call.SYNC, slot=self._slot)
        yield Step(Call.CLOSE, slot=self._slot)

    def _append(self) -> Iterator[Step]:
        path = self._some_file()
        entry = self._names[path]
        yield self._opened(path)
        for _ in range(self._rng.choice((1, 1, 3))):
            length = self._length()
            yield self._written(entry.size, length, copies_up=self._touch(path))
            entry.size += length
        yield from self._closed()

    def _overwrite(self) -> Iterator[Step]:
        path = self._some_file()
        entry = self._names[path]
        offset = self._rng.randint(0, entry.size)
        length = self._length()
        yield self._opened(path)
        yield self._written(offset, length, copies_up=self._touch(path))
        entry.size = max(entry.size, offset + length)
        yield from self._closed()

    def _truncate(self) -> Iterator[Step]:
        path = self._some_file()
        entry = self._names[path]
        entry.size = self._rng.randint(0, entry.size + 1000)
        yield Step(Call.TRUNCATE, path, number=entry.size, copies_up=self._touch(path))

    def _empty(self) -> Iterator[Step]:
        path = self._some_file()
        yield self._opened(path, Call.EMPTY, copies_up=self._touch(path))
        length = self._names[path].size = self._length()
        yield self._written(0, length)
        yield from self._closed()

    def _made(self, path: str, *, chance_of_sync: float) -> Iterator[Step]:
        number, length = self._number(), self._length()
        yield self._opened(path, Call.CREATE, self._rng.choice((0o600, 0o644, 0o755)))
        yield Step(Call.SET_XATTR, path, f"{self._worker}-{number}")
        yield Step(Call.CHOWN, path, number=number)
        yield self._written(0, length)
        yield from self._closed(chance_of_sync)
        self._names[path] = _Entry(Kind.FILE, length, False, False)

    def _create(self) -> Iterator[Step]:
        yield from self._made(self._free_name(), chance_of_sync=0.5)

    def _save(self) -> Iterator[Step]:
        """As editors do it."""
        path = self._some_file()
        temporary = f"{dirname(path)}/{self._worker}-{self._number()}~"
        yield from self._made(temporary, chance_of_sync=1.0)
        yield Step(Call.RENAME, temporary, path)
        self._names[path] = self._names.pop(temporary)
        yield from self._directory_synced(path)

    # Of names.

    def _directory_synced(self, *paths: str) -> Iterator[Step]:
        if self._rng.random() < 0.4:
            for path in paths:
                yield Step(Call.SYNC_DIRECTORY, dirname(path))

    def _moved(self, old: str, new: str) -> Iterator[Step]:
        yield Step(Call.RENAME, old, new, copies_up=self._touch(old))
        for path in below(self._names, old):
            self._names[new + path[len(old) :]] = self._names.pop(path)
        yield from self._directory_synced(new, old)

    def _rename_file(self) -> Iterator[Step]:
        yield from self._moved(self._some_file(), self._free_name())

    def _replace(self) -> Iterator[Step]:
        old, new = self._some_file(), self._some_file()
        if old != new and not (self._names[old].is_linked and self._names[new].is_linked):
            yield from self._moved(old, new)

    def _rename_directory(self) -> Iterator[Step]:
        old, new = self._inner_directory(), self._free_name()
        if old and not new.startswith((f"{old}/", f"{COMMON}/")):
            yield from self._moved(old, new)

    def _inner_directory(self) -> str:
        """Not the worker's own root. Empty if there is none."""
        inner = [path for path in self._directories() if "/" in path]
        return self._rng.choice(inner) if inner else ""

    def _exchange(self) -> Iterator[Step]:
        one = self._some_file()
        other = self._inner_directory() if self._rng.random() < 0.4 else self._some_file()
        if not other or one == other or one.startswith((f"{other}/", f"{COMMON}/")):
            return
        if self._names[one].is_linked and self._names[other].is_linked:
            return
        yield Step(Call.EXCHANGE, one, other, copies_up=any([self._touch(one), self._touch(other)]))
        there = {path: self._names.pop(path) for path in below(self._names, one)}
        here = {path: self._names.pop(path) for path in below(self._names, other)}
        self._names.update({other + path[len(one) :]: entry for path, entry in there.items()})
        self._names.update({one + path[len(other) :]: entry for path, entry in here.items()})
        yield from self._directory_synced(one, other)

    def _unlink(self) -> Iterator[Step]:
        links = [path for path, entry in self._names.items() if entry.kind is Kind.SYMLINK]
        if len(self._files()) > _FEWEST_FILES:
            path = self._rng.choice([*links, self._some_file(), self._some_file()])
            yield Step(Call.UNLINK, path)
            del self._names[path]
            yield from self._directory_synced(path)

    def _rmdir(self) -> Iterator[Step]:
        empty = [path for path in self._directories() if "/" in path and len(below(self._names, path)) == 1]
        if empty:
            path = self._rng.choice(empty)
            yield Step(Call.RMDIR, path)
            del self._names[path]

    def _mkdir(self) -> Iterator[Step]:
        path = self._free_name()
        if not path.startswith(f"{COMMON}/"):
            yield Step(Call.MKDIR, path, number=self._rng.choice((0o700, 0o755, 0o775)))
            yield Step(Call.SET_XATTR, path, f"{self._worker}-{self._number()}")
            self._names[path] = _Entry(Kind.DIRECTORY, 0, False, False)
            yield from self._directory_synced(path)

    def _symlink(self) -> Iterator[Step]:
        path = self._free_name()
        yield Step(Call.SYMLINK, path, f"target-{self._number()}")
        self._names[path] = _Entry(Kind.SYMLINK, 0, False, False)

    def _link(self) -> Iterator[Step]:
        path, new = self._some_file(), self._free_name()
        yield Step(Call.LINK, path, new, copies_up=self._touch(path))
        self._names[path].is_linked = True
        self._names[new] = self._names[path]
        yield from self._directory_synced(new)

    # Of attributes.

    def _any(self) -> str:
        return self._some_file() if self._rng.random() < 0.8 else self._rng.choice(self._directories())

    def _set(self, step: Step) -> Iterator[Step]:
        yield replace(step, copies_up=self._touch(step.path))
        if self._rng.random() < 0.4:
            if self._names[step.path].kind is Kind.DIRECTORY:
                yield Step(Call.SYNC_DIRECTORY, step.path)
            else:
                yield self._opened(step.path)
                yield from self._closed(chance_of_sync=1.0)

    def _chmod(self) -> Iterator[Step]:
        mode = self._rng.choice((0o700, 0o711, 0o750, 0o755, 0o777))
        yield from self._set(Step(Call.CHMOD, self._any(), number=mode))

    def _chown(self) -> Iterator[Step]:
        yield from self._set(Step(Call.CHOWN, self._any(), number=self._number()))

    def _set_identity(self) -> Iterator[Step]:
        yield from self._set(Step(Call.SET_XATTR, self._any(), f"{self._worker}-{self._number()}"))

    def _utime(self) -> Iterator[Step]:
        time_ns = (_FIRST_TIME + self._number()) * _SECOND_NS + self._rng.randrange(_SECOND_NS)
        yield from self._set(Step(Call.UTIME, self._some_file(), number=time_ns))


def _entries(names: Mapping[str, Node]) -> dict[str, _Entry]:
    """The names of one file have one entry."""
    entries: dict[int, _Entry] = {}
    for node in names.values():
        size = len(node.contents[-1]) if node.contents else 0
        is_linked = node.kind is Kind.FILE and id(node) in entries
        entries[id(node)] = _Entry(node.kind, size, node.in_base_only, is_linked)
    return {path: entries[id(node)] for path, node in names.items()}
