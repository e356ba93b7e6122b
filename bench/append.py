"""Appending a byte to a large file of a base on a server: python -m bench.append

netoverlay over SFTP, whose copy-up of it is lazy, against the kernel's overlayfs over sshfs, which copies all of it.
Starts an sshd of its own on loopback, and goes to it over a round trip of 20 ms. Needs root, for overlayfs. What is
measured is open, write, fsync and close of a file that was not touched before.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from bench.contenders import MEGABYTE, delayed, elapsed
from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, sftp_login
from tests.servers.sshd import SshServer

BLOCK = 1 << 20


def append(path: Path) -> None:
    """One byte, on stable storage."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"!")
    os.fsync(descriptor)
    os.close(descriptor)


@contextmanager
def overlayfs(base: Path, work: Path, sshd: SshServer, port: int) -> Iterator[Path]:
    """The kernel's, with a base that sshfs has mounted."""
    places = [work / name for name in ("sshfs", "upper", "work", "overlayfs")]
    for place in places:
        place.mkdir(parents=True)
    lower, upper, workdir, at = places
    login = f"IdentityFile={sshd.identity_file},IdentitiesOnly=yes,UserKnownHostsFile={work}/known_hosts"
    run("sshfs", "-o", f"port={port},{login}", f"{sshd.user}@127.0.0.1:{base}", lower)
    try:
        layers = f"lowerdir={lower},upperdir={upper},workdir={workdir}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, at)
        try:
            yield at
        finally:
            run("umount", at)
    finally:
        run("fusermount3", "-u", lower)


def bytes_read(mount: OverlayMount) -> int:
    """What came from the base so far."""
    layers = json.loads(run(*COMMAND, "status", "--json", mount.path))["mounts"][0]["status"]["layers"]
    return sum(int(layer["counters"]["bytes_read"]) for layer in layers if layer["role"] == "lower")


@click.command()
@click.option("--rounds", default=3, show_default=True)
@click.option("--megabytes", default=256, show_default=True)
@click.option("--round-trip", default=0.02, show_default=True, help="Seconds.")
def main(rounds: int, megabytes: int, round_trip: float) -> None:
    """Print a line for each round, with both."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-append-")))
        base = work / "base"
        base.mkdir()
        block = os.urandom(BLOCK)
        for number in range(rounds):
            with (base / str(number)).open("wb") as file:
                for _ in range(megabytes):
                    file.write(block)
        sshd = stack.enter_context(SshServer(work / "sshd"))
        port = stack.enter_context(delayed(sshd.port, round_trip))
        known = work / "known_hosts"
        known.write_text(sshd.host_key_line(f"[127.0.0.1]:{port}") + "\n")
        login = [sftp_login(sshd)[0], f'known_hosts = "{known}"']
        mount = OverlayMount(work / "ours", layer_table(sshd.url(base, port=port), login))
        stack.enter_context(mount)
        theirs = stack.enter_context(overlayfs(base, work, sshd, port))
        for number in range(rounds):
            before = bytes_read(mount)
            ours_seconds = elapsed(lambda name=str(number): append(mount.path / name))
            read = bytes_read(mount) - before
            their_seconds = elapsed(lambda name=str(number): append(theirs / name))
            click.echo(
                f"{megabytes * BLOCK / MEGABYTE:.0f} MB: netoverlay {ours_seconds * 1000:.1f} ms, "
                f"{read} bytes read of the base; sshfs and overlayfs {their_seconds * 1000:.0f} ms; "
                f"{their_seconds / ours_seconds:.0f} times as fast"
            )


if __name__ == "__main__":
    main()
