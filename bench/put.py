"""dd onto a mount whose upper is on a server, beside what the server's own client puts there: python -m bench.put

Starts an sshd and a smbd of its own on loopback, on files in memory where there is /dev/shm, and mounts an upper on
each, every mount a process of its own. `dd bs=1M conv=fsync` writes a file through it; `sftp put` and `smbclient put`
bring the same file there, in turn. The clients' connecting is measured and taken off their times; a mount is connected
already.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.contenders import MEGABYTE, Contender, elapsed
from bench.smb import SHARE
from bench.write_back import sftp_program, smb_program
from tests.mounted.mounting import OverlayMount, layer_table, sftp_login, smb_login
from tests.servers.processes import required_program
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer


def dd_contender(name: str, mount: OverlayMount, source: Path) -> Contender:
    """Through a mount, up to when the server has it on stable storage."""
    words = [required_program("dd"), f"if={source}", "bs=1M", "conv=fsync", "status=none"]

    def write(target: Path) -> float:
        path = mount.path / target.name
        seconds = elapsed(lambda: subprocess.run([*words, f"of={path}"], check=True))
        if path.stat().st_size != source.stat().st_size:
            raise RuntimeError(f"{path} is not what was written")
        path.unlink()
        return seconds

    return Contender(name, write=write)


def put_contender(client: Contender) -> Contender:
    """A client program, which leaves the file where it has put it."""
    put = client.write
    if put is None:
        raise RuntimeError(f"{client.name} does not write")

    def write(target: Path) -> float:
        seconds = put(target)
        target.unlink()
        return seconds

    return Contender(client.name, write=write)


def mounted(stack: ExitStack, work: Path, name: str, upper: Path, url: str, login: list[str]) -> OverlayMount:
    base = work / "base"
    base.mkdir(exist_ok=True)
    mount = OverlayMount(work / name, layer_table(str(base)), upper=upper, upper_keys=[f'url = "{url}"', *login])
    mount.mount()
    stack.callback(mount.unmount_quietly)
    return mount


def measure(contenders: list[Contender], target: Path, rounds: int) -> None:
    for _ in range(rounds):
        for contender in contenders:
            if contender.write is not None:
                contender.results.setdefault("write", []).append(contender.write(target))


def table_of(title: str, contenders: list[Contender], size: int) -> Table:
    """The last contender is the client program."""
    table = Table(title=title)
    for heading in ("", "median s", "MB/s", "times as fast as the client"):
        table.add_column(heading, justify="right" if heading else "left")
    for contender in contenders:
        seconds = contender.median("write") or 1.0
        ratio = contender.times_as_fast(contenders[-1], "write") or 0.0
        table.add_row(contender.name, f"{seconds:.2f}", f"{size / MEGABYTE / seconds:.0f}", f"{ratio:.2f}")
    return table


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--megabytes", default=1024, show_default=True, help="MiB of the file.")
def main(rounds: int, megabytes: int) -> None:
    """Measure dd onto a mount against the servers' own clients."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    size = megabytes << 20
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netoverlay-bench-", dir=memory)))
        root = work / "root"
        root.mkdir()
        source = work / "source"
        with source.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1 << 20))
        sshd = stack.enter_context(SshServer(work / "sshd"))
        smbd = stack.enter_context(SmbServer(work / "smbd", {SHARE: root}))

        def sftp(transport: str) -> Contender:
            upper = root / f"sftp-{transport}"
            login = [*sftp_login(sshd), f'transport = "{transport}"']
            mount = mounted(stack, work, f"sftp-{transport}", upper, sshd.url(upper), login)
            return dd_contender(f"dd onto the mount ({transport})", mount, source)

        upper = root / "smb"
        smb = mounted(stack, work, "smb", upper, smbd.url(SHARE, "smb"), smb_login(smbd))
        known_hosts = sshd.known_hosts
        groups = {
            "SFTP": [
                sftp("paramiko"),
                sftp("ssh"),
                put_contender(sftp_program(sshd, sshd.port, known_hosts, source, size)[0]),
            ],
            "SMB": [
                dd_contender("dd onto the mount", smb, source),
                put_contender(smb_program(smbd, smbd.port, work, source, size)[0]),
            ],
        }
        for title, contenders in groups.items():
            measure(contenders, root / "written", rounds)
            where = f"{size // MEGABYTE} MB with fsync, loopback; medians of {rounds}"
            Console().print(table_of(f"{title}: {where}", contenders, size))


if __name__ == "__main__":
    main()
