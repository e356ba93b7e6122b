"""Turn the values of a TOML table into typed ones, with errors that name the key and the remedy."""

from __future__ import annotations

import difflib
import math
import os
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from netoverlay.config.errors import ConfigError

T = TypeVar("T")

TOML_TYPES = {
    "array": "an array ([...], or [[...]] of tables)",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "nothing",
    "object": "a table",
    "str": "a string in quotes",
}
"""What a user of TOML calls the types that msgspec names in its messages."""


def to_type(value: object, type: type[T], file: Path, key: str) -> T:
    """`value`, which stands at `key`, as a `type`, strictly. ConfigError if it does not fit."""
    for name, item in value.items() if isinstance(value, dict) else ():
        if isinstance(item, float) and math.isnan(item):  # which no bound of a type refuses
            raise ConfigError(file, join_key(key, name), "write a number")
    try:
        return msgspec.convert(value, type, dec_hook=_from_toml)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        path = path.rstrip("`")
        problem = _choices(type, path.strip(".")) if message.startswith("Invalid enum value") else _in_words(message)
        raise ConfigError(file, join_key(key, path), problem) from None


def join_key(*parts: str) -> str:
    """`lower[0]` and `ttl` -> `lower[0].ttl`."""
    return ".".join(part.strip(".") for part in parts if part)


def refuse_unknown(table: Mapping[str, object], known: Iterable[str], file: Path, key: str) -> None:
    """ConfigError that names the first key of `table` that is not `known`, and what may have been meant."""
    allowed = sorted(known)
    for name in table:
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"the keys here are: {', '.join(allowed)}"
            raise ConfigError(file, join_key(key, name), f"unknown key; {remedy}")


def _from_toml(type: type[object], value: object) -> object:
    if type is not Path:
        raise NotImplementedError(f"a profile has no values of the type {type!r}")
    if not isinstance(value, str):
        raise TypeError("write a path in quotes")
    path = os.path.expanduser(value)
    if not os.path.isabs(path) or "\0" in path:
        raise ValueError('write an absolute path, or one that begins with "~/"')
    return Path(os.path.normpath(path))


def _choices(type: type[object], field: str) -> str:
    """For a field that is a Literal, or one or None. Not in msgspec's words, which do not say what it may be."""
    kinds = typing.get_args(typing.get_type_hints(type)[field])
    literal = next((kind for kind in kinds if typing.get_origin(kind) is typing.Literal), None)
    return f"write one of: {', '.join(map(repr, kinds if literal is None else typing.get_args(literal)))}"


def _in_words(message: str) -> str:
    match = re.fullmatch(r"Expected `([^`]+)`(?:, got `([^`]+)`)?(.*)", message, re.DOTALL)
    if match is None:
        return message[:1].lower() + message[1:]
    expected = " or ".join(TOML_TYPES.get(word, word) for word in match[1].split(" | ") if word != "null")
    found = f", not {TOML_TYPES.get(match[2], match[2])}" if match[2] else ""
    return f"write {expected}{match[3]}{found}"
