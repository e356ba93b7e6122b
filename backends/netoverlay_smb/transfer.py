"""Move the bytes of a file: in pieces of half a mebibyte, as many in flight as the line needs."""

from __future__ import annotations

from netoverlay.backend_api.pieces import read_in_pieces, write_in_pieces
from netoverlay_smb import commands, replies
from netoverlay_smb.errors import StatusError
from netoverlay_smb.protocol import CREDIT_BYTES
from netoverlay_smb.request import Request
from netoverlay_smb.session import Session
from netoverlay_smb.status import Status

PIECE_BYTES = 512 << 10
"""A larger one costs both sides fresh memory each time: measured, half as fast again as a mebibyte."""
_FEWEST_PIECES = 8
"""In flight, where a server grants few credits: smaller ones then."""


def _piece(session: Session, server_limit: int) -> int:
    """The size of a piece: no more than the server takes, and so that several can be paid for."""
    if not session.link.multi_credit:
        return min(CREDIT_BYTES, server_limit)
    affordable = max(1, session.engine.credits // _FEWEST_PIECES) * CREDIT_BYTES
    return min(PIECE_BYTES, server_limit, affordable)


def read_into(session: Session, handle: bytes, offset: int, buffer: memoryview, size: int) -> int:
    """Fill `buffer` from `offset`; the count is less only at the end of the file. StatusError.

    `size` is what the file had when it was opened: a short reply from there on is its end, without asking again.
    """
    piece = _piece(session, session.link.max_read_bytes)
    if len(buffer) <= piece:
        filled = _filled(session, _submit_read(session, handle, offset, buffer)) if buffer else 0
        return _read_rest(session, handle, offset, buffer, filled, size)
    return read_in_pieces(
        buffer,
        piece,
        session.reading,
        lambda start, part: _submit_read(session, handle, offset + start, part),
        lambda request, start, part: _read_rest(session, handle, offset + start, part, _filled(session, request), size),
        session.engine.wait,
    )


def _read_rest(session: Session, handle: bytes, offset: int, part: memoryview, filled: int, size: int) -> int:
    """Read until `part`, of which `filled` bytes are there, is full or the file ends. Servers may send less."""
    while 0 < filled < len(part) and offset + filled < size:
        count = _filled(session, _submit_read(session, handle, offset + filled, part[filled:]))
        filled += count
        if not count:
            break
    return filled


def _submit_read(session: Session, handle: bytes, offset: int, part: memoryview) -> Request:
    return session.submit(commands.read(handle, offset, len(part), part))[0]


def _filled(session: Session, request: Request) -> int:
    session.expect(request, Status.END_OF_FILE)
    return request.filled


def write(session: Session, handle: bytes, offset: int, data: memoryview) -> None:
    """Write all of `data`. StatusError; then some of it may be written."""
    piece = _piece(session, session.link.max_write_bytes)
    write_in_pieces(
        data,
        piece,
        session.writing,
        lambda start, part: session.submit(commands.write(handle, offset + start, part))[0],
        lambda request, size: _written(session, size, request),
    )


def _written(session: Session, size: int, request: Request) -> StatusError | None:
    try:
        body = session.expect(request)
    except StatusError as error:
        return error
    # A server that has room for a part writes that part, and says so.
    return None if session.parse(replies.written, body) >= size else StatusError(Status.DISK_FULL)
