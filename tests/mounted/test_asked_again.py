"""What the kernel asks for once more within a call does not make it wait beyond the deadline of a silent server."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, layer_table, through_proxy
from tests.servers.proxy import Proxy
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

DEADLINE = 1.5
SLACK = 1.0
"""What a call may take beyond that."""
LARGE = 9 << 20
TTL = 0.2
READING = (
    ("dd", "if=large0", "bs=4096", "skip=1000", "count=1"),
    ("head", "-c", "200000", "large1"),
    ("dd", "if=large2", "bs=1M", "count=1"),
    ("dd", "if=large3", "bs=4M", "count=1"),
    ("dd", "if=large4", "bs=4096", "skip=2000", "count=8"),
)
LOOKING = (("stat", "d/below/file"), ("cat", "d/below/other"), ("ls", "-l", "e"))

Mount = Callable[..., OverlayMount]


@pytest.fixture
def mount(tmp_path: Path, server: SshServer | SmbServer, proxy: Proxy) -> Iterator[Mount]:
    base = tmp_path / "served" / "base"
    for directory in ("d/below", "e"):
        (base / directory).mkdir(parents=True)
    for name in ("d/below/file", "d/below/other", "e/file"):
        (base / name).write_bytes(b"content")
    for number in range(len(READING)):
        with (base / f"large{number}").open("wb") as file:
            file.truncate(LARGE)
    with ExitStack() as mounted:

        def make(*keys: str) -> OverlayMount:
            url, login = through_proxy(server, proxy.port, base, tmp_path / "known_hosts")
            table = layer_table(url, [*login, f"deadline = {DEADLINE}"])
            if keys:
                table = table.replace("immutable = true", "\n".join(keys))
            found = OverlayMount(tmp_path / "m", table)
            found.mount()
            mounted.callback(found.unmount_quietly)
            return found

        yield make


def seconds_of(programs: tuple[tuple[str, ...], ...], directory: Path) -> float:
    """Until all of these programs have ended, each with the first call that fails."""
    began_at = time.monotonic()
    running = [
        subprocess.Popen(program, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for program in programs
    ]
    said = [program.communicate()[1] for program in running]
    assert all(os.strerror(errno.EIO) in each for each in said), said
    return time.monotonic() - began_at


def test_pages_that_could_not_be_read_ahead(mount: Mount, proxy: Proxy) -> None:
    mounted = mount()
    assert len(os.listdir(mounted.path)) == len(READING) + 2
    proxy.silence()
    assert seconds_of(READING, mounted.path) < DEADLINE + SLACK
    proxy.restore()
    assert (mounted.path / "large0").read_bytes() == bytes(LARGE)


def test_names_that_could_not_be_confirmed(mount: Mount, proxy: Proxy) -> None:
    mounted = mount("immutable = false", f"ttl = {TTL}")
    for program in LOOKING:
        subprocess.run(program, cwd=mounted.path, check=True, stdout=subprocess.DEVNULL)
    time.sleep(2 * TTL)
    proxy.silence()
    assert seconds_of(LOOKING, mounted.path) < DEADLINE + SLACK
    proxy.restore()
    assert (mounted.path / "d" / "below" / "file").read_bytes() == b"content"
