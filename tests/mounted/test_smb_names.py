"""Names of an SMB server that does not tell upper from lower case, as they are on a mount: exact."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, layer_table, smb_login
from tests.servers.smbd import SmbServer


@pytest.mark.parametrize("immutable", [True, False])
def test_a_name_is_what_is_listed(smbd: SmbServer, tmp_path: Path, immutable: bool) -> None:
    base = tmp_path / "base"
    (base / "Dir").mkdir(parents=True)
    for name in ("README", "Both", "both", "Dir/file"):
        (base / name).write_text(f"{name}\n")
    with OverlayMount(tmp_path / "m", layer_table(smbd.url_of(base), smb_login(smbd), immutable=immutable)) as mount:
        top = mount.path
        for _ in range(2):
            for name in ("readme", "ReadMe", "BOTH", "dir", "dir/file", "Dir/FILE"):
                assert not (top / name).exists()
            for name in ("README", "Both", "both", "Dir/file"):
                assert (top / name).read_text() == f"{name}\n"
        (top / "readme").write_text("another\n")
        (top / "README").unlink()
        (top / "Dir").rename(top / "dir")
        mount.remount()
        assert sorted(os.listdir(top)) == ["Both", "both", "dir", "readme"]
        assert (top / "readme").read_text() == "another\n"
        assert (top / "dir" / "file").read_text() == "Dir/file\n"
        assert not (top / "Dir").exists()
    assert sorted(os.listdir(base)) == ["Both", "Dir", "README", "both"]
