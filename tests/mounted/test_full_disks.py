"""Disks that are full under a mount, and quotas that are used up: who wrote is told, and the mount goes on."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, sftp_login
from tests.servers.sshd import SshServer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")

MIB = 1 << 20
SMALL_DISK = 4 * MIB
SMALLEST_BTRFS = 128 * MIB
LARGE = os.urandom(SMALL_DISK + MIB)


@dataclass(frozen=True)
class Disk:
    path: Path
    refusal: int
    """What it says when nothing more fits on it."""
    overwrites: bool
    """Whether what is on it can be written over then."""


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Disk]:
    run("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=0755", "netoverlay-test", directory)
    try:
        yield Disk(directory, errno.ENOSPC, overwrites=True)
    finally:
        run("umount", directory)


@contextlib.contextmanager
def small_quota(directory: Path) -> Iterator[Disk]:
    """On btrfs, whose quotas are for root as well."""
    image = directory.with_name("image")
    with image.open("wb") as file:
        file.truncate(SMALLEST_BTRFS)
    run("mkfs.btrfs", "--quiet", "--metadata", "single", image)
    run("mount", "-o", "loop", image, directory)
    try:
        place = directory / "limited"
        run("btrfs", "subvolume", "create", place)
        run("btrfs", "quota", "enable", directory)
        run("btrfs", "qgroup", "limit", str(SMALL_DISK), place)
        yield Disk(place, errno.EDQUOT, overwrites=False)
    finally:
        run("umount", directory)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    top = tmp_path / "base"
    top.mkdir()
    (top / "large").write_bytes(LARGE)
    (top / "small").write_bytes(b"small\n")
    return top


@pytest.fixture(params=[small_disk, small_quota])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    directory = tmp_path / "disk"
    directory.mkdir()
    with request.param(directory) as found:
        yield found


@contextlib.contextmanager
def mounted(tmp_path: Path, base: Path, disk: Disk, *, private: bool) -> Iterator[OverlayMount]:
    upper = disk.path / "upper"
    with OverlayMount(tmp_path / "m", layer_table(str(base)), upper=upper, private=private) as mount:
        yield mount


def refusal(call: object, *arguments: object) -> int | None:
    """The errno with which it fails."""
    try:
        call(*arguments)  # type: ignore[operator]
    except OSError as error:
        return error.errno
    return None


def fill(path: Path) -> int | None:
    """Write until it fails, and tell how."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for _ in range(2 * SMALL_DISK // MIB):
            if (code := refusal(os.write, descriptor, bytes(MIB))) is not None:
                return code
        return None
    finally:
        os.close(descriptor)


def overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(data)


def wait_for_room(disk: Disk) -> None:
    """A removed file goes when the kernel has forgotten it, of which nobody waits for the end."""
    give_up_at = time.monotonic() + 20
    probe = disk.path / "probe"
    while (code := refusal(probe.write_bytes, bytes(SMALL_DISK // 2))) is not None:
        assert code == disk.refusal
        assert time.monotonic() < give_up_at
        time.sleep(0.01)
    probe.unlink()
    run("sync", "--file-system", disk.path)  # until then btrfs counts it


@pytest.mark.parametrize(
    ("disk", "private"), [(small_disk, True), (small_disk, False), (small_quota, True)], indirect=["disk"]
)
def test_a_full_upper(tmp_path: Path, base: Path, disk: Disk, private: bool) -> None:
    with mounted(tmp_path, base, disk, private=private) as mount:
        top = mount.path
        (top / "mine").write_bytes(b"mine\n")
        assert refusal(os.truncate, top / "large", len(LARGE) - 1) == disk.refusal  # copies it up
        assert (top / "large").read_bytes() == LARGE
        assert not any(name.startswith("#") for name in os.listdir(f"{mount.upper}.work")), "what was begun is gone"
        assert fill(top / "filler") == disk.refusal
        assert refusal(os.mkdir, top / "directory") in (None, disk.refusal)
        code = refusal(overwrite, top / "mine", b"MINE")
        assert code is None if disk.overwrites else code in (None, disk.refusal)
        mine = b"mine\n" if code else b"MINE\n"
        assert (top / "mine").read_bytes() == mine
        assert (top / "small").read_bytes() == b"small\n"
        (top / "filler").unlink()
        wait_for_room(disk)
        (top / "small").write_bytes(b"changed\n")
        mount.remount()
        assert (top / "small").read_bytes() == b"changed\n"
        assert (top / "mine").read_bytes() == mine
        assert (top / "large").read_bytes() == LARGE


def test_a_full_cache_is_passed_by(tmp_path: Path, base: Path, disk: Disk, sshd: SshServer) -> None:
    for number in range(6):
        (base / f"file{number}").write_bytes(os.urandom(MIB))
    mount = OverlayMount(tmp_path / "m", layer_table(sshd.url(base), sftp_login(sshd)))
    cache = tmp_path / "m" / "cache"
    cache.mkdir()
    run("mount", "--bind", disk.path, cache)
    try:
        mount.mount()
        try:
            for name in sorted(os.listdir(base)):
                assert (mount.path / name).read_bytes() == (base / name).read_bytes()
            told = json.loads(run(*COMMAND, "status", "--json", mount.path))["mounts"][0]["status"]["faults"]
        finally:
            mount.unmount_quietly()
    finally:
        run("umount", cache)
    warnings = [line for line in mount.log.read_text().splitlines() if " WARNING " in line or " ERROR " in line]
    assert len(warnings) == 1
    assert os.strerror(disk.refusal) in warnings[0]
    assert "the content cache" in warnings[0]
    assert [(fault["level"], fault["text"] in warnings[0]) for fault in told] == [("warning", True)]
