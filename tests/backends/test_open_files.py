"""Which open files count as changed since they were opened, so that others than size and time must tell them apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from netoverlay.backend_api.open_files import HandleTable, OpenFile, Opening

PATH, OTHER = b"dir/file", b"dir/other"


class Table(HandleTable[OpenFile[int], int]):
    """Handles are numbers, and never lost."""

    def __init__(self) -> None:
        super().__init__(b"/")

    def _is_usable(self, handle: int) -> bool:
        return handle > 0

    def _close_handle(self, file: OpenFile[int], handle: int) -> None:
        """Nothing to give back."""

    def _reopen_at(self, file: OpenFile[int], path: bytes) -> int | None:
        raise AssertionError(f"{path!r} is not opened anew")

    def opened(self, path: bytes, *, changed: bool = False) -> OpenFile[int]:
        file = OpenFile[int](path=path)
        self._register(file, 1, changed=changed)
        return file

    def counts_as_changed(self, path: bytes) -> bool:
        return self._was_changed(path)


def change_by_handle_and_close(table: Table) -> None:
    file = table.opened(PATH)
    table.note_change(file)
    table.close(file)


def change_by_path(table: Table) -> None:
    with table.changing_path(PATH):
        pass


CHANGES: dict[str, tuple[Callable[[Table], None], bool]] = {
    "by-handle": (change_by_handle_and_close, True),
    "by-path": (change_by_path, True),
    "renamed-to": (lambda table: table.renamed(OTHER, PATH), True),
    "renamed-from": (lambda table: table.renamed(PATH, OTHER), True),
    "elsewhere": (lambda table: table.close(table.opened(OTHER, changed=True)), False),
}


@pytest.mark.parametrize(("change", "counts"), CHANGES.values(), ids=CHANGES)
def test_a_change_between_the_look_and_the_opening_counts(change: Callable[[Table], None], counts: bool) -> None:
    table = Table()
    with table.opening(PATH) as opening:
        assert not opening.changed
        change(table)
        file = table.opened(PATH, changed=opening.changed)
    assert table.counts_as_changed(PATH) is counts
    table.close(file)
    assert not table.counts_as_changed(PATH)


def test_a_change_that_is_on_its_way_counts() -> None:
    table = Table()
    opening: Opening
    with table.changing_path(PATH), table.opening(PATH) as opening:
        file = table.opened(PATH, changed=opening.changed)
    assert table.counts_as_changed(PATH)
    table.close(file)
    with table.opening(PATH) as opening:
        with table.changing_path(PATH):
            opening.changed = False
        assert opening.changed
    writer = table.opened(PATH)
    table.note_change(writer)
    with table.opening(PATH) as opening:
        table.close(writer)
        assert opening.changed
