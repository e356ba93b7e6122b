"""What a fuzzer needs of a target, and how its inputs are laid out and changed.

An input is a few bytes of head, which choose how the target is set up, and records: messages, replies or files, each
behind its length in two bytes. Changes are made to records as wholes, and to the bytes in them; then most records are
repaired, so that what is inside is reached more often than the check of a length in front of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

MAX_RECORD_BYTES = 0xFFFF
_INTERESTING = (0, 1, 2, 3, 4, 7, 8, 15, 16, 40, 64, 80, 104, 127, 128, 255, 256, 4095, 4096, 65535, 65536)
_LARGE = tuple(1 << bits for bits in (31, 32, 62, 63)) + tuple((1 << bits) - 1 for bits in (31, 32, 63, 64))
_MAX_CHANGES = 4
_REPAIRED = 0.9
"""Of the records that were changed."""

MutateBytes = Callable[[bytes, int], bytes]
"""Other bytes, at most so many: the engine's own way, which knows what comparisons the program has made."""


@dataclass(frozen=True)
class Target:
    """One set of decoders under test."""

    name: str
    head_bytes: int
    max_bytes: int
    """Of an input."""
    run: Callable[[bytes], int]
    """Feed one input; the messages of it that were taken. Raises if anything was not as it must be."""
    seeds: Callable[[], Sequence[bytes]]
    """Well-formed inputs to begin with."""
    templates: Callable[[], Sequence[bytes]]
    """Well-formed records."""
    repair: Callable[[bytearray, Random], None] = lambda record, random: None
    """Make a record well-formed in what would have it refused at once."""


def split(data: bytes) -> list[bytes]:
    """The records; the last may be shorter than it says."""
    records = []
    at = 0
    while at + 2 <= len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "little")
        records.append(data[at + 2 : end])
        at = end
    return records


def joined(records: Sequence[bytes]) -> bytes:
    """The inverse."""
    return b"".join(len(record).to_bytes(2, "little") + record for record in records)


class Mutator:
    """Makes inputs of a target out of others."""

    def __init__(self, target: Target, mutate_bytes: MutateBytes) -> None:
        self._target = target
        self._mutate_bytes = mutate_bytes
        self._templates = target.templates()
        self._changes = (self._bytes, self._bytes, self._bytes, self._number, self._insert, self._insert, self._order)

    def mutate(self, data: bytes, max_bytes: int, seed: int) -> bytes:
        """Another input."""
        random = Random(seed)
        start = self._target.head_bytes
        head, records = data[:start].ljust(start, b"\0"), split(data[start:])
        if start and random.random() < 0.1:
            at = random.randrange(start)
            head = head[:at] + bytes([random.randrange(256)]) + head[at + 1 :]
        for _ in range(random.randint(1, _MAX_CHANGES)):
            random.choice(self._changes)(records, random)
        made = head + joined(records)
        while len(made) > max_bytes and records:
            records.pop()
            made = head + joined(records)
        return made

    def _bytes(self, records: list[bytes], random: Random) -> None:
        if not records:
            return self._insert(records, random)
        at = random.randrange(len(records))
        room = max(16, len(records[at]) + 64)
        return self._put(records, at, bytearray(self._mutate_bytes(records[at] or b"\0", room)), random)

    def _number(self, records: list[bytes], random: Random) -> None:
        """A number that limits are made of, where one may stand."""
        if not records:
            return
        at = random.randrange(len(records))
        record = bytearray(records[at])
        size = random.choice((1, 2, 4, 8))
        if len(record) >= size:
            start = random.randrange(len(record) - size + 1) & -min(size, 4)
            value = random.choice(_INTERESTING if random.random() < 0.7 else _LARGE) & ((1 << 8 * size) - 1)
            record[start : start + size] = value.to_bytes(size, random.choice(("little", "big")))
        self._put(records, at, record, random)

    def _insert(self, records: list[bytes], random: Random) -> None:
        at = random.randrange(len(records) + 1)
        records.insert(at, b"")
        self._put(records, at, bytearray(random.choice(self._templates)), random)

    def _order(self, records: list[bytes], random: Random) -> None:
        if not records:
            return
        at, to = random.randrange(len(records)), random.randrange(len(records))
        if random.random() < 0.3:
            records.insert(to, records[at])
        elif random.random() < 0.5:
            records.insert(to, records.pop(at))
        else:
            records.pop(at)

    def _put(self, records: list[bytes], at: int, record: bytearray, random: Random) -> None:
        if random.random() < _REPAIRED:
            self._target.repair(record, random)
        records[at] = bytes(record[:MAX_RECORD_BYTES])
