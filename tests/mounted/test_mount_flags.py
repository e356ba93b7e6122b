"""Set-id bits and devices work where root mounts what the machine trusts anyway, and where the profile says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, layer_table, run, sftp_login
from tests.servers.sshd import SshServer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts with suid and dev")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.mkdir()
    return path


def flags(path: Path) -> tuple[bool, bool]:
    """Whether suid and dev hold."""
    found = os.statvfs(path).f_flag
    return not found & os.ST_NOSUID, not found & os.ST_NODEV


def test_local_layers(tmp_path: Path, base: Path) -> None:
    os.mknod(base / "null", 0o020666, os.makedev(1, 3))
    with OverlayMount(tmp_path, layer_table(str(base))) as mount:
        assert flags(mount.path) == (True, True)
        assert (mount.path / "null").read_bytes() == b""
        os.mknod(mount.path / "zero", 0o020666, os.makedev(1, 5))
        with (mount.path / "zero").open("rb") as device:
            assert device.read(3) == b"\0\0\0"


def test_a_layer_of_a_file_system_where_they_do_not_work(tmp_path: Path, base: Path) -> None:
    run("mount", "-t", "tmpfs", "-o", "nosuid,dev", "tmpfs", base)
    try:
        with OverlayMount(tmp_path, layer_table(str(base))) as mount:
            assert flags(mount.path) == (False, True)
    finally:
        run("umount", base)


def test_servers_are_not_trusted_unless_the_profile_says_so(tmp_path: Path, base: Path, sshd: SshServer) -> None:
    lower = layer_table(sshd.url(base), sftp_login(sshd))
    with OverlayMount(tmp_path / "one", lower) as mount:
        assert flags(mount.path) == (False, False)
    with OverlayMount(tmp_path / "two", lower, tables="[mount]\nsuid = true\ndev = true\n") as mount:
        assert flags(mount.path) == (True, True)


def test_the_profile_can_refuse_them(tmp_path: Path, base: Path) -> None:
    with OverlayMount(tmp_path, layer_table(str(base)), tables="[mount]\nsuid = false\n") as mount:
        assert flags(mount.path) == (False, True)
