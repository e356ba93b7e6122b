"""Take names away from files that anybody may have open: servers keep the name of such a file until its last close.

So a file that is open somewhere is first given a name that no listing of ours shows, and deleted under that one. What
has it open keeps it, its old name is free at once, and nothing of it is left after the last close.
"""

from __future__ import annotations

import secrets

from netoverlay_smb import attributes, commands, look, names
from netoverlay_smb.commands import Body
from netoverlay_smb.errors import StatusError
from netoverlay_smb.facts import LOOK
from netoverlay_smb.listing import HIDDEN_PREFIX
from netoverlay_smb.paths import SEPARATOR, join
from netoverlay_smb.protocol import SHARE_ALL, CreateOptions, FileAccess, InfoClass
from netoverlay_smb.session import Session
from netoverlay_smb.status import Status

DELETING = FileAccess.DELETE | LOOK
TARGET_IN_USE = frozenset({Status.ACCESS_DENIED, Status.SHARING_VIOLATION, Status.DELETE_PENDING})
"""What servers say of a rename over a file that somebody has open; and of some other things."""


def remove_file(session: Session, path: bytes) -> None:
    """Remove what stands at `path`, which must be no directory. StatusError; then it is there as it was."""
    try:
        # Sharing it with nobody: that is refused if somebody has it open, whose close the name would wait for.
        session.call(_opening(path, share=0), commands.delete_on_close(), commands.close())
    except StatusError as error:
        if error.status == Status.CANNOT_DELETE:
            _remove_read_only(session, path)
        elif error.status == Status.SHARING_VIOLATION:
            _remove_open(session, path)
        else:
            raise


def _opening(path: bytes, access: FileAccess = DELETING, share: int = SHARE_ALL) -> Body:
    return commands.create(path, access, CreateOptions.NON_DIRECTORY, share=share)


def _remove_open(session: Session, path: bytes) -> None:
    hidden = _hidden_beside(path)
    session.call(_opening(path), commands.rename(hidden, replace=False), commands.close())
    try:
        session.call(_opening(hidden), commands.delete_on_close(), commands.close())
    except StatusError as error:
        try:
            if error.status != Status.CANNOT_DELETE:
                raise
            _remove_read_only(session, hidden)
        except StatusError:
            session.call(_opening(hidden), commands.rename(path, replace=False), commands.close())
            raise


def _remove_read_only(session: Session, path: bytes) -> None:
    """A file with the attribute READONLY cannot be deleted; on Linux that is the directory's business."""
    access = DELETING | FileAccess.WRITE_ATTRIBUTES
    session.call(_opening(path, access), attributes.clear_read_only(), commands.delete_on_close(), commands.close())


def remove_directory(session: Session, path: bytes) -> None:
    """Remove an empty directory. StatusError."""
    session.call(commands.create(path, DELETING, CreateOptions.DIRECTORY), commands.delete_on_close(), commands.close())


def rename(session: Session, old: bytes, new: bytes, *, replace: bool) -> None:
    """Give what stands at `old` the name `new`. StatusError.

    One step, unless somebody has the target open: that is put out of the way first, and for a moment there is none.
    """
    try:
        _rename(session, old, new, replace=False)
    except StatusError as error:
        # Most new names are free. Where one is not, it may be another of the same file, which rename(2) leaves alone.
        if not replace or error.status != Status.OBJECT_NAME_COLLISION:
            raise
        if not _are_one_file(session, old, new):
            _replace(session, old, new)


def _rename(session: Session, old: bytes, new: bytes, *, replace: bool) -> None:
    opening, renaming, _ = session.engine.call(
        commands.create(old, DELETING, CreateOptions(0)), commands.rename(new, replace=replace), commands.close()
    )
    session.expect(opening)
    session.expect(renaming)


def _replace(session: Session, old: bytes, new: bytes) -> None:
    try:
        _rename(session, old, new, replace=True)
    except StatusError as error:
        if error.status not in TARGET_IN_USE:
            raise
        _put_aside(session, new, error)
        _rename(session, old, new, replace=True)


def _are_one_file(session: Session, old: bytes, new: bytes) -> bool:
    looks = [
        session.submit(
            commands.create(path, LOOK, CreateOptions(0)), commands.query_file(InfoClass.ALL), commands.close()
        )
        for path in (old, new)
    ]
    ids = set()
    for opening, asking, _ in looks:
        session.expect(opening)
        ids.add(look.all_of(session, asking).file_id)
    return len(ids) == 1 and 0 not in ids


def _put_aside(session: Session, path: bytes, refused: StatusError) -> None:
    try:
        remove_file(session, path)
    except StatusError:
        raise refused from None  # a directory, or nothing: so that was not why


def _hidden_beside(path: bytes) -> bytes:
    directory, _, _ = names.decode_utf16(path).rpartition(names.decode_utf16(SEPARATOR))
    return join(names.encode_utf16(directory), f"{HIDDEN_PREFIX}{secrets.token_hex(8)}")
