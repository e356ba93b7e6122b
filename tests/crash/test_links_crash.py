"""A file with several names is copied up, and the daemon dies in the middle: they stay names of one file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from netoverlay.testing.faults import CHANGES as CHANGING_CALLS
from netoverlay.testing.faults import Faults
from netoverlay.testing.faulty_backend import FaultyBackend
from tests.checking.repairing import put_in_order
from tests.overlay.trees import Mounted, write_tree

MANY = 60
NAMES = ("dir/one", "two", "dir/three")


@pytest.mark.parametrize("is_checked", [False, True], ids=["mounted", "checked"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("known", [1, 2, 3])
def test_a_copy_up_that_dies_parts_no_names(tmp_path: Path, known: int, after: bool, is_checked: bool) -> None:
    for nth in range(1, MANY):
        top = tmp_path / str(nth)
        write_tree(top / "lower0", {"dir": {"one": b"content"}})
        for name in NAMES[1:]:
            os.link(top / "lower0" / NAMES[0], top / "lower0" / name)
        faults = Faults()
        overlay = Mounted(top, wrap_upper=lambda backend, faults=faults: FaultyBackend(backend, faults))
        for name in NAMES[:known]:
            overlay.inode(name)
        faults.crash(*CHANGING_CALLS, nth=nth, after=after)
        done = False
        with contextlib.suppress(OSError):
            overlay.write(NAMES[0], b"CON")
            done = True
        overlay.abandon()
        if is_checked:
            put_in_order(Mounted(top, mounted=False))
        again = Mounted(top)
        assert [again.read(name) for name in NAMES] in ([b"content"] * 3, [b"CONtent"] * 3), f"call {nth}"
        again.write(NAMES[0], b"new")
        assert [again.read(name) for name in NAMES] == [b"newtent"] * 3, f"call {nth}"
        assert {again.overlay.tree.stat(again.inode(name)).nlink for name in NAMES} == {3}, f"call {nth}"
        again.close()
        if done:
            return
    pytest.fail("the change never got through")
