"""Copying a file from one layer to another, as copy-up does: python -m bench.copy_up

For each pair of local, sftp and smb, against what people would do by hand: cp, `sftp get` and `put`, `smbclient get`
and `put`, one after the other where both layers are on servers; and the copies that those programs have a server make.
Starts an sshd and a smbd of its own on loopback, on files in memory where there is /dev/shm, and measures all
contenders of a pair in turn; then again with a round trip of 20 ms to the servers. The programs' connecting is taken
off their times. `--before FILE` measures another version of netoverlay/overlay/content.py beside the one that is here.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.contenders import DEADLINE, MEGABYTE, delayed, elapsed, fill
from netoverlay.backend_api import Access, Backend, BackendFile, Creation, LayerUrl, parse_url
from netoverlay.backend_api.url import LOCAL_SCHEME
from netoverlay.overlay import content
from netoverlay_local import PLUGIN as LOCAL
from netoverlay_sftp import PLUGIN as SFTP
from netoverlay_sftp import SftpOptions
from netoverlay_smb import PLUGIN as SMB
from netoverlay_smb import SmbOptions
from tests.servers.processes import required_program
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

SHARE = "bench"
KINDS = ("local", "sftp", "smb")
Copy = Callable[[BackendFile, BackendFile, int], None]


@dataclass
class Way:
    """One way to copy, and the seconds that it took."""

    name: str
    copy: Callable[[], float]
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Servers:
    """The two servers as they are reached over the ports, and the programs that do so."""

    def __init__(self, work: Path, root: Path, sshd: SshServer, smbd: SmbServer, ports: tuple[int, int]) -> None:
        self._root, self._sshd, self._smbd = root, sshd, smbd
        self._ssh_port, self._smb_port = ports
        self._known_hosts = work / f"known_hosts_{self._ssh_port}"
        self._known_hosts.write_text(sshd.host_key_line(f"[127.0.0.1]:{self._ssh_port}") + "\n")
        self._local = work / "local"

    def backend(self, kind: str) -> Backend:
        if kind == "local":
            return LOCAL.create(LayerUrl(LOCAL_SCHEME, str(self._root)), LOCAL.options(), DEADLINE)
        if kind == "sftp":
            login = SftpOptions(self._sshd.identity_file, self._known_hosts)
            return SFTP.create(parse_url(self._sshd.url(self._root, port=self._ssh_port)), login, DEADLINE)
        password = SmbOptions(password_file=self._smbd.password_file)
        return SMB.create(parse_url(self._smbd.url(SHARE, port=self._smb_port)), password, DEADLINE)

    def by_hand(self, source: str, target: str) -> Callable[[], float]:
        """As a person would: get, put, or both."""
        if source == target == "local":
            words = ["cp", str(self._root / "source"), str(self._root / "written")]
            return lambda: elapsed(lambda: subprocess.run(words, check=True))
        between = self._root / "source" if source == "local" else self._local
        local = self._root / "written" if target == "local" else between
        steps: list[Callable[[], float]] = []
        if source != "local":
            steps.append(lambda: self._run(source, f"get {self._on(source, 'source')} {local}"))
        if target != "local":
            steps.append(lambda: self._run(target, f"put {local} {self._on(target, 'written')}"))

        def copy() -> float:
            seconds = sum(step() for step in steps)
            self._local.unlink(missing_ok=True)
            return seconds

        return copy

    def by_server(self, kind: str) -> Callable[[], float]:
        """As the program has the server do it."""
        command = {"sftp": "cp", "smb": "scopy"}[kind]
        return lambda: self._run(kind, f"{command} {self._on(kind, 'source')} {self._on(kind, 'written')}")

    def _on(self, kind: str, name: str) -> str:
        return str(self._root / name) if kind == "sftp" else name

    def _run(self, kind: str, command: str) -> float:
        run = self._sftp if kind == "sftp" else self._smbclient
        connecting = run("pwd" if kind == "sftp" else "quit")
        return run(command) - connecting

    def _sftp(self, command: str) -> float:
        options = {
            "Port": self._ssh_port,
            "IdentityFile": self._sshd.identity_file,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self._known_hosts,
            "BatchMode": "yes",
            "Ciphers": "aes128-gcm@openssh.com",
        }
        words = [required_program("sftp"), "-F", "none", "-q", "-b", "-"]
        words += [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        words.append(f"{self._sshd.user}@127.0.0.1")
        text = f"{command}\n".encode()
        return elapsed(lambda: subprocess.run(words, input=text, stdout=subprocess.DEVNULL, check=True))

    def _smbclient(self, command: str) -> float:
        words = [required_program("smbclient"), f"--configfile={self._smbd.config}", f"--port={self._smb_port}"]
        words += [f"--authentication-file={self._smbd.directory}/login_{self._smbd.user}", "--client-protection=sign"]
        words += [f"//127.0.0.1/{SHARE}", "--command", command]
        return elapsed(lambda: subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=True))


def ours(lower: Backend, upper: Backend, size: int, copy: Copy) -> Callable[[], float]:
    def work() -> None:
        with (
            lower.open("source", Access.READ) as source,
            upper.open("written", Access.READ_WRITE, create=Creation.EXCLUSIVE) as target,
        ):
            copy(source, target, size)

    return lambda: elapsed(work)


def version_in(file: Path) -> Copy:
    """The copy_content() of another content.py."""
    spec = importlib.util.spec_from_file_location("content_before", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    copy: Copy = module.copy_content
    return copy


def ways_of(servers: Servers, stack: ExitStack, pair: tuple[str, str], size: int, before: Copy | None) -> list[Way]:
    lower, upper = (stack.enter_context(servers.backend(kind)) for kind in pair)
    lower.connect()
    upper.connect()
    ways = [Way("netoverlay", ours(lower, upper, size, content.copy_content))]
    if before is not None:
        ways.append(Way("before", ours(lower, upper, size, before)))
    ways.append(Way("by hand", servers.by_hand(*pair)))
    if pair[0] == pair[1] != "local":
        ways.append(Way("by its server", servers.by_server(pair[0])))
    return ways


def measure(ways: list[Way], rounds: int, root: Path) -> None:
    """Each round takes every way once; what it has written is compared and removed."""
    source, target = root / "source", root / "written"
    for _ in range(rounds):
        for way in ways:
            way.seconds.append(way.copy())
            subprocess.run(["cmp", "-s", str(source), str(target)], check=True)
            target.unlink()


def table_of(title: str, pairs: dict[tuple[str, str], list[Way]], size: int) -> Table:
    names = list(dict.fromkeys(way.name for ways in pairs.values() for way in ways))
    table = Table(title=f"{title}: {size // MEGABYTE} MB; medians, MB/s (netoverlay is so many times as fast)")
    for heading in ("from", "to", *names):
        table.add_column(heading, justify="left" if heading in ("from", "to") else "right")
    for pair, ways in pairs.items():
        known = {way.name: way.median for way in ways}
        mine = known["netoverlay"]
        cells = [
            "-" if (seconds := known.get(name)) is None else f"{size / MEGABYTE / seconds:.0f} ({seconds / mine:.2f})"
            for name in names
        ]
        table.add_row(*pair, *cells)
    return table


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--megabytes", default=1024, show_default=True, help="MiB to copy.")
@click.option("--delayed-megabytes", default=256, show_default=True, help="The same, over the delay.")
@click.option("--delay-ms", default=20, show_default=True, help="The round trip; 0 leaves this part out.")
@click.option("--pair", "chosen", multiple=True, help="As sftp-smb; default: all.")
@click.option("--before", type=click.Path(exists=True, path_type=Path), help="Another version of content.py.")
def main(
    rounds: int, megabytes: int, delayed_megabytes: int, delay_ms: int, chosen: Sequence[str], before: Path | None
) -> None:
    """Measure copying between layers."""
    pairs = [(a, b) for a in KINDS for b in KINDS if not chosen or f"{a}-{b}" in chosen]
    earlier = version_in(before) if before is not None else None
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    console = Console(width=120)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netoverlay-bench-", dir=memory)))
        root = work / "root"
        source = fill(root, megabytes, 0)
        sshd = stack.enter_context(SshServer(work / "sshd"))
        smbd = stack.enter_context(SmbServer(work / "smbd", {SHARE: root}))

        def run(title: str, ports: tuple[int, int], size: int, which: list[tuple[str, str]]) -> None:
            servers = Servers(work, root, sshd, smbd, ports)
            measured = {}
            for pair in which:
                with ExitStack() as connections:
                    ways = ways_of(servers, connections, pair, size, earlier)
                    measure(ways, rounds, root)
                    measured[pair] = ways
            console.print(table_of(title, measured, size))

        run("loopback", (sshd.port, smbd.port), megabytes << 20, pairs)
        if delay_ms:
            os.truncate(source, delayed_megabytes << 20)
            ports = (
                stack.enter_context(delayed(sshd.port, delay_ms / 1000)),
                stack.enter_context(delayed(smbd.port, delay_ms / 1000)),
            )
            far = [pair for pair in pairs if pair != ("local", "local")]
            run(f"over {delay_ms} ms", ports, delayed_megabytes << 20, far)


if __name__ == "__main__":
    main()
