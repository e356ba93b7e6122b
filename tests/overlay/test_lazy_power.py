"""Random changes of a lazily copied file, and power cuts: what was synced stays, and nothing shows that never was."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from netoverlay.backend_api import Access
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from tests.overlay.lazy import LazyMounted
from tests.overlay.trees import write_tree
from tests.searching import attempts

SIZE = 2000
BASE = bytes(range(1, 101)) * (SIZE // 100)
OFFSETS = st.integers(0, SIZE - 1)


class Disk(DelegatingBackend):
    """An upper whose writes are in memory only until their file is synced. Sizes and names are kept at once."""

    def __init__(self, inner) -> None:
        super().__init__(inner)
        self.unsynced: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
        """By device and inode: what was there before each write."""

    def open(self, path, access, **options):
        return DiskFile(super().open(path, access, **options), self)


class DiskFile(DelegatingFile):
    def __init__(self, inner, disk: Disk) -> None:
        super().__init__(inner)
        stat = os.fstat(inner.fileno())
        self.key = stat.st_dev, stat.st_ino
        self.disk = disk

    def write_at(self, offset, data):
        if self.inner.stat().size:
            before = os.pread(self.inner.fileno(), len(data), offset).ljust(len(data), b"\0")
            self.disk.unsynced.setdefault(self.key, []).append((offset, before))
        self.inner.write_at(offset, data)

    def sync(self, *, data_only=False):
        self.disk.unsynced.pop(self.key, None)


def cut_power(directory: Path, disk: Disk, lost: str, keep: int) -> None:
    """Undo all but the first `keep` writes of what is `lost`: the map's, the data's or both."""
    for path in itertools.chain((directory / "upper.work" / "lazy").glob("*"), [directory / "upper" / "big"]):
        is_map = path.parent.name == "lazy"
        if not path.exists() or lost not in ("both", "map" if is_map else "data"):
            continue
        stat = path.stat()
        with path.open("r+b") as file:
            for offset, before in reversed(disk.unsynced.get((stat.st_dev, stat.st_ino), [])[keep:]):
                file.seek(offset)
                file.write(before)


class Powered(RuleBasedStateMachine):
    """The file, and what each of its bytes may be after a power cut: what it was at the last sync, or any since."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="lazy-power-"))
        write_tree(self.directory / "lower0", {"big": BASE})
        self.now = bytearray(BASE)
        self.allowed: list[set[int]] = [{byte} for byte in BASE]
        self.boots = itertools.count()
        self.written = itertools.cycle(range(101, 256))
        self.mount()

    def mount(self) -> None:
        with mock.patch("netoverlay.overlay.lazy_files.boot_id", return_value=str(next(self.boots))):
            self.overlay = LazyMounted(self.directory, wrap_upper=self._disk)
        self.files = self.overlay.overlay.files
        self.handle = self.files.open(self.overlay.file_inode("big"), Access.READ_WRITE)

    def _disk(self, unsynced) -> Disk:
        self.disk = Disk(unsynced)
        return self.disk

    @rule(offset=OFFSETS, length=st.integers(1, 700))
    def write(self, offset: int, length: int) -> None:
        data = bytes([next(self.written)]) * min(length, SIZE - offset)
        self.files.write(self.handle, offset, data, clear_set_ids=False)
        self.now[offset : offset + len(data)] = data
        for at in range(offset, offset + len(data)):
            self.allowed[at].add(data[0])

    @rule()
    def sync(self) -> None:
        self.files.sync(self.handle, data_only=True)
        self.allowed = [{byte} for byte in self.now]

    @rule()
    def close_and_open(self) -> None:
        self.files.release(self.handle)
        self.handle = self.files.open(self.overlay.file_inode("big"), Access.READ_WRITE)

    @rule(pieces=st.integers(0, 4))
    def settle(self, pieces: int) -> None:
        """A part of it: once the file is a plain one, there is nothing to find."""
        settler = self.overlay.overlay.settler
        assert settler is not None
        checks = itertools.count()
        with contextlib.suppress(InterruptedError), mock.patch("netoverlay.overlay.lazy_state.FILL_BYTES", 100):
            assert settler.run(lambda: next(checks) >= pieces, id) == []

    @rule(lost=st.sampled_from(["data", "map", "both"]), keep=st.integers(0, 3))
    def cut_power(self, lost: str, keep: int) -> None:
        self.overlay.abandon()
        cut_power(self.directory, self.disk, lost, keep)
        self.mount()
        shown = self.files.read(self.handle, 0, SIZE + 1)
        assert len(shown) == SIZE
        for at, byte in enumerate(shown):
            assert byte in self.allowed[at], f"byte {at}: {byte}, and not one of {self.allowed[at]}"
        self.now = bytearray(shown)
        self.sync()

    def teardown(self) -> None:
        self.files.release(self.handle)
        self.overlay.close()
        shutil.rmtree(self.directory)


def test_random_power_cuts() -> None:
    run_state_machine_as_test(
        Powered, settings=settings(max_examples=attempts(25), stateful_step_count=20, deadline=None, database=None)
    )
