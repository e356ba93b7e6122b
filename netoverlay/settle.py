"""`netoverlay settle`: make an upper whole, through the daemon of its mount or, where there is none, here."""

from __future__ import annotations

import os
from collections.abc import Callable

from netoverlay.background_settling import follow
from netoverlay.config.load import load_profile
from netoverlay.config.model import Profile
from netoverlay.mount_table import MountTableEntry, mount_at, netoverlay_mounts
from netoverlay.status.control_client import DaemonError, ask
from netoverlay.status.snapshot import LazyStatus, StatusSnapshot


def settle(target: str, show: Callable[[LazyStatus], object]) -> LazyStatus | None:
    """Settle the upper of what is mounted at `target`, or of the profile `target`: what is left of it, and why.

    `show` is told now and then how far it is. None if it has no upper with files to settle.
    """
    entry = mount_at(target)
    if entry is None:
        profile = load_profile(target)
        entry = _mount_of(profile)
        if entry is None:
            from netoverlay.daemon import settle_unmounted  # noqa: PLC0415  (slower to import than to ask a daemon)

            return settle_unmounted(profile, show)
    mountpoint, user_id = entry.mountpoint, entry.user_id
    ask(mountpoint, user_id, "settle")
    return follow(lambda: ask(mountpoint, user_id).snapshot.lazy, show)


def _mount_of(profile: Profile) -> MountTableEntry | None:
    """Where the profile is mounted by this user."""
    for entry in netoverlay_mounts():
        if entry.user_id == os.geteuid():
            try:
                snapshot = ask(entry.mountpoint, entry.user_id).snapshot
            except DaemonError:
                continue  # if it is the profile's, that its upper is held is said next
            if _is_of(snapshot, profile):
                return entry
    return None


def _is_of(snapshot: StatusSnapshot, profile: Profile) -> bool:
    uppers = [layer.url for layer in snapshot.layers if layer.role == "upper"]
    return profile.upper is not None and uppers == [str(profile.upper.url)]
