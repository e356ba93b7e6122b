"""Processes that are begun quickly: forked from one that has imported everything already."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection

__all__ = ["at_work", "context"]

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    [
        "tests.chaos.daemons",
        "tests.chaos.random_io",
        "tests.chaos.soak",
        "tests.chaos.worker",
        "netoverlay.daemon",
        "netoverlay_local",
        "netoverlay_sftp",
        "netoverlay_smb",
    ]
)


@contextmanager
def at_work(work: Callable[..., None], each: Sequence[tuple[object, ...]]) -> Iterator[list[Connection]]:
    """`work(*arguments, end)` for each of these arguments, in a process of its own; given: the other ends, in order.

    Whoever is still at work when this is left is killed.
    """
    ends, processes = [], []
    try:
        for arguments in each:
            end, other = context.Pipe()
            processes.append(context.Process(target=work, args=(*arguments, other)))
            processes[-1].start()
            other.close()
            ends.append(end)
        yield ends
    finally:
        for process in processes:
            process.kill()
            process.join()
