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

NOT_KEPT = {
    "sftp": ["access_lists", "long_names", "paths_of_any_length", "holes"],
    "smb": ["access_lists", "long_names", "paths_of_any_length", "symlinks"],
}
"""As docs/upper.md says: no POSIX ACLs, names of at most 251 bytes, paths as long as the server takes; SFTP tells no
holes, and a symbolic link on SMB has a target of at most 1024 bytes."""


@pytest.fixture(params=["sftp", "smb"])
def kind(request: pytest.FixtureRequest) -> str:
    """Of the server that has the upper."""
    return str(request.param)


@pytest.fixture
def upper_keys(kind: str, sshd: SshServer, smbd: SmbServer) -> Callable[[Path], list[str]]:
    """The keys of an `[upper]` that is a directory of this machine, reached through a server."""
    if kind == "sftp":
        return lambda path: [f'url = "{sshd.url(path)}"', *sftp_login(sshd)]
    return lambda path: [f'url = "{smbd.url_of(path)}"', *smb_login(smbd)]


def test_every_call_gives_what_it_gives_on_a_native_directory(
    tmp_path: Path, lower: Callable[[Path], str], transport: str, kind: str, upper_keys: Callable[[Path], list[str]]
) -> None:
    base, native = tmp_path / "base", tmp_path / "native"
    for top in (base, native):
        top.mkdir()
        run(sys.executable, CALLS, "plant", top, *LIMITS.get(transport, ()))
    if transport == "smb":
        as_smb_has_links(base)
    without = [f"--without={name}" for name in NOT_KEPT[kind]]
    expected = json.loads(run(sys.executable, CALLS, "call", native, "--uncounted", *without))
    # Apart from the mountpoint: the server looks at all that is beside the upper.
    upper = tmp_path / "served" / "upper"
    with OverlayMount(
        tmp_path / "m", lower(base), upper=upper, upper_keys=upper_keys(upper), tables="[mount]\nallow_other = true\n"
    ) as mount:
        given = json.loads(run(sys.executable, CALLS, "call", mount.path, "--uncounted", *without))
        differing = {name: (given[name], expected[name]) for name in expected if given[name] != expected[name]}
        assert not differing
        shown = {name: tree for name, (_, tree) in given.items()}
        mount.remount()
        again = json.loads(run(sys.executable, "-c", _LIST, mount.path))
        assert {name: again[name] for name in shown} == shown
