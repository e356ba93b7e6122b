"""Disks that are full under a mount: who wrote is told, and the mount goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, layer_table, run, sftp_login
from tests.servers.sshd import SshServer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")

MIB = 1 << 20
SMALL_DISK = 4 * MIB
LARGE = os.urandom(SMALL_DISK + MIB)


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    place.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=0755", "netoverlay-test", place)
    try:
        yield place
    finally:
        run("umount", place)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    top = tmp_path / "base"
    top.mkdir()
    (top / "large").write_bytes(LARGE)
    (top / "small").write_bytes(b"small\n")
    return top


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as place:
        yield place


@contextlib.contextmanager
def mounted(tmp_path: Path, base: Path, disk: Path, *, private: bool) -> Iterator[OverlayMount]:
    upper = disk / "upper"
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


def wait_for_room(disk: Path) -> None:
    """A removed file goes when the kernel has forgotten it, of which nobody waits for the end."""
    give_up_at = time.monotonic() + 20
    while os.statvfs(disk).f_bavail < os.statvfs(disk).f_blocks // 2:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


@pytest.mark.parametrize("private", [True, False])
def test_a_full_upper(tmp_path: Path, base: Path, disk: Path, private: bool) -> None:
    with mounted(tmp_path, base, disk, private=private) as mount:
        top = mount.path
        (top / "mine").write_bytes(b"mine\n")
        assert refusal(os.truncate, top / "large", len(LARGE) - 1) == errno.ENOSPC  # copies it up
        assert (top / "large").read_bytes() == LARGE
        assert not any(name.startswith("#") for name in os.listdir(f"{mount.upper}.work")), "what was begun is gone"
        assert fill(top / "filler") == errno.ENOSPC
        assert refusal(os.mkdir, top / "directory") in (None, errno.ENOSPC)
        with (top / "mine").open("r+b", buffering=0) as file:
            file.write(b"MINE")  # in place, for which there is room
        assert (top / "mine").read_bytes() == b"MINE\n"
        assert (top / "small").read_bytes() == b"small\n"
        (top / "filler").unlink()
        wait_for_room(disk)
        (top / "small").write_bytes(b"changed\n")
        mount.remount()
        assert (top / "small").read_bytes() == b"changed\n"
        assert (top / "mine").read_bytes() == b"MINE\n"
        assert (top / "large").read_bytes() == LARGE


def test_a_full_cache_is_passed_by(tmp_path: Path, base: Path, disk: Path, sshd: SshServer) -> None:
    for number in range(6):
        (base / f"file{number}").write_bytes(os.urandom(MIB))
    mount = OverlayMount(tmp_path / "m", layer_table(sshd.url(base), sftp_login(sshd)))
    cache = tmp_path / "m" / "cache"
    cache.mkdir()
    run("mount", "--bind", disk, cache)
    try:
        mount.mount()
        try:
            for name in sorted(os.listdir(base)):
                assert (mount.path / name).read_bytes() == (base / name).read_bytes()
        finally:
            mount.unmount_quietly()
    finally:
        run("umount", cache)
    warnings = [line for line in mount.log.read_text().splitlines() if " WARNING " in line or " ERROR " in line]
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]
    assert "the content cache" in warnings[0]
