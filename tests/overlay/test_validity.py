"""How long the kernel is told to believe names and attributes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from netoverlay.overlay import validity
from netoverlay.overlay.inodes import DirectoryInode
from netoverlay.overlay.layers import FOR_EVER_NS, LayerStack
from netoverlay.overlay.validity import ToldNames, Validity
from tests.overlay.trees import Mounted

SECOND = 1_000_000_000


@contextmanager
def mount(tmp_path: Path, *, upper_ns: int, lower_ns: int) -> Iterator[tuple[Mounted, Validity]]:
    """A mount, and what would be told of it if its layers had these times to live."""
    base = tmp_path / "lower0"
    (base / "below").mkdir(parents=True)
    (base / "file").touch()
    (base / "below/file").touch()
    mounted = Mounted(tmp_path, ttl_ns=lower_ns)
    stack = mounted.overlay.tree.stack
    with closing(mounted):
        yield mounted, Validity(LayerStack(dataclasses.replace(stack.writable_upper(), ttl_ns=upper_ns), stack.lowers))


@pytest.mark.parametrize(
    ("upper_ns", "lower_ns", "root_name", "below_name", "attributes", "absent"),
    [
        (FOR_EVER_NS, FOR_EVER_NS, FOR_EVER_NS, FOR_EVER_NS, FOR_EVER_NS, FOR_EVER_NS),
        (FOR_EVER_NS, SECOND, SECOND, SECOND, SECOND, SECOND),
        # The root is in the upper, where others may make a name that hides a lower's; `below` is not.
        (SECOND, FOR_EVER_NS, SECOND, FOR_EVER_NS, FOR_EVER_NS, SECOND),
        (SECOND, 2 * SECOND, SECOND, 2 * SECOND, 2 * SECOND, SECOND),
        (0, FOR_EVER_NS, 0, FOR_EVER_NS, FOR_EVER_NS, 0),
    ],
)
def test_as_long_as_nobody_can_have_changed_it(
    tmp_path: Path, upper_ns: int, lower_ns: int, root_name: int, below_name: int, attributes: int, absent: int
) -> None:
    with mount(tmp_path, upper_ns=upper_ns, lower_ns=lower_ns) as (mounted, told):
        root, below = mounted.directory_inode(""), mounted.directory_inode("below")
        assert told.of_entry(root, "file", mounted.inode("file")) == (root_name, attributes)
        assert told.of_entry(below, "file", mounted.inode("below/file")) == (below_name, attributes)
        assert told.of_attributes(mounted.inode("file")) == attributes
        assert told.of_absence(root, "none") == absent
        assert told.is_kept(mounted.inode("file")) == (attributes == FOR_EVER_NS)
        assert told.is_kept(root) == (absent == FOR_EVER_NS)


def test_after_a_lock_no_name_beside_the_file_is_believed(tmp_path: Path) -> None:
    with mount(tmp_path, upper_ns=SECOND, lower_ns=FOR_EVER_NS) as (mounted, told):
        root, file = mounted.directory_inode(""), mounted.inode("file")
        expired: list[tuple[DirectoryInode, str]] = []
        told.expire_name = lambda directory, name: expired.append((directory, name))
        told.of_entry(root, "file", file)
        told.of_absence(root, "file-journal")
        told.drop_names(file)
        assert sorted(name for directory, name in expired if directory is root) == ["file", "file-journal"]
        assert told.of_entry(root, "file", file)[0] == told.of_absence(root, "file-journal") == 0
        told.drop_names(file)
        assert len(expired) == 2
        assert told.of_absence(mounted.directory_inode("below"), "none") == FOR_EVER_NS


def test_some_time_after_the_last_lock_names_are_believed_again_until_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0
    monkeypatch.setattr(validity.time, "monotonic_ns", lambda: now)
    with mount(tmp_path, upper_ns=SECOND, lower_ns=FOR_EVER_NS) as (mounted, told):
        root, file = mounted.directory_inode(""), mounted.inode("file")
        expired: list[str] = []
        told.expire_name = lambda _, name: expired.append(name)
        told.drop_names(file)
        now = validity.ASKED_NS - 1
        assert told.of_absence(root, "none") == 0
        now = validity.ASKED_NS
        assert told.of_absence(root, "none") == SECOND
        assert not expired
        told.drop_names(file)
        assert expired == ["none"]
        assert told.of_absence(root, "none") == 0


def test_names_are_kept_in_mind_as_long_as_they_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    monkeypatch.setattr(validity.time, "monotonic_ns", lambda: now)
    told = ToldNames(SECOND)
    for second in range(5):
        now = second * SECOND
        told.add(f"at {second}")
        assert {f"at {second}", f"at {max(0, second - 1)}"} <= told.names()
    now += SECOND + 1
    told.add("last")
    now += SECOND + 1
    told.add("very last")
    assert told.names() == {"last", "very last"}
