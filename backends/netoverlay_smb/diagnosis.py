"""What a refusal means: where a status alone does not tell, the server is asked more."""

from __future__ import annotations

import errno

from netoverlay.backend_api import UnavailableError, os_error
from netoverlay_smb import commands, names
from netoverlay_smb.commands import Body
from netoverlay_smb.errors import StatusError, status_error
from netoverlay_smb.facts import LOOK
from netoverlay_smb.paths import SEPARATOR
from netoverlay_smb.protocol import CreateOptions, FileAttributes
from netoverlay_smb.replies import created
from netoverlay_smb.session import Session
from netoverlay_smb.status import Status

_MISSING_STATUSES = frozenset({Status.OBJECT_NAME_NOT_FOUND, Status.OBJECT_PATH_NOT_FOUND, Status.NO_SUCH_FILE})
_NEVER_TOO_LONG = 1000
_PATH_MISSING = frozenset({Status.OBJECT_PATH_NOT_FOUND, Status.OBJECT_PATH_INVALID, Status.NOT_A_DIRECTORY})


def of_path(session: Session, error: StatusError, path: bytes, operation: str) -> OSError:
    """A refusal to do something with what stands at `path` (UTF-16)."""
    if error.status in _MISSING_STATUSES and kind_of(session, names.encode_utf16(session.root)) is None:
        # With the root everything is missing, and nothing is known to be absent.
        return UnavailableError(f"{session.link.server}: the layer's directory is not there any more")
    return of_root(session, error, path, operation)


def of_root(session: Session, error: StatusError, path: bytes, operation: str) -> OSError:
    """As of_path(), where `path` is the layer's root itself, before anything is known of it."""
    shown = names.decode_utf16(path)
    if error.status == Status.OBJECT_NAME_INVALID:
        # Such a name cannot be there; but one that is too long for the server is said to be so.
        return os_error(errno.ENAMETOOLONG if _is_long(shown) else errno.ENOENT, shown)
    if error.status in _PATH_MISSING and _leads_through_file(session, path):
        return os_error(errno.ENOTDIR, shown)
    return status_error(error, shown, operation)


def of_creation(session: Session, error: StatusError, path: bytes, operation: str) -> OSError:
    """A refusal to make something at `path`."""
    if error.status == Status.OBJECT_NAME_INVALID:
        shown = names.decode_utf16(path)
        return os_error(errno.ENAMETOOLONG if _is_long(shown) else errno.EINVAL, shown)
    if error.status in (Status.FILE_IS_A_DIRECTORY, Status.NOT_A_DIRECTORY) and kind_of(session, path) is not None:
        return os_error(errno.EEXIST, names.decode_utf16(path))
    if error.status in _MISSING_STATUSES and _is_too_deep(session, path):
        return os_error(errno.ENAMETOOLONG, names.decode_utf16(path))
    return of_path(session, error, path, operation)


def of_rename(session: Session, error: StatusError, old: bytes, new: bytes, *, replace: bool) -> OSError:
    """A refusal to give what is at `old` the name `new`."""
    if not replace and error.status == Status.OBJECT_NAME_COLLISION:
        return os_error(errno.EEXIST, names.decode_utf16(new))
    if new.startswith(old + SEPARATOR):
        return os_error(errno.EINVAL, names.decode_utf16(old))
    moved, target = kind_of(session, old), kind_of(session, new)
    if moved is None:  # what it cannot be looked at for is why it could not be opened
        gone = error.status == Status.OBJECT_NAME_COLLISION
        return of_path(session, _MISSING if gone else error, old, "rename")
    if target is None:
        if error.status in _MISSING_STATUSES and _is_too_deep(session, new):
            return os_error(errno.ENAMETOOLONG, names.decode_utf16(new))
        missing = error.status in _PATH_MISSING or error.status == Status.OBJECT_NAME_NOT_FOUND
        return of_path(session, _MISSING if missing else error, new, "rename")
    code = _CLASHES.get((moved, target))
    if moved and target and error.status in (Status.ACCESS_DENIED, Status.OBJECT_NAME_COLLISION):
        code = errno.ENOTEMPTY
    return os_error(code, names.decode_utf16(new)) if code else of_path(session, error, old, "rename")


_MISSING = StatusError(Status.OBJECT_PATH_NOT_FOUND)
_CLASHES = {(False, True): errno.EISDIR, (True, False): errno.ENOTDIR}
"""By whether what is moved, and what it would replace, is a directory."""


def kind_of(session: Session, path: bytes) -> bool | None:
    """Whether a directory stands at `path`; None if nothing does that can be looked at."""
    requests = session.engine.call(_look(path), commands.close())
    if requests[0].status != Status.SUCCESS:
        return None
    return bool(session.parse(created, requests[0].body).attributes & FileAttributes.DIRECTORY)


def _look(path: bytes) -> Body:
    return commands.create(path, LOOK, CreateOptions(0))


def _is_long(path: str) -> bool:
    """Counted as servers on Linux do, who store what is mapped as three bytes."""
    return any(len(part.encode("utf-8", "surrogatepass")) > names.MAX_NAME_BYTES for part in path.split("\\"))


def _is_too_deep(session: Session, path: bytes) -> bool:
    """Whether nothing can be at `path` for its length alone: Samba says of such that they are not there.

    How long a path may be is for the server's disk to say, where it has another beginning.
    """
    shown = names.decode_utf16(path)
    return len(shown) > _NEVER_TOO_LONG and kind_of(session, names.encode_utf16(shown.rpartition("\\")[0])) is True


def _leads_through_file(session: Session, path: bytes) -> bool:
    """Whether the nearest thing that is there, above `path`, is no directory."""
    above = names.decode_utf16(path)
    while "\\" in above:
        above = above.rpartition("\\")[0]
        kind = kind_of(session, names.encode_utf16(above))
        if kind is not None:
            return not kind
    return False
