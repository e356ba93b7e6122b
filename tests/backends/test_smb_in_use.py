"""Directories are renamed and removed while requests of our own have something open in them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, Backend, UnavailableError
from netoverlay_smb.in_use import PathsInUse
from tests.backends.smb_layer import connected
from tests.servers.smbd import SmbServer

PATIENCE = 20.0
ROUNDS = 40


@contextmanager
def going_on(*calls: Callable[[], object]) -> Iterator[None]:
    """Each again and again, in a thread of its own; that something is not there is all that they may be told."""
    ended = threading.Event()
    failures: list[OSError] = []

    def go_on(call: Callable[[], object]) -> None:
        while not ended.is_set():
            with suppress(FileNotFoundError):
                try:
                    call()
                except FileNotFoundError:
                    raise
                except OSError as error:
                    failures.append(error)

    threads = [threading.Thread(target=go_on, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []


def opened(backend: Backend, path: str) -> None:
    with backend.open(path, Access.READ) as file:
        file.read_at(0, 10)


def test_a_directory_is_renamed_while_it_is_used(smbd: SmbServer, tmp_path: Path) -> None:
    (tmp_path / "old" / "below").mkdir(parents=True)
    for number in range(20):
        (tmp_path / "old" / "below" / f"file{number}").write_bytes(b"content")
    with (
        connected(smbd, tmp_path) as backend,
        going_on(
            lambda: backend.list_dir("old/below"),
            lambda: backend.list_dirs(["new", "new/below"]),
            lambda: opened(backend, "old/below/file1"),
            lambda: opened(backend, "new/below/file2"),
        ),
    ):
        for _ in range(ROUNDS):
            backend.rename("old", "new")
            backend.rename("new", "old")


def test_a_directory_is_removed_while_it_is_listed(smbd: SmbServer, tmp_path: Path) -> None:
    with connected(smbd, tmp_path) as backend, going_on(lambda: backend.list_dir("made")):
        for _ in range(ROUNDS):
            backend.mkdir("made", 0o700)
            backend.rmdir("made")


def test_whoever_comes_first_goes_first() -> None:
    """Users do not keep a rename waiting for ever, nor renames a user."""
    in_use = PathsInUse(PATIENCE)
    order: list[str] = []
    waiting = threading.Semaphore(0)

    def rename(name: str) -> None:
        waiting.release()
        with in_use.vacated("directory", "elsewhere"):
            order.append(name)

    def use(name: str) -> None:
        waiting.release()
        with in_use.using("directory/below"):
            order.append(name)

    threads = []
    with in_use.using("directory"), in_use.using("directory-not"):
        for place, (call, name) in enumerate([(rename, "first"), (use, "second"), (rename, "third"), (use, "fourth")]):
            threads.append(threading.Thread(target=call, args=(name,)))
            threads[-1].start()
            waiting.acquire()
            while len(in_use._entries) < place + 3:
                threads[-1].join(0.001)
        with in_use.using("another"):
            assert order == []
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "third", "fourth"]


def test_too_long_a_wait_is_told() -> None:
    in_use = PathsInUse(0.01)
    with in_use.using("directory/below"), pytest.raises(UnavailableError), in_use.vacated("directory"):
        pass
    with in_use.vacated("directory"):
        pass
