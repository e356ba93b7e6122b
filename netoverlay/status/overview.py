"""All mounts of a machine at a glance: what the kernel has mounted, and what their daemons say."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from netoverlay.mount_table import MountTableEntry, netoverlay_mounts, required_mount
from netoverlay.status.control_client import DaemonError, ask, ask_all
from netoverlay.status.snapshot import StatusSnapshot, to_json

JSON_VERSION = 1
"""Changes when a field is removed or changes its meaning, not when one is added."""


class MountReport(msgspec.Struct, frozen=True, kw_only=True):
    """One mount, as seen from outside."""

    mountpoint: str
    state: Literal["mounted", "detached", "unserved"]
    """"detached": unmounted lazily, still in use. "unserved": mounted, but its daemon is gone or does not answer."""
    problem: str | None = None
    """Why it is unserved."""
    status: StatusSnapshot | None = None
    """What the daemon says; None exactly if the mount is unserved."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The document that `netoverlay status --json` prints."""

    version: int
    mounts: tuple[MountReport, ...]


def report_all() -> list[MountReport]:
    """The mounts of the calling user, or for root those of all users, sorted by mountpoint."""
    caller = os.geteuid()
    mounted = [entry for entry in netoverlay_mounts() if caller in (0, entry.user_id)]
    reports = {entry.mountpoint: _report(entry) for entry in mounted}
    for user_id in {caller, *(entry.user_id for entry in mounted)}:
        for answer in ask_all(user_id):
            mountpoint = answer.snapshot.mount.mountpoint
            if mountpoint not in reports:
                reports[mountpoint] = MountReport(mountpoint=mountpoint, state="detached", status=answer.snapshot)
    return [reports[mountpoint] for mountpoint in sorted(reports)]


def report_one(mountpoint: str) -> MountReport:
    """The mount at `mountpoint`. OSError (EINVAL) if there is none."""
    return _report(required_mount(mountpoint))


def overview_json(reports: list[MountReport]) -> str:
    """The document that `netoverlay status --json` prints."""
    return to_json(Overview(version=JSON_VERSION, mounts=tuple(reports)), indent=2)


def _report(entry: MountTableEntry) -> MountReport:
    try:
        status = ask(entry.mountpoint, entry.user_id).snapshot
    except DaemonError as error:
        return MountReport(mountpoint=entry.mountpoint, state="unserved", problem=str(error))
    return MountReport(mountpoint=entry.mountpoint, state="mounted", status=status)
