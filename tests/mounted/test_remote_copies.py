"""Copy-up between layers of one place: the server, or the kernel, copies, and no byte of content passes here."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, sftp_login, smb_login
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

MIB = 1 << 20
SIZE = 20 * MIB + 12_345
DATA = random.Random(SIZE).randbytes(SIZE)
ADDED = b"a line more\n"


@pytest.fixture(params=["local", "sftp", "smb"])
def keys(request: pytest.FixtureRequest, sshd: SshServer, smbd: SmbServer):
    """Of a layer: its url and login, by its directory."""
    if request.param == "local":
        return lambda path: (str(path), [])
    if request.param == "sftp":
        return lambda path: (sshd.url(path), sftp_login(sshd))
    return lambda path: (smbd.url_of(path), smb_login(smbd))


def counters(mount: OverlayMount) -> dict[str, dict[str, int]]:
    """What was asked of each layer so far, by its role."""
    told = json.loads(run(*COMMAND, "status", "--json", mount.path))
    return {layer["role"]: layer["counters"] for layer in told["mounts"][0]["status"]["layers"]}


@pytest.mark.parametrize(("immutable", "was_read"), [(True, False), (False, True)], ids=["immutable", "changing"])
def test_no_content_passes_here(tmp_path: Path, keys, immutable: bool, was_read: bool) -> None:
    base, upper = tmp_path / "base", tmp_path / "served" / "upper"
    base.mkdir()
    (base / "file").write_bytes(DATA)
    os.utime(base / "file", (10**9, 10**9))
    url, login = keys(upper)
    table = layer_table(*keys(base), immutable=immutable)
    with OverlayMount(tmp_path / "m", table, upper=upper, upper_keys=[f'url = "{url}"', *login]) as mount:
        file = mount.path / "file"
        if was_read:
            with file.open("rb") as opened:
                assert opened.read(100) == DATA[:100]
        before = counters(mount)
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, ADDED)
        os.fsync(descriptor)
        os.close(descriptor)
        with file.open("rb") as source, (mount.path / "new").open("wb") as target:
            assert os.copy_file_range(source.fileno(), target.fileno(), MIB) == MIB
        after = counters(mount)
        assert after["lower"]["bytes_read"] == before["lower"]["bytes_read"]
        assert after["upper"]["bytes_read"] - before["upper"]["bytes_read"] < 5000, "the beginning of the journal"
        assert after["upper"]["bytes_written"] - before["upper"]["bytes_written"] < 5000, "the line, and the journal"
        assert after["upper"]["bytes_copied"] == SIZE + MIB
        assert file.read_bytes() == DATA + ADDED
    assert (base / "file").read_bytes() == DATA
    assert (upper / "file").read_bytes() == DATA + ADDED
    assert (upper / "new").read_bytes() == DATA[:MIB]
