"""A layer on an SFTP server."""

from __future__ import annotations

import errno
import stat as stat_bits
from collections.abc import Sequence
from typing import TYPE_CHECKING

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Backend,
    BackendFile,
    Capabilities,
    Creation,
    DirEntry,
    FileContent,
    FileStat,
    LayerPath,
    LayerSetupError,
    LayerUrl,
    NotSupportedError,
    RenameFlags,
    SpaceUsage,
    WantedFile,
    os_error,
)
from netoverlay.backend_api.connector import Connector
from netoverlay.backend_api.listing_limits import ListingLimits
from netoverlay.backend_api.whole_files import read_one
from netoverlay_sftp import attributes, diagnosis, listing, whole_files
from netoverlay_sftp.connection import Session, connect
from netoverlay_sftp.errors import StatusError
from netoverlay_sftp.file import SftpFile
from netoverlay_sftp.handles import SftpHandles
from netoverlay_sftp.options import SftpOptions
from netoverlay_sftp.paths import PathMap, decode, encode
from netoverlay_sftp.protocol import (
    Attributes,
    Extension,
    OpenFlags,
    PacketType,
    StatusCode,
    pack_attributes,
    pack_string,
    pack_strings,
)
from netoverlay_sftp.ssh_stream import OpenSshConnection
from netoverlay_sftp.streams import SshConnection
from netoverlay_sftp.whole_files import Asked

if TYPE_CHECKING:
    from netoverlay_sftp.login import Login

_ACCESS_FLAGS = {
    Access.READ: OpenFlags.READ,
    Access.WRITE: OpenFlags.WRITE,
    Access.READ_WRITE: OpenFlags.READ | OpenFlags.WRITE,
}
_UNOPENABLE = {
    stat_bits.S_IFDIR: errno.EISDIR,
    stat_bits.S_IFLNK: errno.ELOOP,
    stat_bits.S_IFIFO: errno.ENXIO,
    stat_bits.S_IFSOCK: errno.ENXIO,
    stat_bits.S_IFCHR: errno.ENXIO,
    stat_bits.S_IFBLK: errno.ENXIO,
}
"""What open() says of a type that it must not even try: a server's open(2) of a FIFO would wait for its other end."""


class SftpBackend(Backend):
    """Everything that SFTP version 3 with OpenSSH's extensions can do.

    Its limits: times are whole seconds; there are no inode numbers, locks, extended attributes or special files. And a
    server resolves paths itself: a symbolic link in the middle of a path, put there by somebody else between the
    caller's look and the operation, is followed.
    """

    def __init__(self, url: LayerUrl, options: SftpOptions, deadline: float) -> None:
        """Connects to nothing yet. `deadline` in seconds: for each reply of the server, and for connecting."""
        self._url = url
        self._paths = PathMap(url.path)
        self._options = options
        self._deadline = deadline
        self._limits = ListingLimits(deadline)
        self._login: Login | None = None
        self._connector = Connector(lambda: connect(self._log_in, deadline), deadline)
        self._handles = SftpHandles(self._connector.session, url)

    def connect(self) -> Capabilities:
        session = self._connector.session()
        try:
            found = session.metadata.attributes(PacketType.STAT, pack_string(self._paths.root))
        except StatusError as error:
            problem = diagnosis.of_path(session.metadata, error, self._paths.root, "stat")
            raise LayerSetupError(
                f"{self._url}: the directory cannot be used: {problem.strerror}", problem.errno or 0
            ) from error
        if not stat_bits.S_ISDIR(found.permissions or 0):
            raise LayerSetupError(f"{self._url}: the path is no directory", errno.ENOTDIR)
        offered = session.metadata.extensions
        return Capabilities(
            writable=True,
            modes=True,
            owners=True,
            symlinks=True,
            hard_links=Extension.HARDLINK in offered,
            atomic_replace=Extension.POSIX_RENAME in offered,
            server_copy=Extension.COPY_DATA in offered,
        )

    def close(self) -> None:
        self._connector.close()

    def identity(self) -> str:
        return str(self._url)

    def asks_user(self) -> bool:
        return self._login is not None and self._login.asked_user

    def connection_state(self) -> str:
        return self._connector.state()

    def stat(self, path: LayerPath) -> FileStat:
        session, on_server = self._at(path)
        try:
            found = session.metadata.lstat(on_server)
        except StatusError as error:
            if error.code == StatusCode.NO_SUCH_FILE:
                self._handles.found_absent(on_server)
            raise diagnosis.of_path(session.metadata, error, on_server, "stat") from error
        return session.metadata.file_stat(found)

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        return listing.list_directory(self._connector.session().metadata, self._paths, self._limits, path)

    def list_dirs(self, paths: Sequence[LayerPath]) -> list[list[DirEntry] | OSError]:
        return listing.list_directories(self._connector.session().metadata, self._paths, self._limits, paths)

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        if create is Creation.EXCLUSIVE:
            return self._create(path, access, mode)
        session, on_server = self._at(path)
        flags = _ACCESS_FLAGS[access] | (OpenFlags.TRUNCATE if truncate else OpenFlags(0))
        try:
            with self._handles.opening(on_server) as opening:
                seen = session.metadata.lstat(on_server)
                refusal = _UNOPENABLE.get(stat_bits.S_IFMT(seen.permissions or 0))
                if refusal is not None:
                    raise os_error(refusal, path)
                return SftpFile(self._handles, self._handles.open(on_server, flags, seen, opening), path)
        except StatusError as error:
            raise diagnosis.of_path(session.metadata, error, on_server, "open") from error

    def read_files(self, wanted: Sequence[WantedFile], *, unchanging: bool) -> list[FileContent | OSError]:
        session = self._connector.session()
        channel = session.least_busy_channel()
        asked = [Asked(each, self._paths.on_server(each.path)) for each in wanted]
        found: list[FileContent | OSError] = []
        while len(found) < len(asked):
            left = asked[len(found) :]
            with self._handles.transient(channel, len(left)) as count:
                contents = whole_files.read(channel, left[:count], unchanging=unchanging)
            for each, content in zip(left, contents or [None], strict=False):
                found.append(content or read_one(self, each.wanted, unchanging=unchanging))
        return found

    def _create(self, path: LayerPath, access: Access, mode: int) -> BackendFile:
        session, on_server = self._at(path)
        flags = _ACCESS_FLAGS[access] | OpenFlags.CREATE | OpenFlags.EXCLUSIVE
        try:
            with self._handles.opening(on_server) as opening:
                made = self._handles.open(on_server, flags, Attributes(size=0), opening, mode)
                file = SftpFile(self._handles, made, path)
        except StatusError as error:
            raise diagnosis.of_creation(session.metadata, error, on_server, "open") from error
        try:
            file.set_attributes(AttributeChange(mode=mode))  # the server's umask, or an ACL, may have taken bits away
        except BaseException:
            file.close()
            raise
        return file

    def space_usage(self) -> SpaceUsage:
        """statvfs@openssh.com."""
        session = self._connector.session()
        if Extension.STATVFS not in session.metadata.extensions:
            raise NotSupportedError("space_usage")
        try:
            volume = diagnosis.volume_status(session.metadata, self._paths.root)
        except StatusError as error:
            raise diagnosis.of_path(session.metadata, error, self._paths.root, "space_usage") from error
        unit = volume.fragment_size or volume.block_size
        return SpaceUsage(
            volume.blocks * unit,
            volume.free_blocks * unit,
            volume.available_blocks * unit,
            volume.files,
            volume.free_files,
            unit,
            volume.max_name_bytes,
        )

    def readlink(self, path: LayerPath) -> str:
        session, on_server = self._at(path)
        try:
            names = session.metadata.names(PacketType.READLINK, pack_string(on_server))
        except StatusError as error:
            raise diagnosis.of_readlink(session.metadata, error, on_server) from error
        if len(names) != 1:
            raise os_error(errno.EIO, path)
        return decode(names[0].name)

    def mkdir(self, path: LayerPath, mode: int) -> None:
        session, on_server = self._at(path)
        try:
            body = pack_string(on_server) + pack_attributes(Attributes(permissions=mode))
            session.metadata.status(PacketType.MKDIR, body)
        except StatusError as error:
            raise diagnosis.of_creation(session.metadata, error, on_server, "mkdir") from error
        try:
            # Whatever umask, ACL or set-gid parent made of it.
            self._set(session, on_server, Attributes(permissions=mode))
        except StatusError as error:
            raise diagnosis.of_change(session.metadata, error, on_server) from error

    def unlink(self, path: LayerPath) -> None:
        session, on_server = self._at(path)
        with self._handles.removing(on_server):
            try:
                session.metadata.status(PacketType.REMOVE, pack_string(on_server))
            except StatusError as error:
                raise diagnosis.of_unlink(session.metadata, error, on_server) from error

    def rmdir(self, path: LayerPath) -> None:
        if not path:
            raise os_error(errno.EBUSY, path)
        session, on_server = self._at(path)
        try:
            session.metadata.status(PacketType.RMDIR, pack_string(on_server))
        except StatusError as error:
            raise diagnosis.of_rmdir(session.metadata, error, on_server) from error

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        """posix-rename@openssh.com. Without it a target is removed first, which is not one step.

        NOREPLACE is not offered: SFTP's own rename checks first and renames then, at OpenSSH for all but regular files.
        """
        if flags is not RenameFlags.NONE:
            raise NotSupportedError(f"rename with {flags}")
        session, old_on_server = self._at(old)
        new_on_server = self._paths.on_server(new)
        if old_on_server == new_on_server:
            self.stat(old)
            return
        with self._handles.renaming(old_on_server, new_on_server), self._handles.removing(new_on_server):
            try:
                self._rename(session, old_on_server, new_on_server)
            except StatusError as error:
                raise diagnosis.of_rename(session.metadata, error, old_on_server, new_on_server) from error

    def _log_in(self) -> SshConnection:
        if self._options.transport == "ssh":
            return OpenSshConnection(self._url, self._options, self._deadline)
        if self._login is None:
            # Here, for paramiko takes longer to import than a mount that needs no server takes to be ready.
            from netoverlay_sftp.login import Login  # noqa: PLC0415

            self._login = Login(self._url, self._options, self._deadline)
        return self._login.connect()

    def _rename(self, session: Session, old: bytes, new: bytes) -> None:
        both = pack_strings(old, new)
        if Extension.POSIX_RENAME in session.metadata.extensions:
            session.metadata.extended_status(Extension.POSIX_RENAME, both)
            return
        try:
            session.metadata.status(PacketType.RENAME, both)
        except StatusError:
            removal = diagnosis.removal_before_rename(session.metadata, old, new)
            if removal is None:
                raise
            session.metadata.status(removal, pack_string(new))
            session.metadata.status(PacketType.RENAME, both)

    def symlink(self, path: LayerPath, target: str) -> None:
        """OpenSSH takes the two paths in the other order than the draft says, and all who follow it do."""
        session, on_server = self._at(path)
        ends = (encode(target), on_server) if session.metadata.speaks_openssh else (on_server, encode(target))
        try:
            session.metadata.status(PacketType.SYMLINK, pack_strings(*ends))
        except StatusError as error:
            raise diagnosis.of_creation(session.metadata, error, on_server, "symlink") from error

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        """hardlink@openssh.com."""
        session, on_server = self._at(existing)
        new_on_server = self._paths.on_server(new)
        if Extension.HARDLINK not in session.metadata.extensions:
            raise NotSupportedError("link")
        try:
            session.metadata.extended_status(Extension.HARDLINK, pack_strings(on_server, new_on_server))
        except StatusError as error:
            raise diagnosis.of_link(session.metadata, error, on_server, new_on_server) from error

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        session, on_server = self._at(path)
        try:
            with self._handles.changing_path(on_server):
                for step in attributes.steps(change, lambda: session.metadata.lstat(on_server)):
                    self._set(session, on_server, step)
        except StatusError as error:
            raise diagnosis.of_change(session.metadata, error, on_server) from error

    def _set(self, session: Session, path: bytes, values: Attributes) -> None:
        body = pack_string(path) + pack_attributes(values)
        if Extension.LSETSTAT in session.metadata.extensions:
            session.metadata.extended_status(Extension.LSETSTAT, body)
            return
        if stat_bits.S_ISLNK(session.metadata.lstat(path).permissions or 0):
            raise NotSupportedError("set_attributes of a symbolic link")
        session.metadata.status(PacketType.SETSTAT, body)

    def _at(self, path: LayerPath) -> tuple[Session, bytes]:
        return self._connector.session(), self._paths.on_server(path)
