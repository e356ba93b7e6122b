"""The server goes away: nothing looks absent, nothing hangs beyond the deadline, and it goes on once it is back."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, layer_table, through_proxy
from tests.servers.proxy import Proxy
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

DEADLINE = 2.0
FILES = 20


@pytest.fixture
def base(tmp_path: Path) -> Path:
    top = tmp_path / "base"
    for number in range(FILES):
        (top / f"d{number}").mkdir(parents=True)
        (top / f"d{number}" / "file").write_bytes(bytes([number]) * 100_000)
    return top


@pytest.fixture
def mount(tmp_path: Path, base: Path, server: SshServer | SmbServer, proxy: Proxy) -> Iterator[OverlayMount]:
    url, login = through_proxy(server, proxy.port, base, tmp_path / "known_hosts")
    mounted = OverlayMount(tmp_path / "m", layer_table(url, [*login, f"deadline = {DEADLINE}"]))
    mounted.mount()
    try:
        yield mounted
    finally:
        proxy.restore()
        mounted.unmount_quietly()


def code_of(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def test_a_cut_connection_is_made_again(mount: OverlayMount, proxy: Proxy) -> None:
    for number in range(FILES):
        if number % 4 == 0:
            proxy.cut()
        assert (mount.path / f"d{number}" / "file").read_bytes() == bytes([number]) * 100_000


def test_an_open_file_goes_on_after_a_cut(mount: OverlayMount, proxy: Proxy, base: Path) -> None:
    (base / "d0" / "big").write_bytes(os.urandom(8 << 20))
    expected = (base / "d0" / "big").read_bytes()
    with (mount.path / "d0" / "big").open("rb", buffering=0) as file:
        data = file.read(1000)
        proxy.cut()
        while piece := file.read(1 << 20):
            data += piece
    assert data == expected


@pytest.mark.parametrize("how", ["silence", "refuse"])
def test_a_server_that_is_away_is_an_error_and_no_absence(mount: OverlayMount, proxy: Proxy, how: str) -> None:
    assert sorted(os.listdir(mount.path / "d0")) == ["file"]
    (mount.path / "mine").write_text("in the upper\n")
    getattr(proxy, how)()
    assert code_of(lambda: os.listdir(mount.path / "d1")) == errno.EIO
    assert code_of((mount.path / "d2" / "file").read_bytes) == errno.EIO
    assert code_of(lambda: os.stat(mount.path / "d3" / "absent")) == errno.EIO
    assert (mount.path / "mine").read_text() == "in the upper\n"
    (mount.path / "mine").write_text("still\n")
    assert (mount.path / "d0" / "file").stat().st_size == 100_000
    proxy.restore()
    assert (mount.path / "d2" / "file").read_bytes() == bytes([2]) * 100_000
    assert sorted(os.listdir(mount.path / "d1")) == ["file"]


def test_it_unmounts_while_the_server_is_silent(mount: OverlayMount, proxy: Proxy) -> None:
    (mount.path / "mine").write_text("in the upper\n")
    proxy.silence()
    mount.unmount_quietly()
    assert not os.path.ismount(mount.path)
    assert (mount.upper / "mine").read_text() == "in the upper\n"
