"""The keys of a lower layer that say which owners are shown for its own: uid, gid, squash, idmap."""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from netoverlay.config.convert import join_key
from netoverlay.config.errors import ConfigError
from netoverlay.config.model import LowerTable, NumberOrName
from netoverlay.wrappers.id_map import MAX_ID, IdMap, IdRange, OwnerMap, Squash

_EXAMPLE = '"u:0:100000:65536"'
_MAPPING = re.compile(r"([ugb]):(\d{1,10}):(\d{1,10}):(\d{1,10})", re.ASCII)
_BOTH = "b"


@dataclass(frozen=True, slots=True)
class _Kind:
    """Users or groups."""

    key: str
    letter: str
    """In an idmap."""
    word: str
    look_up: Callable[[str], int]
    """The number of a name; KeyError if there is none."""
    own: Callable[[], int]
    """Of who mounts."""


_USERS = _Kind("uid", "u", "user", lambda name: pwd.getpwnam(name).pw_uid, os.geteuid)
_GROUPS = _Kind("gid", "g", "group", lambda name: grp.getgrnam(name).gr_gid, os.getegid)


@dataclass(frozen=True, slots=True)
class _Mapping:
    """An entry of an idmap."""

    text: str
    kind: str
    range: IdRange


def owner_map(table: LowerTable, file: Path, key: str) -> OwnerMap | None:
    """What the table at `key` says of owners; None if they are shown as the layer tells them. ConfigError."""
    squash = None if table.squash is None else Squash(table.squash)
    if table.idmap and squash is None:
        squash = Squash.NONE
    if table.idmap and squash is not None and squash is not Squash.NONE:
        problem = f'"{squash.value}" beside an idmap: each says whose owners are shown; remove one of them'
        raise ConfigError(file, join_key(key, "squash"), problem)
    mappings: list[_Mapping] = []
    for number, text in enumerate(table.idmap):
        mappings.append(_mapping(text, mappings, file, join_key(key, f"idmap[{number}]")))
    owners = OwnerMap(
        _id_map(table.uid, squash, mappings, _USERS, file, key),
        _id_map(table.gid, squash, mappings, _GROUPS, file, key),
    )
    return None if owners == OwnerMap(IdMap(), IdMap()) else owners


def _id_map(
    value: NumberOrName | None, squash: Squash | None, mappings: list[_Mapping], kind: _Kind, file: Path, key: str
) -> IdMap:
    own = _number(value, kind, file, join_key(key, kind.key)) if value is not None else None
    if squash is None:
        squash = Squash.NONE if own is None else Squash.ALL
    if own is None and squash is not Squash.NONE:
        own = kind.own()
    ranges = tuple(mapping.range for mapping in mappings if mapping.kind in (kind.letter, _BOTH))
    return IdMap(own, squash, ranges)


def _number(value: NumberOrName, kind: _Kind, file: Path, key: str) -> int:
    if isinstance(value, int):
        return value
    try:
        return kind.look_up(value)
    except (KeyError, ValueError):  # the latter for what can be no name
        problem = f"{value!r} is no {kind.word} of this machine; write the name of one, or a number without quotes"
        raise ConfigError(file, key, problem) from None


def _mapping(text: str, before: list[_Mapping], file: Path, key: str) -> _Mapping:
    match = _MAPPING.fullmatch(text)
    if match is None:
        problem = f"{text!r} is not TYPE:FROM:TO:COUNT; write it as {_EXAMPLE}, with u, g or b (both) for TYPE"
        raise ConfigError(file, key, problem)
    first, shown, count = map(int, match.groups()[1:])
    if count == 0:
        raise ConfigError(file, key, f"{text!r} maps nothing: write a COUNT > 0")
    if max(first, shown) + count - 1 > MAX_ID:
        raise ConfigError(file, key, f"{text!r} passes the largest id, {MAX_ID}; write a smaller COUNT")
    mapping = _Mapping(text, match[1], IdRange(first, shown, count))
    for other in before:
        if mapping.kind == other.kind or _BOTH in (mapping.kind, other.kind):
            _refuse_overlap(mapping, other, file, key)
    return mapping


def _refuse_overlap(mapping: _Mapping, other: _Mapping, file: Path, key: str) -> None:
    """Each id is shown as one, and each that is shown stands for one."""
    new, old = mapping.range, other.range
    for verb, start, other_start in (("maps", new.first, old.first), ("shows", new.shown, old.shown)):
        if start < other_start + old.count and other_start < start + new.count:
            problem = f"{mapping.text!r} {verb} ids that {other.text!r} {verb} too; write ranges that do not overlap"
            raise ConfigError(file, key, problem)
