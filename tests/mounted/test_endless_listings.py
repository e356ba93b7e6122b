"""A server with a listing that never ends, mounted: who lists is told, and everybody goes on."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, sftp_login
from tests.servers.repeating_sftp import COMMAND as SUBSYSTEM
from tests.servers.sshd import SshServer


def test_the_mount_goes_on(tmp_path: Path) -> None:
    with SshServer(tmp_path / "sshd", sftp=SUBSYSTEM) as server:
        mount = OverlayMount(tmp_path / "m", layer_table(server.url("/served"), sftp_login(server)))
        mount.mount()
        try:
            for _ in range(2):
                with pytest.raises(OSError, match=r".") as raised:
                    os.listdir(mount.path / "endless")
                assert raised.value.errno == errno.EIO
            assert os.listdir(mount.path) == ["endless", "good"]
            assert os.listdir(mount.path / "good") == ["file"]
            assert (mount.path / "endless" / "one").stat().st_size == 0
            faults = json.loads(run(*COMMAND, "status", "--json", mount.path))["mounts"][0]["status"]["faults"]
        finally:
            mount.unmount_quietly()
    (line,) = [line for line in mount.log.read_text().splitlines() if " WARNING " in line or " ERROR " in line]
    assert "'endless' cannot be listed: the server repeats 2 names" in line
    assert [fault["text"] in line for fault in faults] == [True]
