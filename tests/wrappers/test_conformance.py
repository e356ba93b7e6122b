"""Every wrapper, around the backend in memory, and all of them as a remote layer has them, pass the suite.

Of the backend in memory, with what it can do at most and with what a poor transport tells: no link counts, no ids.
"""

from __future__ import annotations

import dataclasses

import pytest

from netoverlay.cache.content import ContentCache
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.metadata import MetadataCache
from netoverlay.testing.backend_suite import BackendReadOnlySuite, BackendSuite
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, READ_ONLY_CAPABILITIES, MemoryBackend
from netoverlay.testing.memory_tree import MemoryTree
from netoverlay.testing.suite.layer import Layer
from netoverlay.testing.suite.read_only import CONTENT, DIRECTORY, FILE
from netoverlay.wrappers.id_map import IdMap, IdRange, OwnerMap, Squash
from netoverlay.wrappers.limits import LimitedBackend
from netoverlay.wrappers.metrics import MeteredBackend
from netoverlay.wrappers.owners import OwnersBackend
from netoverlay.wrappers.retry import RetryingBackend
from netoverlay.wrappers.write_back import WriteBackBackend

POOR = dataclasses.replace(ALL_CAPABILITIES, link_counts=False, file_ids=False, xattrs=False, privileged_xattrs=False)


def whole_stack(memory, store):
    meter = MeteredBackend(RetryingBackend(LimitedBackend(memory, 30.0), 30.0))
    return ContentCache(MetadataCache(meter, ttl=None), store, immutable=False)


class WrapperSuite(BackendSuite):
    big_directory = 2000
    capabilities = ALL_CAPABILITIES

    @staticmethod
    def wrap(memory):
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls):
        tree = MemoryTree(cls.capabilities.time_granularity_ns)
        return lambda: cls.wrap(MemoryBackend(cls.capabilities, tree))


class TestLimits(WrapperSuite):
    @staticmethod
    def wrap(memory):
        return LimitedBackend(memory, 30.0, max_calls=4)


class TestMetrics(WrapperSuite):
    @staticmethod
    def wrap(memory):
        return MeteredBackend(memory)


class TestRetry(WrapperSuite):
    @staticmethod
    def wrap(memory):
        return RetryingBackend(memory, 30.0)


class TestMappedOwners(WrapperSuite):
    @staticmethod
    def wrap(memory):
        ids = IdMap(ranges=(IdRange(0, 100_000, 65_536),))
        return OwnersBackend(memory, OwnerMap(ids, ids))


class TestSquashedOwners(WrapperSuite):
    @staticmethod
    def wrap(memory):
        return OwnersBackend(memory, OwnerMap(IdMap(1000, Squash.ALL), IdMap(100, Squash.ALL)))


class TestOwnersOfATransportThatTellsNone(WrapperSuite):
    capabilities = dataclasses.replace(ALL_CAPABILITIES, owners=False)

    @staticmethod
    def wrap(memory):
        return OwnersBackend(memory, OwnerMap(IdMap(1000), IdMap(100)))


class TestMetadataCache(WrapperSuite):
    @staticmethod
    def wrap(memory):
        return MetadataCache(memory, ttl=None)


class TestMetadataCacheOfAPoorTransport(WrapperSuite):
    capabilities = POOR

    @staticmethod
    def wrap(memory):
        return MetadataCache(memory, ttl=None)


class TestMetadataCacheOfNamesFirst(WrapperSuite):
    capabilities = dataclasses.replace(ALL_CAPABILITIES, names_first=True)

    @staticmethod
    def wrap(memory):
        return MetadataCache(memory, ttl=None)


class TestSmallMetadataCacheThatForgets(WrapperSuite):
    @staticmethod
    def wrap(memory):
        return MetadataCache(memory, ttl=0.001, max_entries=50)


class TestWriteBack(WrapperSuite):
    @staticmethod
    def wrap(memory):
        return WriteBackBackend(memory)


class TestWriteBackOfAPoorTransport(WrapperSuite):
    capabilities = POOR

    @staticmethod
    def wrap(memory):
        return WriteBackBackend(memory)


class TestWriteBackWithoutRoom(WrapperSuite):
    """Whoever writes waits for the senders all the time."""

    @staticmethod
    def wrap(memory):
        return WriteBackBackend(memory, limit_bytes=100_000, idle_seconds=0.01)


class TestWriteBackOfACachedUpper(WrapperSuite):
    @staticmethod
    def wrap(memory):
        meter = MeteredBackend(RetryingBackend(LimitedBackend(memory, 30.0), 30.0))
        return WriteBackBackend(MetadataCache(meter, ttl=None))


class TestAllTogether(WrapperSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls, tmp_path_factory):
        tree = MemoryTree(ALL_CAPABILITIES.time_granularity_ns)
        store = DiskStore(str(tmp_path_factory.mktemp("store")))
        return lambda: whole_stack(MemoryBackend(ALL_CAPABILITIES, tree), store)


class TestAllTogetherReadOnly(BackendReadOnlySuite):
    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls, tmp_path_factory):
        tree = MemoryTree()
        with MemoryBackend(ALL_CAPABILITIES, tree) as writable:
            home = Layer(writable, writable.connect(), "")
            writable.mkdir(DIRECTORY, 0o755)
            with home.create(FILE) as file:
                file.write_at(0, CONTENT)
        store = DiskStore(str(tmp_path_factory.mktemp("store")))
        metadata = lambda: MetadataCache(MemoryBackend(READ_ONLY_CAPABILITIES, tree), ttl=None)  # noqa: E731 - one use
        return lambda: ContentCache(metadata(), store, immutable=True)
