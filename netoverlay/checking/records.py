"""An upper on a server: what the journal says of it, against what is there; and names that are there for nothing."""

from __future__ import annotations

from functools import partial

from netoverlay.backend_api import Backend, DirEntry, FileStat, FileType, LayerPath, join_path
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS
from netoverlay.checking.findings import Finding, Findings, Kind
from netoverlay.checking.subject import Subject
from netoverlay.wrappers.sidecar import markers
from netoverlay.wrappers.sidecar.context import Context
from netoverlay.wrappers.sidecar.nodes import Directory, Node
from netoverlay.wrappers.spellings import fold


def check_records(subject: Subject, context: Context) -> Findings:
    """All directories of the upper that the server has."""
    waiting: list[LayerPath] = [subject.upper.root]
    while waiting:
        path = waiting.pop()
        with subject.reading(path):
            listed = sorted(context.inner.list_dir(path))
            waiting += [
                join_path(path, entry.name)
                for entry in listed
                if entry.stat.type is FileType.DIRECTORY and not markers.is_marker(entry.name)
            ]
            known = context.tree.find(path)
            yield from _markers(context, path, listed)
            if isinstance(known, Directory):
                yield from _names(subject, context, path, known, dict(listed))


def check_letter_case(subject: Subject, server: Backend) -> Findings:
    """Names in one directory that the server may take for one. Those that a mount makes are marked (spellings.py).

    `server`: without what tells cases apart.
    """
    waiting: list[LayerPath] = [subject.upper.root]
    while waiting:
        path = waiting.pop()
        first: dict[str, str] = {}
        with subject.reading(path):
            for name, stat in sorted(server.list_dir(path)):
                if stat.type is FileType.DIRECTORY:
                    waiting.append(join_path(path, name))
                other = first.setdefault(fold(name), name)
                if other != name:
                    yield Finding(Kind.CASE_CLASH, join_path(path, name), f"the other is {other}")


def _names(
    subject: Subject, context: Context, path: LayerPath, directory: Directory, there: dict[str, FileStat]
) -> Findings:
    with context.tree.lock:
        entries = sorted(directory.entries.items())
    for name, node in entries:
        place = join_path(path, name)
        forget = partial(_forget, subject, context, directory, name)
        told = there.get(name)
        if not _can_be(name, subject.upper.capabilities.max_name_bytes):
            yield Finding(Kind.RECORD_NAME, place, repair=forget)
        elif told is None or isinstance(node, Directory) != (told.type is FileType.DIRECTORY):
            yield Finding(Kind.RECORD_GONE, place, repair=forget)
        elif node.number in subject.unrecorded:
            yield Finding(Kind.RECORD_MISSING, place, repair=partial(context.journal.changed, node))
        elif node.type is not None and (told.size or told.type is not FileType.REGULAR):
            detail = f"{node.type.name.lower().replace('_', ' ')}, {told.size} bytes"
            yield Finding(Kind.RECORD_TYPE, place, detail, partial(_forget_type, context, node))


def _forget(subject: Subject, context: Context, directory: Directory, name: str) -> None:
    """Out of the tree, and so out of the journal when that is written anew."""
    context.tree.leave(directory, name)
    subject.has_forgotten = True


def _forget_type(context: Context, node: Node) -> None:
    with context.tree.lock:
        node.type = node.rdev = node.target = None
        context.journal.changed(node)


def _markers(context: Context, path: LayerPath, listed: list[DirEntry]) -> Findings:
    names = {entry.name for entry in listed}
    marked = context.marks.read(path, listed)
    for name in sorted(marked.hidden.keys() & names):
        remove = partial(_remove_marker, context, join_path(path, name))
        yield Finding(Kind.WHITEOUT_BESIDE_FILE, join_path(path, name), repair=remove)
    if markers.LONG_DIRECTORY in names and not any(marked.hidden.values()):
        place = join_path(path, markers.LONG_DIRECTORY)
        yield Finding(Kind.LONG_DIRECTORY_EMPTY, place, repair=partial(context.inner.rmdir, place))


def _remove_marker(context: Context, path: LayerPath) -> None:
    with context.holding(path) as (place,):
        context.marks.remove(place)


def _can_be(name: str, max_bytes: int) -> bool:
    """Whether the server can hold a name; what is no name at all is no line of a journal."""
    try:
        return len(name.encode(NAME_ENCODING, NAME_ERRORS)) <= max_bytes
    except UnicodeEncodeError:
        return False
