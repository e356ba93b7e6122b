"""The upper fails, or the daemon dies, at each call by which a lazily copied file changes: old or new, never zeros."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from netoverlay.backend_api import Access, AllocateMode, RenameFlags
from netoverlay.testing.faults import CHANGES, Faults
from netoverlay.testing.faulty_backend import FaultyBackend
from tests.checking.repairing import put_in_order
from tests.overlay.lazy import THRESHOLD, LazyMounted, is_lazy, maps
from tests.overlay.trees import write_tree

OLD = bytes(range(1, 251)) * (3 * THRESHOLD // 250)
SIZE = len(OLD)
CALLS = (*CHANGES, "file.sync", "sync_directory", "file.close")
MANY = 200


def with_handle(change: Callable[[LazyMounted, object], None]) -> Callable[[LazyMounted], None]:
    """The change through a descriptor, and an fsync(2)."""

    def run(overlay: LazyMounted) -> None:
        files = overlay.overlay.files
        handle = files.open(overlay.file_inode("big"), Access.READ_WRITE)
        try:
            change(overlay, handle)
            files.sync(handle, data_only=False)
        finally:
            files.release(handle)

    return run


def settle(overlay: LazyMounted) -> None:
    settler = overlay.overlay.settler
    assert settler is not None
    for _, reason in settler.run(lambda: False, id):
        raise OSError(reason)


def rename(overlay: LazyMounted) -> None:
    overlay.overlay.changes().renamer.rename(overlay.name("small"), overlay.name("big"), RenameFlags.NONE)


class Change(NamedTuple):
    """What is done to the file, and what it is then; `before` it was one that is lazy already."""

    make: Callable[[LazyMounted], object]
    new: bytes
    old: bytes = OLD
    before: Callable[[LazyMounted], object] | None = None
    is_torn: bool = False
    """It writes to what is in the upper and to what is not: each byte is the old or the new, as with any write(2)."""

    def may_show(self, content: bytes) -> bool:
        if self.is_torn and len(content) == len(self.old):
            return all(byte in both for byte, *both in zip(content, self.old, self.new, strict=True))
        return content in (self.old, self.new)


def write_once(overlay: LazyMounted) -> None:
    overlay.write("big", b"once", 5)


ONCE = OLD[:5] + b"once" + OLD[9:]
CASES = {
    "append": Change(lambda o: o.write("big", b"!", SIZE), OLD + b"!"),
    "write": Change(lambda o: o.write("big", b"new", 1500), OLD[:1500] + b"new" + OLD[1503:]),
    "fsync": Change(
        with_handle(lambda o, h: o.overlay.files.write(h, 1500, b"new", clear_set_ids=False)),
        OLD[:1500] + b"new" + OLD[1503:],
    ),
    "truncate": Change(lambda o: o.overlay.files.truncate(o.file_inode("big"), 2000), OLD[:2000]),
    "grow": Change(lambda o: o.overlay.files.truncate(o.file_inode("big"), SIZE + 9), OLD + bytes(9)),
    "write again": Change(lambda o: o.write("big", b"new", 1500), ONCE[:1500] + b"new" + ONCE[1503:], ONCE, write_once),
    "truncate again": Change(lambda o: o.overlay.files.truncate(o.file_inode("big"), 7), ONCE[:7], ONCE, write_once),
    "empty again": Change(lambda o: o.overlay.files.truncate(o.file_inode("big"), 0), b"", ONCE, write_once),
    "punch again": Change(
        with_handle(lambda o, h: o.overlay.files.allocate(h, AllocateMode.PUNCH_HOLE, 1000, 500)),
        ONCE[:1000] + bytes(500) + ONCE[1500:],
        ONCE,
        write_once,
    ),
    "all again": Change(lambda o: o.write("big", b"n" * SIZE), b"n" * SIZE, ONCE, write_once, is_torn=True),
    "settle": Change(settle, ONCE, ONCE, write_once),
    "replace": Change(rename, b"small", ONCE, write_once),
}


def attempt(
    directory: Path, change: Change, arm: Callable[[Faults], None], *, dies: bool, is_checked: bool = False
) -> tuple[bool, list[bytes]]:
    """Make the change with faults: if it succeeded, and what this mount, if it lives, and the next show.

    `is_checked`: what is left is checked and repaired before the next mount.
    """
    shutil.rmtree(directory, ignore_errors=True)
    write_tree(directory / "lower0", {"big": OLD, "small": b"small"})
    faults = Faults()
    overlay = LazyMounted(directory, wrap_upper=lambda backend: FaultyBackend(backend, faults))
    if change.before is not None:
        change.before(overlay)
    arm(faults)
    done = False
    with contextlib.suppress(OSError):
        change.make(overlay)
        done = True
    shown = []
    if dies:
        overlay.abandon()
    else:
        faults.clear()
        shown.append(overlay.read("big"))
        overlay.close()
    if is_checked:
        put_in_order(LazyMounted(directory, mounted=False))
    again = LazyMounted(directory)
    shown.append(again.read("big"))
    settle(again)
    shown.append(again.read("big"))
    again.close()
    assert not maps(directory)
    if (directory / "upper" / "big").exists():
        assert (directory / "upper" / "big").read_bytes() == shown[-1]
        assert not is_lazy(directory / "upper" / "big")
    return done, shown


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", CASES)
def test_a_daemon_that_dies_leaves_the_old_or_the_new(tmp_path: Path, name: str, after: bool) -> None:
    change = CASES[name]
    for nth in range(1, MANY):
        done, shown = attempt(tmp_path / "o", change, lambda f, n=nth: f.crash(*CALLS, nth=n, after=after), dies=True)
        for content in shown:
            assert change.may_show(content), f"call {nth}"
        if done:
            assert shown[-1] == change.new
            break
    else:
        pytest.fail("the change never got through")
    assert nth > 1


@pytest.mark.parametrize("name", CASES)
def test_what_a_daemon_that_dies_leaves_is_put_in_order_by_a_check(tmp_path: Path, name: str) -> None:
    change = CASES[name]
    for nth in range(1, MANY):
        done, shown = attempt(
            tmp_path / "o", change, lambda f, n=nth: f.crash(*CALLS, nth=n, after=True), dies=True, is_checked=True
        )
        for content in shown:
            assert change.may_show(content), f"call {nth}"
        if done:
            return
    pytest.fail("the change never got through")


@pytest.mark.parametrize("name", CASES)
def test_an_upper_that_fails_once_leaves_the_old_or_the_new(tmp_path: Path, name: str) -> None:
    change = CASES[name]
    for nth in range(1, MANY):
        done, shown = attempt(tmp_path / "o", change, lambda f, n=nth: f.fail(*CALLS, nth=n), dies=False)
        for content in shown:
            assert change.may_show(content), f"call {nth}"
        assert len(set(shown)) == 1, f"call {nth}: what was shown is not what stayed"
        if done:
            assert shown[-1] == change.new
            break
    else:
        pytest.fail("the change never got through")
    assert nth > 1
