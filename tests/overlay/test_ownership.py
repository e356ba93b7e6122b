"""Ownership as a whole: real processes that are killed or stopped, lines that are cut, the lock of a local upper."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, Creation, LayerUrl
from netoverlay.overlay import owner as owners
from netoverlay.overlay.lease import Timing, take_lease
from netoverlay.overlay.owner import UpperHeldError, this_process
from netoverlay.overlay.ownership import acquire
from netoverlay.wrappers.guard import GuardedBackend
from netoverlay_local import PLUGIN
from tests.backends.sftp_layer import sftp_backend
from tests.backends.smb_layer import smb_backend
from tests.overlay.owners import (
    FAST,
    LOCK,
    WORK,
    elsewhere,
    lease_of,
    taken_at_last,
    wait_until,
    work_names,
    write_lease,
)
from tests.servers.proxy import Proxy

OTHER_PROCESS = """
import sys
from netoverlay.backend_api import Access, Creation
from netoverlay.overlay.lease import Timing
from netoverlay.overlay.ownership import acquire
from netoverlay.wrappers.guard import GuardedBackend
from netoverlay_local import PLUGIN
from netoverlay.backend_api import LayerUrl
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile

class WithoutDescriptors(DelegatingFile):
    def fileno(self):
        return None

class Remote(DelegatingBackend):
    def open(self, *arguments, **options):
        return WithoutDescriptors(self.inner.open(*arguments, **options))

import dataclasses
backend = PLUGIN.create(LayerUrl("file", sys.argv[1]), PLUGIN.options(), 30.0)
capabilities = dataclasses.replace(backend.connect(), local=sys.argv[2] == "local")
timing = Timing(beat_seconds=0.1, expires_seconds=1.0, margin_seconds=0.3)
held = acquire(backend, capabilities, "upper.work", "/other", timing)
guarded = GuardedBackend(backend, held.lost)
print("held", flush=True)
for line in sys.stdin:
    try:
        guarded.mkdir(line.strip(), 0o700)
        print("done", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
held.release()
"""
TIMING = Timing(beat_seconds=0.1, expires_seconds=1.0, margin_seconds=0.3)


def local(path: Path):
    backend = PLUGIN.create(LayerUrl("file", str(path)), PLUGIN.options(), 30.0)
    return backend, backend.connect()


@contextmanager
def other_process(path: Path, kind: str = "lease") -> Iterator[subprocess.Popen[str]]:
    """A process that owns the upper in `path`, makes a directory for each line, and says what came of it."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(path), kind], stdin=-1, stdout=-1, text=True, bufsize=1
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{line}\n")
    return process.stdout.readline().strip()


@pytest.mark.parametrize("kind", ["lease", "local"])
def test_a_killed_owner_is_replaced_at_once(tmp_path: Path, kind: str) -> None:
    backend, capabilities = local(tmp_path)
    mine = dataclasses.replace(capabilities, local=kind == "local")
    with other_process(tmp_path, kind) as process:
        with pytest.raises(UpperHeldError, match=f"/other, process {process.pid} on .*; unmount that first$"):
            acquire(backend, mine, WORK, "/mnt", TIMING)
        process.send_signal(signal.SIGKILL)
        process.wait()
        began = time.monotonic()
        acquire(backend, mine, WORK, "/mnt", TIMING).release()
        assert time.monotonic() - began < TIMING.expires_seconds / 2


def test_a_killed_owner_elsewhere_is_replaced_when_it_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, _ = local(tmp_path)
    with other_process(tmp_path) as process:
        monkeypatch.setattr(owners, "_boot_id", lambda: "that of another machine")
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(UpperHeldError, match=f"/other, process {process.pid} on "):
            take_lease(backend, WORK, "/mnt", TIMING)
        time.sleep(TIMING.expires_seconds + 0.3)  # the clock that stamps files ticks
        take_lease(backend, WORK, "/mnt", TIMING).release()


def test_an_owner_that_was_stopped_changes_nothing_after_it_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, _ = local(tmp_path)
    with other_process(tmp_path) as process:
        assert tell(process, "before") == "done"
        process.send_signal(signal.SIGSTOP)
        time.sleep(TIMING.expires_seconds + 0.2)
        held = take_lease(backend, WORK, "/mnt", TIMING)
        process.send_signal(signal.SIGCONT)
        for number in range(5):
            assert tell(process, f"after{number}") == str(errno.EIO)
        assert sorted(os.listdir(tmp_path)) == ["before", "upper.work"]
        assert not held.lost()
        held.release()


def test_an_owner_that_was_stopped_goes_on_if_nobody_came(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(TIMING.expires_seconds + 0.2)
        process.send_signal(signal.SIGCONT)
        assert tell(process, "after") == "done"
        assert tell(process, "after2") == "done"


# A line that is cut.


@pytest.fixture(params=["sftp", "smb"])
def line(request: pytest.FixtureRequest, tmp_path: Path):
    """A proxy, a backend through it, and one that goes past it."""
    server = request.getfixturevalue("sshd" if request.param == "sftp" else "smbd")
    create = sftp_backend if request.param == "sftp" else smb_backend
    with (
        Proxy(server.port) as proxy,
        create(server, tmp_path, port=proxy.port, deadline=1.0) as backend,
        create(server, tmp_path) as direct,
    ):
        backend.connect()
        direct.connect()
        direct.mkdir(WORK, 0o700)
        yield proxy, backend, direct


@pytest.mark.parametrize("how", ["silence", "refuse"])
def test_a_line_that_is_cut_for_a_short_time(line, how: str, caplog: pytest.LogCaptureFixture) -> None:
    proxy, backend, direct = line
    timing = Timing(beat_seconds=0.3, expires_seconds=8.0, margin_seconds=2.0)
    held = take_lease(backend, WORK, "/mnt", timing)
    guarded = GuardedBackend(backend, held.lost)
    getattr(proxy, how)()
    wait_until(lambda: "cannot be renewed" in caplog.text)
    beat = lease_of(direct).beat
    proxy.restore()
    wait_until(lambda: lease_of(direct).beat > beat + 1)
    guarded.mkdir("made", 0o700)
    with pytest.raises(UpperHeldError, match="unmount that first"):
        take_lease(direct, WORK, "/mnt", timing)
    held.release()
    assert work_names(direct) == []


@pytest.mark.parametrize("how", ["silence", "refuse"])
def test_a_line_that_is_cut_for_too_long(line, how: str, caplog: pytest.LogCaptureFixture) -> None:
    proxy, backend, direct = line
    timing = Timing(beat_seconds=0.3, expires_seconds=2.5, margin_seconds=1.0)
    held = take_lease(backend, WORK, "/mnt", timing)
    guarded = GuardedBackend(backend, held.lost)
    file = guarded.open("file", Access.READ_WRITE, create=Creation.EXCLUSIVE)
    getattr(proxy, how)()
    wait_until(held.lost, 10.0)
    other = taken_at_last(lambda: take_lease(direct, WORK, "/other", timing))
    proxy.restore()
    time.sleep(1.0)
    with pytest.raises(OSError, match="another mount's now"):
        file.write_at(0, b"x")
    with pytest.raises(OSError, match="another mount's now"):
        guarded.mkdir("made", 0o700)
    assert direct.stat("file").size == 0
    assert caplog.text.count("the upper is lost") == 1
    held.release()
    assert lease_of(direct).mountpoint == "/other"
    assert not other.lost()
    other.release()


# A local upper.


def test_a_lock_is_held_and_given_back(tmp_path: Path) -> None:
    backend, capabilities = local(tmp_path)
    held = acquire(backend, capabilities, WORK, "/first")
    with pytest.raises(
        UpperHeldError, match=f"^.*another mount owns it: /first, process {os.getpid()} on .* since .*; un"
    ):
        acquire(backend, capabilities, WORK, "/second")
    assert not held.lost()
    held.release()
    held.release()
    acquire(backend, capabilities, WORK, "/second").release()
    assert os.listdir(tmp_path / WORK) == ["lock"]


def test_a_lock_and_a_lease_respect_each_other(tmp_path: Path) -> None:
    """The server's own machine may use the same upper as a local one."""
    backend, capabilities = local(tmp_path)
    remote = dataclasses.replace(capabilities, local=False)
    held = acquire(backend, capabilities, WORK, "/local")
    with pytest.raises(UpperHeldError, match=r"/local, process .* unmount that first, or remove .* has crashed"):
        acquire(backend, remote, WORK, "/remote", FAST)
    held.release()
    leased = acquire(backend, remote, WORK, "/remote", FAST)
    for _ in range(2):
        with pytest.raises(UpperHeldError, match=r"/remote, process .*(unmount that first|try again then)"):
            acquire(backend, capabilities, WORK, "/local", FAST)
    time.sleep(3 * FAST.beat_seconds)
    assert not leased.lost()
    leased.release()
    acquire(backend, capabilities, WORK, "/local").release()


def test_a_lock_replaces_a_lease_that_has_expired(tmp_path: Path) -> None:
    backend, capabilities = local(tmp_path)
    backend.mkdir(WORK, 0o700)
    write_lease(backend, elsewhere(FAST).pack())
    with pytest.raises(UpperHeldError, match="/far"):
        acquire(backend, capabilities, WORK, "/local", FAST)
    os.utime(tmp_path / LOCK, (1, 1))
    held = acquire(backend, capabilities, WORK, "/local", FAST)
    assert lease_of(backend).pid == os.getpid()
    with pytest.raises(UpperHeldError, match="/local"):
        acquire(backend, capabilities, WORK, "/second", FAST)
    held.release()


def test_what_an_earlier_version_left_is_understood(tmp_path: Path) -> None:
    backend, capabilities = local(tmp_path)
    backend.mkdir(WORK, 0o700)
    write_lease(backend, b'{"host": "h", "pid": 7, "mountpoint": "/m", "since": "2026-01-01 00:00:00 +0000"}')
    acquire(backend, capabilities, WORK, "/local").release()
    assert this_process("/x").nonce == ""
