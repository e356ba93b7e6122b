"""Which inodes the kernel is asked to forget, and when."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from netoverlay.overlay.inodes import Inode
from netoverlay.overlay.pruning import Pruner
from tests.overlay.trees import Mounted, write_tree

NAMES = [f"file{number}" for number in range(6)]


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Mounted]:
    write_tree(tmp_path / "lower0", {"dir": {name: name.encode() for name in NAMES}, "other": {}})
    mounted = Mounted(tmp_path)
    yield mounted
    mounted.close()


def looked_up(overlay: Mounted, *paths: str) -> list[int]:
    return [overlay.inode(path).nodeid for path in paths]


def forget(overlay: Mounted, inode: Inode) -> None:
    overlay.overlay.tree.inodes.forget(inode.nodeid, inode.lookups)


def test_the_oldest_go_first_and_directories_after_what_is_in_them(overlay: Mounted) -> None:
    pruner = overlay.overlay.pruner
    other, first, second, third = looked_up(overlay, "other", "dir/file0", "dir/file1", "dir/file2")
    directory = overlay.inode("dir")
    assert pruner.victims(2) == [other, first]
    assert pruner.victims(2) == [second, third], "it goes on where it ended"
    assert pruner.victims(10)[:4] == [other, first, second, third], "and round again"
    for name in NAMES[:3]:
        forget(overlay, overlay.inode(f"dir/{name}"))
    assert pruner.victims(2) == [other, directory.nodeid]


def test_what_was_opened_stays_for_another_round(overlay: Mounted) -> None:
    pruner = overlay.overlay.pruner
    first, second, third = looked_up(overlay, "dir/file0", "dir/file1", "dir/file2")
    overlay.read("dir/file0")
    assert pruner.victims(2) == [second, third]
    overlay.read("dir/file2")
    assert pruner.victims(2) == [first, second]
    assert pruner.victims(2) == [first, second]
    assert pruner.victims(1) == [third]


def test_where_there_are_not_enough_it_comes_to_an_end(overlay: Mounted) -> None:
    assert overlay.overlay.pruner.victims(100) == []
    (file,) = looked_up(overlay, "dir/file0")
    overlay.read("dir/file0")
    assert set(overlay.overlay.pruner.victims(100)) == {file}


def test_it_asks_when_there_are_too_many_until_there_are_not(overlay: Mounted) -> None:
    inodes = overlay.overlay.tree.inodes
    inodes.most = 3
    asked: list[int] = []
    done = threading.Event()

    def let_go(nodeids: Sequence[int]) -> None:
        asked.extend(nodeids)
        for nodeid in nodeids:
            inodes.forget(nodeid, inodes.get(nodeid).lookups)
        if len(inodes) <= inodes.most:
            done.set()

    expected = looked_up(overlay, *(f"dir/{name}" for name in NAMES))
    pruner = Pruner(inodes)
    pruner.start(let_go)
    assert done.wait(60)
    pruner.stop()
    assert len(inodes) <= inodes.most
    assert asked == expected[: len(asked)]
    assert overlay.tree()["dir"] == {name: name.encode() for name in NAMES}


def test_it_can_be_stopped_whether_or_not_it_was_started(overlay: Mounted) -> None:
    for starts in (False, True):
        pruner = Pruner(overlay.overlay.tree.inodes)
        if starts:
            pruner.start(lambda nodeids: None)
        pruner.stop()
        pruner.stop()
