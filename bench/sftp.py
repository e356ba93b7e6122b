"""The SFTP backend against sshfs and OpenSSH's sftp, in one run: python -m bench.sftp

Starts an sshd of its own on loopback, on files in memory where there is /dev/shm. Every round measures all contenders
in turn; the table shows medians, then the ratios that matter. sftp's connecting is measured and taken off its times.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from rich.console import Console

from bench.contenders import (
    CALL_BYTES,
    DEADLINE,
    STATS,
    Contender,
    backend_contender,
    elapsed,
    fill,
    measure,
    ratios,
    table_of,
)
from netoverlay.backend_api import parse_url
from netoverlay_sftp import PLUGIN, SftpOptions
from tests.servers.processes import required_program
from tests.servers.sshd import SshServer


def sshfs_contender(server: SshServer, root: Path, mountpoint: Path, size: int) -> Contender:
    """Through its mount, which is made anew for each figure, so that no cache holds what is measured."""

    @contextmanager
    def mounted(*options: str) -> Iterator[Path]:
        words = [*server.ssh_arguments(), "-o", "Ciphers=aes128-gcm@openssh.com", *options]
        source = f"{server.user}@127.0.0.1:{root}"
        subprocess.run([required_program("sshfs"), source, str(mountpoint), *words], check=True)
        try:
            os.stat(mountpoint)
            yield mountpoint
        finally:
            subprocess.run([required_program("fusermount3"), "-u", str(mountpoint)], check=True)

    def read(target: Path) -> float:
        buffer = bytearray(CALL_BYTES)
        with mounted() as base, open(base / target.relative_to(root), "rb", buffering=0) as file:

            def work() -> None:
                while file.readinto(buffer):
                    pass

            return elapsed(work)

    def write(target: Path) -> float:
        data = bytes(CALL_BYTES)
        with mounted() as base:

            def work() -> None:
                with open(base / target.relative_to(root), "wb", buffering=0) as file:
                    file.writelines(data for _ in range(size // CALL_BYTES))

            return elapsed(work)

    def stat(target: Path) -> float:
        with mounted("-o", "dir_cache=no,attr_timeout=0,entry_timeout=0") as base:
            path = str(base / target.relative_to(root))
            return elapsed(lambda: [os.stat(path) for _ in range(STATS)]) / STATS

    def listing(target: Path) -> float:
        with mounted() as base:
            path = str(base / target.relative_to(root))
            return elapsed(lambda: [entry.stat(follow_symlinks=False) for entry in os.scandir(path)])

    return Contender("sshfs (mount)", read, write, stat, listing)


def sftp_contender(server: SshServer, source: Path) -> Contender:
    def run(command: str) -> float:
        words = [*server.ssh_arguments(), "-o", "Ciphers=aes128-gcm@openssh.com", "-b", "-"]

        def work() -> None:
            subprocess.run(
                [required_program("sftp"), "-q", *words, f"{server.user}@127.0.0.1"],
                input=command.encode(),
                stdout=subprocess.DEVNULL,
                check=True,
            )

        return elapsed(work)

    def without_connecting(command: str) -> float:
        connecting = run("pwd\n")
        return run(command) - connecting

    return Contender(
        "sftp (binary)",
        lambda target: without_connecting(f"get {target} /dev/null\n"),
        lambda target: without_connecting(f"put {source} {target}\n"),
        None,
        lambda target: without_connecting(f"ls -l {target}\n"),
    )


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--megabytes", default=256, show_default=True, help="MiB to read and to write.")
@click.option("--entries", default=10_000, show_default=True, help="Files in the directory to list.")
def main(rounds: int, megabytes: int, entries: int) -> None:
    """Measure the SFTP backend against sshfs and sftp."""
    size = megabytes << 20
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netoverlay-bench-", dir=memory)))
        root, mountpoint = work / "root", work / "mnt"
        mountpoint.mkdir()
        source = fill(root, megabytes, entries)
        server = stack.enter_context(SshServer(work / "sshd"))
        contenders = []
        for transport in ("paramiko", "ssh"):
            options = SftpOptions(server.identity_file, server.known_hosts, transport=transport)
            backend = stack.enter_context(PLUGIN.create(parse_url(server.url(root)), options, DEADLINE))
            backend.connect()
            contenders.append(backend_contender(f"netoverlay ({transport})", backend, root, size))
        contenders.append(sshfs_contender(server, root, mountpoint, size))
        contenders.append(sftp_contender(server, source))
        measure(contenders, rounds, root, source)
    console = Console()
    console.print(table_of("SFTP on loopback", contenders, size, entries), ratios(contenders, 2))
    slower = [
        f"{mine.name} {what} {theirs.name}"
        for mine in contenders[:2]
        for theirs in contenders[2:]
        for what in ("read", "write", "stat")
        if (a := mine.median(what)) and (b := theirs.median(what)) and a > b
    ]
    sys.exit(f"slower: {', '.join(slower)}" if slower else 0)


if __name__ == "__main__":
    main()
