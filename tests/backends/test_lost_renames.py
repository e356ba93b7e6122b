"""Files that are open while they are renamed, and the connection is lost before the server says that it was done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netoverlay.backend_api import Access, Backend, UnavailableError
from netoverlay.wrappers.retry import RetryingBackend
from tests.backends import sftp_layer, smb_layer
from tests.servers.proxy import Proxy


@pytest.fixture(params=["sftp", "smb"])
def proxied(request, tmp_path) -> Iterator[tuple[Proxy, Backend]]:
    server = request.getfixturevalue({"sftp": "sshd", "smb": "smbd"}[request.param])
    make = {"sftp": sftp_layer.sftp_backend, "smb": smb_layer.smb_backend}[request.param]
    with Proxy(server.port) as proxy, make(server, tmp_path, port=proxy.port, deadline=5.0) as backend:
        backend.connect()
        yield proxy, backend


@pytest.mark.parametrize("moved", ["dir/file", "dir"])
def test_what_is_open_keeps_its_file(proxied, tmp_path, moved):
    proxy, backend = proxied
    retrying = RetryingBackend(backend, 5.0)
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_bytes(b"content")
    with retrying.open("dir/file", Access.READ_WRITE) as file:
        file.write_at(0, b"C")
        proxy.cut_in_reply()
        retrying.rename(moved, "new")
        assert proxy.cuts == 1
        new = tmp_path / "new" if moved == "dir/file" else tmp_path / "new/file"
        (tmp_path / "dir").mkdir(exist_ok=True)
        (tmp_path / "dir/file").write_bytes(b"another")
        file.write_at(1, b"ONTENT")
        assert new.read_bytes() == b"CONTENT"
        retrying.rename("new", "newer")
        proxy.cut()
        assert file.read_at(0, 100) == b"CONTENT"


def test_what_nobody_has_looked_for_is_found_when_it_is_used(proxied, tmp_path):
    proxy, backend = proxied
    retrying = RetryingBackend(backend, 5.0)
    (tmp_path / "file").write_bytes(b"content")
    with retrying.open("file", Access.READ) as file:
        proxy.cut_in_reply()
        with pytest.raises(UnavailableError):
            backend.rename("file", "new")
        assert file.read_at(0, 100) == b"content"
