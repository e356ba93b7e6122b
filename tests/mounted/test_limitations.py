"""What a layer lacks is said when it is mounted: in the log, and in a line to who mounts it at a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
from pathlib import Path

from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, sftp_login
from tests.servers.sshd import SshServer

MISSED = "hard links are files of their own, no extended attributes"


def test_it_is_said_at_a_terminal_and_logged(tmp_path: Path, sshd: SshServer) -> None:
    for name in ("base", "local"):
        (tmp_path / name).mkdir()
    lowers = layer_table(sshd.url(tmp_path / "base"), sftp_login(sshd)) + layer_table(f"{tmp_path}/local")
    overlay = OverlayMount(tmp_path / "m", lowers)
    layer = f"lower[0] {sshd.url(tmp_path / 'base')}"
    with overlay:
        pass
    assert f": {layer}: {MISSED}, holes are read as zeros, times in units of 1 s\n" in overlay.log.read_text()
    ours, theirs = pty.openpty()
    command = [*COMMAND, "mount", str(overlay.profile), str(overlay.path), "--log-file", str(overlay.log)]
    try:
        done = subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, check=False, timeout=100)
        assert done.returncode == 0
        shown = os.read(ours, 4096).decode() if select.select([ours], [], [], 0)[0] else ""
    finally:
        for descriptor in (ours, theirs):
            os.close(descriptor)
        overlay.unmount_quietly()
    assert re.split("\r?\n", shown) == [f"netoverlay: {layer}: {MISSED}", ""]
