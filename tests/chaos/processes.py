"""Processes that are begun quickly: forked from one that has imported everything already."""

from __future__ import annotations

import multiprocessing

__all__ = ["context"]

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
