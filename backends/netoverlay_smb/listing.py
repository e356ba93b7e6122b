"""List directories: small ones in one round trip; what a listing does not tell of its entries in one more."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeAlias, TypeVar

from netoverlay.backend_api import DirEntry, FileType, LayerPath, NamedEntry, join_path, os_error
from netoverlay.backend_api.listing_limits import ListingLimits, ListingProgress
from netoverlay.backend_api.together import Conversation, converse
from netoverlay_smb import commands, diagnosis, joined, look, names, replies
from netoverlay_smb.attributes import NOTHING_TOLD, Appearance
from netoverlay_smb.commands import Body
from netoverlay_smb.errors import StatusError
from netoverlay_smb.facts import LOOK
from netoverlay_smb.look import Look
from netoverlay_smb.paths import PathMap, join
from netoverlay_smb.protocol import PREVIOUS_HANDLE, CreateOptions, FileAccess, FileAttributes, InfoClass
from netoverlay_smb.replies import Listed
from netoverlay_smb.request import Request
from netoverlay_smb.security import Ownership
from netoverlay_smb.session import Session
from netoverlay_smb.status import Status

HIDDEN_PREFIX = ".netoverlay-removed-"
"""Of files that were removed while they were open: they are gone with their last handle."""
_FIRST_BYTES = 65536
"""Some 600 entries, for one credit."""
_MORE_BYTES = 1 << 20
_MORE_DEPTH = 2
_LOOKS_IN_FLIGHT = 128
_LOOKS_AT_ONCE = 16
_LOOK_CHARGE = 6
"""The most credits that one costs."""
_LOOK_SECONDS = 0.00015
"""Processor time, of the server and of ours."""
_PERMISSION_BITS = 0o7777
_REPARSE_POINT = int(FileAttributes.REPARSE_POINT)
_ANYTHING = CreateOptions(0)
_ASK_LINKS_AND_SECURITY = (commands.query_file(InfoClass.STANDARD), commands.query_security())
"""In the place of all information, of which a listing has told the rest: a server has to look for more of that."""
_CLOSE = commands.close()
_VANISHED = frozenset(
    {Status.OBJECT_NAME_NOT_FOUND, Status.OBJECT_PATH_NOT_FOUND, Status.DELETE_PENDING, Status.OBJECT_NAME_INVALID}
)


_Compound: TypeAlias = list[Body]
_Entry = TypeVar("_Entry")
_Told: TypeAlias = Conversation[_Compound, list[Request], list[_Entry]]
_Sorting: TypeAlias = Conversation[_Compound, list[Request], "_Sorted"]
_InFlight: TypeAlias = deque[tuple[Listed, list[Request]]]
_InTurn: TypeAlias = Iterator[tuple[Listed, list[Request]]]
_Reading: TypeAlias = Conversation[_Compound, list[Request], list[Listed]]


class _Sorted(NamedTuple):
    """What the listing of one directory told."""

    entries: list[DirEntry]
    unclear: list[Listed]
    """What has to be looked at to know its type, or its true name."""
    unsaid: list[Listed]
    """What lacks only mode, owner and link count, and has the name that is listed."""
    progress: ListingProgress


class Lister:
    """Lists directories of a share. `with_modes`: its server has modes in its listings."""

    def __init__(self, paths: PathMap, appearance: Appearance, limits: ListingLimits, *, with_modes: bool) -> None:
        self._paths = paths
        self._limits = limits
        self._appearance = appearance
        self._with_modes = with_modes
        self._secured = appearance.modes_from_server and not with_modes
        self._access = LOOK | FileAccess.READ_CONTROL if self._secured else LOOK

    @property
    def looks(self) -> bool:
        """Whether each entry has to be looked at."""
        return self._secured

    def entries(self, session: Session, directories: Sequence[LayerPath]) -> list[list[DirEntry] | OSError]:
        """All usable entries of each directory, or its error: ENOTDIR for anything else, a symbolic link too."""
        return self._converse(session, directories, self._entries)

    def named(self, session: Session, directories: Sequence[LayerPath]) -> list[list[NamedEntry] | OSError]:
        """As entries(); mode, owner and link count only where to ask costs less than another round trip would."""
        return self._converse(session, directories, self._names)

    def _converse(
        self,
        session: Session,
        directories: Sequence[LayerPath],
        read: Callable[[Session, LayerPath, bytes], _Told[_Entry]],
    ) -> list[list[_Entry] | OSError]:
        listings = [self._listing(session, each, read) for each in directories]
        return converse(listings, partial(joined.submit, session), partial(joined.forget, session))

    def _listing(
        self, session: Session, directory: LayerPath, read: Callable[[Session, LayerPath, bytes], _Told[_Entry]]
    ) -> _Told[_Entry]:
        path = self._paths.on_server(session.root, directory)
        try:
            return (yield from read(session, directory, path))
        except StatusError as error:
            raise diagnosis.of_path(session, error, path, "list_dir") from error

    def _entries(self, session: Session, directory: LayerPath, path: bytes) -> _Told[DirEntry]:
        entries, unclear, unsaid, progress = yield from self._sorted(session, directory, path)
        return entries + (yield from self._look_at(session, directory, path, unclear + unsaid, progress))

    def _names(self, session: Session, directory: LayerPath, path: bytes) -> _Told[NamedEntry]:
        entries, unclear, unsaid, progress = yield from self._sorted(session, directory, path)
        if len(unsaid) * _LOOK_SECONDS <= session.round_trip:
            unclear, unsaid = unclear + unsaid, []
        entries += yield from self._look_at(session, directory, path, unclear, progress)
        told = [NamedEntry(name, stat.type, stat) for name, stat in entries]
        return told + [_unsaid(entry) for entry in unsaid]

    def _sorted(self, session: Session, directory: LayerPath, path: bytes) -> _Sorting:
        progress = self._limits.begin(directory)
        found = _Sorted([], [], [], progress)
        for entry in (yield from self._read_all(session, path, progress)):
            if entry.name in (".", "..") or entry.name.startswith(HIDDEN_PREFIX):
                continue
            name = names.from_server(entry.name)
            if look.may_be_link(entry.facts) or names.may_be_short(entry.name):
                found.unclear.append(entry)
            elif self._secured:
                same = names.is_usable(name) and names.to_server(name) == entry.name
                (found.unsaid if same else found.unclear).append(entry)
            elif names.is_usable(name):
                told = Ownership(None, None, entry.unix_mode & _PERMISSION_BITS if self._with_modes else None)
                found.entries.append(DirEntry(name, self._appearance.stat(entry.facts, told)))
        return found

    def _read_all(self, session: Session, path: bytes, progress: ListingProgress, *, through: bool = False) -> _Reading:
        wanted = InfoClass.ID_BOTH_DIRECTORY if self._with_modes else InfoClass.ID_FULL_DIRECTORY
        parse = replies.listed_with_modes if self._with_modes else replies.listed
        compound = [
            commands.create(path, FileAccess.READ_DATA | LOOK, CreateOptions.DIRECTORY, through=through),
            commands.query_directory(PREVIOUS_HANDLE, wanted, _FIRST_BYTES, restart=True),
            commands.query_directory(PREVIOUS_HANDLE, wanted, _FIRST_BYTES),
        ]
        ((opening, *reading),) = yield [compound]
        created = session.parse(replies.created, session.expect(opening))
        try:
            if created.attributes & FileAttributes.REPARSE_POINT and not through:
                if look.reparse_target(session, path) is not None:
                    raise os_error(errno.ENOTDIR, names.decode_utf16(path))
                # A volume that is mounted there, say.
                return (yield from self._read_all(session, path, progress, through=True))
            more = commands.query_directory(created.handle, wanted, _more_bytes(session))
            listed: list[Listed] = []
            for body in _bodies(session, deque(reading), more):
                told = session.parse(parse, session.parse(replies.info, body))
                progress.told([each.name for each in told], len(body))
                listed += told
            return listed
        finally:
            if not session.broken:
                session.forget(commands.close(created.handle))

    def _look_at(
        self,
        session: Session,
        directory: LayerPath,
        path: bytes,
        unclear: list[Listed],
        progress: ListingProgress,
    ) -> _Told[DirEntry]:
        """Ask for each entry what the listing did not tell, many at a time."""

        def questions(asked: Sequence[Listed]) -> list[_Compound]:
            progress.goes_on()
            return [self._questions(join(path, entry.name), entry) for entry in asked]

        at_once = max(1, min(_LOOKS_AT_ONCE, session.engine.credits // (2 * _LOOK_CHARGE)))
        first, rest = unclear[:_LOOKS_IN_FLIGHT], unclear[_LOOKS_IN_FLIGHT:]
        in_flight: _InFlight = deque(zip(first, (yield questions(first)), strict=True))
        entries: list[DirEntry] = []
        in_doubt: list[Listed] = []
        for entry, requests in _in_turn(in_flight, rest, lambda few: joined.submit(session, questions(few)), at_once):
            if joined.closed(session, requests):
                entries += self._found(session, directory, path, entry, requests)
            else:
                in_doubt.append(entry)
        for entry, requests in _in_turn(deque(), in_doubt, lambda few: session.submit_all(questions(few)), at_once):
            joined.closed(session, requests)
            entries += self._found(session, directory, path, entry, requests)
        return entries

    def _found(
        self, session: Session, directory: LayerPath, path: bytes, entry: Listed, requests: list[Request]
    ) -> list[DirEntry]:
        """The entry, unless it is gone, or cannot be used."""
        try:
            name, found = self._answers(session, path, entry, requests)
        except StatusError as error:
            if error.status in _VANISHED:
                if names.may_be_short(entry.name):
                    self._paths.warn_of_short_name(directory, entry.name)
                return []
            # One odd file must not hide the others: what the listing itself tells of it will have to do.
            name, found = names.from_server(entry.name), Look(entry.facts, NOTHING_TOLD, None)
        if not names.is_usable(name):
            return []
        if names.to_server(name) != entry.name:
            self._paths.note_alias(join_path(directory, name), entry.name)
        return [DirEntry(name, found.stat(self._appearance))]

    def _questions(self, path: bytes, entry: Listed) -> list[Body]:
        link = _is_mfsymlink(entry)
        access = self._access | FileAccess.READ_DATA if link else self._access
        bodies = [commands.create(path, access, _ANYTHING)]
        if names.may_be_short(entry.name):
            bodies.append(commands.query_file(InfoClass.ALL))
        if self._secured:
            bodies += _ASK_LINKS_AND_SECURITY
        if link:
            bodies.append(commands.read(PREVIOUS_HANDLE, 0, entry.facts.size))
        bodies.append(_CLOSE)
        return bodies

    def _answers(self, session: Session, path: bytes, entry: Listed, requests: list[Request]) -> tuple[str, Look]:
        """The entry's true name, and what it is."""
        name = names.from_server(entry.name)
        opening, *answers = requests
        session.engine.wait(opening)
        if opening.status in look.NOT_TO_BE_READ:
            return self._ask_for_less(session, path, entry)
        if opening.status == Status.PATH_NOT_COVERED:  # a link of a distributed file system, which leads elsewhere
            return name, Look(entry.facts, NOTHING_TOLD, None)
        session.expect(opening)
        facts = entry.facts
        if names.may_be_short(entry.name):
            asking = answers.pop(0)
            facts = facts._replace(nlink=look.all_of(session, asking).nlink)
            name = _true_name(session, path, asking) or name
        owner = NOTHING_TOLD
        if self._secured:
            facts = facts._replace(nlink=session.parse(replies.link_count, session.info(answers.pop(0))))
            owner = look.ownership(session, answers.pop(0))
        link = None
        if _is_mfsymlink(entry):
            link = look.link_in(session, opening, answers.pop(0))
        elif look.may_be_link(entry.facts):
            link = look.reparse_target(session, join(path, entry.name))
        return name, Look(facts, owner, link)

    def _ask_for_less(self, session: Session, path: bytes, entry: Listed) -> tuple[str, Look]:
        """As _answers(), of what may be looked at, at most. That much is as good as granted with the listing."""
        name, found = names.from_server(entry.name), Look(entry.facts, NOTHING_TOLD, None)
        at = join(path, entry.name)
        if names.may_be_short(entry.name):
            opening, asking, _ = session.engine.call(
                commands.create(at, LOOK, _ANYTHING), commands.query_file(InfoClass.ALL), commands.close()
            )
            if opening.status == Status.SUCCESS:
                name = _true_name(session, path, asking) or name
        if _is_mfsymlink(entry):  # it may be its content alone that is refused
            with suppress(StatusError):
                found = look.at(session, at, self._appearance)._replace(facts=entry.facts)
        return name, found


def _in_turn(
    in_flight: _InFlight, entries: Iterable[Listed], ask: Callable[[list[Listed]], list[list[Request]]], at_once: int
) -> _InTurn:
    """What is in flight, and then further entries, each with the requests for it, which need not be answered yet."""
    waiting = iter(entries)
    while True:
        if len(in_flight) <= _LOOKS_IN_FLIGHT - at_once and (batch := list(islice(waiting, at_once))):
            in_flight += zip(batch, ask(batch), strict=True)
        elif in_flight:
            yield in_flight.popleft()
        else:
            return


def _unsaid(entry: Listed) -> NamedEntry:
    kind = FileType.DIRECTORY if entry.facts.is_directory else FileType.REGULAR
    return NamedEntry(names.from_server(entry.name), kind, None)


def _true_name(session: Session, directory: bytes, asking: Request) -> str:
    """Of something in a directory, from what was asked of it."""
    path = session.parse(replies.name_of_all, session.info(asking))
    return names.from_server(_last_of(session, directory, path))


def _last_of(session: Session, directory: bytes, path: str) -> str:
    """The name at the end of a path that the server tells, of something in `directory`.

    On Samba it may have a backslash in it. Where there are more of them than there should be, the server is asked what
    it calls the directory.
    """
    above = names.decode_utf16(directory)
    if path.count("\\") - path.startswith("\\") == (above.count("\\") + 1 if above else 0):
        return path.rpartition("\\")[2]
    _, asking, _ = session.engine.call(
        commands.create(directory, LOOK, _ANYTHING), commands.query_file(InfoClass.ALL), commands.close()
    )
    above = session.parse(replies.name_of_all, session.info(asking)).removeprefix("\\")
    return path.removeprefix("\\").removeprefix(above).removeprefix("\\" if above else "")


def _is_mfsymlink(entry: Listed) -> bool:
    return look.may_be_link(entry.facts) and not entry.facts.attributes & _REPARSE_POINT


def _more_bytes(session: Session) -> int:
    """The size of a further piece: large, but within what the server takes and has credits for."""
    affordable = max(1, session.engine.credits // (2 * _MORE_DEPTH)) * _FIRST_BYTES
    return min(_MORE_BYTES, session.link.max_transact_bytes, affordable if session.link.multi_credit else _FIRST_BYTES)


def _bodies(session: Session, in_flight: deque[Request], more: Body) -> Iterator[bytes]:
    """The pieces of a listing; as long as they come, further ones are asked for ahead."""
    ended = False
    while in_flight:
        request = in_flight.popleft()
        session.engine.wait(request)
        if request.status in (Status.NO_MORE_FILES, Status.NO_SUCH_FILE):
            ended = True  # a server may have answered the one before this one later
            continue
        yield session.expect(request)
        compound_goes_on = bool(in_flight) and in_flight[0].message_id == request.message_id + 1
        while not ended and len(in_flight) < (1 if compound_goes_on else _MORE_DEPTH):
            in_flight += session.submit(more)
