"""What a mount tells of itself: its layers, its locks, and what the kernel has asked it."""

from __future__ import annotations

import os
import time

from netoverlay.backend_api import LockKind
from netoverlay.background_settling import BackgroundSettling
from netoverlay.config.model import Profile
from netoverlay.connecting import ConnectedLayer
from netoverlay.kernel_channel import KernelSession
from netoverlay.kernel_locks import kernels_locks
from netoverlay.overlay.layers import UPPER_NUMBER, Layer
from netoverlay.overlay.lock_report import ReportedLock, all_locks
from netoverlay.overlay.lock_rules import LockMode, in_words
from netoverlay.overlay.lock_table import END
from netoverlay.overlay.overlay import Overlay
from netoverlay.overlay.owner import Holding
from netoverlay.recent_faults import RECENT_FAULTS
from netoverlay.status.control_server import ControlServer
from netoverlay.status.snapshot import (
    FaultStatus,
    LayerStatus,
    LeaseStatus,
    LockStatus,
    MountStatus,
    StatusSnapshot,
    capability_table,
)


def control_server(
    profile: Profile,
    mountpoint: str,
    layers: list[ConnectedLayer],
    session: KernelSession,
    overlay: Overlay,
    settling: BackgroundSettling,
) -> ControlServer:
    """Answers for the mount on its control socket, once it is started."""
    status = MountStatus(
        mountpoint=mountpoint,
        profile=profile.name,
        pid=os.getpid(),
        since=time.time(),
        read_only=profile.upper is None,
    )

    def snapshot() -> StatusSnapshot:
        told = tuple(_layer_status(layer, mountpoint, LockMode(profile.locks.mode)) for layer in layers)
        found = kernels_locks(overlay, mountpoint) if session.settings.kernel_locks else all_locks(overlay.file_locks)
        locks = tuple(_lock_status(each, layers) for each in found)
        return StatusSnapshot(
            mount=status,
            layers=told,
            requests=session.counters(),
            inodes=len(overlay.tree.inodes),
            locks=locks,
            lazy=settling.status(),
            faults=tuple(
                FaultStatus(at=fault.at, count=fault.count, level=fault.level, text=fault.text)
                for fault in RECENT_FAULTS.told()
            ),
        )

    return ControlServer(mountpoint, snapshot, settling.start)


def _lock_status(found: ReportedLock, layers: list[ConnectedLayer]) -> LockStatus:
    lock = found.lock
    shared = lock.kind is LockKind.SHARED
    return LockStatus(
        path=found.path,
        pid=lock.pid,
        call=lock.owner.call.value,
        kind="shared" if shared else "exclusive",
        start=lock.start,
        end=None if lock.end == END else lock.end - 1,
        state=found.state,
        layer=None if found.layer is None else _url_of(found.layer, layers),
    )


def _url_of(layer: Layer, layers: list[ConnectedLayer]) -> str:
    uppers = [connected for connected in layers if connected.is_upper]
    lowers = [connected for connected in layers if not connected.is_upper]
    return str((uppers[0] if layer.number == UPPER_NUMBER else lowers[layer.number - 1]).settings.url)


def _layer_status(layer: ConnectedLayer, mountpoint: str, mode: LockMode) -> LayerStatus:
    return LayerStatus(
        role="upper" if layer.is_upper else "lower",
        url=str(layer.settings.url),
        state=layer.backend.connection_state(),
        problem=layer.backend.connection_problem(),
        capabilities=capability_table(layer.capabilities),
        locks=in_words(mode, layer, is_upper=layer.is_upper),
        counters=layer.meter.snapshot(),
        lease=None if layer.held is None else _lease_status(layer.held.holding(), mountpoint),
    )


def _lease_status(holding: Holding, mountpoint: str) -> LeaseStatus:
    problem = None
    if holding.state == "lost":
        problem = (
            f"the upper is lost, every change fails, and reading goes on: {holding.problem}; "
            f"unmount with `netoverlay umount {mountpoint}`, and mount again"
        )
    elif holding.state == "unrenewed":
        problem = f"the lease: {holding.problem}; see that the server can be reached"
    return LeaseStatus(state=holding.state, since=holding.since, problem=problem)
