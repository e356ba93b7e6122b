"""Look at a file, in one round trip: attributes, owner and mode. What may be a symbolic link is read in one more."""

from __future__ import annotations

import time
from typing import NamedTuple

from netoverlay.backend_api import FileStat
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS
from netoverlay_smb import commands, replies, security, symlinks
from netoverlay_smb.attributes import NOTHING_TOLD, Appearance
from netoverlay_smb.commands import Body
from netoverlay_smb.facts import LOOK
from netoverlay_smb.protocol import PREVIOUS_HANDLE, Control, CreateOptions, FileAccess, FileAttributes, InfoClass
from netoverlay_smb.replies import FileFacts
from netoverlay_smb.request import Request
from netoverlay_smb.security import Ownership
from netoverlay_smb.session import Session
from netoverlay_smb.status import NOT_SUPPORTED, Status

_REPARSE_POINT = int(FileAttributes.REPARSE_POINT)
_LOOK_SECURED = LOOK | FileAccess.READ_CONTROL
_ANYTHING = CreateOptions(0)
NOT_TO_BE_READ = frozenset({Status.ACCESS_DENIED, Status.SHARING_VIOLATION})
"""By us, or as long as somebody else has it open."""


class Look(NamedTuple):
    """What was found."""

    facts: FileFacts
    told: Ownership
    link: bytes | None
    """The target of a symbolic link."""

    def stat(self, appearance: Appearance) -> FileStat:
        """For the seam."""
        return appearance.stat(self.facts, self.told, link=self.link)


def at(session: Session, path: bytes, appearance: Appearance) -> Look:
    """Look at what stands at `path` itself. StatusError."""
    secured = appearance.modes_from_server
    access = _LOOK_SECURED if secured else LOOK
    began_at = time.monotonic()
    requests = session.engine.call(
        commands.create(path, access, _ANYTHING), *questions(secured=secured), commands.close()
    )
    if secured and requests[0].status == Status.ACCESS_DENIED:
        # The descriptor of some files is for their owners only.
        requests = session.engine.call(
            commands.create(path, LOOK, _ANYTHING), *questions(secured=False), commands.close()
        )
    else:
        session.saw_round_trip(time.monotonic() - began_at)
    session.expect(requests[0])
    facts = all_of(session, requests[1])
    told = ownership(session, requests[2]) if len(requests) > 3 else NOTHING_TOLD
    return Look(facts, told, link_target(session, path, facts) if may_be_link(facts) else None)


def questions(*, secured: bool) -> list[Body]:
    """What is asked of a file that has just been opened."""
    asked = [commands.query_file(InfoClass.ALL)]
    return [*asked, commands.query_security()] if secured else asked


def all_of(session: Session, request: Request) -> FileFacts:
    """The reply to the first question."""
    return session.parse(replies.all_information, session.info(request))


def ownership(session: Session, request: Request) -> Ownership:
    """The reply to the second one. Servers without security descriptors tell nothing."""
    session.engine.wait(request)
    if request.status in NOT_SUPPORTED or request.status == Status.ACCESS_DENIED:
        return NOTHING_TOLD
    return session.parse(security.ownership_of, session.parse(replies.info, session.expect(request)))


def may_be_link(facts: FileFacts) -> bool:
    """Whether its content, or a reparse point, has to be looked at."""
    if facts.attributes & _REPARSE_POINT:
        return True
    return facts.size == symlinks.MFSYMLINK_BYTES and not facts.is_directory


def link_target(session: Session, path: bytes, facts: FileFacts) -> bytes | None:
    """The target of the symbolic link at `path`; None if it is none."""
    if facts.attributes & FileAttributes.REPARSE_POINT:
        return reparse_target(session, path)
    requests = session.submit(*open_and_read_link(path), commands.close())
    return link_in(session, requests[0], requests[1])


def open_and_read_link(path: bytes) -> tuple[Body, Body]:
    """Open what may be a symbolic link, and read it."""
    access = FileAccess.READ_DATA | LOOK
    opening = commands.create(path, access, CreateOptions.NON_DIRECTORY)
    return opening, commands.read(PREVIOUS_HANDLE, 0, symlinks.MFSYMLINK_BYTES)


def link_in(session: Session, opening: Request, reading: Request) -> bytes | None:
    """What the replies to open_and_read_link() tell. What may not be read is no link."""
    session.engine.wait(opening)
    if opening.status in NOT_TO_BE_READ:
        return None
    session.expect(opening)
    session.engine.wait(reading)
    if reading.status != Status.SUCCESS:
        return None
    return symlinks.target_of(session.parse(replies.read_data, reading.body))


def reparse_target(session: Session, path: bytes) -> bytes | None:
    """The target of a symbolic link of Windows (FSCTL_GET_REPARSE_POINT); None for other reparse points."""
    requests = session.engine.call(
        commands.create(path, LOOK, _ANYTHING), commands.control(Control.GET_REPARSE_POINT), commands.close()
    )
    session.expect(requests[0])
    if requests[1].status != Status.SUCCESS:
        return None
    target = symlinks.reparse_target(session.parse(replies.controlled, requests[1].body))
    return None if target is None else target.encode(NAME_ENCODING, NAME_ERRORS)
