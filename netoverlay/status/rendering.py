"""Show the status of mounts, and the layers of a profile, to a person at a terminal or to a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from netoverlay.status.overview import MountReport
from netoverlay.status.snapshot import CapabilityTable, FaultStatus, LayerReport, LayerStatus, LazyStatus, LockStatus

Row = Sequence[str]

LAYER_HEADINGS: Row = ("layer", "url", "state", "calls", "errors", "read", "written", "copied")
REPORT_HEADINGS: Row = ("layer", "url", "locks", "capabilities")
LOCK_HEADINGS: Row = ("file", "process", "lock", "bytes", "state", "held in")
_LEASES = {"held": "lease held", "unrenewed": "lease not renewed", "lost": "lease lost"}
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def print_mounts(reports: Sequence[MountReport], output: TextIO) -> None:
    """Each mount with a table of its layers."""
    if not reports:
        print("no mounts", file=output)
    for number, report in enumerate(reports):
        if number:
            print(file=output)
        print(_title(report), file=output)
        if report.status is not None:
            print_table(LAYER_HEADINGS, [_layer_row(layer) for layer in report.status.layers], output)
            for layer in report.status.layers:
                if layer.problem is not None:
                    print(f"{layer.role} {layer.url}: {layer.problem}", file=output)
                if layer.lease is not None and layer.lease.problem is not None:
                    print(f"{layer.role}: {layer.lease.problem}", file=output)
            if report.status.lazy is not None and report.status.lazy.files:
                print(lazy_line(report.status.lazy), file=output)
            for fault in report.status.faults:
                print(_fault_line(fault), file=output)
            print(f"requests: {_counts(report.status.requests)}", file=output)


def _fault_line(fault: FaultStatus) -> str:
    times = f", {fault.count} times by now" if fault.count > 1 else ""
    return f"{fault.level} at {_date(fault.at)}{times}: {fault.text}"


def lazy_line(lazy: LazyStatus) -> str:
    """What the upper lacks, and what can be done about it."""
    files = f"{lazy.files} file{'' if lazy.files == 1 else 's'}"
    remedy = "being settled" if lazy.settling else "`netoverlay settle` brings it"
    return f"upper: {files} copied lazily, {in_units(lazy.bytes)} of which only the base has: {remedy}"


@contextmanager
def settling_shown(output: TextIO) -> Iterator[Callable[[LazyStatus], None]]:
    """At a terminal a bar of what has come; elsewhere nothing. To be told how far it is."""
    if not output.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415  (slower to import than most commands are to run)
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn  # noqa: PLC0415  (as above)  # noqa: PLC0415  (as above)

    columns = (TextColumn("settling"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=output), transient=True) as progress:
        task = progress.add_task("settling", total=None)
        most = 0

        def show(lazy: LazyStatus) -> None:
            nonlocal most
            most = max(most, lazy.bytes)
            progress.update(task, total=most, completed=most - lazy.bytes)

        yield show


def print_locks(reports: Sequence[MountReport], output: TextIO) -> None:
    """What becomes of locks in each layer of each mount, and the locks that there are."""
    for number, report in enumerate(reports):
        if number:
            print(file=output)
        print(_title(report), file=output)
        if report.status is None:
            continue
        for layer in report.status.layers:
            print(f"{layer.role} {layer.url}: locks are {layer.locks}", file=output)
        if report.status.locks:
            print_table(LOCK_HEADINGS, [_lock_row(lock) for lock in report.status.locks], output)
        else:
            print("no locks", file=output)


def _lock_row(lock: LockStatus) -> Row:
    return (
        lock.path or "(removed)",
        str(lock.pid or "?"),
        f"{lock.call} {lock.kind}",
        "all" if lock.start == 0 and lock.end is None else f"{lock.start}-{'' if lock.end is None else lock.end}",
        lock.state,
        lock.layer or "this mount",
    )


def print_layer_reports(reports: Sequence[LayerReport], output: TextIO) -> None:
    """What each layer of a profile can do, or that it has a problem."""
    rows = [(report.key, report.url, report.locks or "", _capabilities(report.capabilities)) for report in reports]
    print_table(REPORT_HEADINGS, rows, output)


def print_table(headings: Row, rows: Sequence[Row], output: TextIO) -> None:
    """With lines and colours at a terminal; else in columns, one line a row."""
    if output.isatty():
        _print_rich_table(headings, rows, output)
        return
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=output)


def _print_rich_table(headings: Row, rows: Sequence[Row], output: TextIO) -> None:
    from rich.console import Console  # noqa: PLC0415  (slower to import than most commands are to run)
    from rich.table import Table  # noqa: PLC0415  (slower to import than most commands are to run)
    from rich.text import Text  # noqa: PLC0415  (slower to import than most commands are to run)

    table = Table(*headings)
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a "[" in a path is no markup
    Console(file=output).print(table)


def _title(report: MountReport) -> str:
    if report.status is None:
        remedy = f"unmount it with `netoverlay umount --lazy {report.mountpoint}`"
        return f"{report.mountpoint}: {report.state}: {report.problem}; {remedy}"
    mount = report.status.mount
    since = _date(mount.since)
    access = "read-only" if mount.read_only else "read-write"
    return f"{mount.mountpoint}: {report.state}, {access}, profile {mount.profile}, process {mount.pid}, since {since}"


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _layer_row(layer: LayerStatus) -> Row:
    counters = layer.counters
    return (
        layer.role,
        layer.url,
        layer.state if layer.lease is None else f"{layer.state}, {_LEASES[layer.lease.state]}",
        str(counters.get("calls", 0)),
        str(counters.get("errors", 0)),
        in_units(counters.get("bytes_read", 0)),
        in_units(counters.get("bytes_written", 0)),
        in_units(counters.get("bytes_copied", 0)),
    )


def _counts(requests: dict[str, int]) -> str:
    by_count = sorted(requests.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in by_count) or "none yet"


def _capabilities(table: CapabilityTable | None) -> str:
    """The names of what is there; those that hold a number or a default of most layers are for --json."""
    if table is None:
        return "unreachable"
    shown = [name for name, value in table.items() if value is True]
    if table.get("case_sensitive") is False:  # the one whose absence changes what a name means
        shown.append("case_insensitive")
    return " ".join(shown)


def in_units(count: float) -> str:
    """A number of bytes, as in "1.5 MiB"."""
    unit = 0
    while count >= 1024 and unit < len(UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"
