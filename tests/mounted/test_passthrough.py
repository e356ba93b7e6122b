"""Which files are passed through where the kernel refuses some."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

from netoverlay.backend_api import os_error
from netoverlay.overlay.handles import FileHandle
from netoverlay.passthrough import Passthrough

REFUSED = 7
"""The descriptor of a file on a stacked file system, which is mounted inside the upper."""


class Kernel:
    """What stands for the device."""

    def __init__(self) -> None:
        self.added: list[int] = []

    def add(self, descriptor: int) -> int:
        if descriptor == REFUSED:
            raise os_error(errno.ELOOP)
        self.added.append(descriptor)
        return descriptor

    def remove(self, number: int) -> None:
        self.added.remove(number)


def handle_of(nodeid: int, descriptor: int) -> FileHandle:
    inode: Any = SimpleNamespace(nodeid=nodeid, in_upper=True, file=SimpleNamespace(fileno=lambda: descriptor))
    return FileHandle(inode)


def test_a_file_that_is_refused_changes_nothing_for_the_others() -> None:
    kernel = Kernel()
    passthrough = Passthrough(kernel)  # type: ignore[arg-type]
    first = handle_of(1, 5)
    assert passthrough.opened(first) == 5
    refused = handle_of(2, REFUSED)
    assert passthrough.opened(refused) == 0
    second = handle_of(1, 5)
    assert passthrough.opened(second) == 5, "the kernel refuses an open of another kind while the first is there"
    for handle in (first, second, refused):
        passthrough.closed(handle)
    assert kernel.added == []
