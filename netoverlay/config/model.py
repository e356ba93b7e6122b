"""What a profile says, checked: the keys of each table with their defaults (docs/profiles.md is the manual)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import platformdirs

from netoverlay.backend_api.url import LayerUrl

APPLICATION = "netoverlay"
LONGEST_SECONDS = 365 * 24 * 3600.0
"""A bound for every duration in a profile, below what any system call takes."""


def default_cache_directory() -> Path:
    """$XDG_CACHE_HOME/netoverlay."""
    return Path(platformdirs.user_cache_dir(APPLICATION))


class LowerTable(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that every `[[lower]]` may have beside `url`."""

    immutable: bool = False
    """Nobody changes what is in it while it is mounted."""
    ttl: Annotated[float, msgspec.Meta(ge=0, le=LONGEST_SECONDS)] = 1.0
    """Seconds for which what was read of a layer that is not immutable is taken to be true still."""
    deadline: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_SECONDS)] = 30.0
    """Seconds within which every call to the layer returns or fails."""


class UpperTable(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that `[upper]` may have beside `url`."""

    work: Path | None = None
    """A directory on the upper's file system, outside it, for what is being made."""
    deadline: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_SECONDS)] = 30.0
    """Seconds within which every call to the layer returns or fails."""


class LowerSettings(LowerTable, frozen=True, kw_only=True):
    """A lower layer."""

    key: str
    """Where the profile speaks of it, as in `lower[0]`: for ConfigError."""
    url: LayerUrl
    options: Any
    """An instance of the `options` class of the url's BackendPlugin."""


class UpperSettings(UpperTable, frozen=True, kw_only=True):
    """The upper layer."""

    key: str
    url: LayerUrl
    options: Any
    work: Path
    private: bool
    """The profile names no upper: the directory is the user's own, and is made with mode 0700 if it is not there."""


class CacheSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[cache]`."""

    directory: Path = msgspec.field(default_factory=default_cache_directory)


class MountSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[mount]`."""

    allow_other: bool = False
    """Other users may reach the mount, as their permissions say; for an ordinary user /etc/fuse.conf must allow it."""


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
