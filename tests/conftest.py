"""Fixtures that several parts of the tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

LONGEST_FIRST = (
    "mounted/test_root_filesystem.py",
    "mounted/test_work.py",
    "overlay/test_lease.py",
    "mounted/test_remote_uppers.py",
    "crash/test_kills.py",
    "chaos",
    "overlay/test_ownership.py",
    "mounted",
    "crash",
    "wrappers/test_sidecar_conformance.py",
    "wrappers/test_write_back_servers.py",
    "backends",
    "wrappers",
    "overlay",
)
"""Files and directories; the others come after them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A worker takes a class or a module at a time: a long one that came last would be waited for by all the others.

    Those that mostly wait come early, beside those that compute."""
    items.sort(key=lambda item: _turn(item.path.relative_to(Path(__file__).parent)))


def _turn(path: Path) -> int:
    """The sort is stable, so that what has the same turn stays in order."""
    turns = (turn for turn, first in enumerate(LONGEST_FIRST) if path.is_relative_to(first))
    return next(turns, len(LONGEST_FIRST))


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """An sshd for all tests of the run; a test that stops, cuts or configures a server starts one of its own."""
    with SshServer(tmp_path_factory.mktemp("server") / "sshd") as server:
        yield server


@pytest.fixture(scope="session")
def smbd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmbServer]:
    """An smbd for all tests of the run, with everything below their temporary directories: smbd.url_of(tmp_path)."""
    shares = {"tests": tmp_path_factory.getbasetemp()}
    with SmbServer(tmp_path_factory.mktemp("server") / "smbd", shares) as server:
        yield server
