"""The upper fails, or the daemon dies, at each of the calls that a change makes: the old state is there, or the new."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from netoverlay.testing.faults import CHANGES as CHANGING_CALLS
from netoverlay.testing.faults import Faults
from netoverlay.testing.faulty_backend import FaultyBackend
from tests.checking.repairing import put_in_order
from tests.overlay.test_changes import BASE, CHANGES, copy_of
from tests.overlay.trees import Mounted, Tree, write_tree

SINGLE = [
    name
    for name in CHANGES
    if "," not in name
    and name
    not in {
        "rename directory twice",
        "rename directory and back",
        "rename new over whiteout",
        "rename new over lower",
        "rename directory over an emptied one",
        "rename directory over a removed one",
        "rename pure directory over a lower name",
        "rename child out of a renamed directory",
        "link over a whiteout",
        "link",
        "create",
    }
]
"""The changes that are one call of a program."""

MANY = 200


@pytest.fixture(scope="module")
def expected() -> dict[str, Tree]:
    trees = {}
    for name in SINGLE:
        tree = copy_of(BASE)
        CHANGES[name][1](tree)
        trees[name] = tree
    return trees


def attempt(
    directory: Path, change: str, arm: Callable[[Faults], None], *, dies: bool, is_checked: bool = False
) -> tuple[bool, list[Tree]]:
    """Make the change with faults: if it succeeded, and the trees that this mount, if it lives, and the next show.

    `is_checked`: what is left is checked and repaired before the next mount.
    """
    shutil.rmtree(directory, ignore_errors=True)
    write_tree(directory / "lower0", BASE)
    faults = Faults()
    overlay = Mounted(directory, wrap_upper=lambda backend: FaultyBackend(backend, faults))
    arm(faults)
    done = False
    with contextlib.suppress(OSError):
        CHANGES[change][0](overlay)
        done = True
    trees = []
    if dies:
        overlay.abandon()
    else:
        faults.clear()
        trees.append(overlay.tree())
        overlay.close()
    if is_checked:
        put_in_order(Mounted(directory, mounted=False))
    again = Mounted(directory)
    trees.append(again.tree())
    again.close()
    return done, trees


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", SINGLE)
def test_a_daemon_that_dies_leaves_the_old_or_the_new(
    tmp_path: Path, change: str, after: bool, expected: dict[str, Tree]
) -> None:
    for nth in range(1, MANY):
        done, trees = attempt(
            tmp_path / "o", change, lambda f, n=nth: f.crash(*CHANGING_CALLS, nth=n, after=after), dies=True
        )
        for tree in trees:
            assert tree in (BASE, expected[change]), f"call {nth}"
        if done:
            assert trees[-1] == expected[change]
            break
    else:
        pytest.fail("the change never got through")
    assert nth > 1


@pytest.mark.parametrize("change", SINGLE)
def test_what_a_daemon_that_dies_leaves_is_put_in_order_by_a_check(
    tmp_path: Path, change: str, expected: dict[str, Tree]
) -> None:
    for nth in range(1, MANY):
        done, trees = attempt(
            tmp_path / "o",
            change,
            lambda f, n=nth: f.crash(*CHANGING_CALLS, nth=n, after=True),
            dies=True,
            is_checked=True,
        )
        assert trees[-1] in (BASE, expected[change]), f"call {nth}"
        if done:
            return
    pytest.fail("the change never got through")


@pytest.mark.parametrize("change", SINGLE)
def test_an_upper_that_fails_once_leaves_the_old_or_the_new(
    tmp_path: Path, change: str, expected: dict[str, Tree]
) -> None:
    for nth in range(1, MANY):
        done, trees = attempt(tmp_path / "o", change, lambda f, n=nth: f.fail(*CHANGING_CALLS, nth=n), dies=False)
        for tree in trees:
            assert tree in (BASE, expected[change]), f"call {nth}"
        assert trees[0] == trees[1], f"call {nth}: what was shown is not what stayed"
        if done:
            assert trees[-1] == expected[change]
            break
    else:
        pytest.fail("the change never got through")
    assert nth > 1
