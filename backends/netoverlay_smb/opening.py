"""Open files: what is small comes with its content in the same round trip."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from netoverlay.backend_api import Access, os_error
from netoverlay_smb import commands, look, names, replies, symlinks
from netoverlay_smb.errors import StatusError
from netoverlay_smb.handles import ACCESS
from netoverlay_smb.protocol import (
    CREDIT_BYTES,
    PREVIOUS_HANDLE,
    Control,
    CreateOptions,
    Disposition,
    FileAttributes,
    InfoClass,
)
from netoverlay_smb.replies import FileFacts
from netoverlay_smb.request import Request
from netoverlay_smb.session import ServerHandle, Session
from netoverlay_smb.status import Status

_T = TypeVar("_T")

BEGINNING_BYTES = CREDIT_BYTES
"""Read along with opening a file: what one credit pays for."""
_AGAIN = Retrying(
    retry=retry_if_exception(lambda error: isinstance(error, StatusError) and error.status == Status.SHARING_VIOLATION),
    wait=wait_exponential(multiplier=0.001, exp_base=5),
    stop=stop_after_attempt(5),
    reraise=True,
)
"""Whoever removes a file has it to itself for as long as that takes (removal.py): up to 156 ms are waited for that."""


class Opened(NamedTuple):
    """A file that has just been opened."""

    handle: ServerHandle
    facts: FileFacts
    beginning: bytes | None
    """Its first bytes; None if they were not asked for."""


def create(session: Session, path: bytes, access: Access, *, sparse: bool) -> Opened:
    """Make a file that is not there yet. StatusError. `sparse`: the server can keep holes, if told so of a file."""
    bodies = [
        commands.create(path, ACCESS[access], CreateOptions.NON_DIRECTORY, Disposition.CREATE),
        commands.query_file(InfoClass.ALL),
    ]
    if sparse and access.writes:
        bodies.append(commands.control(Control.SET_SPARSE, reply_bytes=0))
    opening, asking, *_ = session.submit(*bodies)
    handle = ServerHandle(session, session.parse(replies.created, session.expect(opening)).handle)
    with _closed_on_failure(handle):
        return Opened(handle, _facts(handle, asking), None)


@contextmanager
def _closed_on_failure(handle: ServerHandle) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if not handle.session.broken:
            handle.session.forget(commands.close(handle.raw))
        raise


def open_existing(session: Session, path: bytes, access: Access, *, truncate: bool) -> Opened:
    """Open a file that is there. StatusError; ELOOP for a symbolic link."""
    return patiently(lambda: _open_existing(session, path, access, truncate=truncate))


def patiently(call: Callable[[], _T]) -> _T:
    """What `call` returns, which opens a file that another client may have to itself for a moment. StatusError."""
    try:
        return call()
    except StatusError as error:
        if error.status != Status.SHARING_VIOLATION:
            raise
    return _AGAIN(call)


def _open_existing(session: Session, path: bytes, access: Access, *, truncate: bool, through: bool = False) -> Opened:
    reads = access is Access.READ
    bodies = [
        commands.create(path, ACCESS[access], CreateOptions.NON_DIRECTORY, through=through),
        commands.query_file(InfoClass.ALL),
    ]
    if reads:
        bodies.append(commands.read(PREVIOUS_HANDLE, 0, BEGINNING_BYTES))
    opening, asking, *reading = session.submit(*bodies)
    handle = ServerHandle(session, session.parse(replies.created, session.expect(opening)).handle)
    with _closed_on_failure(handle):
        facts = _facts(handle, asking)
        beginning = _beginning(session, reading[0]) if reading else None
        if not through and look.may_be_link(facts) and _is_link(session, path, facts, beginning):
            raise os_error(errno.ELOOP, names.decode_utf16(path))
        is_what_it_stands_for = through or not facts.attributes & FileAttributes.REPARSE_POINT
        if truncate and is_what_it_stands_for:
            session.call(commands.set_size(0, handle.raw))
    if not is_what_it_stands_for:
        session.forget(commands.close(handle.raw))
        return _open_existing(session, path, access, truncate=truncate, through=True)
    return Opened(handle, facts, beginning)


def _facts(handle: ServerHandle, asking: Request) -> FileFacts:
    return look.all_of(handle.session, asking)


def _beginning(session: Session, reading: Request) -> bytes | None:
    session.engine.wait(reading)
    if reading.status == Status.END_OF_FILE:
        return b""
    if reading.status != Status.SUCCESS:  # a range that somebody has locked, say: the next read will tell
        return None
    return session.parse(replies.read_data, reading.body)


def _is_link(session: Session, path: bytes, facts: FileFacts, beginning: bytes | None) -> bool:
    if beginning is not None and facts.size == symlinks.MFSYMLINK_BYTES:
        return symlinks.target_of(beginning) is not None
    return look.link_target(session, path, facts) is not None
