"""Large files of a base on a server are copied up lazily: what that moves, and what there is of it afterwards."""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.kernel_overlayfs import overlayfs
from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, sftp_login
from tests.servers.sshd import SshServer

MIB = 1 << 20
SIZE = 64 * MIB
LESS = 9 * MIB
"""Large enough to be copied lazily."""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A directory with two large files, with holes."""
    made = tmp_path / "base"
    made.mkdir()
    for name, size in (("big", SIZE), ("less", LESS)):
        with (made / name).open("wb") as file:
            for offset in range(0, size, size // 4):
                os.pwrite(file.fileno(), os.urandom(MIB), offset + 12_345)
            file.truncate(size)
        os.utime(made / name, (10**9, 10**9))
    return made


@pytest.fixture
def mounted(base: Path, tmp_path: Path, sshd: SshServer) -> Iterator[OverlayMount]:
    mount = OverlayMount(tmp_path / "m", layer_table(sshd.url(base), sftp_login(sshd)))
    with mount:
        yield mount
        if not os.path.ismount(mount.path):
            mount.mount()


def status(mount: OverlayMount) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run(*COMMAND, "status", "--json", mount.path))["mounts"][0]["status"]
    return told


def read_of_base(mount: OverlayMount) -> int:
    return sum(int(layer["counters"]["bytes_read"]) for layer in status(mount)["layers"] if layer["role"] == "lower")


def digest(path: Path, tail: bytes = b"") -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
    found.update(tail)
    return found.hexdigest()


def append(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, data)
    os.fsync(descriptor)
    os.close(descriptor)


def marks(path: Path) -> list[str]:
    return [name for name in os.listxattr(path) if name.endswith(("metacopy", "redirect"))]


def test_appending_moves_next_to_nothing(mounted: OverlayMount, base: Path) -> None:
    file, stored = mounted.path / "big", mounted.upper / "big"
    before = read_of_base(mounted)
    append(file, b"!")
    assert read_of_base(mounted) - before < 100_000
    assert stored.stat().st_blocks * 512 < MIB
    assert status(mounted)["lazy"] == {"files": 1, "bytes": SIZE, "settling": False, "unsettled": []}
    assert "`netoverlay settle` brings it" in run(*COMMAND, "status", mounted.path)
    expected = digest(base / "big", b"!")
    assert digest(file) == expected
    mounted.remount()
    assert digest(file) == expected
    shown = file.stat()
    assert run(*COMMAND, "settle", mounted.path) == "settled: the upper is whole\n"
    assert status(mounted)["lazy"] == {"files": 0, "bytes": 0, "settling": False, "unsettled": []}
    assert digest(file) == digest(stored) == expected
    now = file.stat()
    assert (now.st_mtime_ns, now.st_ctime_ns, now.st_ino, now.st_mode) == (
        shown.st_mtime_ns,
        shown.st_ctime_ns,
        shown.st_ino,
        shown.st_mode,
    )
    assert not marks(stored)
    assert not os.listdir(mounted.directory / "upper.work" / "lazy")
    mounted.remount()
    assert digest(file) == expected


def test_what_is_not_mounted_is_settled_by_its_profile(mounted: OverlayMount, base: Path) -> None:
    append(mounted.path / "less", b"!")
    mounted.unmount()
    assert marks(mounted.upper / "less")
    assert run(*COMMAND, "settle", mounted.profile) == "settled: the upper is whole\n"
    assert digest(mounted.upper / "less") == digest(base / "less", b"!")
    assert not marks(mounted.upper / "less")
    mounted.mount()
    assert run(*COMMAND, "settle", mounted.profile) == "settled: the upper is whole\n"


def test_programs_map_lock_and_rename_it(mounted: OverlayMount, base: Path) -> None:
    expected = bytearray((base / "less").read_bytes())
    with (mounted.path / "less").open("r+b") as opened, mmap.mmap(opened.fileno(), LESS) as mapped:
        assert mapped[LESS // 2 : LESS // 2 + MIB] == expected[LESS // 2 : LESS // 2 + MIB]
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, 100)
        mapped[5_000_000:5_000_003] = expected[5_000_000:5_000_003] = b"map"
        mapped.flush()
        (mounted.path / "less").rename(mounted.path / "moved")
        mapped[MIB : MIB + 3] = expected[MIB : MIB + 3] = b"ped"
        mapped.flush()
    assert status(mounted)["lazy"]["files"] == 1
    mounted.remount()
    assert (mounted.path / "moved").read_bytes() == expected
    (mounted.path / "moved").unlink()
    assert status(mounted)["lazy"]["files"] == 0


def test_programs_that_use_it_meanwhile_see_what_they_write(mounted: OverlayMount, base: Path) -> None:
    file = mounted.path / "less"
    expected = bytearray((base / "less").read_bytes())
    with file.open("r+b", buffering=0) as opened:
        for offset in range(0, LESS, MIB):
            os.pwrite(opened.fileno(), b"written", offset)
            expected[offset : offset + 7] = b"written"
        settling = run(*COMMAND, "settle", mounted.path)
        assert "whole" in settling
        os.pwrite(opened.fileno(), b"afterwards", 100)
        expected[100:110] = b"afterwards"
    assert file.read_bytes() == expected
    assert (mounted.upper / "less").read_bytes() == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts overlayfs; the run as root, which CI is, has it")
@pytest.mark.parametrize("metacopy", ["on", "off"])
def test_overlayfs_refuses_it_until_it_is_settled(
    mounted: OverlayMount, base: Path, tmp_path: Path, metacopy: str
) -> None:
    append(mounted.path / "less", b"!")
    mounted.unmount()
    at = tmp_path / "kernel"
    options = f"redirect_dir=on,index=off,metacopy={metacopy}"
    with (
        overlayfs(at, [base], mounted.upper, mounted.directory / "upper.work", options),
        pytest.raises(OSError, match=r"Input/output error|Operation not permitted"),
    ):
        (at / "less").read_bytes()
    run(*COMMAND, "settle", mounted.profile)
    with overlayfs(at, [base], mounted.upper, mounted.directory / "upper.work", options):
        assert digest(at / "less") == digest(base / "less", b"!")
