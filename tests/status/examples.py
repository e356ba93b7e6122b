"""A state to tell."""

from __future__ import annotations

import os
import time

from netoverlay.backend_api.types import Capabilities
from netoverlay.status.snapshot import LayerStatus, MountStatus, StatusSnapshot, capability_table


def make_snapshot(mountpoint: str = "/mnt/dev", *, url: str = "/srv/base") -> StatusSnapshot:
    layers = [
        LayerStatus(
            role=role,
            url=layer_url,
            state="connected",
            capabilities=capability_table(Capabilities(local=True, writable=role == "upper")),
            locks="kept by this mount (private: nobody else uses it)",
            counters={"calls": 7, "errors": 1, "bytes_read": 1536, "bytes_written": 0, "stat.seconds": 0.25},
        )
        for role, layer_url in (("upper", "/var/upper"), ("lower", url))
    ]
    mount = MountStatus(
        mountpoint=mountpoint,
        profile="dev",
        pid=os.getpid(),
        since=time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1)),
        read_only=False,
    )
    return StatusSnapshot(mount=mount, layers=tuple(layers), requests={"lookup": 5, "getattr": 12})
