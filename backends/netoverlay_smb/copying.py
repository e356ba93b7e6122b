"""Copies that the server makes (MS-SMB2 3.3.5.15.6), between files that are open in one session.

A source that is open in another session of the same user is opened in this one once more. A server copies a number of
chunks at once, whose limits it tells when they are exceeded.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from netoverlay.backend_api import LayerUrl, os_error
from netoverlay.backend_api.pieces import copy_in_pieces
from netoverlay.backend_api.places import FilePlace
from netoverlay_smb import commands, look, names, replies
from netoverlay_smb.errors import StatusError
from netoverlay_smb.protocol import DEFAULT_PORT, CreateOptions, FileAccess, FileAttributes, InfoClass, ProtocolError
from netoverlay_smb.replies import Copied
from netoverlay_smb.request import Request
from netoverlay_smb.session import Session
from netoverlay_smb.status import NOT_SUPPORTED, Status

_ACCESS = FileAccess.READ_DATA | FileAccess.READ_ATTRIBUTES
_REPARSE_POINT = int(FileAttributes.REPARSE_POINT)


def path_of(place: FilePlace, url: LayerUrl, session: Session) -> bytes | None:
    """The path of a file of any layer, if the share that `session`, made for `url`, is connected to has it.

    Not where a name space is involved, whose names lead who knows where.
    """
    found = place.url_if_reached(url, DEFAULT_PORT)
    if found is None or session.is_referred:
        return None
    (own_share, _), (share, root) = _share_and_path(url), _share_and_path(found)
    if share.casefold() != own_share.casefold():
        return None
    return names.encode_utf16(names.server_path(names.server_path("", root), place.path))


def _share_and_path(url: LayerUrl) -> tuple[str, str]:
    share, _, path = url.path.strip("/").partition("/")
    return share, path


@contextmanager
def opened_at(session: Session, path: bytes, place: FilePlace) -> Iterator[tuple[bytes, int]]:
    """As source(), of what `path` leads to. EXDEV if it is not to be had, or is no longer what was opened."""
    opening, asking, keying = session.submit(
        commands.create(path, _ACCESS, CreateOptions.NON_DIRECTORY),
        commands.query_file(InfoClass.ALL),
        commands.request_resume_key(),
    )
    try:
        handle = session.parse(replies.created, session.expect(opening)).handle
    except StatusError as error:
        raise os_error(errno.EXDEV) from error
    try:
        facts = look.all_of(session, asking)
        if facts.attributes & _REPARSE_POINT or not place.holds(facts.size, facts.mtime_ns, facts.file_id or None):
            raise os_error(errno.EXDEV)
        yield session.parse(replies.resume_key, session.expect(keying)), facts.size
    finally:
        session.forget(commands.close(handle))


def source(session: Session, handle: bytes) -> tuple[bytes, int]:
    """What names an open file as the source of a copy, and its size. StatusError."""
    asks = [[commands.query_file(InfoClass.ALL, handle)], [commands.request_resume_key(handle)]]
    (asking,), (keying,) = session.engine.submit_all(asks)
    size = look.all_of(session, asking).size
    return session.parse(replies.resume_key, session.expect(keying)), size


def copy(session: Session, key: bytes, source_offset: int, target: bytes, offset: int, length: int) -> int:
    """Copy `length` bytes, which the source must have, or fewer: the count. StatusError if there is no such operation.

    EXDEV where the server refuses otherwise: whoever writes the data himself will be told why.
    """
    limits = session.copy_limits

    def submit(start: int, size: int) -> Request:
        chunks = _chunks(limits.chunk_bytes, source_offset + start, offset + start, size)
        return session.submit(commands.copy_chunks(key, chunks, target))[0]

    try:
        piece = min(limits.total_bytes, limits.chunks * limits.chunk_bytes)
        return copy_in_pieces(length, piece, submit, lambda request, _size: _copied(session, request))
    except _TooMuchError:
        return copy(session, key, source_offset, target, offset, length)


class _TooMuchError(Exception):
    """The server takes less at once, as the session's limits say by now."""


def _copied(session: Session, request: Request) -> int | Exception:
    try:
        return session.parse(replies.copied, session.expect(request)).total_bytes
    except StatusError as error:
        if error.status == Status.INVALID_PARAMETER and _lower_limits(session, request.body):
            return _TooMuchError()
        if error.status == Status.INVALID_VIEW_SIZE:  # the source has become shorter
            return 0
        return error if error.status in NOT_SUPPORTED else os_error(errno.EXDEV)


def _chunks(most: int, source_offset: int, offset: int, length: int) -> list[tuple[int, int, int]]:
    return [(source_offset + start, offset + start, min(most, length - start)) for start in range(0, length, most)]


def _lower_limits(session: Session, body: bytes) -> bool:
    """Whether the server has refused because it takes less at once, which it then says."""
    try:
        told = replies.copied(body)
    except ProtocolError:
        return False
    lower = Copied(*map(min, told, session.copy_limits))
    if not all(lower) or lower == session.copy_limits:
        return False
    session.copy_limits = lower
    return True
