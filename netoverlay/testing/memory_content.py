"""What a file in memory holds: sparse bytes, and who has locked which of them."""

from __future__ import annotations

import errno
from collections.abc import Hashable
from typing import NamedTuple

from netoverlay.backend_api import LockKind, Readable, Writable, os_error

BLOCK_SIZE = 4096
END_OF_RANGE = 2**63
"""Where a lock of length 0 ends: one byte past the largest offset."""


class SparseContent:
    """Bytes of which only the written blocks take memory, so that a file of many GiB can be tested."""

    def __init__(self) -> None:
        self.size = 0
        self._blocks: dict[int, bytearray] = {}

    @property
    def allocated_bytes(self) -> int:
        return len(self._blocks) * BLOCK_SIZE

    def read_into(self, offset: int, buffer: Writable) -> int:
        """Fill `buffer` from `offset`, holes as zeros; the count is less than its length only at the end."""
        view = memoryview(buffer)
        count = max(0, min(len(view), self.size - offset))
        done = 0
        while done < count:
            number, start = divmod(offset + done, BLOCK_SIZE)
            length = min(BLOCK_SIZE - start, count - done)
            block = self._blocks.get(number)
            view[done : done + length] = bytes(length) if block is None else block[start : start + length]
            done += length
        return count

    def write(self, offset: int, data: Readable) -> None:
        """Store `data` at `offset`, growing the content as needed."""
        view = memoryview(data)
        done = 0
        while done < len(view):
            number, start = divmod(offset + done, BLOCK_SIZE)
            length = min(BLOCK_SIZE - start, len(view) - done)
            self._block(number)[start : start + length] = view[done : done + length]
            done += length
        if done:
            self.size = max(self.size, offset + done)

    def truncate(self, size: int) -> None:
        """Set the size; what is cut off is gone, what is added is a hole."""
        if size < self.size:
            self.punch(size, self.size - size)
        self.size = size

    def reserve(self, offset: int, length: int) -> None:
        """Allocate the blocks of a range; the size stays."""
        for number in range(offset // BLOCK_SIZE, -(-(offset + length) // BLOCK_SIZE)):
            self._block(number)

    def punch(self, offset: int, length: int) -> None:
        """Zero a range, and give back the blocks that lie wholly inside it; the size stays."""
        end = offset + length
        first_whole, end_whole = -(-offset // BLOCK_SIZE), end // BLOCK_SIZE
        for number in [n for n in self._blocks if first_whole <= n < end_whole]:
            del self._blocks[number]
        for number in {offset // BLOCK_SIZE, end // BLOCK_SIZE}:
            block = self._blocks.get(number)
            if block is not None:
                base = number * BLOCK_SIZE
                start, stop = max(offset - base, 0), min(end - base, BLOCK_SIZE)
                block[start:stop] = bytes(max(0, stop - start))

    def seek_data(self, offset: int) -> int:
        """The next offset of a block with data; ENXIO if there is none before the end."""
        if not 0 <= offset < self.size:
            raise os_error(errno.ENXIO)
        first = offset // BLOCK_SIZE
        if first in self._blocks:
            return offset
        following = min((number for number in self._blocks if number > first), default=None)
        if following is None or following * BLOCK_SIZE >= self.size:
            raise os_error(errno.ENXIO)
        return following * BLOCK_SIZE

    def seek_hole(self, offset: int) -> int:
        """The next offset without a block, at most the size; ENXIO past the end."""
        if not 0 <= offset < self.size:
            raise os_error(errno.ENXIO)
        number = offset // BLOCK_SIZE
        if number not in self._blocks:
            return offset
        while number in self._blocks:
            number += 1
        return min(number * BLOCK_SIZE, self.size)

    def _block(self, number: int) -> bytearray:
        block = self._blocks.get(number)
        if block is None:
            block = self._blocks[number] = bytearray(BLOCK_SIZE)
        return block


class _Lock(NamedTuple):
    start: int
    end: int
    kind: LockKind
    owner: Hashable


class RangeLocks:
    """The byte-range locks of one file, with the semantics of OFD locks (fcntl(2)): split, merged, replaced."""

    def __init__(self) -> None:
        self._locks: list[_Lock] = []

    def set(self, owner: Hashable, kind: LockKind, start: int, length: int) -> None:
        """Give `owner` the range as `kind`; BlockingIOError if another's lock is in the way. Length 0: to the end."""
        end = start + length if length else END_OF_RANGE
        if kind is not LockKind.UNLOCK and any(
            lock.owner != owner and LockKind.EXCLUSIVE in (kind, lock.kind)
            for lock in self._locks
            if lock.start < end and start < lock.end
        ):
            raise os_error(errno.EAGAIN)
        kept: list[_Lock] = []
        for lock in self._locks:
            if lock.owner != owner or lock.end <= start or end <= lock.start:
                kept.append(lock)
                continue
            if lock.start < start:
                kept.append(lock._replace(end=start))
            if end < lock.end:
                kept.append(lock._replace(start=end))
        if kind is not LockKind.UNLOCK:
            kept.append(_Lock(start, end, kind, owner))
        self._locks = kept

    def release(self, owner: Hashable) -> None:
        """Drop everything that `owner` holds."""
        self._locks = [lock for lock in self._locks if lock.owner != owner]
