"""All checks of an upper, in their order."""

from __future__ import annotations

from netoverlay.backend_api import Backend
from netoverlay.checking.findings import Findings
from netoverlay.checking.lazy import check_lazy_file, check_unused_maps
from netoverlay.checking.marks import Marks
from netoverlay.checking.records import check_letter_case, check_records
from netoverlay.checking.subject import Subject
from netoverlay.checking.walking import walk
from netoverlay.checking.work import check_index, check_kept_times, check_leftovers


def check_upper(subject: Subject, server: Backend | None) -> Findings:
    """What is wrong with an upper. Repair a finding, if at all, before the next is asked for.

    `server`: of an upper on one that does not tell cases apart, that without what does.
    """
    yield from check_leftovers(subject)
    if subject.sidecar is not None:
        yield from check_records(subject, subject.sidecar)
    if server is not None:
        yield from check_letter_case(subject, server)
    marks = Marks(subject)
    for entry in walk(subject):
        with subject.reading(entry.path):
            yield from marks.check(entry)
            yield from check_lazy_file(subject, entry)
    yield from check_index(subject)
    yield from check_unused_maps(subject)
    yield from check_kept_times(subject)
    yield from subject.unreadable.values()
