"""What a backend does when its server dies or goes silent: for those that have one."""

from __future__ import annotations

import abc
import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Backend,
    BackendFile,
    StaleHandleError,
    UnavailableError,
    WantedFile,
)
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.layer import Layer, pattern, run_threads

CONTENT = pattern(1 << 20)
RECOVERY_SECONDS = 40.0
RECOVERY_PAUSE_SECONDS = 0.2
CALLS_BEFORE_FAILURE = 20


class FailingServer(abc.ABC):
    """A server, or the way to it, that a test breaks. Whatever was done, restore() makes it work again."""

    @abc.abstractmethod
    def kill(self) -> None:
        """Cut every connection and refuse new ones."""

    @abc.abstractmethod
    def silence(self) -> None:
        """Keep connections open, and let nothing pass; new ones are accepted or not, and get no answer."""

    @abc.abstractmethod
    def restore(self) -> None:
        """Serve again, the same files; connections that were cut stay cut."""


class BackendFailureSuite(SuiteBase):
    """Subclass with the fixtures `new_backend`, with a deadline of a second or two, and `server`."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls) -> FailingServer:
        """What new_backend() connects to."""
        raise NotImplementedError("override the fixture server in your subclass of BackendFailureSuite")

    @pytest.fixture
    def broken(
        self, server: FailingServer, layer: Layer, request: pytest.FixtureRequest
    ) -> Iterator[tuple[Layer, BackendFile]]:
        """A layer and a file of it that is open, on a server that fails in the way of the parameter."""
        layer.file("file", data=CONTENT)
        with layer.backend.open(layer.path("file"), Access.READ_WRITE) as file:
            assert file.read_at(0, 10) == CONTENT[:10]
            try:
                getattr(server, request.param)()
                yield layer, file
            finally:
                server.restore()
                _wait_until_recovered(layer)

    @pytest.mark.parametrize("broken", ["kill", "silence"], indirect=True)
    def test_every_call_says_unavailable(self, broken: tuple[Layer, BackendFile]) -> None:
        layer, file = broken
        backend, path = layer.backend, layer.path("file")
        calls: dict[str, Callable[[], object]] = {
            "stat": lambda: backend.stat(path),
            "stat of a missing name": lambda: backend.stat(layer.path("missing")),
            "list_dir": lambda: backend.list_dir(layer.home),
            "list_dirs": lambda: backend.list_dirs([layer.home] * 3),
            "list_names": lambda: backend.list_names([layer.home] * 3),
            "open": lambda: backend.open(path, Access.READ),
            "read_files": lambda: backend.read_files([WantedFile(path, 1000)] * 3, unchanging=True),
            "exclusive creation": lambda: layer.create(layer.path("new")),
            "mkdir": lambda: backend.mkdir(layer.path("directory"), 0o755),
            "unlink": lambda: backend.unlink(layer.path("missing")),
            "rename": lambda: backend.rename(path, layer.path("moved")),
            "set_attributes": lambda: backend.set_attributes(path, AttributeChange(mtime_ns=0)),
            "space_usage": backend.space_usage,
            "read_at": lambda: file.read_at(500_000, 100_000),
            "write_at": lambda: file.write_at(0, CONTENT),
            "stat of the open file": file.stat,
        }
        wrong: list[str] = []

        def work(number: int) -> None:
            name, call = list(calls.items())[number]
            if (told := _outcome(call)) is not None:
                wrong.append(f"{name}: {told}")

        run_threads(work, len(calls))
        assert not wrong, f"an unreachable server must be UnavailableError, never an absence or a short read: {wrong}"

    @pytest.mark.parametrize("way", ["kill", "silence"])
    def test_in_the_middle_of_requests(self, server: FailingServer, layer: Layer, way: str) -> None:
        path = layer.file("file", data=CONTENT)
        wrong: list[str] = []

        def work(number: int) -> None:
            calls = 0
            while True:
                if number == 0 and calls == CALLS_BEFORE_FAILURE:
                    getattr(server, way)()
                calls += 1
                try:
                    if layer.read(path) != CONTENT:
                        wrong.append("content that is not the file's")
                        return
                except UnavailableError:
                    return
                except OSError as error:
                    wrong.append(repr(error))
                    return

        try:
            run_threads(work)
        finally:
            server.restore()
            _wait_until_recovered(layer)
        assert not wrong, f"a call that was under way must raise UnavailableError when the server fails: {wrong}"

    @pytest.mark.parametrize("way", ["kill", "silence"])
    def test_recovers(self, server: FailingServer, layer: Layer, way: str) -> None:
        path = layer.file("file", data=CONTENT)
        with layer.backend.open(path, Access.READ) as file:
            assert file.read_at(0, 10) == CONTENT[:10]
            getattr(server, way)()
            try:
                assert _outcome(lambda: layer.backend.stat(path)) is None, "raise UnavailableError"
            finally:
                server.restore()
                _wait_until_recovered(layer)
            assert layer.read(path) == CONTENT, "a backend connects anew by itself once its server is back"
            with contextlib.suppress(StaleHandleError):
                assert file.read_at(1000, 1000) == CONTENT[1000:2000], "a file that was open must give its own data"
        layer.file("another", data=b"written after the failure")
        assert layer.read(layer.path("another")) == b"written after the failure"

    @pytest.mark.parametrize("way", ["kill", "silence"])
    def test_connecting(
        self, server: FailingServer, layer: Layer, new_backend: Callable[[], Backend], way: str
    ) -> None:
        getattr(server, way)()
        try:
            with new_backend() as backend, pytest.raises(UnavailableError):
                backend.connect()
        finally:
            server.restore()
            _wait_until_recovered(layer)

    def test_closing_while_silent(
        self, server: FailingServer, layer: Layer, new_backend: Callable[[], Backend]
    ) -> None:
        path = layer.file("file", data=CONTENT)
        backend = new_backend()
        backend.connect()
        file = backend.open(path, Access.READ)
        server.silence()
        try:
            run_threads(lambda _: backend.close(), 1)
            assert _outcome(lambda: file.read_at(0, 1), OSError) is None, "a closed backend's file must not read"
        finally:
            server.restore()
            _wait_until_recovered(layer)


def _outcome(call: Callable[[], object], expected: type[OSError] = UnavailableError) -> str | None:
    """None if the call raised `expected`, else what it did."""
    try:
        result = call()
    except expected:
        return None
    except OSError as error:
        return repr(error)
    return f"returned {result!r:.80}"


def _wait_until_recovered(layer: Layer) -> None:
    give_up = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            layer.backend.list_dir(layer.home)
        except UnavailableError:
            if time.monotonic() > give_up:
                raise
            time.sleep(RECOVERY_PAUSE_SECONDS)
        else:
            return
