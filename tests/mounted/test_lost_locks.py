"""A connection that is lost while programs hold locks: they are taken again, or whoever held them is told."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.mounted.lock_cells import Call
from tests.mounted.lockers import Program
from tests.mounted.mounting import OverlayMount, layer_table, smb_login
from tests.servers.proxy import Proxy
from tests.servers.smbd import SmbServer

DEADLINE = 3.0


@pytest.fixture
def proxy(smbd: SmbServer) -> Iterator[Proxy]:
    with Proxy(smbd.port) as running:
        yield running


@pytest.fixture
def mount(tmp_path: Path, smbd: SmbServer, proxy: Proxy) -> Iterator[OverlayMount]:
    """Its upper, which others may use, is on the server behind the proxy."""
    base, upper = tmp_path / "base", tmp_path / "served" / "upper"
    base.mkdir()
    for name in ("file", "other"):
        (base / name).write_bytes(b"0123456789")
    keys = [f'url = "{smbd.url_of(upper, port=proxy.port)}"', *smb_login(smbd), f"deadline = {DEADLINE}"]
    mounted = OverlayMount(tmp_path / "m", layer_table(str(base)), upper=upper, upper_keys=keys)
    mounted.mount()
    try:
        yield mounted
    finally:
        proxy.restore()
        mounted.unmount_quietly()


class _Bereft(Program):
    """One that loses what it writes, and may be told so when it closes the file."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def sync(descriptor: int) -> None:
    """A connection that was lost in the middle of writing may be told of, once."""
    with suppress(OSError):
        os.fsync(descriptor)
    os.fsync(descriptor)


def take_in_the_meantime(program: Program, call: Call) -> None:
    """As soon as the server has noticed that the connection is gone."""
    give_up_at = time.monotonic() + 20
    while (code := program.take(call)) != 0:
        assert code == errno.EAGAIN
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_locks_are_taken_again(mount: OverlayMount, proxy: Proxy) -> None:
    with (mount.path / "file").open("r+b", buffering=0) as file:
        file.write(b"x")
        os.fsync(file.fileno())
        with closing(Program(mount.path / "file")) as holder, closing(Program(mount.upper / "file")) as outsider:
            assert holder.take(Call.FCNTL_EXCLUSIVE) == 0
            proxy.cut()
            file.seek(0)
            file.write(b"y")
            sync(file.fileno())
            assert outsider.take(Call.FCNTL_SHARED) == errno.EAGAIN
            holder.give_up(Call.FCNTL_EXCLUSIVE)
            assert outsider.take(Call.FCNTL_EXCLUSIVE) == 0
    assert (mount.upper / "file").read_bytes() == b"y123456789"


def test_who_lost_his_lock_is_told(mount: OverlayMount, proxy: Proxy) -> None:
    for name in ("file", "other"):
        with (mount.path / name).open("r+b") as file:
            file.write(b"x")
            os.fsync(file.fileno())
    with (
        closing(Program(mount.path / "other")) as other,
        closing(_Bereft(mount.path / "file")) as holder,
        closing(Program(mount.upper / "file")) as outsider,
    ):
        assert holder.take(Call.FCNTL_EXCLUSIVE) == other.take(Call.FCNTL_EXCLUSIVE) == 0
        proxy.refuse()
        proxy.cut()
        take_in_the_meantime(outsider, Call.FCNTL_EXCLUSIVE)
        proxy.restore()

        assert holder.write(b"lost") == errno.EIO
        assert holder.take(Call.FCNTL_SHARED) == errno.ENOLCK
        assert 0 in [other.write(b"kept") for _ in range(2)]  # the cut may be told of, once
        found = re.search(rf"process {os.getpid()} lost its exclusive lock on bytes 0 to \d+ .*", mount.log.read_text())
        assert found, mount.log.read_text()

        outsider.give_up(Call.FCNTL_EXCLUSIVE)
        holder.give_up(Call.FCNTL_EXCLUSIVE)
        assert holder.take(Call.FCNTL_EXCLUSIVE) == 0
        # What was lost is told once by each call that tells of such: write(2), fsync(2), close(2).
        assert 0 in [holder.write(b"back") for _ in range(3)]
        assert outsider.take(Call.FCNTL_SHARED) == errno.EAGAIN
    assert (mount.upper / "file").read_bytes() == b"back456789"
    assert (mount.upper / "other").read_bytes() == b"kept456789"


def test_who_only_holds_a_lock_loses_it_to_nobody(mount: OverlayMount, proxy: Proxy) -> None:
    """The file that says that a program runs is locked, and never used."""
    (mount.path / "file").write_bytes(b"x")
    with closing(Program(mount.path / "file")) as holder, closing(Program(mount.upper / "file")) as outsider:
        assert holder.take(Call.FCNTL_EXCLUSIVE) == 0
        accepted = proxy.accepted
        proxy.cut()
        give_up_at = time.monotonic() + 20
        while proxy.accepted == accepted or outsider.found(fcntl.F_RDLCK) == fcntl.F_UNLCK:
            assert time.monotonic() < give_up_at
            time.sleep(0.05)
        assert outsider.take(Call.FCNTL_SHARED) == errno.EAGAIN
