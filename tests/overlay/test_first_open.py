"""What the kernel is given when a file is first opened, and what has to wait for that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, AttributeChange
from netoverlay.overlay.first_open import GIVEN_UP_TO
from netoverlay.overlay.inodes import FileInode
from tests.overlay.trees import Mounted, write_tree

FILES: dict[str, bytes] = {
    "small": b"text",
    "empty": b"",
    "largest": bytes(GIVEN_UP_TO),
    "large": bytes(GIVEN_UP_TO + 1),
}
SECONDS = 0.2
"""For something to happen that must not."""


class Kernel:
    """Takes note of what it is given, as long as it is not stopped."""

    def __init__(self) -> None:
        self.given: list[bytes] = []
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def take(self, inode: FileInode, content: bytes) -> None:
        del inode
        self.began.set()
        assert self.may_end.wait(10)
        self.given.append(content)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    write_tree(tmp_path / "lower0", dict(FILES))
    one = Mounted(tmp_path)
    yield one
    one.close()


@pytest.fixture
def kernel(mounted: Mounted) -> Kernel:
    kernel = Kernel()
    mounted.overlay.files.first_open.give = kernel.take
    return kernel


def open_and_close(mounted: Mounted, name: str = "small", access: Access = Access.READ) -> None:
    files = mounted.overlay.files
    files.release(files.open(mounted.file_inode(name), access))


def change_mode(mounted: Mounted) -> None:
    mounted.overlay.changes().attributes.change(mounted.file_inode("small"), AttributeChange(mode=0o600))


def test_the_whole_of_a_small_file_is_given_once(mounted: Mounted, kernel: Kernel) -> None:
    for name in (*FILES, *FILES):
        open_and_close(mounted, name)
    assert kernel.given == [FILES["small"], FILES["largest"]]


@pytest.mark.parametrize("access", [Access.WRITE, Access.READ_WRITE])
def test_what_was_opened_for_writing_is_never_given(mounted: Mounted, kernel: Kernel, access: Access) -> None:
    open_and_close(mounted, access=access)
    open_and_close(mounted)
    assert kernel.given == []


def test_nothing_of_the_upper_is_given(mounted: Mounted, kernel: Kernel) -> None:
    mounted.overlay.files.truncate(mounted.file_inode("small"), 2)
    open_and_close(mounted)
    assert kernel.given == []


def test_nothing_of_a_layer_that_changes_is_given(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", dict(FILES))
    changing = Mounted(tmp_path, ttl_ns=0)
    kernel = Kernel()
    changing.overlay.files.first_open.give = kernel.take
    open_and_close(changing)
    changing.close()
    assert kernel.given == []


def test_a_file_that_cannot_be_read_is_not_opened(mounted: Mounted, kernel: Kernel, tmp_path: Path) -> None:
    inode = mounted.file_inode("small")
    (tmp_path / "lower0" / "small").unlink()
    with pytest.raises(FileNotFoundError):
        mounted.overlay.files.open(inode, Access.READ)
    assert not inode.handles
    (tmp_path / "lower0" / "small").write_bytes(b"text")
    mounted.overlay.files.release(mounted.overlay.files.open(inode, Access.READ))
    assert kernel.given == [b"text"]


@pytest.mark.parametrize(
    "change",
    [
        open_and_close,
        lambda mounted: open_and_close(mounted, access=Access.READ_WRITE),
        lambda mounted: mounted.overlay.files.truncate(mounted.file_inode("small"), 1),
        change_mode,
    ],
    ids=["open", "open to write", "truncate", "copy up"],
)
def test_what_would_use_or_change_the_file_waits(
    mounted: Mounted, kernel: Kernel, change: Callable[[Mounted], object]
) -> None:
    kernel.may_end.clear()
    first = threading.Thread(target=open_and_close, args=[mounted])
    first.start()
    assert kernel.began.wait(10)
    second = threading.Thread(target=change, args=[mounted])
    second.start()
    second.join(SECONDS)
    assert second.is_alive()
    kernel.may_end.set()
    for thread in (first, second):
        thread.join(10)
        assert not thread.is_alive()
    assert kernel.given == [b"text"]
