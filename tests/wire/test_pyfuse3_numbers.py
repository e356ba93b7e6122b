"""One number for nodeid and inode number: st_ino where it can be, and never that of another file."""

from __future__ import annotations

from netoverlay.pyfuse3_numbers import ROOT, KernelNumbers


def test_the_number_is_the_inode_number() -> None:
    numbers = KernelNumbers()
    assert [numbers.told(7, 1000), numbers.told(8, 2000), numbers.told(7, 1000)] == [1000, 2000, 1000]
    assert (numbers.nodeid_of(1000), numbers.number_of(7)) == (7, 1000)
    assert (numbers.nodeid_of(7), numbers.number_of(1000)) == (None, 0)


def test_the_root_is_what_the_protocol_says() -> None:
    numbers = KernelNumbers()
    assert (numbers.nodeid_of(ROOT), numbers.number_of(ROOT)) == (ROOT, ROOT)
    assert numbers.forget(ROOT, 5) == ROOT
    assert numbers.nodeid_of(ROOT) == ROOT
    assert numbers.told(7, ROOT) != ROOT


def test_of_two_files_with_one_inode_number_each_is_found() -> None:
    numbers = KernelNumbers()
    first, second = numbers.told(7, 1000), numbers.told(8, 1000)
    assert first == 1000
    assert (numbers.nodeid_of(first), numbers.nodeid_of(second)) == (7, 8)
    assert numbers.told(8, 1000) == second
    assert numbers.told(9, 0) not in {0, first, second}


def test_a_number_is_free_when_every_lookup_was_taken_back() -> None:
    numbers = KernelNumbers()
    for _ in range(3):
        numbers.told(7, 1000)
    assert numbers.forget(1000, 2) == 7
    assert numbers.told(8, 1000) != 1000
    assert numbers.forget(1000, 1) == 7
    assert (numbers.nodeid_of(1000), numbers.number_of(7)) == (None, 0)
    assert numbers.told(9, 1000) == 1000
    assert numbers.forget(4711, 1) is None
