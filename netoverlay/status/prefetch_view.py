"""Show a prefetch to a person: a bar at a terminal while it goes on, and a line when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from netoverlay.cache.prefetch import Progress
from netoverlay.status.rendering import in_units

_MAX_TOLD = 20


@contextmanager
def prefetch_shown(output: TextIO) -> Iterator[Callable[[Progress], None]]:
    """At a terminal a bar; elsewhere nothing. To be told how far it is, from any thread."""
    if not output.isatty():
        yield lambda _: None
        return
    from rich import progress as bars  # noqa: PLC0415  (slower to import than most commands are to run)
    from rich.console import Console  # noqa: PLC0415  (as above)

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(file=output), transient=True) as shown:
        task = shown.add_task("prefetch", total=None)

        def show(told: Progress) -> None:
            shown.update(task, description=f"{told.done_files}/{told.files} files", total=told.bytes)
            shown.update(task, completed=told.done_bytes)

        yield show


def prefetch_line(url: str, progress: Progress) -> str:
    """What was done."""
    kept = f"{_files(progress.done_files)}, {in_units(progress.done_bytes)}"
    return f"{url}: {kept}, of which {in_units(progress.fetched_bytes)} were fetched now"


def problem_lines(progress: Progress) -> Iterator[str]:
    """What is not in the cache now, and what can be done about it."""
    for missed in progress.missed[:_MAX_TOLD]:
        yield f"{missed.path or 'the root'}: {missed.reason}"
    if len(progress.missed) > _MAX_TOLD:
        yield f"and {len(progress.missed) - _MAX_TOLD} more"
    if progress.left_out:
        yield f"{_files(progress.left_out)} left out, for the cache is full; say with globs what is wanted most"


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"
