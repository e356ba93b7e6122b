"""The core of the overlay, unchanged, with an upper that is a plain directory of a server."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from netoverlay.backend_api import Backend, Capabilities
from netoverlay.backend_api.delegate import DelegatingBackend
from netoverlay.cache.metadata import MetadataCache
from netoverlay.testing.faults import CHANGES as CHANGING_CALLS
from netoverlay.testing.faults import Faults
from netoverlay.testing.faulty_backend import FaultyBackend
from netoverlay.wrappers.sidecar import SidecarBackend
from tests.crash.test_overlay_crash import SINGLE
from tests.overlay.test_changes import BASE, CHANGES, copy_of
from tests.overlay.trees import Mounted, Tree, write_tree
from tests.wrappers.sidecars import LIKE_SFTP, NEVER, die

MANY = 200


class Owned:
    """Who owns the upper is tested elsewhere; here a process that died would be waited for."""

    def lost(self) -> bool:
        return False

    def release(self) -> None:
        return


@pytest.fixture(autouse=True)
def _owned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netoverlay.overlay.overlay.acquire", lambda *_: Owned())


class Plain(DelegatingBackend):
    """A directory of this machine that tells no more of itself than an SFTP server."""

    def connect(self) -> Capabilities:
        self.inner.connect()
        return LIKE_SFTP


class Stacked:
    """An overlay whose upper has a sidecar."""

    def __init__(self, directory: Path, faults: Faults | None = None) -> None:
        self._uppers: list[SidecarBackend] = []
        self._faults = faults or Faults()
        self.overlay = Mounted(directory, wrap_upper=self._upper)

    def _upper(self, local: Backend) -> Backend:
        inner = MetadataCache(FaultyBackend(Plain(local), self._faults), ttl=None)
        self._uppers.append(SidecarBackend(inner, "upper.work", flush_seconds=NEVER))
        return self._uppers[0]

    def close(self) -> None:
        self.overlay.overlay.close()
        self._uppers[0].close()
        self.overlay.abandon()

    def abandon(self) -> None:
        die(self._uppers[0])
        self.overlay.abandon()


def result_of(change: str) -> Tree:
    tree = copy_of(BASE)
    CHANGES[change][1](tree)
    return tree


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_and_stays(tmp_path: Path, change: str) -> None:
    write_tree(tmp_path / "lower0", BASE)
    stacked = Stacked(tmp_path)
    CHANGES[change][0](stacked.overlay)
    assert stacked.overlay.tree() == result_of(change)
    stacked.close()
    again = Stacked(tmp_path)
    assert again.overlay.tree() == result_of(change)
    again.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", SINGLE)
def test_a_daemon_that_dies_leaves_the_old_or_the_new(tmp_path: Path, change: str, after: bool) -> None:
    for nth in range(1, MANY):
        directory = tmp_path / str(nth)
        write_tree(directory / "lower0", BASE)
        faults = Faults()
        stacked = Stacked(directory, faults)
        faults.crash(*CHANGING_CALLS, nth=nth, after=after)
        done = False
        with contextlib.suppress(OSError):
            CHANGES[change][0](stacked.overlay)
            done = True
        stacked.abandon()
        again = Stacked(directory)
        tree = again.overlay.tree()
        again.close()
        assert tree in (BASE, result_of(change)), f"call {nth}"
        if done:
            assert tree == result_of(change)
            break
    else:
        pytest.fail("the change never got through")
    assert nth > 1
