"""The kernel channel on a real mount: as root by mount(2), and as an ordinary user by fusermount3."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from netoverlay.fuse.mount import unmount
from tests.mounted import ordinary_user
from tests.mounted.channels import on_each_channel
from tests.mounted.memory_server import BIG, THREADS

ROOT_DIRECTORY = Path(__file__).parents[2]
USERS = [os.getuid()] if os.getuid() else [0, ordinary_user.UID]
MNT_FORCE = 1


class Mounted:
    """A memory_server and its mount point, used as the user who mounted it."""

    def __init__(self, uid: int, *, channel: str = "own", grace: float = 10) -> None:
        self.uid = uid
        # Not below pytest's own directory, which other users may not enter.
        self.directory = Path(tempfile.mkdtemp(prefix="netoverlay-"))
        self.directory.chmod(0o755)
        self.mountpoint = self.directory / "mount point"
        self.mountpoint.mkdir()
        os.chown(self.mountpoint, uid, -1)
        command = [sys.executable, "-m", "tests.mounted.memory_server", str(self.mountpoint)]
        command += ["--uid", str(uid), "--grace", str(grace), "--channel", channel]
        if uid != os.getuid():
            command = ordinary_user.in_own_namespace(ordinary_user.make_device(self.directory), *command)
        self.server = subprocess.Popen(
            command, cwd=ROOT_DIRECTORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.started: list[subprocess.Popen[bytes]] = []
        self.report: dict[str, Any] = {}
        self.errors = ""

    def __enter__(self) -> Self:
        try:
            assert self.line() == "ready"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in [self.server, *self.started]:
            process.kill()
        for process in [self.server, *self.started]:
            process.communicate()
        with contextlib.suppress(OSError):
            unmount(str(self.mountpoint), lazy=True)
        shutil.rmtree(self.directory)

    def line(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline().rstrip()

    def path(self, name: str) -> str:
        return str(self.mountpoint / name)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        words = command
        if self.uid != os.getuid():
            words = tuple(ordinary_user.in_namespace_of(self.server.pid, *command))
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.started.append(process)
        return process

    def run(self, *command: str) -> bytes:
        process = self.start(*command)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return output

    def shell(self, script: str) -> str:
        return self.run("/bin/sh", "-ec", f'cd "$0"; {script}', str(self.mountpoint)).decode()

    def finish(self) -> None:
        """Wait until the server ended by itself, and read its report."""
        output, self.errors = self.server.communicate(timeout=60)
        assert self.server.returncode == 0, self.errors
        self.report = json.loads(output.splitlines()[-1])

    def mount_entry(self, seen_by: int | None = None) -> str:
        """The line of the mount table, as the process `seen_by` (a user of it) sees it; empty if there is none."""
        table = Path(f"/proc/{seen_by or self.server.pid}/mountinfo").read_text(encoding="utf-8")
        lines = [line for line in table.splitlines() if self.directory.name in line and "fuse.netoverlay" in line]
        return lines[0] if lines else ""


@pytest.fixture(params=USERS, ids=lambda uid: "root" if uid == 0 else "user")
def uid(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def mounted(uid: int, channel: str) -> Iterator[Mounted]:
    with Mounted(uid, channel=channel) as made:
        yield made


@on_each_channel
def test_reading_listing_and_changing(mounted: Mounted) -> None:
    shell = mounted.shell
    assert shell("cat hello") == "hello\n"
    assert shell("ls -a").split() == [".", "..", "big", "changing", "going", "hello", "shy", "slow"]
    assert shell("ls -l big").split()[4] == str(len(BIG))
    assert shell("sha256sum < big").split()[0] == hashlib.sha256(BIG).hexdigest()
    assert shell("mkdir -p a/b; cp big a/b/copy; cmp big a/b/copy; mv a/b/copy a/moved; ls a") == "b\nmoved\n"
    assert shell("echo x >> hello; cat hello; echo y > hello; cat hello") == "hello\nx\ny\n"
    assert shell("rm a/moved; rmdir a/b a; ls -d a 2>&1 || true").endswith("No such file or directory\n")
    assert shell("stat -f -c '%T %s' .").split()[-1] == "4096"
    unmount_as_its_user(mounted)
    mounted.finish()
    assert mounted.report["counters"].keys() >= {"lookup", "read", "write", "readdirplus", "rename2", "create"}
    assert mounted.errors == ""


def unmount_as_its_user(mounted: Mounted) -> None:
    mounted.run(*(["umount"] if mounted.uid == 0 else ["fusermount3", "-u"]), str(mounted.mountpoint))


def test_mount_table(mounted: Mounted) -> None:
    options, _, rest = mounted.mount_entry().partition(" - ")
    assert options.split()[4].endswith("/mount\\040point")
    assert {"nosuid", "nodev"} <= set(options.split()[5].split(","))
    kind, source, super_options = rest.split()
    assert kind == "fuse.netoverlay"
    assert source == r"memory,\040of\040a\040\134\040test"
    assert {f"user_id={mounted.uid}", "default_permissions"} <= set(super_options.split(","))


@on_each_channel
def test_interrupted_caller(mounted: Mounted) -> None:
    reader = mounted.start("cat", mounted.path("shy"))
    assert mounted.line() == "shy"
    # Another request is served while that one waits.
    assert mounted.shell("cat hello") == "hello\n"
    reader.send_signal(signal.SIGINT)
    assert reader.wait(30) == -signal.SIGINT
    reader.communicate()
    mounted.server.terminate()
    mounted.finish()
    assert mounted.report["counters"]["interrupt"] >= 1


@on_each_channel
def test_more_wait_than_there_are_threads(mounted: Mounted) -> None:
    """All of them wait on one inode, whose reads the kernel sends in parallel."""
    readers = [mounted.start("dd", f"if={mounted.path('slow')}", "iflag=direct", "bs=1") for _ in range(40)]
    assert [mounted.line() for _ in range(THREADS)] == ["slow"] * THREADS
    mounted.server.send_signal(signal.SIGUSR2)
    for reader in readers:
        output, errors = reader.communicate(timeout=60)
        assert output == b"slow\n", errors
    assert mounted.shell("cat hello") == "hello\n"


WAITING_USER = 'cd "$0"; echo here; read line; cat hello'


@on_each_channel
def test_sigterm_while_in_use_detaches(mounted: Mounted) -> None:
    user = mounted.start("/bin/sh", "-c", WAITING_USER, str(mounted.mountpoint))
    assert user.stdout is not None
    assert user.stdout.readline() == b"here\n"
    mounted.server.terminate()
    while mounted.mount_entry(user.pid):
        assert mounted.server.poll() is None
    # Detached, and still served.
    output, errors = user.communicate(b"go on\n", timeout=60)
    assert output == b"hello\n", errors
    mounted.finish()
    assert mounted.errors == ""


@on_each_channel
def test_grace_period_ends(uid: int, channel: str) -> None:
    with Mounted(uid, channel=channel, grace=0.3) as mounted:
        user = mounted.start("/bin/sh", "-c", WAITING_USER, str(mounted.mountpoint))
        assert user.stdout is not None
        assert user.stdout.readline() == b"here\n"
        mounted.server.terminate()
        mounted.finish()
        assert "cut off" in mounted.errors
        assert not mounted.mount_entry(user.pid)
        _, errors = user.communicate(b"go on\n", timeout=60)
        assert b"hello: " in errors


@on_each_channel
def test_unmounted_by_its_user(mounted: Mounted) -> None:
    unmount_as_its_user(mounted)
    mounted.finish()
    assert mounted.errors == ""


@on_each_channel
def test_notifications(mounted: Mounted) -> None:
    seen = "cat changing; ls coming going 2>/dev/null || true"
    assert mounted.shell(seen) == "before\ngoing\n"
    mounted.shell("ls -l hello")
    mounted.server.send_signal(signal.SIGUSR1)
    assert json.loads(mounted.line()) == [True, True, True, True, False, False]
    assert mounted.shell(seen) == "afterwards\ncoming\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may abort a connection by umount(2)")
def test_aborted_lookup_is_taken_back() -> None:
    with Mounted(0) as mounted:
        client = mounted.start("ls", mounted.path("stuck"))
        assert mounted.line() == "stuck"
        # Busy or not, what it was asked for first is to abort the connection.
        ctypes.CDLL(None).umount2(os.fsencode(mounted.mountpoint), MNT_FORCE)
        client.communicate(timeout=60)
        mounted.server.send_signal(signal.SIGUSR2)
        mounted.finish()
        assert mounted.report["returned"] == [[2, 1]]
