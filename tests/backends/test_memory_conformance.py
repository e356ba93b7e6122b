"""The backend in memory, with all capabilities, with few, and read-only."""

import dataclasses

import pytest

from netoverlay.backend_api import Capabilities
from netoverlay.testing.backend_suite import BackendReadOnlySuite, BackendSuite
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, READ_ONLY_CAPABILITIES, MemoryBackend
from netoverlay.testing.memory_tree import MemoryTree
from netoverlay.testing.suite.layer import Layer
from netoverlay.testing.suite.read_only import CONTENT, DIRECTORY, FILE


class TestMemoryBackend(BackendSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls):
        tree = MemoryTree()
        return lambda: MemoryBackend(ALL_CAPABILITIES, tree)


class TestMemoryBackendWithFewCapabilities(BackendSuite):
    big_directory = 200
    claims = Capabilities(writable=True)

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls):
        tree = MemoryTree(cls.claims.time_granularity_ns)
        return lambda: MemoryBackend(cls.claims, tree)


class TestReadOnlyMemoryBackend(BackendReadOnlySuite):
    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls):
        tree = MemoryTree()
        with MemoryBackend(ALL_CAPABILITIES, tree) as writable:
            home = Layer(writable, writable.connect(), "")
            writable.mkdir(DIRECTORY, 0o755)
            with home.create(FILE) as file:
                file.write_at(0, CONTENT)
        return lambda: MemoryBackend(READ_ONLY_CAPABILITIES, tree)


SWITCHES = [
    field.name
    for field in dataclasses.fields(Capabilities)
    if field.type == "bool" and field.name not in ("local", "writable", "case_sensitive", "atomic_replace")
]


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_capability_can_be_switched_off(switch):
    without = dataclasses.replace(ALL_CAPABILITIES, **{switch: False})
    with MemoryBackend(without) as backend:
        assert getattr(backend.connect(), switch) is False


def test_calls_before_connect_are_refused():
    with pytest.raises(OSError, match="connect"):
        MemoryBackend().stat("")


def test_no_test_of_the_suite_hides_another():
    names = [name for part in BackendSuite.__mro__ for name in vars(part) if name.startswith("test_")]
    assert sorted(names) == sorted(set(names)), "two parts of the suite have a test of the same name"
