"""`netoverlay fsck` on real mounts: clean after work, in order after a kill, refused while mounted, its exit codes."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netoverlay.checking.findings import ExitCode
from netoverlay.config.errors import ConfigError
from netoverlay.fsck import Repairs
from tests.checking.uppers import CheckedUpper, Result, check, whiteout
from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, sftp_login, smb_login, wait_for_end
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

CLEAN = Result(set(), [], ExitCode.CLEAN)
LARGE = 9 << 20
"""More than what is copied up at once, of a base on a server."""


@pytest.fixture(params=["local", "sftp", "smb"])
def kind(request: pytest.FixtureRequest) -> str:
    """Where the upper is."""
    return str(request.param)


@pytest.fixture
def overlay(tmp_path: Path, kind: str, sshd: SshServer, smbd: SmbServer) -> Iterator[OverlayMount]:
    """Over a base on a server, so that large files are copied lazily."""
    base, upper = tmp_path / "base", tmp_path / "served" / "upper"
    for name in ("d/e/file", "d/other", "removed/inside", "replaced/inside", "one", "large", "unread"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(name.encode())
    with (base / "large").open("wb") as file:
        file.truncate(LARGE)
    for name in ("two", "d/three", "d/four"):
        os.link(base / "one", base / name)
    keys = {
        "local": [f'url = "{upper}"'],
        "sftp": [f'url = "{sshd.url(upper)}"', *sftp_login(sshd)],
        "smb": [f'url = "{smbd.url_of(upper)}"', *smb_login(smbd)],
    }[kind]
    mount = OverlayMount(tmp_path / "m", layer_table(smbd.url_of(base), smb_login(smbd)), upper=upper, upper_keys=keys)
    yield mount
    mount.unmount_quietly()


def work(top: Path) -> None:
    """Some of everything that leaves a trace in an upper."""
    (top / "d").rename(top / "moved")
    with (top / "moved" / "other").open("a") as file:
        file.write("more")
    (top / "moved" / "e" / "file").unlink()
    shutil.rmtree(top / "removed")
    shutil.rmtree(top / "replaced")
    (top / "replaced").mkdir()
    (top / "replaced" / "new").write_text("new")
    (top / "one").write_text("changed under all its names")
    (top / "two").unlink()
    os.link(top / "moved" / "three", top / "five")
    with (top / "large").open("r+b") as file:
        file.write(b"lazily")
    os.mkfifo(top / "fifo")
    (top / "link").symlink_to("moved/other")
    (top / "README").write_text("first")
    (top / "readme").write_text("second")
    (top / "Readme").write_text("third")
    (top / "readme").unlink()
    for number in range(20):
        (top / f"made{number}").write_text(str(number))
        (top / f"made{number}").rename(top / f"done{number % 7}")
    os.setxattr(top / "moved" / "other", "user.name", b"value")


def look(top: Path) -> tuple[str, list[str]]:
    return (top / "moved" / "four").read_text(), sorted(os.listdir(top))


def test_it_finds_nothing_after_work_and_puts_in_order_what_a_kill_leaves(overlay: OverlayMount) -> None:
    with overlay:
        work(overlay.path)
        seen = look(overlay.path)
        assert seen[0] == "changed under all its names"
        for repairs in Repairs:
            with pytest.raises(
                ConfigError, match=f"another mount owns it: {overlay.path}, process {overlay.daemon()} "
            ):
                check(overlay.profile, repairs)
    assert check(overlay.profile) == CLEAN
    overlay.mount()
    killed_at_work(overlay)
    told = check(overlay.profile)
    assert told.exit_code is ExitCode.LEFT
    assert {kind.row.code for kind, _ in told.found} & {"owner-dead", "journal-open"}
    repaired = check(overlay.profile, Repairs.ALL)
    assert (repaired.found, repaired.exit_code) == (told.found, ExitCode.CORRECTED)
    assert check(overlay.profile) == CLEAN
    with overlay:
        assert (overlay.path / "unread").read_text() == "unread"
        text, names = look(overlay.path)
    assert (text, [name for name in names if not name.startswith("busy")]) == seen
    assert check(overlay.profile) == CLEAN


def killed_at_work(overlay: OverlayMount) -> None:
    busy = subprocess.Popen(["sh", "-c", _BUSY], cwd=overlay.path, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert busy.stdout is not None
        busy.stdout.readline()
        pid = overlay.daemon()
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)
    finally:
        busy.kill()
        busy.communicate()
        run(*COMMAND, "umount", overlay.path)


_BUSY = "i=0; while echo $i > busy$i; do mv busy$i busy; i=$((i+1)); [ $i = 5 ] && echo; done"


def fsck(profile: Path, *options: str) -> tuple[int, list[str]]:
    """Its exit status, and the lines that it prints."""
    command = [*COMMAND, "fsck", *options, str(profile)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=100)
    return done.returncode, (done.stdout + done.stderr).splitlines()


@pytest.fixture
def upper(tmp_path: Path) -> CheckedUpper:
    made = CheckedUpper(tmp_path)
    (made.base / "file").touch()
    whiteout(made.root / "none")
    return made


def test_what_it_prints_and_its_exit_codes(upper: CheckedUpper) -> None:
    line = "upper/none: a whiteout of a name that no lower has"
    name = str(upper.profile)
    assert fsck(upper.profile) == (
        4,
        [f"{line}: would be removed", f"{name}: 0 corrected, 1 left, 1 entries looked at"],
    )
    assert fsck(upper.profile, "-n")[0] == 4
    assert fsck(upper.profile, "-y") == (1, [f"{line}: removed", f"{name}: 1 corrected, 0 left, 1 entries looked at"])
    assert fsck(upper.profile) == (0, [f"{name}: clean, 0 entries looked at"])
    assert fsck(upper.profile, "-n", "-y")[0] == 16
    assert fsck(upper.profile, "--none")[0] == 16
    upper.profile.write_text("nonsense")
    assert fsck(upper.profile)[0] == 8


def test_who_is_there_is_asked(upper: CheckedUpper, answered: Callable[[list[str], str], tuple[int, str]]) -> None:
    command = ["setsid", "--ctty", "--wait", *COMMAND, "fsck", str(upper.profile)]
    code, shown = answered(command, "n\n")
    assert code == 4
    assert "upper/none: a whiteout of a name that no lower has: have it removed? [y/N]" in shown
    assert (upper.root / "none").is_char_device()
    assert answered(command, "\x03\n")[0] == 32
    code, shown = answered(command, "y\n")
    assert code == 1
    assert not (upper.root / "none").exists()


@pytest.fixture
def answered() -> Callable[[list[str], str], tuple[int, str]]:
    """Runs a command at a terminal, and gives it an answer when it asks."""

    def answer(command: list[str], text: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        shown = ""
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as asking:
            os.close(theirs)
            while "[y/N]" not in shown:
                assert select.select([ours], [], [], 60)[0], shown
                shown += os.read(ours, 4096).decode()
            os.write(ours, text.encode())
            code = asking.wait(timeout=60)
        os.close(ours)
        return code, shown

    return answer


def test_a_profile_without_an_upper(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    profile = tmp_path / "profile.toml"
    for more in ("", "read_only = true\n"):
        profile.write_text(more + layer_table(str(tmp_path / "base")))
        told = run(*COMMAND, "fsck", "-y", profile, XDG_DATA_HOME=str(tmp_path / "data"))
        assert told == f"{profile}: nothing to check: there is no upper\n"
    assert not (tmp_path / "data").exists()
