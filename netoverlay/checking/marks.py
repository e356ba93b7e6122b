"""Whiteouts, opaque marks, redirects and numbers of inodes: those that say nothing, or what cannot be."""

from __future__ import annotations

from functools import partial

from netoverlay.backend_api import FileType, LayerPath
from netoverlay.checking.findings import Finding, Findings, Kind
from netoverlay.checking.subject import Subject
from netoverlay.checking.walking import Entry
from netoverlay.overlay.merge import Above, is_sound_redirect
from netoverlay.overlay.whiteouts import DirectoryMark, lazy_token

_NEEDLESS = {DirectoryMark.OPAQUE: Kind.OPAQUE_FILE, DirectoryMark.REDIRECT: Kind.REDIRECT_FILE}


class Marks:
    """Of one upper, entry by entry."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._files: dict[int, LayerPath] = {}
        """The first path with each recorded inode number, and ..."""
        self._ids: dict[int, int | None] = {}
        """... the file id there: further names of one file have the same."""

    def check(self, entry: Entry) -> Findings:
        """What is wrong with one entry."""
        if entry.is_whiteout:
            yield from self._whiteout(entry)
        elif entry.stat.type is FileType.DIRECTORY:
            yield from self._directory(entry)
            yield from self._inode_number(entry)
        else:
            yield from self._file(entry)
            yield from self._inode_number(entry)

    def _whiteout(self, entry: Entry) -> Findings:
        remove = partial(self._subject.backend.unlink, entry.path)
        merge = self._subject.merge
        if entry.in_opaque:
            yield Finding(Kind.WHITEOUT_IN_OPAQUE, entry.path, repair=remove)
        elif merge is not None and merge.below(entry.below, entry.name) is None:
            yield Finding(Kind.WHITEOUT_OVER_NOTHING, entry.path, repair=remove)

    def _directory(self, entry: Entry) -> Findings:
        marks, merge = self._subject.upper.marks, self._subject.merge
        redirect = marks.redirect(entry.path)
        if redirect is None:
            return
        if not is_sound_redirect(redirect):
            yield Finding(Kind.REDIRECT_OUT, entry.path, repr(redirect), partial(self._make_opaque, entry.path))
        elif merge is not None:
            above = Above(entry.stat, 0, opaque=marks.is_opaque(entry.path), redirect=redirect)
            if not above.opaque and not merge.below_upper(above, entry.below, entry.name):
                yield Finding(Kind.REDIRECT_NOWHERE, entry.path, repr(redirect))

    def _make_opaque(self, path: LayerPath) -> None:
        """In this order: an opaque directory needs no redirect."""
        marks = self._subject.upper.marks
        marks.set_opaque(path)
        marks.remove_mark(path, DirectoryMark.REDIRECT)

    def _file(self, entry: Entry) -> Findings:
        marks = self._subject.upper.marks
        for mark in sorted(marks.marks_of_file(entry.path), key=lambda mark: mark.value):
            yield Finding(_NEEDLESS[mark], entry.path, repair=partial(marks.remove_mark, entry.path, mark))
        mark_of_data = marks.data_mark_at(entry.path) if entry.stat.type is FileType.REGULAR else None
        if mark_of_data is not None and lazy_token(mark_of_data) is None:
            yield from self._data_below(entry)

    def _data_below(self, entry: Entry) -> Findings:
        redirect, merge = self._subject.upper.marks.redirect(entry.path), self._subject.merge
        if redirect is not None and not is_sound_redirect(redirect):
            yield Finding(Kind.DATA_NOWHERE, entry.path, repr(redirect))
        elif merge is not None and merge.data(redirect, entry.below, entry.name) is None:
            yield Finding(Kind.DATA_NOWHERE, entry.path, "" if redirect is None else repr(redirect))

    def _inode_number(self, entry: Entry) -> Findings:
        upper, subject = self._subject.upper, self._subject
        recorded = upper.marks.recorded_inode_number(entry.path)
        number = recorded or upper.inode_number(entry.path, entry.stat)
        subject.inode_numbers.add(number)
        first = self._files.setdefault(number, entry.path)
        if first == entry.path:
            self._ids[number] = entry.stat.file_id
        elif recorded is not None and (entry.stat.file_id is None or entry.stat.file_id != self._ids[number]):
            forget = partial(upper.marks.forget_inode_number, entry.path)
            yield Finding(Kind.INODE_TWICE, entry.path, f"the other is {first}", forget)
