"""An upper on a server: what programs do on it gives what it gives on a local disk, over every kind of base."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, run, sftp_login, smb_login
from tests.mounted.test_parity import _LIST, CALLS, LIMITS, as_smb_has_links
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

NOT_KEPT = {"access_lists", "long_names"}
"""Of docs/upper.md: POSIX ACLs, and names of more than 251 bytes."""


@pytest.fixture(params=["sftp", "smb"])
def upper_keys(request: pytest.FixtureRequest, sshd: SshServer, smbd: SmbServer) -> Callable[[Path], list[str]]:
    """The keys of an `[upper]` that is a directory of this machine, reached through a server."""
    if request.param == "sftp":
        return lambda path: [f'url = "{sshd.url(path)}"', *sftp_login(sshd)]
    return lambda path: [f'url = "{smbd.url_of(path)}"', *smb_login(smbd)]


def test_every_call_gives_what_it_gives_on_a_native_directory(
    tmp_path: Path, lower: Callable[[Path], str], transport: str, upper_keys: Callable[[Path], list[str]]
) -> None:
    base, native = tmp_path / "base", tmp_path / "native"
    for top in (base, native):
        top.mkdir()
        run(sys.executable, CALLS, "plant", top, *LIMITS.get(transport, ()))
    if transport == "smb":
        as_smb_has_links(base)
    expected = json.loads(run(sys.executable, CALLS, "call", native, "--uncounted"))
    keys = upper_keys(tmp_path / "m" / "upper")
    with OverlayMount(tmp_path / "m", lower(base), upper_keys=keys, tables="[mount]\nallow_other = true\n") as mount:
        given = json.loads(run(sys.executable, CALLS, "call", mount.path, "--uncounted"))
        differing = {
            name: (given[name], expected[name])
            for name in expected
            if name not in NOT_KEPT and given[name] != expected[name]
        }
        assert not differing
        shown = {name: tree for name, (_, tree) in given.items()}
        mount.remount()
        again = json.loads(run(sys.executable, "-c", _LIST, mount.path))
        assert again == shown
