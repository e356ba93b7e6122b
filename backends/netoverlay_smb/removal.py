"""Take names away from files that anybody may have open: servers keep the name of such a file until its last close.

So a file that is open somewhere is first given a name that no listing of ours shows, and deleted under that one. What
has it open keeps it, its old name is free at once, and nothing of it is left after the last close. It goes to the
layer's root, for Samba does not rename or remove a directory that such a file is in.

At least if the server keeps to that. One that crashes meanwhile forgets to delete, and so does Samba if the last close
is that of a connection which has not heard yet that the file was renamed; and whoever is killed between the two never
asks for it. Hence Leftovers.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from contextlib import suppress

from netoverlay.backend_api import UnavailableError
from netoverlay_smb import attributes, commands, look, names
from netoverlay_smb.commands import Body
from netoverlay_smb.errors import StatusError
from netoverlay_smb.facts import LOOK, names_in
from netoverlay_smb.listing import HIDDEN_PREFIX
from netoverlay_smb.opening import patiently
from netoverlay_smb.paths import SEPARATOR, join
from netoverlay_smb.protocol import SHARE_ALL, CreateOptions, FileAccess, InfoClass
from netoverlay_smb.request import Request
from netoverlay_smb.session import Session
from netoverlay_smb.status import Status

DELETING = FileAccess.DELETE | LOOK
TARGET_IN_USE = frozenset({Status.ACCESS_DENIED, Status.SHARING_VIOLATION, Status.DELETE_PENDING})
"""What servers say of a rename over a file that somebody has open; and of some other things."""
_NO_PLACE = frozenset({Status.ACCESS_DENIED, Status.NOT_SAME_DEVICE})
"""What servers say of a rename into a directory where the file cannot go."""
_REPLACE_ATTEMPTS = 5
"""Others may open what has just been put there."""
_MOST_LEFT = 1000
_LEFT_AT_ONCE = 16


class Leftovers:
    """The hidden names of files that others had open, to be looked at once more: they may be there still."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: deque[bytes] = deque(maxlen=_MOST_LEFT)
        self._is_searched = False

    def search(self, session: Session) -> None:
        """Look for what was left in the root of the layer by who was killed before he could delete it; once."""
        if self._is_searched:
            return
        root = names.encode_utf16(session.root)
        for name in names_in(session, session.root, f"{HIDDEN_PREFIX}*"):
            self.add(join(root, name))
        self._is_searched = True
        self.remove(session)

    def add(self, path: bytes) -> None:
        """`path` should be gone soon."""
        with self._lock:
            self._paths.append(path)

    def remove(self, session: Session) -> None:
        """Remove the oldest ones, in one round trip. Those that somebody has open are left for later."""
        with self._lock:
            paths = [self._paths.popleft() for _ in range(min(_LEFT_AT_ONCE, len(self._paths)))]
        if not paths:
            return
        try:
            for path, requests in zip(paths, session.engine.submit_all(list(map(_deleting, paths))), strict=True):
                for request in requests:
                    session.engine.wait(request)
                if requests[0].status in (Status.DELETE_PENDING, Status.SHARING_VIOLATION):
                    self.add(path)
        except UnavailableError:
            for path in paths:
                self.add(path)
            raise

    def __bool__(self) -> bool:
        return bool(self._paths)


def remove_file(session: Session, path: bytes, leftovers: Leftovers) -> None:
    """Remove what stands at `path`, which must be no directory. StatusError; then it is there as it was."""
    leftovers.search(session)
    try:
        # Sharing it with nobody: that is refused if somebody has it open, whose close the name would wait for.
        session.call(_opening(path, share=0), commands.delete_on_close(), commands.close())
    except StatusError as error:
        if error.status == Status.CANNOT_DELETE:
            _remove_read_only(session, path)
        elif error.status == Status.SHARING_VIOLATION:
            leftovers.remove(session)
            _remove_open(session, path, leftovers)
        else:
            raise


def _opening(path: bytes, access: FileAccess = DELETING, share: int = SHARE_ALL) -> Body:
    return commands.create(path, access, CreateOptions.NON_DIRECTORY, share=share)


def _deleting(path: bytes) -> tuple[Body, Body, Body]:
    return _opening(path), commands.delete_on_close(), commands.close()


def _remove_open(session: Session, path: bytes, leftovers: Leftovers) -> None:
    name = f"{HIDDEN_PREFIX}{secrets.token_hex(8)}"
    directory, _, _ = names.decode_utf16(path).rpartition(names.decode_utf16(SEPARATOR))
    aside, beside = (join(names.encode_utf16(place), name) for place in (session.root, directory))
    try:
        _hide_and_remove(session, path, aside, leftovers)
    except StatusError as error:
        if error.status not in _NO_PLACE or aside == beside:
            raise
        _hide_and_remove(session, path, beside, leftovers)


def _hide_and_remove(session: Session, path: bytes, hidden: bytes, leftovers: Leftovers) -> None:
    try:
        deleting = patiently(lambda: _hide(session, path, hidden))
        try:
            _expect_deleted(session, hidden, deleting)
        except StatusError:
            session.call(_opening(hidden), commands.rename(path, replace=False), commands.close())
            raise
    except UnavailableError:
        leftovers.add(hidden)
        raise
    leftovers.add(hidden)


def _hide(session: Session, path: bytes, hidden: bytes) -> list[Request]:
    """Rename it; the requests that delete it then, sent along, so that being killed seldom comes between the two."""
    renaming = (_opening(path), commands.rename(hidden, replace=False), commands.close())
    hiding, deleting = session.submit_all([renaming, _deleting(hidden)])
    for request in hiding:
        session.expect(request)
    return deleting


def _expect_deleted(session: Session, hidden: bytes, deleting: list[Request]) -> None:
    try:
        for request in deleting:
            session.expect(request)
    except StatusError as error:
        if error.status != Status.CANNOT_DELETE:
            raise
        _remove_read_only(session, hidden)


def _remove_read_only(session: Session, path: bytes) -> None:
    """A file with the attribute READONLY cannot be deleted; on Linux that is the directory's business."""
    access = DELETING | FileAccess.WRITE_ATTRIBUTES
    session.call(_opening(path, access), attributes.clear_read_only(), commands.delete_on_close(), commands.close())


def remove_directory(session: Session, path: bytes) -> None:
    """Remove an empty directory. StatusError."""
    try:
        _remove_directory(session, path)
    except StatusError as error:
        if error.status != Status.DIRECTORY_NOT_EMPTY or not _sweep(session, path):
            raise
        _remove_directory(session, path)


def _sweep(session: Session, path: bytes) -> bool:
    """Remove what a server that crashed has left of removed files, if there is nothing else in a directory.

    No listing shows it, so nobody else would. False if there was nothing to be done.
    """
    left = names_in(session, names.decode_utf16(path))
    if not left or not all(name.startswith(HIDDEN_PREFIX) for name in left):
        return False
    for name in left:
        with suppress(StatusError):  # somebody has it open still
            session.call(*_deleting(join(path, name)))
    return True


def _remove_directory(session: Session, path: bytes) -> None:
    session.call(commands.create(path, DELETING, CreateOptions.DIRECTORY), commands.delete_on_close(), commands.close())


def rename(session: Session, old: bytes, new: bytes, leftovers: Leftovers, *, replace: bool) -> None:
    """Give what stands at `old` the name `new`. StatusError.

    One step, unless somebody has the target open: that is put out of the way first, and for a moment there is none.
    """
    try:
        patiently(lambda: _rename(session, old, new, replace=False))
    except StatusError as error:
        # Most new names are free. Where one is not, it may be another of the same file, which rename(2) leaves alone.
        if not replace or error.status != Status.OBJECT_NAME_COLLISION:
            raise
        if not _are_one_file(session, old, new):
            _replace(session, old, new, leftovers)


def _rename(session: Session, old: bytes, new: bytes, *, replace: bool) -> None:
    opening, renaming, _ = session.engine.call(
        commands.create(old, DELETING, CreateOptions(0)), commands.rename(new, replace=replace), commands.close()
    )
    session.expect(opening)
    session.expect(renaming)


def _replace(session: Session, old: bytes, new: bytes, leftovers: Leftovers) -> None:
    for _ in range(_REPLACE_ATTEMPTS):
        try:
            patiently(lambda: _rename(session, old, new, replace=True))
        except StatusError as error:
            if error.status not in TARGET_IN_USE:
                raise
            _put_aside(session, new, error, leftovers)
        else:
            return
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


def _put_aside(session: Session, path: bytes, refused: StatusError, leftovers: Leftovers) -> None:
    try:
        remove_file(session, path, leftovers)
    except StatusError as error:
        if error.status != Status.OBJECT_NAME_NOT_FOUND:  # a directory, say: so that was not why
            raise refused from None
