"""Real mounts for tests: a profile written, mounted by the command in a process of its own, and always unmounted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

COMMAND = (sys.executable, "-m", "netoverlay")
UNEXPECTED = re.compile(r"^.* (WARNING|ERROR|CRITICAL) .*$", re.MULTILINE)


def run(*command: str | Path, cwd: Path | None = None, check: bool = True, **environment: str) -> str:
    """What `command` printed; its failure is the test's."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=100,
    )
    output = done.stdout.decode(errors="surrogateescape") + done.stderr.decode(errors="surrogateescape")
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: status {done.returncode}\n{output}")
    return output


def layer_table(url: str, server_keys: Sequence[str] = (), *, immutable: bool = True) -> str:
    lines = ["[[lower]]", f'url = "{url}"', f"immutable = {str(immutable).lower()}", *server_keys]
    return "\n".join(lines) + "\n"


def sftp_login(server: SshServer) -> list[str]:
    """The keys of a layer that say how to log in."""
    return [f'identity_file = "{server.identity_file}"', f'known_hosts = "{server.known_hosts}"']


def smb_login(server: SmbServer) -> list[str]:
    return [f'password_file = "{server.password_file}"']


def through_proxy(server: SshServer | SmbServer, port: int, path: Path, known_hosts: Path) -> tuple[str, list[str]]:
    """The url of a directory by way of a proxy at `port`, and the keys that say how to log in.

    `known_hosts`: a file to be written, for an sshd that is reached there.
    """
    if isinstance(server, SmbServer):
        return server.url_of(path, port=port), smb_login(server)
    known_hosts.write_text(server.host_key_line(f"[127.0.0.1]:{port}") + "\n")
    login = [f'identity_file = "{server.identity_file}"', f'known_hosts = "{known_hosts}"']
    return server.url(path, port=port), login


def through(channel: str, profile: str) -> str:
    """The profile with that `mount.channel`, and what the channel needs."""
    if channel == "own":
        return profile
    key = f'channel = "{channel}"\n'
    locks = '[locks]\nmode = "local"\n'
    with_key = (
        profile.replace("[mount]\n", f"[mount]\n{key}") if "[mount]\n" in profile else f"{profile}\n[mount]\n{key}"
    )
    return f"{with_key}\n{locks}"


class OverlayMount:
    """A profile, mounted. Its log must hold nothing that nobody expects."""

    channel: ClassVar[str] = "own"
    """Of all mounts that a test makes: set by the fixture `channel`."""

    def __init__(
        self,
        directory: Path,
        lowers: str,
        *,
        upper: Path | None = None,
        upper_keys: Sequence[str] = (),
        private: bool = True,
        prefix: Sequence[str] = (),
        unmount_prefix: Sequence[str] | None = None,
        tables: str = "",
    ) -> None:
        """`lowers`: the `[[lower]]` tables. `upper`: default a new directory of `directory`. `tables`: further ones.

        `upper_keys`: of the table `[upper]`, with a url by which a server has the directory. `private`: without them,
        whether the kernel may believe that nobody else uses the upper, and opens files by itself.
        """
        self.directory = directory
        self.path = directory / "mnt"
        self.upper = upper or directory / "upper"
        self.log = directory / "log"
        self.profile = directory / "profile.toml"
        self._prefix = list(prefix)
        self._unmount_prefix = list(prefix if unmount_prefix is None else unmount_prefix)
        for made in (self.path, self.upper):
            made.mkdir(parents=True, exist_ok=True)
        keys = "\n".join(upper_keys or [f'url = "{self.upper}"', f"private = {str(private).lower()}"])
        written = f'[upper]\n{keys}\n[cache]\ndirectory = "{directory}/cache"\n'
        self.write_profile(f"{lowers}\n{written}\n{tables}")

    def write_profile(self, text: str) -> None:
        """Have another one than that of the arguments."""
        self.profile.write_text(through(self.channel, text))

    def mount(self) -> None:
        run(*self._prefix, *COMMAND, "mount", self.profile, self.path, "--log-file", self.log)

    def unmount(self) -> None:
        """Unmount, and see that the daemon has nothing to complain of."""
        run(*self._unmount_prefix, *COMMAND, "umount", self.path)
        log = self.log.read_text()
        assert not UNEXPECTED.search(log), log

    def unmount_quietly(self) -> None:
        """Unmount, if it is mounted, where the log may hold warnings of what the test did."""
        if os.path.ismount(self.path):
            run(*self._unmount_prefix, *COMMAND, "umount", self.path)

    def remount(self) -> None:
        self.unmount()
        self.mount()

    def daemon(self) -> int:
        """The process that serves it."""
        status = run(*self._prefix, *COMMAND, "status", "--json", self.path)
        return int(re.search(r'"pid": (\d+)', status)[1])  # type: ignore[index]

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.unmount()
            return
        run(*self._unmount_prefix, *COMMAND, "umount", "--lazy", self.path, check=False)


def wait_for_end(pid: int, seconds: float = 20.0) -> None:
    """Return once the process, which is no child of ours, is gone."""
    give_up_at = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"process {pid} still runs")
        time.sleep(0.02)
