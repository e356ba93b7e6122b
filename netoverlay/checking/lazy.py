"""Lazily copied files: what is neither in the upper nor in a base any more is named, and never made up."""

from __future__ import annotations

from functools import partial

from netoverlay.backend_api import FileType, LayerPath, join_path
from netoverlay.checking.findings import Finding, Findings, Kind
from netoverlay.checking.subject import Subject
from netoverlay.checking.walking import Entry
from netoverlay.overlay.lazy_file import PartialFile
from netoverlay.overlay.lazy_files import LostBaseError
from netoverlay.overlay.lazy_map import END, NEW_SUFFIX, DamagedMapError, MapFacts
from netoverlay.overlay.lazy_upper import LazyUpper


def check_lazy_file(subject: Subject, entry: Entry) -> Findings:
    """What is wrong with a file, if it is one that was copied lazily."""
    lazy = subject.upper.lazy
    if lazy is None or entry.is_whiteout or entry.stat.type is not FileType.REGULAR:
        return
    token = lazy.token_at(entry.path)
    if token is None or token in subject.lazy_tokens:
        return
    subject.lazy_tokens.add(token)
    try:
        facts = lazy.files.map_facts(token)
    except DamagedMapError as error:
        yield Finding(Kind.LAZY_MAP_DAMAGED, entry.path, str(error.strerror))
        return
    yield from _map(subject, lazy, entry, token, facts)


def check_unused_maps(subject: Subject) -> Findings:
    """Maps that no file has. Precondition: all files of the upper were looked at."""
    lazy = subject.upper.lazy
    if lazy is None or not subject.is_whole:
        return
    directory = lazy.files.directory
    try:
        names = sorted(entry.name for entry in subject.backend.list_dir(directory))
    except FileNotFoundError:
        return
    for name in names:
        if name.endswith(NEW_SUFFIX) or name not in subject.lazy_tokens:
            path = join_path(directory, name)
            yield Finding(Kind.LAZY_MAP_UNUSED, path, repair=partial(lazy.files.forget, name))


def _map(subject: Subject, lazy: LazyUpper, entry: Entry, token: str, facts: MapFacts) -> Findings:
    if facts.uncounted_bytes:
        detail = f"{facts.uncounted_bytes} bytes"
        yield Finding(Kind.LAZY_MAP_TORN, entry.path, detail, lambda: lazy.files.load_map(token).close())
    if next(facts.missing.overlapping(entry.stat.size, END), None) is not None:
        yield Finding(Kind.LAZY_MAP_LONG, entry.path, repair=partial(_fit, lazy, entry.path))
        facts.missing.set(entry.stat.size, END, None)
    if not facts.missing:
        yield Finding(Kind.LAZY_WHOLE, entry.path, repair=partial(_complete, lazy, entry.path))
    elif subject.stack.lowers:
        try:
            lazy.files.find_base(facts.base).close()
        except LostBaseError as error:
            lost = sum(piece.end - piece.start for piece in facts.missing)
            yield Finding(Kind.LAZY_BASE_LOST, entry.path, f"{lost} bytes: {error.strerror}")


def _fit(lazy: LazyUpper, path: LayerPath) -> None:
    lazy.open_to_complete(path).close()


def _complete(lazy: LazyUpper, path: LayerPath) -> None:
    with lazy.open_to_complete(path) as file:
        if isinstance(file, PartialFile):
            file.complete(lambda: False, id)
