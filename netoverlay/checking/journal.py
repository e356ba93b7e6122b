"""The journal of an upper on a server, as the last mount has left it: looked at before loading it repairs it."""

from __future__ import annotations

from typing import NamedTuple

from netoverlay.backend_api import Access, Backend, LayerPath, join_path
from netoverlay.checking.findings import Finding, Findings, Kind
from netoverlay.wrappers.sidecar.journal import NAME, NEW_NAME
from netoverlay.wrappers.sidecar.markers import ASIDE_PREFIX
from netoverlay.wrappers.sidecar.reading import DamagedJournalError, ForeignJournalError, Read, read_journal


class Journal(NamedTuple):
    """What was found in one."""

    findings: tuple[Finding, ...]
    unrecorded: frozenset[int]
    """The numbers of the nodes that have a name in it, and no line of their own."""


class UncheckableError(Exception):
    """Nothing else can be looked at. The last of the findings says why."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__(findings[-1].path)
        self.findings = findings


def check_journal(backend: Backend, work: LayerPath) -> Journal:
    """What loading it will put in order, and what only its lines tell. UncheckableError."""
    try:
        names = {entry.name for entry in backend.list_dir(work)}
    except FileNotFoundError:
        names = set()  # it was never mounted
    beside = [
        *(Finding(Kind.ASIDE, join_path(work, name)) for name in sorted(names) if name.startswith(ASIDE_PREFIX)),
        *(Finding(Kind.JOURNAL_UNFINISHED, join_path(work, name)) for name in names if name == NEW_NAME),
    ]
    if NAME not in names:
        return Journal(tuple(beside), frozenset())
    path = join_path(work, NAME)
    with backend.open(path, Access.READ) as file:
        data = file.read_at(0, file.stat().size)
    try:
        read = read_journal(data, path)
    except ForeignJournalError as error:
        raise UncheckableError((*beside, Finding(Kind.JOURNAL_FOREIGN, path, str(error.strerror)))) from None
    except DamagedJournalError as error:
        raise UncheckableError((*beside, Finding(Kind.JOURNAL_DAMAGED, path, str(error.strerror)))) from None
    tree, told = read.loader.tree, read.loader.told
    unrecorded = frozenset(node.number for _, _, node in tree.live() if node.number not in told)
    return Journal((*beside, *_of_content(path, data, read)), unrecorded)


def _of_content(path: LayerPath, data: bytes, read: Read) -> Findings:
    loader, end = read
    if end < len(data):
        lines = data.count(b"\n", end)
        detail = f"{len(data) - end} bytes, from byte {end} on, with {lines} ends of lines"
        yield Finding(Kind.JOURNAL_TORN, path, detail)
    if end and not loader.ended:
        yield Finding(Kind.JOURNAL_OPEN, path)
    for intent in loader.intents.values():
        names = ", ".join(name for _, name in intent.places)
        yield Finding(Kind.CHANGE_UNFINISHED, path, f"{intent.kind.value} of {names}")
