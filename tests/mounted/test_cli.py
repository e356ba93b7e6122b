"""The commands on real mounts: what they print, their exit status, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netoverlay.mount_table import mounted_device
from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, smb_login, wait_for_end
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer, free_port, make_key


@pytest.fixture
def base(tmp_path: Path) -> Path:
    directory = tmp_path / "base"
    directory.mkdir()
    (directory / "file").write_text("of the base\n")
    return directory


@pytest.fixture
def overlay(tmp_path: Path, base: Path) -> OverlayMount:
    return OverlayMount(tmp_path, layer_table(str(base)))


def fail(*arguments: str | Path, prefix: tuple[str, ...] = ()) -> str:
    """The one line on standard error of a command that fails with status 1."""
    command = [*prefix, *COMMAND, *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("netoverlay: ").rstrip("\n")


@contextlib.contextmanager
def busy(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose working directory is `directory`."""
    user = subprocess.Popen(["sleep", "100"], cwd=directory)
    try:
        yield user
    finally:
        user.kill()
        user.wait()


def test_status(overlay: OverlayMount, base: Path) -> None:
    with overlay:
        (overlay.path / "new").write_text("changed\n")
        assert (overlay.path / "file").read_text() == "of the base\n"
        document = json.loads(run(*COMMAND, "status", "--json", overlay.path))
        (report,) = document["mounts"]
        assert (report["mountpoint"], report["state"]) == (str(overlay.path), "mounted")
        status = report["status"]
        assert Path(f"/proc/{status['mount']['pid']}/cmdline").read_bytes().split(b"\0")[3] == b"mount"
        assert [(layer["role"], layer["url"]) for layer in status["layers"]] == [
            ("upper", str(overlay.upper)),
            ("lower", str(base)),
        ]
        upper, lower = (layer["counters"] for layer in status["layers"])
        assert upper["bytes_written"] >= len("changed\n")
        assert lower["bytes_read"] >= len("of the base\n")
        assert lower["bytes_written"] == 0
        assert status["requests"]["create"] == 1
        assert str(overlay.path) in run(*COMMAND, "status")
        line = fail("mount", overlay.profile, overlay.path)
        assert line == (
            f"{overlay.path}: netoverlay is mounted there already; unmount it first with `netoverlay umount`"
        )
    assert str(overlay.path) not in run(*COMMAND, "status")


def test_umount_returns_when_the_daemon_has_ended(overlay: OverlayMount) -> None:
    with overlay:
        pid = overlay.daemon()
        run(*COMMAND, "umount", overlay.path)
        assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
        overlay.mount()


def test_umount_by_a_relative_path_and_through_a_link(overlay: OverlayMount) -> None:
    (overlay.directory / "link").symlink_to("mnt")
    for name in ("mnt", "link", "./mnt/"):
        overlay.mount()
        run(*COMMAND, "umount", name, cwd=overlay.directory)
        assert mounted_device(str(overlay.path)) is None


def test_umount_of_a_busy_mount(overlay: OverlayMount) -> None:
    with overlay:
        with busy(overlay.path):
            assert fail("umount", overlay.path) == f"{overlay.path}: target is busy"
        assert (overlay.path / "file").exists()


def test_lazy_umount_of_a_busy_mount(overlay: OverlayMount) -> None:
    overlay.mount()
    pid = overlay.daemon()
    with busy(overlay.path) as user:
        run(*COMMAND, "umount", "--lazy", overlay.path)
        assert mounted_device(str(overlay.path)) is None
        assert Path(f"/proc/{user.pid}/cwd/file").read_text() == "of the base\n"
        mounts = json.loads(run(*COMMAND, "status", "--json"))["mounts"]
        assert [report["state"] for report in mounts if report["mountpoint"] == str(overlay.path)] == ["detached"]
    wait_for_end(pid)


def test_a_mount_whose_daemon_was_killed(overlay: OverlayMount) -> None:
    overlay.mount()
    try:
        pid = overlay.daemon()
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
        assert f"{overlay.path}: unserved: " in run(*COMMAND, "status", overlay.path)
        assert "mounted there already" in fail("mount", overlay.profile, overlay.path)
        run(*COMMAND, "umount", overlay.path)
        overlay.mount()
        assert (overlay.path / "file").exists()
    finally:
        run(*COMMAND, "umount", overlay.path)


def test_foreground(overlay: OverlayMount) -> None:
    command = [*COMMAND, "mount", "--foreground", str(overlay.profile), str(overlay.path)]
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as daemon:
            assert daemon.stderr is not None
            assert select.select([daemon.stderr], [], [], 60)[0]
            assert "is mounted on" in daemon.stderr.readline()
            assert (overlay.path / "file").read_text() == "of the base\n"
            daemon.send_signal(number)
            assert "is unmounted from" in daemon.communicate(timeout=60)[1]
        assert daemon.returncode == 0
        assert mounted_device(str(overlay.path)) is None


def test_second_mount_of_one_upper(overlay: OverlayMount) -> None:
    with overlay:
        pid, other = overlay.daemon(), overlay.directory / "other"
        other.mkdir()
        line = fail("mount", overlay.profile, other)
        assert line.startswith(f"{overlay.profile}: upper.url: ")
        assert str(pid) in line
        assert str(overlay.path) in line
        assert mounted_device(str(other)) is None


def test_no_upper_means_a_private_one(tmp_path: Path, base: Path) -> None:
    profile, data, path = tmp_path / "dev.toml", tmp_path / "data", tmp_path / "mnt"
    path.mkdir()
    profile.write_text(f'mountpoint = "{path}"\n{layer_table(str(base))}')
    run(*COMMAND, "mount", profile, XDG_DATA_HOME=str(data))
    try:
        (path / "new").write_text("mine\n")
    finally:
        run(*COMMAND, "umount", path)
    (private,) = (data / "netoverlay").iterdir()
    assert (private / "upper/new").read_text() == "mine\n"
    assert private.stat().st_mode & 0o077 == 0


def test_read_only(tmp_path: Path, base: Path) -> None:
    profile, path = tmp_path / "dev.toml", tmp_path / "mnt"
    path.mkdir()
    profile.write_text(f'read_only = true\nmountpoint = "{path}"\n{layer_table(str(base))}')
    run(*COMMAND, "mount", profile)
    try:
        assert (path / "file").read_text() == "of the base\n"
        with pytest.raises(OSError, match="Read-only file system"):
            (path / "new").write_text("")
        with pytest.raises(OSError, match="Read-only file system"):
            (path / "file").unlink()
        (report,) = json.loads(run(*COMMAND, "status", "--json", path))["mounts"]
        assert report["status"]["mount"]["read_only"] is True
    finally:
        run(*COMMAND, "umount", path)


def test_check(sshd: SshServer, tmp_path: Path, base: Path) -> None:
    keys = [f'identity_file = "{sshd.identity_file}"', f'known_hosts = "{sshd.known_hosts}"']
    overlay = OverlayMount(tmp_path, layer_table(sshd.url(base), keys) + layer_table(f"{tmp_path}/none"), private=False)
    command = [*COMMAND, "check", str(overlay.profile)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    headings, upper, first, second = (line.split() for line in done.stdout.splitlines())
    assert headings == ["layer", "url", "locks", "capabilities"]
    assert " ".join(upper).startswith(f"upper {overlay.upper} held in the layer as well (others may use it) local ")
    assert " ".join(first).startswith(f"lower[0] {sshd.url(base)} kept by this mount (immutable: nobody writes there) ")
    assert "symlinks" in first
    assert second == ["lower[1]", f"{tmp_path}/none", "unreachable"]
    assert done.stderr.startswith(f"netoverlay: {overlay.profile}: lower[1]: {tmp_path}/none: ")
    assert done.stderr.count("\n") == 1
    assert done.returncode == 1
    (tmp_path / "none").mkdir()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert mounted_device(str(overlay.path)) is None


def test_check_tells_how_an_smb_server_takes_names(smbd: SmbServer, tmp_path: Path, base: Path) -> None:
    overlay = OverlayMount(tmp_path, layer_table(smbd.url_of(base), smb_login(smbd)))
    _, _, lower = (line.split() for line in run(*COMMAND, "check", overlay.profile).splitlines())
    assert lower[:2] == ["lower[0]", smbd.url_of(base)]
    assert {"symlinks", "file_ids", "case_insensitive"} <= set(lower)


def refused_smb_layers(smbd: SmbServer, base: Path, tmp_path: Path) -> dict[str, tuple[str, list[str], str]]:
    """As refused_layers()."""
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("not the password\n")
    login = smb_login(smbd)
    return {
        "unreachable": (smbd.url_of(base, port=free_port()), login, "the connection was refused"),
        "refused login": (smbd.url_of(base), [f'password_file = "{wrong}"'], "the login was refused"),
        "no password": (smbd.url_of(base), [], "password_file, password_env, password_command, keyring"),
        "missing share": (smbd.url("none"), login, "there is no such share"),
        "missing root": (f"{smbd.url_of(base)}/none", login, "No such file or directory"),
    }


@pytest.mark.parametrize("reason", ["unreachable", "refused login", "no password", "missing share", "missing root"])
def test_an_smb_layer_that_cannot_be_had(reason: str, smbd: SmbServer, base: Path, tmp_path: Path) -> None:
    url, keys, named = refused_smb_layers(smbd, base, tmp_path)[reason]
    overlay = OverlayMount(tmp_path, layer_table(url, keys))
    line = fail("mount", overlay.profile, overlay.path)
    assert line.startswith(f"{overlay.profile}: lower[0]")
    assert named in line
    assert smbd.password not in line
    assert mounted_device(str(overlay.path)) is None


def refused_layers(sshd: SshServer, base: Path, tmp_path: Path) -> dict[str, tuple[str, list[str], str]]:
    """For each reason why a layer cannot be had: its url, its keys, and what the line must name."""
    other_key, other_hosts = make_key(tmp_path / "other_key"), tmp_path / "no_hosts"
    other_hosts.touch()
    key, hosts = f'identity_file = "{sshd.identity_file}"', f'known_hosts = "{sshd.known_hosts}"'
    nobody_listens = free_port()
    return {
        "unreachable": (sshd.url(base, port=nobody_listens), [key, hosts], f"127.0.0.1:{nobody_listens}"),
        "refused login": (sshd.url(base), [f'identity_file = "{other_key}"', hosts], str(other_key)),
        "unknown host key": (sshd.url(base), [key, f'known_hosts = "{other_hosts}"'], "ssh-keyscan"),
        "missing key": (sshd.url(base), [f'identity_file = "{tmp_path}/none"', hosts], f"{tmp_path}/none"),
        "missing root": (sshd.url(f"{base}/none"), [key, hosts], f"{base}/none"),
        "missing directory": (f"{base}/none", [], f"{base}/none"),
    }


@pytest.mark.parametrize(
    "reason",
    ["unreachable", "refused login", "unknown host key", "missing key", "missing root", "missing directory"],
)
def test_a_layer_that_cannot_be_had(reason: str, sshd: SshServer, base: Path, tmp_path: Path) -> None:
    url, keys, named = refused_layers(sshd, base, tmp_path)[reason]
    overlay = OverlayMount(tmp_path, layer_table(url, keys))
    line = fail("mount", overlay.profile, overlay.path)
    assert line.startswith(f"{overlay.profile}: lower[0]")
    assert named in line
    assert mounted_device(str(overlay.path)) is None
    assert fail("umount", overlay.path).endswith("no netoverlay mount; `netoverlay status` lists them")


def read_until(terminal: int, expected: str) -> str:
    """What the programs at a terminal have printed, once that holds `expected`."""
    shown = ""
    while expected not in shown:
        assert select.select([terminal], [], [], 60)[0], shown
        shown += os.read(terminal, 4096).decode()
    return shown


def test_a_passphrase_is_asked_at_the_terminal_each_time(tmp_path: Path, base: Path) -> None:
    with SshServer(tmp_path / "sshd", user_certificates=True) as server:
        key = make_key(tmp_path / "locked_key", passphrase="open sesame")
        server.sign_user_key(key)
        keys = [f'identity_file = "{key}"', f'known_hosts = "{server.known_hosts}"']
        overlay = OverlayMount(tmp_path, layer_table(server.url(base), keys))
        command = ["setsid", "--ctty", "--wait", *COMMAND, "mount", str(overlay.profile), str(overlay.path)]
        command += ["--log-file", str(overlay.log)]
        for name in ("first", "second"):  # the second time it is known without the server what there is to serve
            (base / name).write_text("read at this mount only\n")
            ours, theirs = pty.openpty()
            with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as mounting:
                os.close(theirs)
                shown = read_until(ours, "assphrase")
                os.write(ours, b"open sesame\n")
                assert mounting.wait(timeout=60) == 0
            os.close(ours)
            try:
                assert (overlay.path / name).read_text() == "read at this mount only\n"
            finally:
                overlay.unmount_quietly()
            assert "sesame" not in shown + overlay.log.read_text()


def test_an_interrupt_at_the_terminal_leaves_nothing_mounted(tmp_path: Path, base: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        overlay = OverlayMount(tmp_path, layer_table(f"sftp://127.0.0.1:{silent.getsockname()[1]}{base}"))
        ours, theirs = pty.openpty()
        command = ["setsid", "--ctty", "--wait", *COMMAND, "mount", str(overlay.profile), str(overlay.path)]
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as mounting:
            os.close(theirs)
            silent.settimeout(60)
            connection, _ = silent.accept()
            os.write(ours, b"\x03")
            assert mounting.wait(timeout=60) != 0
            connection.close()
        os.close(ours)
    assert mounted_device(str(overlay.path)) is None
