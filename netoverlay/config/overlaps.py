"""Refuse layers that lie in each other, and mounts that would contain what they are made of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from netoverlay.backend_api.url import LOCAL_SCHEME, LayerUrl
from netoverlay.config.errors import ConfigError
from netoverlay.config.model import Profile, UpperSettings


class _Place(NamedTuple):
    key: str
    path: str
    """Without symbolic links; of a server with that before it, so that only paths of one server are in each other."""


def refuse_overlaps(profile: Profile) -> None:
    """ConfigError if the upper or its work directory is, holds or lies in a lower, or the one the other."""
    if profile.upper is not None:
        lowers = [_Place(f"{lower.key}.url", _path(lower.url, lower.url.path)) for lower in profile.lowers]
        _refuse_upper_overlaps(profile.file, profile.upper, lowers)
    for number, lower in enumerate(profile.lowers):
        for earlier in profile.lowers[:number]:
            if lower.url == earlier.url:
                raise ConfigError(
                    profile.file, f"{lower.key}.url", f"the same as {earlier.key}.url; remove one of them"
                )


def _refuse_upper_overlaps(file: Path, upper: UpperSettings, lowers: list[_Place]) -> None:
    own = _Place("upper.url", _path(upper.url, upper.url.path))
    work = _Place("upper.work", _path(upper.url, str(upper.work)))
    _refuse_nested(file, work, own, "beside it, on the same file system")
    for place in (own, work):
        for lower in lowers:
            _refuse_nested(file, place, lower, "that is not in a lower layer, nor around one")


def refuse_mountpoint(profile: Profile, mountpoint: Path) -> None:
    """ConfigError if the daemon of a mount at `mountpoint` would have to read its own mount: that never ends.

    A mountpoint that is itself a layer's directory is allowed, and covers it, as mount(8) does.
    """
    target = os.path.realpath(mountpoint)
    layers = list(_local_lowers(profile))
    if profile.upper is not None and profile.upper.url.scheme == LOCAL_SCHEME:
        layers.append(_Place("upper.url", os.path.realpath(profile.upper.url.path)))
    for layer in layers:
        if target != layer.path and _is_within(target, layer.path):
            raise ConfigError(
                profile.file,
                layer.key,
                f"holds the mountpoint {mountpoint}; write a mountpoint outside of {layer.path}",
            )
    if _is_within(os.path.realpath(profile.cache.directory), target):
        raise ConfigError(
            profile.file, "cache.directory", f"lies in the mountpoint {mountpoint}; write a directory outside of it"
        )


def _path(url: LayerUrl, path: str) -> str:
    """A path in the layer of `url`, so that paths of all layers can be compared."""
    port = "" if url.port is None else f":{url.port}"
    return os.path.realpath(path) if url.scheme == LOCAL_SCHEME else f"{url.scheme}://{url.host}{port}{path}"


def _local_lowers(profile: Profile) -> Iterator[_Place]:
    for lower in profile.lowers:
        if lower.url.scheme == LOCAL_SCHEME:
            yield _Place(f"{lower.key}.url", os.path.realpath(lower.url.path))


def _refuse_nested(file: Path, place: _Place, other: _Place, remedy: str) -> None:
    if place.path == other.path:
        relation = "is the same directory as"
    elif _is_within(place.path, other.path):
        relation = "lies in"
    elif _is_within(other.path, place.path):
        relation = "holds"
    else:
        return
    raise ConfigError(file, place.key, f"{place.path} {relation} {other.key}; write a directory {remedy}")


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
