"""The SFTP backend against sshfs and OpenSSH's sftp, in one run: python -m bench.sftp

Starts an sshd of its own on loopback, on files in memory where there is /dev/shm. Every round measures all contenders
in turn; the table shows medians, then the ratios that matter. sftp's connecting is measured and taken off its times.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from netoverlay.backend_api import Access, Backend, Creation, parse_url
from netoverlay_sftp import PLUGIN, SftpOptions
from tests.servers.sshd import SshServer, required_program

CALL_BYTES = 32 << 20
STATS = 2000
DEADLINE = 60.0
MEGABYTE = 1_000_000


def elapsed(action: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    action()
    return time.perf_counter() - started_at


@dataclass
class Contender:
    """What can be measured of one program: seconds for each action, None where it has no such thing."""

    name: str
    read: Callable[[Path], float]
    write: Callable[[Path], float]
    stat: Callable[[Path], float] | None
    listing: Callable[[Path], float]
    results: dict[str, list[float]] = field(default_factory=dict)

    def median(self, what: str) -> float | None:
        found = self.results.get(what)
        return statistics.median(found) if found else None


def backend_contender(name: str, backend: Backend, root: Path, size: int) -> Contender:
    def path(target: Path) -> str:
        return str(target.relative_to(root))

    def read(target: Path) -> float:
        buffer = bytearray(CALL_BYTES)

        def work() -> None:
            with backend.open(path(target), Access.READ) as file:
                offset = 0
                while count := file.read_into(offset, buffer):
                    offset += count
                assert offset == size

        return elapsed(work)

    def write(target: Path) -> float:
        data = bytes(CALL_BYTES)

        def work() -> None:
            with backend.open(path(target), Access.WRITE, create=Creation.EXCLUSIVE) as file:
                for offset in range(0, size, CALL_BYTES):
                    file.write_at(offset, data)

        return elapsed(work)

    def stat(target: Path) -> float:
        return elapsed(lambda: [backend.stat(path(target)) for _ in range(STATS)]) / STATS

    def listing(target: Path) -> float:
        return elapsed(lambda: backend.list_dir(path(target)))

    return Contender(name, read, write, stat, listing)


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


def measure(contenders: list[Contender], rounds: int, root: Path, source: Path) -> None:
    target = root / "written"
    for _ in range(rounds):
        for contender in contenders:
            taken = {
                "read": contender.read(source),
                "write": contender.write(target),
                "listing": contender.listing(root / "many"),
            }
            if contender.stat is not None:
                taken["stat"] = contender.stat(source)
            target.unlink()
            for what, seconds in taken.items():
                contender.results.setdefault(what, []).append(seconds)


def table_of(contenders: list[Contender], size: int, entries: int) -> Table:
    table = Table(title=f"SFTP on loopback: {size // MEGABYTE} MB, {entries} entries; medians")
    for heading in ("", "read MB/s", "write MB/s", "stat us", "listing with attributes s"):
        table.add_column(heading, justify="left" if not heading else "right")
    for contender in contenders:
        read, write, stat, listing = map(contender.median, ("read", "write", "stat", "listing"))
        table.add_row(
            contender.name,
            f"{size / MEGABYTE / read:.0f}" if read else "-",
            f"{size / MEGABYTE / write:.0f}" if write else "-",
            f"{stat * 1e6:.0f}" if stat else "-",
            f"{listing:.3f}" if listing else "-",
        )
    return table


def ratios(contenders: list[Contender], ours: int) -> Table:
    """How many times as fast the first `ours` contenders are as each of the others."""
    table = Table(title="times as fast as")
    for heading in ("", "the other", "read", "write", "stat", "listing"):
        table.add_column(heading, justify="left" if heading in ("", "the other") else "right")
    for mine in contenders[:ours]:
        for other in contenders[ours:]:
            pairs = [(mine.median(what), other.median(what)) for what in ("read", "write", "stat", "listing")]
            table.add_row(mine.name, other.name, *(f"{b / a:.2f}" if a and b else "-" for a, b in pairs))
    return table


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
        for directory in (root / "many", mountpoint):
            directory.mkdir(parents=True)
        source = root / "source"
        with source.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1 << 20))
        for number in range(entries):
            (root / "many" / f"file-{number:06}").touch()
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
    console.print(table_of(contenders, size, entries), ratios(contenders, 2))
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
