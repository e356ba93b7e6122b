"""What is asked of a layer that holds locks as well, in what order; and what comes of it when the layer fails."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netoverlay.backend_api import (
    Access,
    Backend,
    BackendFile,
    LayerPath,
    LockKind,
    RenameFlags,
    UnavailableError,
)
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from netoverlay.overlay.lock_poller import LockPoller
from netoverlay.overlay.lock_table import END
from tests.overlay.lockers import Shared, eventually, outsider, refused
from tests.overlay.trees import write_tree

SHARED, EXCLUSIVE, UNLOCK = LockKind.SHARED, LockKind.EXCLUSIVE, LockKind.UNLOCK
CHANGING_NS = 10**9


class _Watched(DelegatingFile):
    """Tells of every lock."""

    def __init__(self, inner: BackendFile, tell: Callable[[str], None]) -> None:
        super().__init__(inner)
        self._tell = tell

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        self._tell(kind.value)
        super().lock(kind, start, length)


class _Watching(DelegatingBackend):
    def __init__(self, inner: Backend, name: str, events: list[str]) -> None:
        super().__init__(inner)
        self._name = name
        self._events = events

    def open(self, path: LayerPath, access: Access, **options: Any) -> BackendFile:
        opened = super().open(path, access, **options)
        return _Watched(opened, lambda what: self._events.append(f"{self._name}: {what}"))

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        self._events.append(f"{self._name}: published")
        super().rename(old, new, flags)


def test_at_copy_up_a_lock_is_held_above_before_it_is_given_up_below(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"file": b"content"})
    events: list[str] = []
    made = Shared(
        tmp_path,
        ttl_ns=CHANGING_NS,
        wrap_upper=lambda backend: _Watching(backend, "upper", events),
        wrap_lower=lambda backend: _Watching(backend, "lower", events),
    )
    program = made.start()
    program.try_lock(SHARED, 0, 5)
    made.overlay.write("file", b"x")
    assert events == ["lower: shared", "upper: shared", "upper: published", "lower: unlock"]
    with outsider(made.upper) as above, outsider(made.lower) as below:
        assert not above.can(EXCLUSIVE, 0, 5)
        assert below.can(EXCLUSIVE)
    made.close()


def test_a_copy_up_that_fails_leaves_the_lock_below(tmp_path: Path) -> None:
    write_tree(tmp_path / "lower0", {"file": b"content"})

    class Failing(_Watching):
        def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    made = Shared(tmp_path, ttl_ns=CHANGING_NS, wrap_upper=lambda backend: Failing(backend, "upper", []))
    program = made.start()
    program.try_lock(SHARED, 0, 5)
    refused(errno.EDQUOT, lambda: made.overlay.write("file", b"x"))
    with outsider(made.lower) as below:
        assert not below.can(EXCLUSIVE, 0, 5)
        program.unlock()
        assert below.can(EXCLUSIVE)
    made.close()


class _Interrupting(DelegatingFile):
    """Before it locks, the program that waits is interrupted."""

    interrupt: Callable[[], None] | None = None

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        if kind is not UNLOCK and _Interrupting.interrupt is not None:
            _Interrupting.interrupt()
        super().lock(kind, start, length)


@pytest.mark.parametrize("is_free", [True, False])
def test_an_interrupt_while_the_layer_is_asked_counts_only_if_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_free: bool
) -> None:
    write_tree(tmp_path / "lower0", {})
    write_tree(tmp_path / "upper", {"file": b"content"})

    class Backends(DelegatingBackend):
        def open(self, path: LayerPath, access: Access, **options: Any) -> BackendFile:
            return _Interrupting(super().open(path, access, **options))

    made = Shared(tmp_path, wrap_upper=Backends)
    holder, program = made.start(), made.start()
    with outsider(made.upper) as other:
        holder.try_lock(EXCLUSIVE)
        waiting = program.lock(EXCLUSIVE, 0, 5)
        holder.unlock(5, END)
        if not is_free:
            holder.unlock(3, 5)
            other.lock(SHARED, 3, 4)
        monkeypatch.setattr(_Interrupting, "interrupt", program.interrupt)
        holder.unlock()
        monkeypatch.undo()
        if is_free:
            waiting.granted()
        else:
            waiting.refused(errno.EINTR)
        assert other.can(EXCLUSIVE, 0, 3) != is_free
    made.close()


class _Losing(DelegatingFile):
    """Loses its connection: from then on there are no locks."""

    lost = False

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        if _Losing.lost:
            raise UnavailableError("the server is gone")
        super().lock(kind, start, length)


def test_a_lock_that_cannot_be_asked_for_is_refused_and_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "lower0", {})
    write_tree(tmp_path / "upper", {"file": b"content"})

    class Backends(DelegatingBackend):
        def open(self, path: LayerPath, access: Access, **options: Any) -> BackendFile:
            return _Losing(super().open(path, access, **options))

    made = Shared(tmp_path, wrap_upper=Backends)
    one, other = made.start(), made.start()
    one.try_lock(SHARED, 0, 5)
    monkeypatch.setattr(_Losing, "lost", True)
    with pytest.raises(UnavailableError):
        other.try_lock(EXCLUSIVE, 5, 9)
    monkeypatch.setattr(_Losing, "lost", False)
    one.try_lock(EXCLUSIVE, 5, 9)
    made.close()


def test_the_poller_asks_again_for_who_comes_while_it_asks() -> None:
    asked: list[int] = []
    go_on, asking = threading.Event(), threading.Event()

    def ask(inode: object) -> bool:
        asked.append(1)
        asking.set()
        go_on.wait(10)
        return False

    poller = LockPoller("poller", ask)
    inode = object()
    poller.add(inode)  # type: ignore[arg-type]
    assert asking.wait(10)
    poller.add(inode)  # type: ignore[arg-type]
    go_on.set()
    eventually(lambda: len(asked) == 2)
    poller.stop()


@pytest.mark.parametrize("failure", [ValueError("a defect"), OSError(errno.EIO, "")])
def test_a_lock_after_which_the_cache_cannot_be_dropped_is_not_held(tmp_path: Path, failure: Exception) -> None:
    write_tree(tmp_path / "lower0", {})
    write_tree(tmp_path / "upper", {"file": b"content"})
    made = Shared(tmp_path)

    def fail(inode: object) -> None:
        raise failure

    made.overlay.overlay.file_locks.drop_cached = fail
    program = made.start()
    program.lock(EXCLUSIVE).refused(errno.EIO)
    with outsider(made.upper) as other:
        assert other.can(EXCLUSIVE)
    made.close()
