"""Each entry of an upper, with what is below it in the lowers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netoverlay.backend_api import FileStat, FileType, LayerPath, join_path
from netoverlay.checking.subject import Subject
from netoverlay.overlay.layers import LowerPlace
from netoverlay.overlay.merge import Above, is_sound_redirect


class Entry(NamedTuple):
    """One name of the upper."""

    path: LayerPath
    name: str
    stat: FileStat
    is_whiteout: bool
    in_opaque: bool
    """It stands in a directory that hides all below by its own mark, or by that of one above it."""
    below: tuple[LowerPlace, ...]
    """The lower directories that are merged with the one in which it stands."""


class _Directory(NamedTuple):
    path: LayerPath
    is_opaque: bool
    below: tuple[LowerPlace, ...]


def walk(subject: Subject) -> Iterator[Entry]:
    """All entries but the root, a directory before what is in it. What is removed meanwhile may still come."""
    merge = subject.merge
    waiting = [_Directory(subject.upper.root, False, merge.root() if merge else ())]
    while waiting:
        directory = waiting.pop()
        with subject.reading(directory.path):
            listed = subject.backend.list_dir(directory.path)
            hidden = subject.upper.marks.hidden_in(directory.path, listed)
            for name, stat in sorted(listed):
                path = join_path(directory.path, name)
                subject.entries += 1
                yield Entry(path, name, stat, name in hidden, directory.is_opaque, directory.below)
                if stat.type is FileType.DIRECTORY:
                    with subject.reading(path):
                        waiting.append(_enter(subject, directory, path, name, stat))


def _enter(subject: Subject, parent: _Directory, path: LayerPath, name: str, stat: FileStat) -> _Directory:
    marks, merge = subject.upper.marks, subject.merge
    opaque, redirect = marks.is_opaque(path), marks.redirect(path)
    hides = opaque or (parent.is_opaque and redirect is None)
    if merge is None or (redirect is not None and not is_sound_redirect(redirect)):
        return _Directory(path, hides, ())
    above = Above(stat, 0, opaque=opaque, redirect=redirect)
    return _Directory(path, hides, merge.below_upper(above, parent.below, name))
