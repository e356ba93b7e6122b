"""The fixtures of the suite, and what a subclass tells about its backend."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from netoverlay.backend_api import Backend, Capabilities
from netoverlay.testing.suite.layer import Layer, remove_tree

_home_numbers = itertools.count(1)


class SuiteBase:
    """A subclass overrides the fixture `new_backend`, and the class attributes where its backend differs."""

    open_files: ClassVar[int] = 300
    """How many files are held open at once: choose three times what the server allows."""
    big_directory: ClassVar[int] = 10_000
    """How many entries the largest directory gets."""
    sparse_offset: ClassVar[int] = 5 << 30
    """Where a few bytes are written to make a file of more than 4 GiB."""
    resolves_beneath: ClassVar[bool] = True
    """False for a transport that cannot keep its server from following symlinks in the middle of a path."""

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls) -> Callable[[], Backend]:
        """Makes a backend that is not connected yet, each time of the same root, which is writable and empty."""
        raise NotImplementedError("override the fixture new_backend in your subclass of BackendSuite")

    @pytest.fixture(scope="class")
    @classmethod
    def connected(cls, new_backend: Callable[[], Backend]) -> Iterator[tuple[Backend, Capabilities]]:
        """One connection for the tests of a class."""
        with new_backend() as backend:
            claims = backend.connect()
            assert isinstance(claims, Capabilities), "connect() must return its Capabilities"
            assert claims.writable, "this suite needs a writable root; use BackendReadOnlySuite for others"
            yield backend, claims

    @pytest.fixture
    def layer(self, connected: tuple[Backend, Capabilities]) -> Iterator[Layer]:
        """The backend with an empty directory to work in."""
        backend, claims = connected
        layer = Layer(backend, claims, f"conformance-{next(_home_numbers)}")
        backend.mkdir(layer.home, 0o755)
        yield layer
        remove_tree(backend, layer.home)
