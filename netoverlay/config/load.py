"""Read a profile."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from netoverlay.backend_api.registry import load_plugin
from netoverlay.backend_api.url import LOCAL_SCHEME, LayerUrl, parse_url
from netoverlay.config.convert import join_key, refuse_unknown, to_type
from netoverlay.config.errors import ConfigError
from netoverlay.config.find import ProfileFile, find_profile, private_upper
from netoverlay.config.model import (
    CacheSettings,
    LockSettings,
    LowerReading,
    LowerSettings,
    LowerTable,
    MountSettings,
    Profile,
    UpperSettings,
    UpperTable,
)
from netoverlay.config.overlaps import refuse_overlaps
from netoverlay.config.owners import owner_map

T = TypeVar("T", bound=msgspec.Struct)


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    """The top level of a profile, with its tables as they were written."""

    lower: list[dict[str, Any]]
    mountpoint: Path | None = None
    read_only: bool = False
    upper: dict[str, Any] | None = None
    cache: dict[str, Any] = msgspec.field(default_factory=dict)
    mount: dict[str, Any] = msgspec.field(default_factory=dict)
    locks: dict[str, Any] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Layer(Generic[T]):
    """What all layers have in common."""

    url: LayerUrl
    options: Any
    common: T
    """A LowerTable or UpperTable."""


def load_profile(name_or_path: str) -> Profile:
    """The profile that find_profile() finds, read and checked. ConfigError says what is wrong with it, and where."""
    found = find_profile(name_or_path)
    document = _read_document(found.path)
    lowers = tuple(
        _lower_settings(table, found.path, f"lower[{number}]") for number, table in enumerate(document.lower)
    )
    profile = Profile(
        name=found.name,
        file=found.path,
        mountpoint=document.mountpoint,
        read_only=document.read_only,
        lowers=lowers,
        upper=_upper_settings(document, found),
        cache=_plain_table(document.cache, CacheSettings, found.path, "cache"),
        mount=_plain_table(document.mount, MountSettings, found.path, "mount"),
        locks=_plain_table(document.locks, LockSettings, found.path, "locks"),
    )
    refuse_overlaps(profile)
    _refuse_undelivered_locks(profile)
    return profile


def _refuse_undelivered_locks(profile: Profile) -> None:
    if profile.mount.channel == "pyfuse3" and profile.locks.mode != "local":
        problem = (
            f'"{profile.locks.mode}" cannot be kept with mount.channel = "pyfuse3", which does not pass locks on; '
            'write mode = "local" if it is enough that programs in this mount see each other\'s locks'
        )
        raise ConfigError(profile.file, "locks.mode", problem)


def _read_document(file: Path) -> _Document:
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(file, "", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(file, "", f"byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:  # also what tomllib itself stumbles over, as a number without end
        raise ConfigError(file, "", f"not TOML: {error}") from None
    refuse_unknown(table, _Document.__struct_fields__, file, "")
    if not table.get("lower"):
        raise ConfigError(file, "lower", "there is no lower layer; add a table [[lower]] with a url")
    if isinstance(table["lower"], dict):
        raise ConfigError(file, "lower", "write [[lower]] in double brackets, for there may be several")
    return to_type(table, _Document, file, "")


def _plain_table(table: Mapping[str, object], type: type[T], file: Path, key: str) -> T:
    refuse_unknown(table, type.__struct_fields__, file, key)
    return to_type(table, type, file, key)


def _read_layer(table: Mapping[str, object], type: type[T], file: Path, key: str) -> _Layer[T]:
    """Split a layer's table into what all layers have and what only the backend of its url knows."""
    if "url" not in table:
        raise ConfigError(file, join_key(key, "url"), "missing; write the directory, or SCHEME://[USER@]HOST/PATH")
    text = to_type(table["url"], str, file, join_key(key, "url"))
    try:
        url = parse_url(text)
        if "\0" in url.path:
            raise ValueError("a path holds no NUL")
        plugin = load_plugin(url.scheme)
    except (ValueError, LookupError) as error:
        raise ConfigError(file, join_key(key, "url"), str(error.args[0])) from None
    except ImportError as error:
        raise ConfigError(file, join_key(key, "url"), f"its backend is installed in part only: {error}") from error
    common_keys = type.__struct_fields__
    option_keys = set(plugin.options.__dataclass_fields__)
    refuse_unknown(table, {"url", *common_keys, *option_keys}, file, key)
    common = to_type({name: table[name] for name in table if name in common_keys}, type, file, key)
    options = {name: table[name] for name in table if name in option_keys}
    return _Layer(url, to_type(options, plugin.options, file, key), common)


def _lower_settings(table: Mapping[str, object], file: Path, key: str) -> LowerSettings:
    layer = _read_layer(table, LowerTable, file, key)
    reading = {name: getattr(layer.common, name) for name in LowerReading.__struct_fields__}
    owners = owner_map(layer.common, file, key)
    return LowerSettings(key=key, url=layer.url, options=layer.options, owners=owners, **reading)


def _upper_settings(document: _Document, found: ProfileFile) -> UpperSettings | None:
    key = "upper"
    if document.read_only:
        if document.upper is not None:
            raise ConfigError(found.path, "read_only", "true beside an [upper] that takes changes; remove one of them")
        return None
    table = document.upper or {}
    is_default = "url" not in table
    layer = _read_layer({"url": str(private_upper(found.name)), **table}, UpperTable, found.path, key)
    path = os.path.realpath(layer.url.path) if layer.url.scheme == LOCAL_SCHEME else layer.url.path
    return UpperSettings(
        key=key,
        url=layer.url,
        options=layer.options,
        work=layer.common.work or Path(f"{path}.work"),
        private=is_default or layer.common.private,
        ttl=layer.common.ttl,
        is_default=is_default,
        deadline=layer.common.deadline,
    )
