"""What is judged to grow, and what only comes and goes."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.chaos.growth import WARM_UP_OPERATIONS, Growth, Sample, growths

SAMPLES = 100
EVERY = WARM_UP_OPERATIONS // 10
MIB = 1024


def judged(
    *,
    resident: Callable[[int], int] = lambda _: 100 * MIB,
    descriptors: Callable[[int], int] = lambda _: 50,
    threads: Callable[[int], int] = lambda _: 8,
) -> dict[str, Growth]:
    samples = [
        Sample(number * EVERY, resident(number), descriptors(number), threads(number)) for number in range(SAMPLES)
    ]
    return {growth.name: growth for growth in growths(samples)}


def test_what_stays_is_flat() -> None:
    assert all(growth.is_flat for growth in judged().values())


def test_what_comes_and_goes_is_flat() -> None:
    found = judged(resident=lambda number: 100 * MIB + number % 7 * 100, descriptors=lambda number: 50 + number % 8)
    assert all(growth.is_flat for growth in found.values())


def test_what_fills_before_the_middle_is_flat() -> None:
    assert judged(resident=lambda number: min(number, SAMPLES // 2) * MIB)["KiB of memory"].is_flat


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("KiB of memory", judged(resident=lambda number: 100 * MIB + number * MIB // 10)),
        ("descriptors", judged(descriptors=lambda number: 50 + number // 5)),
        ("threads", judged(threads=lambda number: 8 + number // 8)),
    ],
)
def test_what_grows_slowly_is_told(name: str, found: dict[str, Growth]) -> None:
    assert [growth.name for growth in found.values() if not growth.is_flat] == [name]


def test_what_jumps_late_is_told() -> None:
    found = judged(descriptors=lambda number: 90 if number == SAMPLES - 1 else 50)
    assert not found["descriptors"].is_flat


def test_of_the_warm_up_nothing_is_said() -> None:
    assert growths([Sample(number, number * MIB, number, number) for number in range(SAMPLES)]) == []


def test_a_sample_is_what_a_process_holds() -> None:
    with open("/dev/null", "rb") as file:
        more = Sample.of(os.getpid(), 1)
        assert file.fileno() >= 0
    less = Sample.of(os.getpid(), 2)
    assert more.descriptors == less.descriptors + 1
    assert less.resident > MIB
    assert less.threads >= 1
