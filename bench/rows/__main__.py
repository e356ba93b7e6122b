"""What users wait for, on netoverlay and on what they use today, side by side: python -m bench.rows

Needs root, for overlayfs; compares with what is installed of sshfs, fuse-overlayfs and rclone. Starts an sshd and an
smbd of its own on loopback, and goes to both over a round trip of `--rtt` milliseconds, by processes that delay.
Before every cold row the stack is mounted afresh, with empty caches; seconds are medians. A ratio above 1 says how many
times as fast the better of netoverlay's is as the best of the others. "calls" are those that reached the server.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.contenders import delayed
from bench.rows.stacks import OURS, STACKS, Local, Site, Stack
from bench.rows.workloads import WORKLOADS, Workload, plant
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

LARGE_MEBIBYTES = 256


@dataclass(frozen=True, slots=True)
class Measured:
    """One row of one stack."""

    seconds: float
    """The median."""
    calls: int | None
    """Of the last run, to the server; None where that is not told."""


Results = dict[str, dict[str, Measured]]
"""By row, by stack. A stack that cannot do it is left out."""


@contextmanager
def site(place: Path, milliseconds: float) -> Iterator[Site]:
    base = place / "base"
    plant(base, LARGE_MEBIBYTES)
    with ExitStack() as stack:
        sshd = stack.enter_context(SshServer(place / "sshd"))
        smbd = stack.enter_context(SmbServer(place / "smbd", {"base": base}))
        ports = [sshd.port, smbd.port]
        if milliseconds:
            ports = [stack.enter_context(delayed(port, milliseconds / 1000)) for port in ports]
        known_hosts = place / "known_hosts"
        known_hosts.write_text(sshd.host_key_line(f"[127.0.0.1]:{ports[0]}") + "\n")
        yield Site(base, sshd, smbd, *ports, known_hosts)


def drop_pages() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def run_once(stack: Stack, workload: Workload) -> Measured:
    stack.fresh()
    drop_pages()
    stack.mount()
    try:
        if workload.before is not None:
            workload.before(stack.top)
        if workload.remounted:
            stack.unmount()
            drop_pages()
            stack.mount()
        calls = stack.server_calls()
        began = time.perf_counter()
        workload.work(stack.top)
        seconds = time.perf_counter() - began
        after = stack.server_calls()
        return Measured(seconds, None if calls is None or after is None else after - calls)
    finally:
        stack.unmount()


def measure(stack: Stack, workload: Workload, runs: int, limit: float) -> Measured:
    found: list[Measured] = []
    while len(found) < runs and sum(each.seconds for each in found) < limit:
        found.append(run_once(stack, workload))
    return Measured(statistics.median(each.seconds for each in found), found[-1].calls)


def ratio(row: dict[str, Measured]) -> float | None:
    """The best other's seconds to our best."""
    our_names = {each.name for each in OURS}
    ours = [found.seconds for name, found in row.items() if name in our_names]
    others = [found.seconds for name, found in row.items() if name not in our_names and name != Local.name]
    return min(others) / min(ours) if ours and others else None


def table_of(results: Results, stacks: Sequence[str], milliseconds: float) -> Table:
    table = Table(title=f"seconds over a round trip of {milliseconds:g} ms; (calls to the server)")
    for heading in ("", *stacks, "best other / ours"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in results.items():
        compared = ratio(row)
        cells = [_cell(row.get(stack)) for stack in stacks]
        table.add_row(name, *cells, f"{compared:.1f}" if compared else "-")
    return table


def _cell(found: Measured | None) -> str:
    if found is None:
        return "fails"
    return f"{found.seconds:.3f}" if found.calls is None else f"{found.seconds:.3f} ({found.calls})"


@click.command(help=__doc__)
@click.option("--rtt", "milliseconds", type=float, default=20.0, help="Milliseconds of a round trip.")
@click.option("--runs", default=3, help="Of each row.")
@click.option("--limit", default=60.0, help="No further run of a row after so many seconds in all.")
@click.option("--row", "rows", multiple=True, type=click.Choice(list(WORKLOADS)), help="Only these.")
@click.option("--stack", "names", multiple=True, type=click.Choice([each.name for each in STACKS]), help="Only these.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Also write what was measured to this file.")
def main(
    milliseconds: float, runs: int, limit: float, rows: Sequence[str], names: Sequence[str], output: Path | None
) -> None:
    chosen = [each for each in STACKS if not names or each.name in names]
    missing = {each.name: program for each in chosen for program in each.needs if shutil.which(program) is None}
    for name, program in missing.items():
        click.echo(f"without {name}: {program} is not installed", err=True)
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="netoverlay-rows.") as directory:
        place = Path(directory)
        with site(place, milliseconds) as where:
            stacks = [each(where, place / each.__name__) for each in chosen if each.name not in missing]
            for name in rows or WORKLOADS:
                row = results[name] = {}
                for stack in stacks:
                    try:
                        row[stack.name] = measure(stack, WORKLOADS[name], runs, limit)
                    except OSError as error:
                        click.echo(f"{stack.name}: {name}: {error}", err=True)
                told = ", ".join(f"{key} {found.seconds:.3f}" for key, found in row.items())
                click.echo(f"{name}: {told}", err=True)
    Console(width=200).print(table_of(results, [each.name for each in stacks], milliseconds))
    if output is not None:
        plain = {name: {key: asdict(found) for key, found in row.items()} for name, row in results.items()}
        output.write_text(json.dumps({"milliseconds": milliseconds, "rows": plain}, indent=1) + "\n")


if __name__ == "__main__":
    main()
