"""What a daemon tells about its mount. The field names are those of `netoverlay status --json`, and stay."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

import msgspec

from netoverlay.backend_api.types import Capabilities

Role = Literal["lower", "upper"]
CapabilityTable = dict[str, bool | int]
"""The fields of Capabilities."""


class MountStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The mount itself."""

    mountpoint: str
    """Absolute, with symbolic links resolved."""
    profile: str
    """The profile's name."""
    pid: int
    """Of the daemon."""
    since: float
    """When it was mounted, in seconds since 1970."""
    read_only: bool


class LeaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The ownership of an upper on a server."""

    state: Literal["held", "unrenewed", "lost"]
    """"unrenewed": the mount has it still, and loses it if the server stays out of reach."""
    since: float
    """Since when it is so, in seconds since 1970."""
    problem: str | None = None
    """One line, if it is not just held: what is wrong, and what to do."""


class LayerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of the mount."""

    role: Role
    url: str
    """Holds no secret: a LayerUrl never does."""
    state: str
    """As Backend.connection_state()."""
    problem: str | None = None
    """Why it cannot be reached, as the last try has told; None where it can."""
    capabilities: CapabilityTable
    locks: str
    """What becomes of locks on its files, and why."""
    counters: dict[str, int | float]
    """Since the mount, below the caches, as MeteredBackend.snapshot() names them."""
    lease: LeaseStatus | None = None
    """Of an upper on a server; None for other layers."""


class LockStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A lock that a program holds, or waits for."""

    path: str
    """From the root of the mount; empty if the file has no name any more."""
    pid: int
    """Who asked for it; 0 if that is not known."""
    call: Literal["fcntl", "flock"]
    """fcntl(2) includes locks of open file descriptions (F_OFD_SETLK)."""
    kind: Literal["shared", "exclusive"]
    start: int
    end: int | None
    """The last byte; None: to the end of the file, wherever that is."""
    state: Literal["held", "waiting", "lost"]
    layer: str | None
    """The url of the layer that holds it as well; None: it is kept by the mount alone."""


class UnsettledFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that could not be settled."""

    path: str
    """From the root of the mount; empty if it was not for one file."""
    reason: str


class LazyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The lazily copied files of the upper, of whose data a part is still in a lower."""

    files: int
    bytes: int
    """How much of their data is."""
    settling: bool
    """It is being brought to the upper."""
    unsettled: tuple[UnsettledFile, ...] = ()
    """What could not be, the last time."""


class FaultStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the log has told at level WARNING or above, from one place in the code."""

    at: float
    """The last time, in seconds since 1970."""
    count: int
    level: str
    """"warning", "error", "critical"."""
    text: str
    """The last one: what is wrong, and what to do."""


class StatusSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A mount at one moment."""

    mount: MountStatus
    layers: tuple[LayerStatus, ...]
    """In the order in which names are looked up: the upper first."""
    requests: dict[str, int]
    """How many requests the kernel sent, by kind."""
    inodes: int = 0
    """How many files and directories the daemon keeps, because the kernel does."""
    locks: tuple[LockStatus, ...] = ()
    lazy: LazyStatus | None = None
    """None where no file is copied lazily: without an upper, or with one on a server."""
    faults: tuple[FaultStatus, ...] = ()
    """The latest last; also those that are over."""


class LayerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of connecting to a layer of a profile that is not mounted."""

    key: str
    """As in the profile: "upper", "lower[0]"."""
    url: str
    capabilities: CapabilityTable | None
    """None exactly if there is a problem."""
    problem: str | None = None
    """One line: what is wrong, and the remedy."""
    locks: str | None = None
    """What would become of locks on its files, and why; None if there is a problem."""


def capability_table(capabilities: Capabilities) -> CapabilityTable:
    """The capabilities as they are told."""
    return dataclasses.asdict(capabilities)


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON of the structs above.

    In ASCII, so that bytes of a path that are not UTF-8 (surrogate escapes) arrive as they were sent.
    """
    return json.dumps(msgspec.to_builtins(value), indent=indent)
