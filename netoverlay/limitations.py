"""What a layer cannot tell or keep of what a Linux file system has, in words for who mounts it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from netoverlay.backend_api.types import Capabilities

_SECOND_NS: Final = 1_000_000_000
_UNITS_NS: Final = ((_SECOND_NS, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns"))
_USUAL_NAME_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class Limitation:
    """One thing that is not as on a local disk."""

    words: str
    """A part of a sentence."""
    missed: bool
    """Somebody may count on it: worth a line at the terminal, and not only in the log."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What it means that a capability is not claimed."""

    capability: str
    """A field of Capabilities."""
    lower: Limitation | None
    upper: Limitation | None
    """None: nothing that anybody would notice in that role."""


def _missed(words: str) -> Limitation:
    return Limitation(words, missed=True)


def _noted(words: str) -> Limitation:
    return Limitation(words, missed=False)


# A lower is only read, so that it need not be able to make what it shows.
_ROWS: Final = (
    _Row("modes", _missed("owners and modes only as far as it tells them"), _missed("modes are not kept")),
    _Row("owners", None, _missed("owners are not kept")),
    _Row("symlinks", _missed("no symbolic links"), _missed("no symbolic links")),
    _Row("file_ids", _missed("hard links are files of their own"), None),
    _Row("hard_links", None, _missed("no hard links")),
    _Row("special_files", None, _missed("no FIFOs and sockets")),
    _Row("devices", None, _noted("no devices")),
    _Row("xattrs", _missed("no extended attributes"), _missed("no extended attributes")),
    _Row(
        "privileged_xattrs",
        _noted('no extended attributes of "trusted." and "security."'),
        _noted('no extended attributes of "trusted." and "security."'),
    ),
    _Row("holes", _noted("holes are read as zeros"), _noted("holes take space")),
    _Row("case_sensitive", None, _missed("names that differ only in case are one")),
)
_IMPLIED: Final = {"privileged_xattrs": "xattrs"}
"""What need not be said where something else was said."""


def limitations(capabilities: Capabilities, *, is_upper: bool, is_root: bool) -> list[Limitation]:
    """What a layer with these capabilities lacks in its role; `is_root` says whether root mounts."""
    found = [_meaning(row, is_upper) for row in _ROWS if _lacks(capabilities, row.capability)]
    if is_upper and capabilities.owners and not is_root:
        found.append(_noted("what is copied up becomes your own"))
    if capabilities.time_granularity_ns > 1:
        found.append(_noted(f"times in units of {_in_words(capabilities.time_granularity_ns)}"))
    if is_upper and capabilities.max_name_bytes < _USUAL_NAME_BYTES:
        found.append(_missed(f"names of at most {capabilities.max_name_bytes} bytes"))
    return [limitation for limitation in found if limitation is not None]


def in_one_line(layer: str, found: Iterable[Limitation]) -> str | None:
    """`layer` and what it lacks; None if that is nothing."""
    words = ", ".join(limitation.words for limitation in found)
    return f"{layer}: {words}" if words else None


def _meaning(row: _Row, is_upper: bool) -> Limitation | None:
    return row.upper if is_upper else row.lower


def _lacks(capabilities: Capabilities, name: str) -> bool:
    implied_by = _IMPLIED.get(name)
    if implied_by is not None and not getattr(capabilities, implied_by):
        return False
    return not getattr(capabilities, name)


def _in_words(nanoseconds: int) -> str:
    size, unit = next((size, unit) for size, unit in _UNITS_NS if nanoseconds % size == 0)
    return f"{nanoseconds // size} {unit}"
