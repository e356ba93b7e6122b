"""A directory listing as bytes, to be kept on disk, or small in memory: made to be read fast, for a walk waits."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS, DirEntry, FileStat, FileType, NamedEntry

FORMAT = 3
"""Changes when these bytes, or the fields of FileStat or Capabilities, mean something else; part of what they are kept
under."""


class _Encoded(NamedTuple):
    names: bytes
    """Joined by NUL, which no name holds; in bytes because MessagePack has no surrogates."""
    stats: list[FileStat]


class _EncodedInMemory(NamedTuple):
    names: bytes
    stats: list[FileStat | None]


class _EncodedNames(NamedTuple):
    names: bytes
    types: list[FileType]
    stats: list[FileStat | None]


class Extras(NamedTuple):
    """What a listing does not tell of the entries of its directory, as far as it was asked for. By name."""

    targets: dict[str, str]
    """Where symbolic links point."""
    xattrs: dict[str, dict[str, bytes | None]]
    """All extended attributes, with None for a value that is not known."""

    @classmethod
    def none(cls) -> Extras:
        """Those of a directory of which nothing was asked."""
        return cls({}, {})

    def forget(self, name: str) -> None:
        """Nothing is known of `name` any more."""
        self.targets.pop(name, None)
        self.xattrs.pop(name, None)


class _EncodedExtras(NamedTuple):
    targets: dict[bytes, bytes]
    xattrs: dict[bytes, dict[bytes, bytes | None]]


_decoder = msgspec.msgpack.Decoder(_Encoded)
_memory_decoder = msgspec.msgpack.Decoder(_EncodedInMemory)
_names_decoder = msgspec.msgpack.Decoder(_EncodedNames)
_extras_decoder = msgspec.msgpack.Decoder(_EncodedExtras)


def encode_listing(entries: Iterable[DirEntry]) -> bytes:
    """The bytes of a listing."""
    pairs = list(entries)
    return msgspec.msgpack.encode(_Encoded(_join(name for name, _ in pairs), [stat for _, stat in pairs]))


def decode_listing(data: bytes) -> list[DirEntry]:
    """What encode_listing() was given. ValueError or MsgspecError if it is none of its work."""
    names, stats = _decoder.decode(data)
    return [DirEntry(name, stat) for name, stat in zip(_split(names), stats, strict=True)]


def encode_names(entries: Sequence[NamedEntry]) -> bytes:
    """The bytes of a listing that lacks attributes."""
    names, types, stats = (list(column) for column in zip(*entries, strict=True)) if entries else ([], [], [])
    return msgspec.msgpack.encode(_EncodedNames(_join(names), types, stats))


def decode_names(data: bytes) -> list[NamedEntry]:
    """What encode_names() was given. ValueError or MsgspecError if it is none of its work."""
    names, types, stats = _names_decoder.decode(data)
    return [NamedEntry(*entry) for entry in zip(_split(names), types, stats, strict=True)]


def encode_entries(entries: dict[str, FileStat | None]) -> bytes:
    """A listing as few bytes, for memory; None for attributes that must be asked for. OverflowError if a number is too
    large."""
    encoded = msgspec.msgpack.encode(_EncodedInMemory(_join(entries), list(entries.values())))
    return zlib.compress(encoded, zlib.Z_BEST_SPEED)


def decode_entries(data: bytes) -> dict[str, FileStat | None]:
    """What encode_entries() was given."""
    names, stats = _memory_decoder.decode(zlib.decompress(data))
    return dict(zip(_split(names), stats, strict=True))


def encode_extras(extras: Extras) -> bytes:
    """The bytes of a directory's extras."""
    targets = {_in_bytes(name): _in_bytes(target) for name, target in extras.targets.items()}
    xattrs = {
        _in_bytes(name): {_in_bytes(attribute): value for attribute, value in found.items()}
        for name, found in extras.xattrs.items()
    }
    return msgspec.msgpack.encode(_EncodedExtras(targets, xattrs))


def decode_extras(data: bytes) -> Extras:
    """What encode_extras() was given. ValueError or MsgspecError if it is none of its work."""
    targets, xattrs = _extras_decoder.decode(data)
    return Extras(
        {_in_text(name): _in_text(target) for name, target in targets.items()},
        {
            _in_text(name): {_in_text(attribute): value for attribute, value in found.items()}
            for name, found in xattrs.items()
        },
    )


def _join(names: Iterable[str]) -> bytes:
    return _in_bytes("\0".join(names))


def _split(names: bytes) -> list[str]:
    return _in_text(names).split("\0") if names else []


def _in_bytes(text: str) -> bytes:
    return text.encode(NAME_ENCODING, NAME_ERRORS)


def _in_text(encoded: bytes) -> str:
    return encoded.decode(NAME_ENCODING, NAME_ERRORS)
