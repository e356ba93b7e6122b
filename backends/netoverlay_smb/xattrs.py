"""Extended attributes of the name space "user.", as the ones that SMB has."""

from __future__ import annotations

import errno
from collections.abc import Callable

from netoverlay.backend_api import XattrMode, os_error
from netoverlay_smb import commands, diagnosis, extended_attributes, replies
from netoverlay_smb.commands import Body
from netoverlay_smb.errors import StatusError, status_error
from netoverlay_smb.facts import LOOK
from netoverlay_smb.protocol import PREVIOUS_HANDLE, CreateOptions, FileAccess, InfoClass
from netoverlay_smb.request import Request
from netoverlay_smb.session import Session
from netoverlay_smb.status import Status


def is_ours(name: str) -> bool:
    """Whether SMB can have an attribute of that name; those of the system and of root it cannot."""
    return name.startswith(extended_attributes.PREFIX)


def all_at(session: Session, path: bytes) -> dict[str, bytes]:
    """All attributes, by name, of what stands at `path`. OSError."""
    opening = commands.create(path, FileAccess.READ_EA | LOOK, CreateOptions(0))
    requests = session.engine.call(opening, commands.query_attribute_list(), commands.close())
    try:
        session.expect(requests[0])
        return fetched(session, requests[1])
    except StatusError as error:
        raise diagnosis.of_path(session, error, path, "list_xattrs") from error


def set_at(session: Session, path: bytes, name: str, value: bytes | None, operation: str) -> None:
    """Set `name` of what stands at `path`; None removes it. OSError, of `operation`."""
    opening = commands.create(path, FileAccess.WRITE_EA | LOOK, CreateOptions(0))
    requests = session.engine.call(opening, setting(name, value), commands.close())
    try:
        session.expect(requests[0])
    except StatusError as error:
        raise diagnosis.of_path(session, error, path, operation) from error
    try:
        session.expect(requests[1])
    except StatusError as error:
        raise refusal(error, operation) from error


def fetched(session: Session, request: Request) -> dict[str, bytes]:
    """All attributes, by name, from the reply to query_attribute_list()."""
    session.engine.wait(request)
    if request.status == Status.NO_EAS_ON_FILE:
        return {}
    body = session.parse(replies.info, session.expect(request))
    found = session.parse(extended_attributes.unpack_list, body)
    return {name: extended_attributes.from_server_value(value) for name, value in found.items()}


def value_of(found: dict[str, bytes], name: str) -> bytes:
    """ENODATA if there is none of that name."""
    if name not in found:
        raise os_error(errno.ENODATA)
    return found[name]


def check_mode(fetch: Callable[[], dict[str, bytes]], name: str, mode: XattrMode) -> None:
    """EEXIST or ENODATA, where `mode` says so. SMB itself sets whatever was there before."""
    if mode is XattrMode.CREATE and name in fetch():
        raise os_error(errno.EEXIST)
    if mode is XattrMode.REPLACE:
        value_of(fetch(), name)


def setting(name: str, value: bytes | None, handle: bytes = PREVIOUS_HANDLE) -> Body:
    """Set `name`; None removes it. E2BIG, ERANGE."""
    stored = b"" if value is None else extended_attributes.to_server_value(value)
    return commands.set_file(
        InfoClass.FULL_EA, extended_attributes.pack(name.removeprefix(extended_attributes.PREFIX), stored), handle
    )


def refusal(error: StatusError, operation: str) -> OSError:
    """Servers refuse values that are too large in words of their own."""
    if error.status in (Status.INVALID_PARAMETER, Status.BUFFER_OVERFLOW, Status.EA_TOO_LARGE):
        return os_error(errno.ENOSPC)
    return status_error(error, None, operation)
