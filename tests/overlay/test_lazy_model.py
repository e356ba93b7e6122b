"""Random changes of a lazily copied file, beside a bytearray that has the same done to it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from netoverlay.backend_api import Access, AllocateMode
from tests.overlay.lazy import LazyMounted, is_lazy, maps
from tests.overlay.trees import write_tree
from tests.searching import attempts

BASE_SIZE = 2000
BASE = bytes(range(1, 251)) * (BASE_SIZE // 250)
OFFSETS = st.integers(0, BASE_SIZE + 200)
LENGTHS = st.integers(1, 500)


class LazyFile(RuleBasedStateMachine):
    """The overlay's file, and what it must be."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="lazy-model-"))
        write_tree(self.directory / "lower0", {"big": BASE, "plain": b"p" * 300})
        self.expected = bytearray(BASE)
        self.written = 0
        self.mount()

    def mount(self) -> None:
        self.overlay = LazyMounted(self.directory)
        self.files = self.overlay.overlay.files
        self.handle = self.files.open(self.overlay.file_inode("big"), Access.READ_WRITE)

    def grow(self, size: int) -> None:
        self.expected.extend(bytes(max(0, size - len(self.expected))))

    @rule(offset=OFFSETS, length=LENGTHS)
    def write(self, offset: int, length: int) -> None:
        self.written = self.written % 255 + 1
        data = bytes([self.written]) * length
        self.files.write(self.handle, offset, data, clear_set_ids=False)
        self.grow(offset)
        self.expected[offset : offset + length] = data

    @rule(size=OFFSETS)
    def truncate(self, size: int) -> None:
        self.files.truncate(self.handle.inode, size)
        self.grow(size)
        del self.expected[size:]

    @rule(mode=st.sampled_from(AllocateMode), offset=OFFSETS, length=LENGTHS)
    def allocate(self, mode: AllocateMode, offset: int, length: int) -> None:
        self.files.allocate(self.handle, mode, offset, length)
        if mode in (AllocateMode.RESERVE, AllocateMode.ZERO_RANGE):
            self.grow(offset + length)
        if mode not in (AllocateMode.RESERVE, AllocateMode.RESERVE_KEEP_SIZE):
            end = min(offset + length, len(self.expected))
            self.expected[offset:end] = bytes(max(0, end - offset))

    @rule(offset=OFFSETS, length=LENGTHS)
    def copy(self, offset: int, length: int) -> None:
        handle = self.files.open(self.overlay.file_inode("plain"), Access.READ_WRITE)
        try:
            self.files.write(handle, 0, b"q", clear_set_ids=False)
            copied = self.files.copy_range(handle, 0, self.handle, offset, length)
        finally:
            self.files.release(handle)
        self.grow(offset)
        self.expected[offset : offset + copied] = (b"q" + b"p" * 299)[:copied]

    @rule(data_only=st.booleans())
    def sync(self, data_only: bool) -> None:
        self.files.sync(self.handle, data_only=data_only)

    @rule()
    def remount(self) -> None:
        self.files.release(self.handle)
        self.overlay.close()
        self.mount()

    @rule()
    def die(self) -> None:
        self.overlay.abandon()
        self.mount()

    @precondition(lambda self: maps(self.directory))
    @rule()
    def settle(self) -> None:
        settler = self.overlay.overlay.settler
        assert settler is not None
        assert settler.run(lambda: False, id) == []
        assert not is_lazy(self.directory / "upper" / "big")
        assert (self.directory / "upper" / "big").read_bytes() == self.expected

    @rule(offset=OFFSETS, length=LENGTHS)
    def read(self, offset: int, length: int) -> None:
        assert self.files.read(self.handle, offset, length) == self.expected[offset : offset + length]

    @rule()
    def seek(self) -> None:
        """What is no data is zeros."""
        at = 0
        size = len(self.expected)
        while at < size:
            hole = self.files.seek(self.handle, at, os.SEEK_HOLE)
            assert at <= hole <= size
            try:
                data = self.files.seek(self.handle, hole, os.SEEK_DATA)
            except OSError:
                data = size
            assert not any(self.expected[hole:data])
            at = max(data, hole + 1)

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        assert self.files.read(self.handle, 0, len(self.expected) + 10) == self.expected

    def teardown(self) -> None:
        self.files.release(self.handle)
        self.overlay.close()
        shutil.rmtree(self.directory)


def test_random_changes() -> None:
    run_state_machine_as_test(
        LazyFile, settings=settings(max_examples=attempts(25), stateful_step_count=25, deadline=None, database=None)
    )
