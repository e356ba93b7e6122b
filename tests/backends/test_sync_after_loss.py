"""Nothing is acknowledged by sync that the server may have lost with a connection."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, Backend, BackendFile, UnavailableError
from netoverlay.wrappers.write_back import WriteBackBackend
from tests.backends import sftp_layer, smb_layer
from tests.servers.proxy import Proxy

Make = Callable[[Path, int], Backend]


@pytest.fixture(params=["sftp", "smb"])
def proxied(request, tmp_path) -> Iterator[tuple[Proxy, Backend]]:
    name = request.param
    server = request.getfixturevalue({"sftp": "sshd", "smb": "smbd"}[name])
    make = {"sftp": sftp_layer.sftp_backend, "smb": smb_layer.smb_backend}[name]
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(b"content")
    with Proxy(server.port) as proxy, make(server, root, port=proxy.port, deadline=5.0) as backend:
        yield proxy, backend


@pytest.fixture
def proxy(proxied) -> Proxy:
    return proxied[0]


@pytest.fixture
def backend(proxied) -> Backend:
    found = proxied[1]
    found.connect()
    return found


def notice(file: BackendFile) -> None:
    """Have the loss of the connection noticed, and the file opened again."""
    for _ in range(3):
        with suppress(UnavailableError):
            file.stat()


CHANGES: dict[str, Callable[[BackendFile], None]] = {
    "write": lambda file: file.write_at(0, b"new"),
    "truncate": lambda file: file.truncate(3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_not_synced_is_doubtful_once(proxy, backend, change):
    with backend.open("file", Access.READ_WRITE) as file:
        CHANGES[change](file)
        proxy.cut()
        notice(file)
        with pytest.raises(OSError, match="the connection was lost") as caught:
            file.sync()
        assert caught.value.errno == errno.EIO
        assert not isinstance(caught.value, UnavailableError)
        file.sync()
        file.write_at(0, b"x")
        file.sync()


def test_it_is_told_by_the_sync_that_opens_the_file_again(proxy, backend):
    with backend.open("file", Access.READ_WRITE) as file:
        file.write_at(0, b"new")
        proxy.cut()
        with suppress(UnavailableError):  # of another operation
            backend.stat("file")
        with pytest.raises(OSError, match="connection") as caught:
            file.sync()
        if isinstance(caught.value, UnavailableError):
            with pytest.raises(OSError, match="the connection was lost, and what was written"):
                file.sync()
        file.sync()


def test_what_was_synced_is_not_doubtful(proxy, backend):
    with backend.open("file", Access.READ_WRITE) as file:
        file.write_at(0, b"new")
        file.sync()
        proxy.cut()
        notice(file)
        file.sync()
        file.write_at(0, b"x")
        file.sync()


def test_a_write_that_failed_was_told_already(proxy, backend):
    with backend.open("file", Access.READ_WRITE) as file:
        proxy.cut()
        with suppress(UnavailableError):  # unless the loss was noticed before
            file.write_at(0, b"new")
            return
        notice(file)
        file.write_at(0, b"new")
        file.sync()


def test_what_was_only_read_is_not_doubtful(proxy, backend):
    with backend.open("file", Access.READ) as file:
        assert file.read_at(0, 3) == b"con"
        proxy.cut()
        notice(file)
        file.sync()


def test_write_back_tells_it_once(proxied):
    proxy, inner = proxied
    backend = WriteBackBackend(inner)
    backend.connect()
    with backend.open("file", Access.READ_WRITE) as file:
        file.write_at(0, b"new")
        file.flush()
        proxy.cut()
        file.write_at(0, b"newer")
        with suppress(UnavailableError):
            file.flush()
        for _ in range(3):
            with suppress(UnavailableError):
                file.flush()
                break
        with pytest.raises(OSError, match="the connection was lost"):
            file.sync()
        file.sync()
    backend.outbox.close()
