"""Bases whose owners mean nothing here: whose their files are on the mount, and after they were copied up."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")

OWNERS = {"root": (0, 0), "one": (1000, 1000), "mixed": (1000, 0), "other": (4321, 1234)}
NOBODY = 65534
DECIDED = {
    "all": (
        ['squash = "all"', "uid = 777", "gid = 888"],
        dict.fromkeys(OWNERS, (777, 888)),
    ),
    "root": (
        ['squash = "root"', "uid = 777", "gid = 888"],
        {"root": (777, 888), "one": (1000, 1000), "mixed": (1000, 888), "other": (4321, 1234)},
    ),
    "ranges": (
        ['idmap = ["b:0:100000:65536"]'],
        {name: (100_000 + uid, 100_000 + gid) for name, (uid, gid) in OWNERS.items()},
    ),
    "ranges with gaps": (
        ['idmap = ["u:1000:2000:1", "g:0:0:1100"]'],
        {"root": (NOBODY, 0), "one": (2000, 1000), "mixed": (2000, 0), "other": (NOBODY, NOBODY)},
    ),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Below its root, a file, a directory and a symbolic link of every owner."""
    top = tmp_path / "base"
    top.mkdir()
    for name, owner in OWNERS.items():
        (top / f"file-{name}").write_text(name)
        (top / f"dir-{name}").mkdir()
        (top / f"link-{name}").symlink_to(name)
        for kind in ("file", "dir", "link"):
            os.chown(top / f"{kind}-{name}", *owner, follow_symlinks=False)
    return top


def owners_below(top: Path) -> dict[str, tuple[int, int]]:
    """By each way in which the kernel asks: a listing with attributes, then each by its path."""
    run("ls", "-ln", top)
    told = {path.name: path.lstat() for path in top.iterdir()}
    return {name: (stat.st_uid, stat.st_gid) for name, stat in told.items()}


def of_each_kind(owners: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {f"{kind}-{name}": owner for name, owner in owners.items() for kind in ("file", "dir", "link")}


@pytest.mark.parametrize("transport", ["local", "sftp"], indirect=True)
@pytest.mark.parametrize("case", DECIDED)
def test_owners_on_the_mount_and_after_copy_up(case: str, tmp_path: Path, lower, base: Path) -> None:
    keys, owners = DECIDED[case]
    expected = of_each_kind(owners)
    with OverlayMount(tmp_path / "m", lower(base, keys=keys)) as mount:
        assert owners_below(mount.path) == expected
        with (mount.path / "file-other").open() as file:
            assert os.fstat(file.fileno()).st_uid == owners["other"][0]
        for name in OWNERS:
            with (mount.path / f"file-{name}").open("a") as file:
                file.write(" more")
            (mount.path / f"dir-{name}" / "new").touch()
            (mount.path / f"link-{name}").rename(mount.path / f"moved-{name}")
            (mount.path / f"moved-{name}").rename(mount.path / f"link-{name}")
        assert owners_below(mount.path) == expected, "copy-up keeps the owner that is shown"
        assert owners_below(mount.upper) == expected
        mount.remount()
        assert owners_below(mount.path) == expected
        os.chown(mount.path / "file-one", 5, 6)
        assert owners_below(mount.path)["file-one"] == (5, 6), "what is in the upper is not mapped"
    assert owners_below(base) == of_each_kind(OWNERS)


@pytest.mark.parametrize("transport", ["smb"], indirect=True)
@pytest.mark.parametrize("permissions", ["server", "profile"])
def test_owners_of_a_server_that_names_some(permissions: str, tmp_path: Path, lower, base: Path) -> None:
    """Samba tells whose a file is in numbers, but for the users of its own domain (here, root)."""
    keys = [f'permissions = "{permissions}"', "uid = 777", "gid = 888", 'squash = "none"']
    with OverlayMount(tmp_path / "m", lower(base, keys=keys)) as mount:
        told = {**OWNERS, "root": (777, 0)}
        expected = told if permissions == "server" else dict.fromkeys(OWNERS, (777, 888))
        found = {name: owner for name, owner in owners_below(mount.path).items() if not name.startswith("link")}
        assert found == {name: owner for name, owner in of_each_kind(expected).items() if not name.startswith("link")}
        with (mount.path / "file-root").open("a") as file:
            file.write(" more")
        assert owners_below(mount.path)["file-root"] == expected["root"]
        assert owners_below(mount.upper)["file-root"] == expected["root"]


@pytest.mark.parametrize("transport", ["local"], indirect=True)
def test_access_lists_and_capabilities(tmp_path: Path, lower, base: Path) -> None:
    """They hold ids as well; what is copied up has those that are shown."""

    def access_list(uid: int) -> bytes:
        entries = ((1, 6, 0xFFFF_FFFF), (2, 4, uid), (4, 4, 0xFFFF_FFFF), (16, 4, 0xFFFF_FFFF), (32, 4, 0xFFFF_FFFF))
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)

    net_raw = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    os.setxattr(base / "file-one", "system.posix_acl_access", access_list(1234))
    os.setxattr(base / "file-root", "security.capability", net_raw)
    with OverlayMount(tmp_path / "m", lower(base, keys=['idmap = ["b:0:100000:65536"]'])) as mount:
        held = struct.pack("<I", 0x03000001) + net_raw[4:] + struct.pack("<I", 100_000)
        os.utime(mount.path / "file-root")
        os.utime(mount.path / "file-one")
        assert os.getxattr(mount.upper / "file-root", "security.capability") == held
        assert os.getxattr(mount.upper / "file-one", "system.posix_acl_access") == access_list(101_234)
        assert os.getxattr(mount.path / "file-root", "security.capability") == held
