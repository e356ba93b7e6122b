"""Every input that once broke something, and those that the searches begin with, are fed once more: without atheris."""

from __future__ import annotations

import gc
import os
import resource

import pytest

from tests.fuzz.corpus import found_inputs, kept_inputs
from tests.fuzz.target import Mutator
from tests.fuzz.targets import INSTRUMENTED, load_target

MOST_KIB = 64 << 10
"""Of memory."""
TARGETS = sorted(INSTRUMENTED)
FOUND = [pytest.param(target, data, id=f"{target}-{name}") for target in TARGETS for name, data in found_inputs(target)]


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_once_broke_it(name: str, data: bytes) -> None:
    load_target(name).run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_the_search_begins_with(name: str) -> None:
    """Nothing is wrong, and nothing grows."""
    target = load_target(name)
    target.run(target.seeds()[0])
    gc.collect()  # what other tests have left open is not closed meanwhile
    descriptors = len(os.listdir("/proc/self/fd"))
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in [*target.seeds(), *kept_inputs(name)]:
        target.run(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - largest < MOST_KIB
    assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_fit(name: str) -> None:
    """What the mutator makes can be split again, and is as long as is allowed."""
    target = load_target(name)
    mutator = Mutator(target, lambda data, room: (data[::-1] + data)[:room])
    data = target.seeds()[0]
    for seed in range(50):
        data = mutator.mutate(data, target.max_bytes, seed)
        assert target.head_bytes <= len(data) <= target.max_bytes
        target.run(data)
