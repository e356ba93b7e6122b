"""What a share can do, found out when a layer connects."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from netoverlay_smb import commands, extended_attributes, names, replies
from netoverlay_smb.protocol import (
    PREVIOUS_HANDLE,
    CreateOptions,
    FileAccess,
    InfoClass,
    VolumeClass,
    VolumeFlags,
)
from netoverlay_smb.session import Session
from netoverlay_smb.status import NOT_SUPPORTED, Status

LOOK = FileAccess.READ_ATTRIBUTES
"""The access to look at attributes: with SYNCHRONIZE it would be refused where a file is not to be read."""
_APPLE = b"AAPL"
_APPLE_QUERY = struct.Struct("<IIQQ")
_APPLE_SERVER_QUERY = 1
_APPLE_SERVER_CAPS = 1
_APPLE_LISTS_ATTRIBUTES = 0x1
_APPLE_IS_UNIX = 0x4
_NO_ATTRIBUTE = "netoverlay.none"
_LISTED_BYTES = 65536
_MAX_PROBES = 8


@dataclass(frozen=True, slots=True)
class ShareFacts:
    """What was found."""

    is_directory: bool
    has_file_ids: bool
    lists_modes: bool
    """Listings have modes, as servers for Macs give them (AAPL): one request for all entries of a directory."""
    has_attributes: bool
    """Extended attributes."""
    has_holes: bool
    copies: bool
    """The server copies between files by itself."""
    case_sensitive: bool


def find_out(session: Session, known: ShareFacts | None, *, modes_from_server: bool) -> ShareFacts:
    """Look at the root. StatusError if it cannot be looked at. `known` is what another session has found out there."""
    path = names.encode_utf16(session.root)
    started_at = time.monotonic()
    context = _apple_context() if modes_from_server else b""
    requests = session.submit(
        commands.create(path, LOOK, CreateOptions(0), contexts=context),
        commands.query_file(InfoClass.ALL),
        commands.query_volume(VolumeClass.ATTRIBUTES),
        commands.request_resume_key(),
        commands.close(),
    )
    created = session.parse(replies.created, session.expect(requests[0]))
    session.note_round_trip(time.monotonic() - started_at)
    facts = session.parse(replies.all_information, session.info(requests[1]))
    volume = session.parse(replies.volume, session.info(requests[2]))
    # Samba has no such key for a directory (STATUS_INTERNAL_ERROR); who cannot copy does not know what is asked.
    copies = session.engine.wait(requests[3]).status not in NOT_SUPPORTED
    return ShareFacts(
        is_directory=facts.is_directory,
        has_file_ids=facts.file_id != 0,
        lists_modes=modes_from_server and session.parse(_speaks_apple, created.contexts),
        has_attributes=known.has_attributes if known else _has_attributes(session, path),
        has_holes=bool(volume.flags & VolumeFlags.SPARSE_FILES),
        copies=known.copies if known else copies,
        case_sensitive=known.case_sensitive if known else facts.is_directory and _is_case_sensitive(session),
    )


def _has_attributes(session: Session, path: bytes) -> bool:
    """Remove an attribute that is not there: servers without any list them, too, as none, and have no flag for it.

    Where that is not allowed, none will be set, and it does no harm to ask for them.
    """
    removal = commands.set_file(InfoClass.FULL_EA, extended_attributes.pack(_NO_ATTRIBUTE, b""))
    access = LOOK | FileAccess.WRITE_EA
    requests = session.engine.call(commands.create(path, access, CreateOptions(0)), removal, commands.close())
    return requests[1].status not in NOT_SUPPORTED


def _apple_context() -> bytes:
    """Apple's create context: what can the server do? We say that we take attributes in listings."""
    wanted = _APPLE_QUERY.pack(_APPLE_SERVER_QUERY, 0, _APPLE_SERVER_CAPS, _APPLE_LISTS_ATTRIBUTES)
    return commands.create_context(_APPLE, wanted)


def _speaks_apple(contexts: bytes) -> bool:
    needed = _APPLE_LISTS_ATTRIBUTES | _APPLE_IS_UNIX
    for name, data in replies.create_contexts(contexts):
        if name == _APPLE and len(data) >= _APPLE_QUERY.size:
            query, _, told, capabilities = _APPLE_QUERY.unpack_from(data)
            if query == _APPLE_SERVER_QUERY and told & _APPLE_SERVER_CAPS:
                return bool(capabilities & needed == needed)
    return False


def _is_case_sensitive(session: Session) -> bool:
    """Look for a name in another case than it is listed in. The flag that servers have for this is set by all of them.

    Where nothing has a letter in its name, it is taken to be as on most servers: insensitive.
    """
    for name in _names_to_try(session):
        directory, separator, last = name.rpartition("\\")
        # Not all letters come back as they were.
        swapped = "".join(each.swapcase() if each.swapcase().swapcase() == each else each for each in last)
        if swapped != last and (original := _id_of(session, name)) is not None:
            return _id_of(session, f"{directory}{separator}{swapped}") != original
    return False


def _id_of(session: Session, path: str) -> int | None:
    """The file id of what stands there; None if nothing does."""
    opening = commands.create(names.encode_utf16(path), LOOK, CreateOptions(0))
    requests = session.engine.call(opening, commands.query_file(InfoClass.ALL), commands.close())
    if requests[0].status != Status.SUCCESS:
        return None
    return session.parse(replies.all_information, session.info(requests[1])).file_id


def _names_to_try(session: Session) -> Iterator[str]:
    """The root's own name, and those of what is in it."""
    if session.root:
        yield session.root
    separator = "\\" if session.root else ""
    for name in sorted(names_in(session, session.root))[:_MAX_PROBES]:
        yield f"{session.root}{separator}{name}"


def names_in(session: Session, directory: str, pattern: str = "*") -> set[str]:
    """Names in a directory, as the server has them: the first few hundred, none if it cannot be listed."""
    access = FileAccess.READ_DATA | LOOK
    requests = session.engine.call(
        commands.create(names.encode_utf16(directory), access, CreateOptions.DIRECTORY),
        commands.query_directory(
            PREVIOUS_HANDLE, InfoClass.ID_FULL_DIRECTORY, _LISTED_BYTES, restart=True, pattern=pattern
        ),
        commands.close(),
    )
    if requests[1].status != Status.SUCCESS:
        return set()
    listed = session.parse(replies.listed, session.parse(replies.info, requests[1].body))
    return {entry.name for entry in listed} - {".", ".."}
