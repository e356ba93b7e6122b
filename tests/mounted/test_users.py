"""A mount by an ordinary user, through fusermount3; and two mounts of one base side by side."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, run
from tests.mounted.ordinary_user import UID, in_namespace_of, in_own_namespace, make_device
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

CHECKOUT = Path(__file__).parents[2]
SECONDS = 20.0


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that belongs to the ordinary user, on a path that he may walk."""
    made = Path(tempfile.mkdtemp(prefix="netoverlay-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def give(path: Path, uid: int) -> None:
    for each in [path, *path.rglob("*")]:
        os.chown(each, uid, uid, follow_symlinks=False)


class UserMount:
    """A mount that the ordinary user made and alone can reach."""

    def __init__(self, place: Path, lower: str) -> None:
        self.uid = UID if os.getuid() == 0 else os.getuid()
        self.place, self.path, self.log = place, place / "mnt", place / "log"
        for name in ("mnt", "upper", "run", "home"):
            (place / name).mkdir(exist_ok=True)
        (place / "run").chmod(0o700)
        (place / "profile.toml").write_text(f'{lower}\n[upper]\nurl = "{place}/upper"\n')
        if os.getuid() == 0:
            give(place, self.uid)
        command = [sys.executable, "-m", "tests.mounted.as_ordinary_user", str(self.uid), "mount", "--foreground"]
        command += [str(place / "profile.toml"), str(self.path)]
        if os.getuid() == 0:
            command = in_own_namespace(make_device(place), *command)
        environment = {**os.environ, "HOME": str(place / "home"), "XDG_RUNTIME_DIR": str(place / "run")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        give_up_at = time.monotonic() + SECONDS
        while "is mounted on" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > give_up_at:
                raise AssertionError(f"not mounted:\n{self.log.read_text()}")
            time.sleep(0.02)

    def run(self, script: str, *, check: bool = True) -> str:
        """What a shell of the user prints, in the mount."""
        command = ["sh", "-c", f'cd "{self.path}" && {script}']
        if os.getuid() == 0:
            command = in_namespace_of(self.process.pid, *command)
        return run(*command, check=check, HOME=str(self.place / "home"), GIT_CONFIG_NOSYSTEM="1")

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@pytest.fixture
def smbd_of(place: Path) -> Iterator[Callable[[], SmbServer]]:
    """Starts an smbd that serves `place`, which lies where no other server looks.

    What it has for itself is elsewhere: it makes and removes files, while `place` is given to somebody.
    """
    with ExitStack() as stack:
        own = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netoverlay-")))
        yield lambda: stack.enter_context(SmbServer(own / "smbd", {"place": place}))


@pytest.mark.parametrize("transport", ["local", "sftp", "smb"])
def test_an_ordinary_user_mounts_and_works(
    place: Path, transport: str, sshd: SshServer, smbd_of: Callable[[], SmbServer]
) -> None:
    base = place / "base"
    (base / "dir").mkdir(parents=True)
    (base / "file").write_text("content\n")
    (base / "dir" / "script").write_text("#!/bin/sh\necho it runs\n")
    (base / "dir" / "script").chmod(0o755)
    (base / "closed").mkdir(mode=0o555)
    (base / "closed" / "file").write_text("closed\n")
    (base / "closed" / "file").chmod(0o444)
    give(base, UID if os.getuid() == 0 else os.getuid())
    if transport == "local":
        lower = f'[[lower]]\nurl = "{base}"\nimmutable = true\n'
    elif transport == "smb":
        smbd = smbd_of()
        password = place / "password"
        shutil.copy(smbd.password_file, password)
        password.chmod(0o600)
        lower = f'[[lower]]\nurl = "{smbd.url_of(base)}"\nimmutable = true\npassword_file = "{password}"\n'
    else:
        identity = place / "id"
        shutil.copy(sshd.identity_file, identity)
        identity.chmod(0o600)
        known_hosts = place / "known_hosts"
        shutil.copy(sshd.known_hosts, known_hosts)
        known_hosts.chmod(0o644)
        keys = f'identity_file = "{identity}"\nknown_hosts = "{known_hosts}"\n'
        lower = f'[[lower]]\nurl = "{sshd.url(base)}"\nimmutable = true\n{keys}'
    mount = UserMount(place, lower)
    try:
        assert mount.run("cat file; ./dir/script") == "content\nit runs\n"
        mount.run("echo more >> file; mv dir moved; rm moved/script; mkdir dir; ln -s file link; ln file hard")
        assert mount.run("cat hard; ls -A dir; ls -A moved; readlink link") == "content\nmore\nfile\n"
        mount.run("chmod u+w closed && echo x > closed/new && chmod u+w closed/file && echo y >> closed/file")
        assert mount.run("cat closed/file closed/new") == "closed\ny\nx\n"
        mount.run("chmod u+w closed && rm -f closed/* && chmod 555 closed && rmdir closed && mkdir closed && ls closed")
        git = "git -c user.name=A -c user.email=a@example.org -c safe.directory=*"
        mount.run(f"{git} init -q . && {git} add -A && {git} commit -qm work && {git} gc -q && {git} fsck --strict")
        assert mount.run("stat -c %u file .git/HEAD") == f"{mount.uid}\n" * 2
        assert "Permission denied" in mount.run("cp /dev/null closed/file/x; chmod 0 moved; ls moved", check=False)
    finally:
        assert mount.end() == 0, mount.log.read_text()
    assert (base / "file").read_text() == "content\n"
    assert (base / "dir" / "script").exists()


def test_two_mounts_of_one_base_do_not_see_each_other(tmp_path: Path, lower) -> None:
    base = tmp_path / "base"
    (base / "dir").mkdir(parents=True)
    (base / "dir" / "file").write_text("base\n")
    one, other = (OverlayMount(tmp_path / name, lower(base)) for name in ("one", "other"))
    with one, other:
        (one.path / "dir" / "file").write_text("one\n")
        (one.path / "dir" / "new").write_text("one\n")
        assert (other.path / "dir" / "file").read_text() == "base\n"
        assert os.listdir(other.path / "dir") == ["file"]
        shutil.rmtree(other.path / "dir")
        assert (one.path / "dir" / "file").read_text() == "one\n"
        other.remount()
        assert os.listdir(other.path) == []
    assert (base / "dir" / "file").read_text() == "base\n"
