"""Servers in containers, for `scripts/test --servers docker`: the images are made from docker/.

A server of the tests is configured by its directory, and serves trees of this machine. So its container has both, under
the paths that they have here, and the network and the users of this machine: the tests need not know of it. Its
processes can be seen and ended from here, too, for the engine is one of this machine.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

ENGINE = os.environ.get("NETOVERLAY_TEST_SERVERS", "")
"""docker or podman; "" for servers that are processes of this machine."""
RUN = os.environ.get("NETOVERLAY_TEST_RUN", "")
"""What the containers of this run are labelled with, so that none outlives it."""
START_SECONDS = 20.0


class Container:
    """A server's container, used as the Popen of a server is: `pid` is its first process, as this machine counts."""

    def __init__(
        self,
        program: str,
        command: Sequence[str],
        *,
        directory: Path,
        trees: Iterable[Path],
        users: Sequence[str],
        log: BinaryIO,
    ) -> None:
        """Run `command` in the image of `program`."""
        self._name = f"netoverlay-{program}-{secrets.token_hex(6)}"
        words = [ENGINE, "run", "--rm", "--name", self._name, "--label", f"netoverlay-tests={RUN}"]
        # The process ids are those of this machine, which is what smbstatus goes by.
        words += ["--network", "host", "--pid", "host", "--workdir", "/", *_identity()]
        for path in _outermost([Path(tempfile.gettempdir()), directory, *trees]):
            # Not what is mounted below: a container that held a test's mount would keep it from ending.
            words += ["--mount", f"type=bind,source={path},target={path},bind-nonrecursive"]
        for name, content in (("passwd", _passwd(users)), ("group", _group(users))):
            (directory / name).write_text(content)
            words += ["--mount", f"type=bind,source={directory / name},target=/etc/{name},readonly"]
        self._client = subprocess.Popen(
            [*words, f"netoverlay-{program}", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self.pid = self._first_process()

    def _first_process(self) -> int:
        """Zero if there is none: the log says why."""
        inspect = [ENGINE, "inspect", "--format", "{{.State.Pid}}", self._name]
        give_up_at = time.monotonic() + START_SECONDS
        while self._client.poll() is None and time.monotonic() < give_up_at:
            said = subprocess.run(inspect, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout.strip()
            if said.isdigit() and int(said):
                return int(said)
            time.sleep(0.02)
        return 0

    def poll(self) -> int | None:
        return self._client.poll()

    def wait(self) -> int:
        return self._client.wait()

    def kill(self) -> None:
        """End all its processes at once."""
        killed = subprocess.run(
            [ENGINE, "kill", self._name], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if killed.returncode and self._client.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may have been about to end by itself
                self._client.wait(START_SECONDS)
                return
            self._client.kill()
            raise RuntimeError(f"{ENGINE} kill: {killed.stderr.decode(errors='replace')}")


def _identity() -> list[str]:
    """A container's root is that of this machine; an ordinary user is to be himself in it."""
    if os.geteuid() == 0:
        return []
    return [*(["--userns", "keep-id"] if ENGINE == "podman" else []), "--user", f"{os.geteuid()}:{os.getegid()}"]


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Those of the paths, and of what they are links to, that lie in none of the others."""
    chosen: list[Path] = []
    for candidate in sorted({each for path in paths for each in (path.absolute(), path.resolve())}):
        if not any(candidate.is_relative_to(path) for path in chosen):  # a directory comes before what is in it
            chosen.append(candidate)
    return chosen


def _accounts(users: Sequence[str]) -> list[pwd.struct_passwd]:
    return [pwd.getpwnam(name) for name in dict.fromkeys(("root", "nobody", *users))]


def _passwd(users: Sequence[str]) -> str:
    """The users as this machine knows them, but with a shell that the image has, and the one that sshd insists on."""
    lines = [f"{one.pw_name}:*:{one.pw_uid}:{one.pw_gid}::{one.pw_dir}:/bin/sh" for one in _accounts(users)]
    return "\n".join([*lines, "sshd:*:100:65534::/run/sshd:/usr/sbin/nologin"]) + "\n"


def _group(users: Sequence[str]) -> str:
    names = {one.pw_name for one in _accounts(users)}
    primary = {one.pw_gid for one in _accounts(users)}
    groups = [group for group in grp.getgrall() if group.gr_gid in primary or names & set(group.gr_mem)]
    return "".join(f"{group.gr_name}:*:{group.gr_gid}:{','.join(group.gr_mem)}\n" for group in groups)
