"""The work directory: what is left in it, the index of hard links, and kept times."""

from __future__ import annotations

from functools import partial

from netoverlay.backend_api import DirEntry, FileStat, LayerPath, join_path
from netoverlay.checking.findings import Finding, Findings, Kind
from netoverlay.checking.lazy import check_lazy_file
from netoverlay.checking.subject import Subject
from netoverlay.checking.walking import Entry
from netoverlay.overlay import links
from netoverlay.overlay.inodes import KeptTime
from netoverlay.overlay.kept_times import FILE_NAME, DamagedKeptTimesError, read_kept_times, write_kept_times
from netoverlay.overlay.workspace import leftovers, remove_tree, temporary_path


def check_leftovers(subject: Subject) -> Findings:
    """What changes that did not end have left."""
    try:
        paths = leftovers(subject.backend, subject.upper.work)
    except FileNotFoundError:
        return
    for path in sorted(paths):
        yield Finding(Kind.TEMPORARY, path, repair=partial(remove_tree, subject.backend, path))


def check_index(subject: Subject) -> Findings:
    """The index of hard links. Overlayfs's own it puts in order itself."""
    directory = join_path(subject.upper.work, links.DIRECTORY_NAME)
    entries: list[DirEntry] = []
    with subject.reading(directory):
        try:
            entries = sorted(subject.backend.list_dir(directory))
        except FileNotFoundError:
            return
    for name, stat in entries:
        path = join_path(directory, name)
        with subject.reading(path):
            yield from _index_entry(subject, path, name, stat)


def _index_entry(subject: Subject, path: LayerPath, name: str, stat: FileStat) -> Findings:
    number = subject.upper.marks.recorded_inode_number(path) or subject.upper.inode_number(path, stat)
    subject.inode_numbers.add(number)
    remove = partial(subject.backend.unlink, path)
    try:
        entry = links.read_entry(name)
    except ValueError:
        has_others = (stat.nlink or 1) > 1 or not stat.size
        kind = Kind.INDEX_DAMAGED if has_others else Kind.INDEX_ONLY_NAME
        yield Finding(kind, path, repair=remove if has_others else None)
        return
    if isinstance(entry, links.LostNames):
        return
    count = stat.nlink or 1
    if entry.is_gone(count):
        yield Finding(Kind.INDEX_GONE, path, repair=remove)
        return
    yield from check_lazy_file(subject, Entry(path, name, stat, is_whiteout=False, in_opaque=False, below=()))
    if entry.is_complete(count):
        detail = f"{count - 1} names, and a count of {entry.shown(count)}"
        yield Finding(Kind.INDEX_COMPLETE, path, detail, remove)


def check_kept_times(subject: Subject) -> Findings:
    """The ctimes that are kept. Precondition: all files of the upper were looked at."""
    backend, work = subject.backend, subject.upper.work
    path = join_path(work, FILE_NAME)
    try:
        kept = read_kept_times(backend, work)
    except DamagedKeptTimesError:
        yield Finding(Kind.TIMES_DAMAGED, path, repair=partial(backend.unlink, path))
        return
    root = subject.upper.root
    stat = backend.stat(root)
    known = subject.inode_numbers | {subject.upper.inode_number(root, stat)}
    used = {number: times for number, times in kept.items() if number in known}
    if subject.is_whole and len(used) < len(kept):
        rewrite = partial(_rewrite_times, subject, used)
        yield Finding(Kind.TIMES_UNUSED, path, f"{len(kept) - len(used)} of {len(kept)}", rewrite)


def _rewrite_times(subject: Subject, used: dict[int, KeptTime]) -> None:
    work = subject.upper.work
    write_kept_times(subject.backend, work, used, temporary_path(work, 0))
