"""What can go wrong with mounting and unmounting, each told so that a person knows what to do."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from netoverlay.fuse.mount import MountOptions, mount, unmount
from tests.mounted import ordinary_user

ROOT_DIRECTORY = Path(__file__).parents[2]
OPTIONS = MountOptions(source="test")
AS_ORDINARY_USER = """
import os, subprocess, sys
from netoverlay.fuse.mount import MountOptions, mount
uid, mountpoint, allow_other, path = sys.argv[1:]
if int(uid) != os.getuid():
    os.setgroups([])
    os.setresgid(*[int(uid)] * 3)
    os.setresuid(*[int(uid)] * 3)
os.environ["PATH"] = path
try:
    mount(mountpoint, MountOptions(source="test", allow_other=allow_other == "yes"))
except OSError as error:
    sys.exit(f"{error.errno} {error.strerror}")
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that other users may enter."""
    made = Path(tempfile.mkdtemp(prefix="netoverlay-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize(("kind", "code"), [("file", errno.ENOTDIR), ("nothing", errno.ENOENT)])
def test_no_directory(directory: Path, kind: str, code: int) -> None:
    (directory / "file").touch()
    with pytest.raises(OSError, match=kind) as raised:
        mount(str(directory / kind), OPTIONS)
    assert raised.value.errno == code


def test_nothing_to_unmount(directory: Path) -> None:
    with pytest.raises(OSError, match="nothing is mounted there") as raised:
        unmount(str(directory))
    assert raised.value.errno == errno.EINVAL


@pytest.mark.skipif(os.getuid() != 0, reason="root's way of mounting")
def test_another_mount_is_not_unmounted(directory: Path) -> None:
    ours = mount(str(directory), OPTIONS)
    try:
        with pytest.raises(OSError, match="another file system"):
            unmount(str(directory), ours.device_number + 1)
    finally:
        os.close(ours.device)
        ours.detach()


@pytest.mark.skipif(os.getuid() != 0, reason="root's way of mounting")
def test_dead_mount_in_the_way(directory: Path) -> None:
    dead = mount(str(directory), OPTIONS)
    os.close(dead.device)
    try:
        with pytest.raises(OSError, match="fusermount3 -u -z") as raised:
            mount(str(directory), OPTIONS)
        assert raised.value.errno == errno.ENOTCONN
    finally:
        dead.detach()


def _as_ordinary_user(directory: Path, mountpoint: Path, *, allow_other: bool, path: str) -> str:
    uid = os.getuid() or ordinary_user.UID
    words = [str(uid), str(mountpoint), "yes" if allow_other else "no", path]
    command = [sys.executable, "-c", AS_ORDINARY_USER, *words]
    if uid != os.getuid():
        command = ordinary_user.in_own_namespace(ordinary_user.make_device(directory), *command)
    done = subprocess.run(command, cwd=ROOT_DIRECTORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, "it was mounted"
    return done.stderr.rstrip()


def _own(directory: Path) -> Path:
    mountpoint = directory / "own"
    mountpoint.mkdir()
    os.chown(mountpoint, os.getuid() or ordinary_user.UID, -1)
    return mountpoint


def test_allow_other_is_not_for_everybody(directory: Path) -> None:
    if "\nuser_allow_other" in Path("/etc/fuse.conf").read_text(encoding="utf-8"):
        pytest.skip("this machine lets everybody")
    message = _as_ordinary_user(directory, _own(directory), allow_other=True, path=os.environ["PATH"])
    assert message.startswith(f"{errno.EPERM} ")
    assert "/etc/fuse.conf" in message


def test_directory_of_somebody_else(directory: Path) -> None:
    directory.chmod(0o755)
    foreign = directory if os.getuid() == 0 else Path("/usr")
    message = _as_ordinary_user(directory, foreign, allow_other=False, path=os.environ["PATH"])
    assert message.startswith(f"{errno.EACCES} ")
    assert "may write to" in message


def test_helper_is_missing(directory: Path) -> None:
    message = _as_ordinary_user(directory, _own(directory), allow_other=False, path="/nowhere")
    assert message.startswith(f"{errno.ENOENT} ")
    assert "package fuse3" in message
