"""The proxy that other tests use: what it cuts is cut."""

from __future__ import annotations

import socket
import subprocess

import pytest

from tests.servers.proxy import Proxy

SECONDS = 20.0


def test_a_cut_is_told_although_a_process_that_is_being_started_has_the_sockets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, Proxy(listener.getsockname()[1]) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=SECONDS)
        server, _ = listener.accept()
        server.settimeout(SECONDS)
        with client, server:
            for source, target in ((client, server), (server, client)):
                source.sendall(b"1")
                assert target.recv(1) == b"1"
            with subprocess.Popen(["sleep", "100"], pass_fds=proxy.descriptors()) as other:
                try:
                    proxy.cut()
                    for end in (client, server):
                        with pytest.raises(ConnectionResetError):
                            end.recv(1)
                finally:
                    other.kill()
