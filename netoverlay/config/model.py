"""What a profile says, checked: the keys of each table with their defaults (docs/profiles.md is the manual)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import platformdirs

from netoverlay.backend_api.url import LayerUrl
from netoverlay.wrappers.id_map import MAX_ID, OwnerMap

APPLICATION = "netoverlay"
LONGEST_SECONDS = 365 * 24 * 3600.0
"""A bound for every duration in a profile, below what any system call takes."""


def default_cache_directory() -> Path:
    """$XDG_CACHE_HOME/netoverlay."""
    return Path(platformdirs.user_cache_dir(APPLICATION))


NumberOrName = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)] | str
"""Of a user or a group of this machine."""


class LowerReading(msgspec.Struct, frozen=True, kw_only=True):
    """How a lower layer is read."""

    immutable: bool = False
    """Nobody changes what is in it while it is mounted."""
    ttl: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_SECONDS)] = 1.0
    """Seconds for which what was read of a layer that is not immutable is taken to be true still."""
    deadline: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_SECONDS)] = 30.0
    """Seconds within which every call to the layer returns or fails."""
    on_down: Literal["wait", "fail", "cache"] = "wait"
    """While the layer cannot be reached, calls wait for it until the deadline; or fail at once; or fail at once, and
    what the caches hold is served however old it is."""


class LowerTable(LowerReading, frozen=True, kw_only=True):
    """The keys that every `[[lower]]` may have beside `url`."""

    uid: NumberOrName | None = None
    """Shown as the owner of what `squash` says, and of what the layer names none for; None: who mounts."""
    gid: NumberOrName | None = None
    """As `uid`, the group."""
    squash: Literal["none", "root", "all"] | None = None
    """Whose files are shown as those of `uid` and `gid`, whoever the layer says they belong to.

    None: all, for that of `uid` and `gid` which is given, unless there is an `idmap`; none, for the other.
    """
    idmap: tuple[str, ...] = ()
    """TYPE:FROM:TO:COUNT each: COUNT ids of the layer from FROM on are shown as those from TO on."""


class UpperTable(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that `[upper]` may have beside `url`."""

    work: Path | None = None
    """A directory on the upper's file system, outside it, for what is being made."""
    deadline: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_SECONDS)] = 30.0
    """Seconds within which every call to the layer returns or fails."""
    private: bool = False
    """Nobody but the mount uses what is in it while it is mounted, so that locks need not be held there as well."""
    ttl: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_SECONDS)] = 60.0
    """Seconds for which what was read of an upper that is not private is taken to be true still."""


class LowerSettings(LowerReading, frozen=True, kw_only=True):
    """A lower layer."""

    key: str
    """Where the profile speaks of it, as in `lower[0]`: for ConfigError."""
    url: LayerUrl
    options: Any
    """An instance of the `options` class of the url's BackendPlugin."""
    owners: OwnerMap | None
    """Which owners are shown for those of the layer; None: those that it tells."""


class UpperSettings(UpperTable, frozen=True, kw_only=True):
    """The upper layer."""

    key: str
    url: LayerUrl
    options: Any
    work: Path
    is_default: bool
    """The profile names no upper: the directory is the user's own, private, and made with mode 0700."""


class CacheSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[cache]`."""

    directory: Path = msgspec.field(default_factory=default_cache_directory)


class MountSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[mount]`."""

    allow_other: bool = False
    """Other users may reach the mount, as their permissions say; for an ordinary user /etc/fuse.conf must allow it."""
    suid: bool | None = None
    """Set-id bits and file capabilities count. None: if root mounts, and they count in every layer. Only root may."""
    dev: bool | None = None
    """Device files are devices; otherwise as `suid`."""
    channel: Literal["own", "pyfuse3"] = "own"
    """What speaks to the kernel: fuse/, or libfuse by pyfuse3, which needs the locks to be the mount's alone."""


class LockSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[locks]`."""

    mode: Literal["delegate", "local", "none"] = "delegate"
    """Locks are held in the layer of their file as well, where others may use that; in this mount alone; refused."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """A whole profile."""

    name: str
    """Names the private upper, and is told by `status`; holds no slash."""
    file: Path
    mountpoint: Path | None
    read_only: bool
    lowers: tuple[LowerSettings, ...]
    """Top-most first; at least one."""
    upper: UpperSettings | None
    """None exactly if `read_only`."""
    cache: CacheSettings
    mount: MountSettings
    locks: LockSettings
