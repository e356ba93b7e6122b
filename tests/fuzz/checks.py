"""What must hold whatever was fed: names, attributes, paths, and what the log may tell."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from netoverlay.backend_api import DirEntry, FileStat, LayerPath
from netoverlay.fuse import replies
from netoverlay.kernel_values import fuse_attributes
from netoverlay.overlay.attributes import AttributeView
from netoverlay.overlay.owner import Holding
from netoverlay.testing.memory_tree import MemoryTree, Node

_NO_NAMES = frozenset(("", ".", ".."))
_INO = 7


class WrongError(AssertionError):
    """Something was let through that must not be."""


def require_name(name: str) -> None:
    """It can be an entry of a directory."""
    if name in _NO_NAMES or "/" in name or "\0" in name:
        raise WrongError(f"a name that is none: {name!r}")


def require_errno(error: OSError) -> None:
    """A program can be told of it."""
    if error.errno is None:
        raise WrongError(f"an error without an errno: {error!r}")


def require_inside(path: LayerPath) -> None:
    """It leads to something below the root of its layer, or to that."""
    if path and ("\0" in path or not _NO_NAMES.isdisjoint(path.split("/"))):
        raise WrongError(f"a path that leads elsewhere: {path!r}")


def require_stat(stat: FileStat) -> None:
    """The kernel can be told of it."""
    replies.attributes(fuse_attributes(AttributeView().complete(_INO, stat)), 0)


def require_entries(entries: Iterable[DirEntry]) -> None:
    """A listing that programs can be shown."""
    for name, stat in entries:
        require_name(name)
        require_stat(stat)


class GuardedTree(MemoryTree):
    """A layer's tree that must not be asked for what lies outside of it."""

    def find(self, path: LayerPath) -> Node:
        require_inside(path)
        return super().find(path)

    def find_parent(self, path: LayerPath) -> tuple[Node, str]:
        require_inside(path)
        return super().find_parent(path)


class HeldForEver:
    """An upper that is ours."""

    def lost(self) -> bool:
        return False

    def holding(self) -> Holding:
        return Holding(state="held", since=0.0)

    def release(self) -> None:
        pass


class Replaced(NamedTuple):
    """An attribute that has another value for a while."""

    owner: object
    name: str
    value: object


class _DefectLog(logging.Handler):
    """Keeps the exceptions that were logged and are not errors of an interface: defects that somebody has caught."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.defects: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, OSError):
            self.defects.append(error)

    def note(self, ended: threading.ExceptHookArgs) -> None:
        """What has ended a thread."""
        if ended.exc_value is not None:
            self.defects.append(ended.exc_value)


_LOGGER = logging.getLogger("netoverlay")


@contextmanager
def no_defects(*replaced: Replaced) -> Iterator[None]:
    """Around what is fed: raises what was caught and logged in it, or ended a thread. The log goes nowhere else.

    `replaced`: what is another in it.
    """
    log = _DefectLog()
    replaced = (*replaced, Replaced(threading, "excepthook", log.note))
    kept = [getattr(place.owner, place.name) for place in replaced]
    propagates, level = _LOGGER.propagate, _LOGGER.level
    _LOGGER.addHandler(log)
    _LOGGER.propagate = False
    _LOGGER.setLevel(logging.ERROR)
    for place in replaced:
        setattr(place.owner, place.name, place.value)
    try:
        yield
    finally:
        for place, value in zip(replaced, kept, strict=True):
            setattr(place.owner, place.name, value)
        _LOGGER.setLevel(level)
        _LOGGER.propagate = propagates
        _LOGGER.removeHandler(log)
    if log.defects:
        raise log.defects[0]
