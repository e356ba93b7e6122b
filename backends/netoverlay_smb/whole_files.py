"""Small files, read whole: one compound each, and as many of these in flight as credits pay for, from one thread.

What comes out otherwise than expected is done again as for one file alone, which knows all the cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from netoverlay.backend_api import FileContent, WantedFile
from netoverlay_smb import commands, joined, look, replies
from netoverlay_smb.attributes import Appearance
from netoverlay_smb.commands import Body
from netoverlay_smb.handles import GENERIC_READ
from netoverlay_smb.protocol import PREVIOUS_HANDLE, CreateOptions, FileAttributes, InfoClass
from netoverlay_smb.request import Request
from netoverlay_smb.session import Session
from netoverlay_smb.status import Status

_REPARSE_POINT = int(FileAttributes.REPARSE_POINT)


class Asked(NamedTuple):
    """A file to be read, and where it is on the share."""

    wanted: WantedFile
    path: bytes


def read(
    session: Session, files: Sequence[Asked], appearance: Appearance, *, unchanging: bool
) -> Iterator[FileContent | None]:
    """What is in `files`; None for what has to be done singly."""
    answered = joined.answers(session, [_compound(each, unchanging=unchanging) for each in files])
    for requests, file in zip(answered, files, strict=True):
        yield _content(session, requests, file.wanted, appearance)


def _compound(file: Asked, *, unchanging: bool) -> list[Body]:
    bodies = [commands.create(file.path, GENERIC_READ, CreateOptions.NON_DIRECTORY)]
    if file.wanted.size:
        bodies.append(commands.read(PREVIOUS_HANDLE, 0, file.wanted.size))
    if not unchanging:
        bodies.append(commands.query_file(InfoClass.ALL))
    return [*bodies, commands.close()]


def _content(
    session: Session, requests: Sequence[Request], wanted: WantedFile, appearance: Appearance
) -> FileContent | None:
    opening, *asking, _ = requests
    if opening.status != Status.SUCCESS:
        return None
    opened = session.parse(replies.created, opening.body)
    if opened.attributes & _REPARSE_POINT or any(request.status != Status.SUCCESS for request in asking):
        return None
    data = session.parse(replies.read_data, asking.pop(0).body) if wanted.size else b""
    if len(data) != wanted.size:
        return None
    if not asking:
        return FileContent(data, None)
    facts = look.all_of(session, asking[0])
    return None if look.may_be_link(facts) else FileContent(data, appearance.stat(facts).version)
