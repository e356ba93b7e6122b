"""The handles of open files at an SMB server (how files keep and lose them is in netoverlay.backend_api.open_files).

That a file which is opened again is the same one is told by its file id, where the server has one, and by its size and
time of change, unless it was changed through this backend in between.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from netoverlay.backend_api import Access, LayerUrl, StaleHandleError
from netoverlay.backend_api.open_files import HandleTable, OpenFile
from netoverlay_smb import commands, look, names, replies
from netoverlay_smb.errors import StatusError, status_error
from netoverlay_smb.locking import FileLocks
from netoverlay_smb.paths import SEPARATOR
from netoverlay_smb.protocol import CreateOptions, FileAccess, FileAttributes, InfoClass
from netoverlay_smb.replies import FileFacts
from netoverlay_smb.session import ServerHandle, Session
from netoverlay_smb.status import Status

GENERIC_READ = (
    FileAccess.READ_DATA
    | FileAccess.READ_EA
    | FileAccess.READ_ATTRIBUTES
    | FileAccess.READ_CONTROL
    | FileAccess.SYNCHRONIZE
)
GENERIC_WRITE = (
    FileAccess.WRITE_DATA
    | FileAccess.APPEND_DATA
    | FileAccess.READ_EA
    | FileAccess.WRITE_EA
    | FileAccess.READ_ATTRIBUTES
    | FileAccess.WRITE_ATTRIBUTES
    | FileAccess.READ_CONTROL
    | FileAccess.SYNCHRONIZE
)
ACCESS = {
    Access.READ: GENERIC_READ,
    Access.WRITE: GENERIC_WRITE,
    Access.READ_WRITE: GENERIC_READ | GENERIC_WRITE,
}
_ELSEWHERE = frozenset(
    {
        Status.OBJECT_NAME_NOT_FOUND,
        Status.OBJECT_PATH_NOT_FOUND,
        Status.ACCESS_DENIED,
        Status.DELETE_PENDING,
        Status.FILE_IS_A_DIRECTORY,
    }
)


@dataclass(eq=False, slots=True, kw_only=True)
class SmbOpenFile(OpenFile[ServerHandle]):
    """An open file on an SMB server."""

    access: Access
    seen: FileFacts
    """When it was opened."""
    locks: FileLocks | None = None
    """None until one is asked for."""

    @property
    def is_reparse_point(self) -> bool:
        """One that is no link, whose content the server makes of something else (of deduplicated data, say)."""
        return bool(self.seen.attributes & FileAttributes.REPARSE_POINT)


class SmbHandles(HandleTable[SmbOpenFile, ServerHandle]):
    """All open files of a backend."""

    def __init__(self, session: Callable[[], Session], url: LayerUrl) -> None:
        """`url` is the layer's."""
        super().__init__(SEPARATOR)
        self.url = url
        self._session = session

    def register(
        self, path: bytes, access: Access, seen: FileFacts, handle: ServerHandle, *, changed: bool
    ) -> SmbOpenFile:
        """`path` has been opened; `changed`: it was made or emptied."""
        file = SmbOpenFile(path=path, access=access, seen=seen)
        self._register(file, handle, changed=changed)
        return file

    def is_as_opened(self, file: SmbOpenFile) -> bool:
        """Whether it has the handle that it was opened with, and was not changed through this backend since."""
        path, handle = file.path, file.handle
        return path is not None and handle is not None and not handle.session.broken and not self._was_changed(path)

    def locks_of(self, file: SmbOpenFile) -> FileLocks:
        """The locks of `file`, which may be none."""
        with self._lock:
            if file.locks is None:
                file.locks = FileLocks()
            return file.locks

    def unheld_locks(self) -> list[SmbOpenFile]:
        """The files that hold locks, and have lost their handle or had to give it up."""
        with self._lock:
            files = [file for place in self._places.values() for file in place.files if file.locks is not None]
            return [
                file
                for file in files
                if (file.handle is None or not self._is_usable(file.handle))
                and file.locks is not None
                and not file.locks.is_empty
            ]

    def hold_locks(self) -> None:
        """Open them again now, and not when they are used next: the sooner, the less can others do in between."""
        for file in self.unheld_locks():
            with suppress(OSError), self.borrow(file):  # it will be told to whoever uses the file
                pass

    def _reopen(self, file: SmbOpenFile) -> ServerHandle:
        try:
            return super()._reopen(file)
        except StaleHandleError:
            if file.locks is not None:
                file.locks.lose()
            raise

    def _reopened(self, file: SmbOpenFile, handle: ServerHandle) -> None:
        if file.locks is not None:
            file.locks.take_again(handle)

    def _is_usable(self, handle: ServerHandle) -> bool:
        return not handle.session.broken

    def _unused(self, handle: ServerHandle) -> None:
        handle.session.forget(commands.close(handle.raw))

    def _close_handle(self, file: SmbOpenFile, handle: ServerHandle) -> None:
        if not file.written and (file.locks is None or file.locks.is_empty):  # else it is over when that has been done
            self._unused(handle)
            return
        try:
            handle.session.call(commands.close(handle.raw))
        except StatusError as error:
            file.failure = status_error(error, None, "close")

    def _reopen_at(self, file: SmbOpenFile, path: bytes) -> ServerHandle | None:
        session = self._session()
        opening, asking = session.submit(
            commands.create(path, ACCESS[file.access], CreateOptions.NON_DIRECTORY, through=file.is_reparse_point),
            commands.query_file(InfoClass.ALL),
        )
        try:
            handle = ServerHandle(session, session.parse(replies.created, session.expect(opening)).handle)
        except StatusError as error:
            if error.status in _ELSEWHERE:
                return None
            raise status_error(error, names.decode_utf16(path), "open") from error
        try:
            found = look.all_of(session, asking)
        except BaseException as error:
            if not session.broken:
                self._unused(handle)
            if isinstance(error, StatusError):
                raise status_error(error, names.decode_utf16(path), "open") from error
            raise
        if not self._is_same(file, path, found):
            self._unused(handle)
            return None
        return handle

    def _is_same(self, file: SmbOpenFile, path: bytes, found: FileFacts) -> bool:
        # The id alone would not do: servers give the number of a removed file to the next one. Nor would the time of
        # creation: Samba makes one up for what was made on its own disk, and another one later.
        unchanged = (file.seen.size, file.seen.mtime_ns) == (found.size, found.mtime_ns)
        return file.seen.file_id == found.file_id and (unchanged or self._was_changed(path))
