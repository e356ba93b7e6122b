"""Holes, allocation, locks and space."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from netoverlay.backend_api import Access, AllocateMode, Backend, BackendFile, LockKind
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.layer import Layer, pattern, refused, require

MIB = 1 << 20
DATA_SIZE = 64 << 10
FAR_DATA = 8 * MIB
ZEROING = (AllocateMode.PUNCH_HOLE, AllocateMode.ZERO_RANGE, AllocateMode.ZERO_RANGE_KEEP_SIZE)


class HoleSuite(SuiteBase):
    """Sparse files."""

    @pytest.fixture
    def sparse(self, layer: Layer) -> Iterator[BackendFile]:
        """64 KiB of data, a hole, and 64 KiB of data at 8 MiB."""
        require(layer.claims.holes, "holes")
        with layer.create(layer.path("sparse")) as file:
            file.write_at(0, pattern(DATA_SIZE))
            file.write_at(FAR_DATA, pattern(DATA_SIZE))
            yield file

    def test_seek_hole_and_data(self, sparse: BackendFile) -> None:
        assert sparse.seek_data(0) == 0, "the file starts with data"
        hole = sparse.seek_hole(0)
        assert DATA_SIZE <= hole < FAR_DATA, "holes is claimed: tell of a hole of almost 8 MiB"
        data = sparse.seek_data(hole)
        assert hole < data <= FAR_DATA, "seek_data() must not step over data"
        assert sparse.read_at(hole, data - hole) == bytes(data - hole), "a hole reads as zeros"
        assert sparse.seek_hole(FAR_DATA) == FAR_DATA + DATA_SIZE, "the end of the file is a hole"

    def test_seek_past_the_end(self, sparse: BackendFile) -> None:
        for offset in (FAR_DATA + DATA_SIZE, FAR_DATA + DATA_SIZE + 1):
            with refused(errno.ENXIO, advice="seek_data at or past the end"):
                sparse.seek_data(offset)
            with refused(errno.ENXIO, advice="seek_hole at or past the end"):
                sparse.seek_hole(offset)
        sparse.truncate(FAR_DATA)
        with refused(errno.ENXIO, advice="seek_data in a hole that reaches to the end"):
            sparse.seek_data(MIB)

    def test_punch_hole(self, sparse: BackendFile) -> None:
        size = sparse.stat().size
        sparse.allocate(AllocateMode.PUNCH_HOLE, 100, DATA_SIZE)
        assert sparse.stat().size == size, "PUNCH_HOLE keeps the size"
        assert sparse.read_at(0, DATA_SIZE + 200) == pattern(100) + bytes(DATA_SIZE + 100)
        sparse.allocate(AllocateMode.PUNCH_HOLE, FAR_DATA, 4 * DATA_SIZE)
        assert sparse.stat().size == size, "PUNCH_HOLE over the end keeps the size"
        with refused(errno.ENXIO, advice="seek_data where all data was punched out"):
            sparse.seek_data(MIB)


class AllocateSuite(SuiteBase):
    """allocate() with the modes other than PUNCH_HOLE."""

    @pytest.mark.parametrize("mode", [mode for mode in AllocateMode if mode is not AllocateMode.PUNCH_HOLE])
    def test_allocate_mode(self, layer: Layer, mode: AllocateMode) -> None:
        require(layer.claims.allocate, "allocate")
        data = pattern(10_000)
        with layer.create(layer.path("file")) as file:
            file.write_at(0, data)
            file.allocate(mode, 5_000, 20_000)
            grows = mode in (AllocateMode.RESERVE, AllocateMode.ZERO_RANGE)
            assert file.stat().size == (25_000 if grows else 10_000), f"the size after allocate({mode.name})"
            kept = data[:5_000] + bytes(5_000) if mode in ZEROING else data
            assert file.read_at(0, 10_000) == kept, f"the content after allocate({mode.name})"
            assert file.read_at(10_000, 99_999) == bytes(15_000 if grows else 0)

    def test_allocate_refusals(self, layer: Layer) -> None:
        require(layer.claims.allocate, "allocate")
        path = layer.file("file")
        with (
            layer.backend.open(path, Access.READ_WRITE) as file,
            refused(errno.EINVAL, advice="allocate of nothing"),
        ):
            file.allocate(AllocateMode.RESERVE, 0, 0)
        with (
            layer.backend.open(path, Access.READ) as file,
            refused(errno.EBADF, advice="allocate on a file that is open for reading"),
        ):
            file.allocate(AllocateMode.RESERVE, 0, 4096)


class LockSuite(SuiteBase):
    """lock(): owned by the open file, and seen by every other one."""

    @pytest.fixture
    def two(self, layer: Layer, new_backend: Callable[[], Backend]) -> Iterator[tuple[BackendFile, BackendFile]]:
        """One file, opened over two connections."""
        require(layer.claims.locks, "locks")
        path = layer.file("file", data=bytes(100))
        with new_backend() as other:
            other.connect()
            with layer.backend.open(path, Access.READ_WRITE) as mine, other.open(path, Access.READ_WRITE) as theirs:
                yield mine, theirs

    def test_lock_conflicts(self, two: tuple[BackendFile, BackendFile]) -> None:
        mine, theirs = two
        mine.lock(LockKind.EXCLUSIVE, 10, 10)
        for kind in (LockKind.SHARED, LockKind.EXCLUSIVE):
            with refused(errno.EAGAIN, advice=f"{kind.name} where another has EXCLUSIVE"):
                theirs.lock(kind, 19, 5)
        theirs.lock(LockKind.EXCLUSIVE, 20, 10)
        theirs.lock(LockKind.EXCLUSIVE, 0, 10)
        mine.lock(LockKind.UNLOCK, 10, 10)
        theirs.lock(LockKind.EXCLUSIVE, 10, 10)

    def test_shared_locks(self, two: tuple[BackendFile, BackendFile]) -> None:
        mine, theirs = two
        mine.lock(LockKind.SHARED, 0, 10)
        theirs.lock(LockKind.SHARED, 5, 10)
        with refused(errno.EAGAIN, advice="EXCLUSIVE where another has SHARED"):
            mine.lock(LockKind.EXCLUSIVE, 0, 10)
        with refused(errno.EAGAIN, advice="a refused upgrade must leave the SHARED lock in place"):
            theirs.lock(LockKind.EXCLUSIVE, 0, 1)
        theirs.lock(LockKind.UNLOCK, 5, 10)
        mine.lock(LockKind.EXCLUSIVE, 0, 10)

    def test_split_locks(self, two: tuple[BackendFile, BackendFile]) -> None:
        mine, theirs = two
        mine.lock(LockKind.EXCLUSIVE, 0, 30)
        mine.lock(LockKind.UNLOCK, 10, 10)
        mine.lock(LockKind.SHARED, 20, 10)
        theirs.lock(LockKind.EXCLUSIVE, 10, 10)
        theirs.lock(LockKind.SHARED, 20, 10)
        with refused(errno.EAGAIN, advice="a range before the part that was unlocked stays locked"):
            theirs.lock(LockKind.SHARED, 9, 1)

    def test_lock_to_the_end(self, two: tuple[BackendFile, BackendFile]) -> None:
        mine, theirs = two
        mine.lock(LockKind.EXCLUSIVE, 50, 0)
        theirs.lock(LockKind.EXCLUSIVE, 0, 50)
        with refused(errno.EAGAIN, advice="a lock of length 0 reaches to the end, wherever it will be"):
            theirs.lock(LockKind.EXCLUSIVE, 1 << 40, 1)

    def test_close_releases_locks(self, two: tuple[BackendFile, BackendFile]) -> None:
        mine, theirs = two
        mine.lock(LockKind.EXCLUSIVE, 0, 0)
        mine.close()
        theirs.lock(LockKind.EXCLUSIVE, 0, 0)

    def test_lock_owner(self, layer: Layer) -> None:
        require(layer.claims.locks, "locks")
        path = layer.file("file")
        with layer.backend.open(path, Access.READ_WRITE) as mine:
            mine.lock(LockKind.EXCLUSIVE, 0, 10)
            for advice in (
                "the owner of a lock is the open file, not the process",
                "closing another open of the file must not release a lock",
            ):
                with layer.backend.open(path, Access.READ_WRITE) as theirs, refused(errno.EAGAIN, advice=advice):
                    theirs.lock(LockKind.SHARED, 0, 1)


class SpaceSuite(SuiteBase):
    """space_usage()."""

    def test_space_usage(self, layer: Layer) -> None:
        usage = layer.backend.space_usage()
        assert usage.total_bytes >= usage.free_bytes >= usage.available_bytes >= 0, "counts are in bytes"
        assert usage.total_files >= usage.free_files >= 0
        assert usage.block_size > 0
        assert usage.max_name_bytes >= layer.claims.max_name_bytes, "max_name_bytes as claimed, or more"
