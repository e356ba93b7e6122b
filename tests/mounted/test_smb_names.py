"""Names of an SMB server that does not tell upper from lower case, as they are on a mount: exact."""

from __future__ import annotations

import os
import shutil
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


def test_an_upper_has_names_that_differ_in_case_only(smbd: SmbServer, tmp_path: Path) -> None:
    base, upper = tmp_path / "base", tmp_path / "served" / "upper"
    base.mkdir()
    for name in ("Below", "below", "BELOW", "Kept"):
        (base / name).write_text(f"{name}\n")
    keys = [f'url = "{smbd.url_of(upper)}"', *smb_login(smbd)]
    with OverlayMount(tmp_path / "m", layer_table(str(base)), upper=upper, upper_keys=keys) as mount:
        top = mount.path
        (top / "README").write_text("README\n")
        (top / "readme").write_text("readme\n")
        for name in ("dir", "Dir"):
            (top / name).mkdir()
            (top / name / "File").write_text(name)
            (top / name / "file").symlink_to(name)
        for name in ("Below", "BELOW"):
            (top / name).unlink()
        (top / "below").write_text("changed\n")
        (top / "Kept").rename(top / "kept")
        (top / "readme").rename(top / "ReadMe")
        os.link(top / "README", top / "READme")
        os.rename(top / "Dir", top / "DIR")
        for again in range(2):
            assert sorted(os.listdir(top)) == sorted(["DIR", "README", "READme", "ReadMe", "below", "dir", "kept"])
            assert {name: (top / name).read_text() for name in ("README", "READme", "ReadMe", "below", "kept")} == {
                "README": "README\n",
                "READme": "README\n",
                "ReadMe": "readme\n",
                "below": "changed\n",
                "kept": "Kept\n",
            }
            assert [(top / name / "File").read_text() for name in ("dir", "DIR")] == ["dir", "Dir"]
            assert [os.readlink(top / name / "file") for name in ("dir", "DIR")] == ["dir", "Dir"]
            for name in ("Below", "BELOW", "Kept", "Dir", "readme"):
                assert not (top / name).exists()
            if not again:
                mount.remount()
        (top / "BELOW").write_text("new\n")
        shutil.rmtree(top / "dir")
        assert (top / "BELOW").read_text() == "new\n"
        assert (top / "DIR" / "File").read_text() == "Dir"
    assert all(
        path.name.startswith((".wh.", "READ", "Read", "DIR", "below", "BELOW", "kept")) for path in upper.iterdir()
    )
