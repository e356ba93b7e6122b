"""Move the bytes of a file: in pieces of half a mebibyte, as many in flight as the line needs."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from netoverlay.backend_api import UnavailableError
from netoverlay_smb import commands, replies
from netoverlay_smb.engine import Request
from netoverlay_smb.errors import StatusError
from netoverlay_smb.protocol import CREDIT_BYTES
from netoverlay_smb.session import Session
from netoverlay_smb.status import Status

PIECE_BYTES = 512 << 10
"""A larger one costs both sides fresh memory each time: measured, half as fast again as a mebibyte."""
NEAR_DEPTH = 32
FAR_DEPTH = 64
_FEWEST_PIECES = 8
"""In flight, where a server grants few credits: smaller ones then."""
FAR_SECONDS = 0.005
"""The round trip from which more must be in flight to fill the line."""


def _depth(session: Session) -> int:
    return FAR_DEPTH if session.round_trip >= FAR_SECONDS else NEAR_DEPTH


def _piece(session: Session, server_limit: int) -> int:
    """The size of a piece: no more than the server takes, and so that several can be paid for."""
    if not session.link.multi_credit:
        return min(CREDIT_BYTES, server_limit)
    affordable = max(1, session.engine.credits // _FEWEST_PIECES) * CREDIT_BYTES
    return min(PIECE_BYTES, server_limit, affordable)


def read_into(session: Session, handle: bytes, offset: int, buffer: memoryview) -> int:
    """Fill `buffer` from `offset`; the count is less only at the end of the file. StatusError."""
    piece = _piece(session, session.link.max_read_bytes)
    if len(buffer) <= piece:
        return _filled(session, _submit_read(session, handle, offset, buffer)) if buffer else 0
    in_flight: deque[tuple[int, memoryview, Request]] = deque()
    depth = _depth(session)
    start = 0
    total = 0
    try:
        while start < len(buffer) or in_flight:
            while start < len(buffer) and len(in_flight) < depth:
                part = buffer[start : start + piece]
                in_flight.append((start, part, _submit_read(session, handle, offset + start, part)))
                start += len(part)
            at, part, request = in_flight.popleft()
            filled = _filled(session, request)
            total = at + filled
            if filled < len(part):
                return total
        return total
    finally:
        for _, _, request in in_flight:  # their replies go to the caller's memory: nothing may come in later
            with suppress(UnavailableError):
                session.engine.wait(request)


def _submit_read(session: Session, handle: bytes, offset: int, part: memoryview) -> Request:
    return session.submit(commands.read(handle, offset, len(part), part))[0]


def _filled(session: Session, request: Request) -> int:
    session.expect(request, Status.END_OF_FILE)
    return request.filled


def write(session: Session, handle: bytes, offset: int, data: memoryview) -> None:
    """Write all of `data`. StatusError; then some of it may be written."""
    piece = _piece(session, session.link.max_write_bytes)
    in_flight: deque[tuple[int, Request]] = deque()
    depth = _depth(session)
    failure: StatusError | None = None
    for start in range(0, len(data), piece):
        part = data[start : start + piece]
        in_flight.append((len(part), session.submit(commands.write(handle, offset + start, part))[0]))
        if len(in_flight) >= depth:
            failure = _written(session, *in_flight.popleft())
        if failure is not None:
            break
    while in_flight:
        failure = _written(session, *in_flight.popleft()) or failure
    if failure is not None:
        raise failure


def _written(session: Session, size: int, request: Request) -> StatusError | None:
    try:
        body = session.expect(request)
    except StatusError as error:
        return error
    # A server that has room for a part writes that part, and says so.
    return None if session.parse(replies.written, body) >= size else StatusError(Status.DISK_FULL)
