"""Writes of a program through write-back and without it, beside sftp and smbclient: python -m bench.write_back

A program writes a file in calls of 128 KiB, as dd and the kernel do, and syncs it: to an sshd and an smbd of its own on
loopback, on files in memory where there is /dev/shm, and to the same over a round trip of 20 ms. Without write-back
each call waits for the server, so over the round trip only a part of the file is written, and the speed of that counts.
"large calls" is what the backend does alone, with 32 MiB a call. The clients' connecting is measured and taken off.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.contenders import DEADLINE, MEGABYTE, Contender, delayed, elapsed
from bench.smb import MODES, SHARE, Smbclient
from netoverlay.backend_api import Access, Backend, Creation, parse_url
from netoverlay.cache.metadata import MetadataCache
from netoverlay.wrappers.limits import LimitedBackend
from netoverlay.wrappers.retry import RetryingBackend
from netoverlay.wrappers.write_back import WriteBackBackend
from netoverlay_sftp import PLUGIN as SFTP
from netoverlay_sftp import SftpOptions
from netoverlay_smb import PLUGIN as SMB
from netoverlay_smb import SmbOptions
from tests.servers.processes import required_program
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

WRITE_BYTES = 128 << 10
LARGE_BYTES = 32 << 20
ROUND_TRIP = 0.020
SLOW_PART = 16
"""So much less is written where every call waits for a round trip."""


def upper(backend: Backend) -> Backend:
    """What is around an upper on a server."""
    return MetadataCache(RetryingBackend(LimitedBackend(backend, DEADLINE), DEADLINE), ttl=None)


def writer(name: str, backend: Backend, size: int, call_bytes: int) -> tuple[Contender, int]:
    data = os.urandom(call_bytes)

    def write(target: Path) -> float:
        def work() -> None:
            with backend.open(target.name, Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
                for offset in range(0, size, call_bytes):
                    file.write_at(offset, data)
                file.flush()
                file.sync()

        return elapsed(work)

    return Contender(name, write=write), size


def writers(
    stack: ExitStack, kind: str, make: Callable[[], Backend], size: int, *, is_far: bool
) -> list[tuple[Contender, int]]:
    def connected(backend: Backend) -> Backend:
        stack.enter_context(backend).connect()
        return backend

    gathered, plain = connected(WriteBackBackend(upper(make()))), connected(upper(make()))
    return [
        writer(f"{kind}: write-back", gathered, size, WRITE_BYTES),
        writer(f"{kind}: without", plain, size // SLOW_PART if is_far else size, WRITE_BYTES),
        writer(f"{kind}: without, large calls", plain, size, LARGE_BYTES),
    ]


def sftp_program(server: SshServer, port: int, known_hosts: Path, source: Path, size: int) -> tuple[Contender, int]:
    words = [required_program("sftp"), "-q", "-o", f"Port={port}", "-o", f"UserKnownHostsFile={known_hosts}"]
    words += [*server.ssh_arguments(), "-o", "Ciphers=aes128-gcm@openssh.com", "-b", "-", f"{server.user}@127.0.0.1"]

    def run(command: str) -> float:
        return elapsed(
            lambda: subprocess.run(words, input=command.encode(), stdout=subprocess.DEVNULL, check=True, timeout=600)
        )

    def put(target: Path) -> float:
        connecting = run("pwd\n")
        return run(f"put {source} {target}\n") - connecting

    return Contender("sftp put", write=put), size


def smb_program(server: SmbServer, port: int, work: Path, source: Path, size: int) -> tuple[Contender, int]:
    program = Smbclient(server, work, next(mode for mode in MODES if mode.name == "signed"), port)
    put: Callable[[Path], float] = lambda target: program.without_connecting(f"put {source} {target.name}")  # noqa: E731
    return Contender("smbclient put", write=put), size


def measure(contenders: list[tuple[Contender, int]], root: Path, rounds: int) -> None:
    target = root / "written"
    for _ in range(rounds):
        for contender, _ in contenders:
            if contender.write is not None:
                contender.results.setdefault("write", []).append(contender.write(target))
            target.unlink()


def table_of(title: str, contenders: list[tuple[Contender, int]]) -> Table:
    """Medians, and how many times as fast the first one is."""
    table = Table(title=title)
    for heading in ("", "MB/s", "write-back is so many times as fast"):
        table.add_column(heading, justify="right" if heading else "left")
    speeds = [size / MEGABYTE / (contender.median("write") or 1) for contender, size in contenders]
    for (contender, _), speed in zip(contenders, speeds, strict=True):
        table.add_row(contender.name, f"{speed:.0f}", f"{speeds[0] / speed:.2f}")
    return table


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--megabytes", default=1024, show_default=True, help="MiB to write; over the round trip a quarter.")
def main(rounds: int, megabytes: int) -> None:
    """Measure what a program that writes sees."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netoverlay-bench-", dir=memory)))
        root = work / "root"
        root.mkdir()
        sshd = stack.enter_context(SshServer(work / "sshd"))
        smbd = stack.enter_context(SmbServer(work / "smbd", {SHARE: root}))
        for is_far in (False, True):
            size = (megabytes << 20) // (4 if is_far else 1)
            source = work / "source"
            source.write_bytes(os.urandom(size))
            where = f"{size // MEGABYTE} MB, {'over 20 ms' if is_far else 'loopback'}; medians of {rounds}"
            with ExitStack() as line:
                ports = [sshd.port, smbd.port]
                if is_far:
                    ports = [line.enter_context(delayed(port, ROUND_TRIP)) for port in ports]
                known_hosts = work / "known_hosts"
                known_hosts.write_text(sshd.host_key_line(f"[127.0.0.1]:{ports[0]}") + "\n")

                def sftp(transport: str, port: int = ports[0], known: Path = known_hosts) -> Backend:
                    options = SftpOptions(sshd.identity_file, known, transport=transport)  # type: ignore[arg-type]
                    return SFTP.create(parse_url(sshd.url(root, port=port)), options, DEADLINE)

                def smb(port: int = ports[1]) -> Backend:
                    return SMB.create(
                        parse_url(smbd.url(SHARE, port=port)), SmbOptions(password_file=smbd.password_file), DEADLINE
                    )

                sftp_put = sftp_program(sshd, ports[0], known_hosts, source, size)
                groups = {
                    "SFTP (paramiko)": [
                        *writers(line, "paramiko", lambda: sftp("paramiko"), size, is_far=is_far),
                        sftp_put,
                    ],
                    "SFTP (ssh)": [*writers(line, "ssh", lambda: sftp("ssh"), size, is_far=is_far), sftp_put],
                    "SMB": [
                        *writers(line, "smb", smb, size, is_far=is_far),
                        smb_program(smbd, ports[1], work, source, size),
                    ],
                }
                for title, contenders in groups.items():
                    measure(contenders, root, rounds)
                    Console().print(table_of(f"{title}: {where}", contenders))


if __name__ == "__main__":
    main()
