"""A layer on an SMB server."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from contextlib import suppress

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
    NamedEntry,
    NotSupportedError,
    RenameFlags,
    SpaceUsage,
    UnavailableError,
    WantedFile,
    XattrMode,
    os_error,
)
from netoverlay.backend_api.connector import Connector
from netoverlay.backend_api.listing_limits import ListingLimits
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS
from netoverlay.backend_api.whole_files import read_one
from netoverlay_smb import (
    attributes,
    commands,
    diagnosis,
    facts,
    look,
    opening,
    removal,
    replies,
    symlinks,
    whole_files,
    xattrs,
)
from netoverlay_smb.attributes import Appearance
from netoverlay_smb.errors import StatusError
from netoverlay_smb.facts import LOOK, ShareFacts
from netoverlay_smb.file import SmbFile
from netoverlay_smb.handles import SmbHandles
from netoverlay_smb.in_use import PathsInUse
from netoverlay_smb.listing import Lister
from netoverlay_smb.names import MAX_NAME_BYTES
from netoverlay_smb.options import SmbOptions
from netoverlay_smb.paths import PathMap
from netoverlay_smb.protocol import PREVIOUS_HANDLE, CreateOptions, Disposition, FileAccess, VolumeClass
from netoverlay_smb.session import Session
from netoverlay_smb.status import Status
from netoverlay_smb.whole_files import Asked

_TIME_UNIT_NS = 100


class SmbBackend(Backend):
    """Everything that SMB 2.1 to 3.1.1 can do, and Linux programs can use.

    Its limits: mode and owner are told, as far as the server tells them, and cannot be changed; there are no special
    files. Symbolic links are files of a certain content, as Linux's cifs has them (mfsymlinks), which a server does not
    follow; those that Samba has on its own disk it follows itself, without saying so.
    """

    def __init__(self, url: LayerUrl, options: SmbOptions, deadline: float) -> None:
        """Connects to nothing yet. `deadline` in seconds: for each reply of the server, and for connecting."""
        self._url = url
        self._options = options
        self._deadline = deadline
        self._limits = ListingLimits(deadline)
        self._connector: Connector[Session] = Connector(self._new_session, deadline)
        self._handles = SmbHandles(self._connector.session, url)
        self._in_use = PathsInUse(deadline)
        self._paths = PathMap()
        self._leftovers = removal.Leftovers()
        self._facts: ShareFacts | None = None
        self._last: Session | None = None
        self._has_joined: bool | None = None
        """Whether the server takes several files in one message; None until that is known."""
        self._appearance = Appearance.of(options, lists_modes=False, has_file_ids=False)
        self._lister = Lister(self._paths, self._appearance, self._limits, with_modes=False)

    def connect(self) -> Capabilities:
        self._connector.session()
        found = self._known_facts()
        self._appearance = Appearance.of(self._options, lists_modes=found.lists_modes, has_file_ids=found.has_file_ids)
        self._lister = Lister(self._paths, self._appearance, self._limits, with_modes=found.lists_modes)
        return Capabilities(
            writable=True,
            symlinks=True,
            hard_links=found.has_file_ids,
            xattrs=found.has_attributes,
            file_ids=found.has_file_ids,
            link_counts=True,
            atomic_replace=True,
            rename_noreplace=True,
            holes=found.has_holes,
            server_copy=found.copies,
            locks=True,
            names_first=self._lister.looks,
            case_sensitive=found.case_sensitive,
            time_granularity_ns=_TIME_UNIT_NS,
            max_name_bytes=MAX_NAME_BYTES,
        )

    def _new_session(self) -> Session:
        # Here, for what logs in takes longer to import than a mount that needs no server takes to be ready.
        from netoverlay_smb.connecting import connect  # noqa: PLC0415

        last = self._last
        self._last = session = connect(self._url, self._options, self._deadline, None if last is None else last.link)
        if last is not None and self._has_joined is None and (last.has_joined or last.hung_up_on_joined):
            self._has_joined = last.has_joined
        session.joins = self._has_joined is not False
        try:
            # Of each session: what a server for Macs tells, it tells only in those that have asked whether it can.
            found = self._find_out(session)
        except BaseException:
            session.close()
            raise
        if self._facts is None:
            self._facts = found
        if self._handles.unheld_locks():
            # By another thread, which waits until this session can be used; this one may be opening such a file.
            threading.Thread(target=self._handles.hold_locks, name="smb-locks", daemon=True).start()
        return session

    def _find_out(self, session: Session) -> ShareFacts:
        try:
            found = facts.find_out(session, self._facts, modes_from_server=self._options.permissions == "server")
        except StatusError as error:
            problem = diagnosis.of_root(session, error, self._at(session, ""), "stat")
            raise self._unusable(f"the directory cannot be used: {problem.strerror}", problem.errno or 0) from error
        if not found.is_directory:
            raise self._unusable("the path is no directory", errno.ENOTDIR)
        return found

    def _unusable(self, why: str, code: int) -> OSError:
        """A root that was there once may come back; that it is not must not be taken for an absence of its files."""
        text = f"{self._url}: {why}"
        return LayerSetupError(text, code) if self._facts is None else UnavailableError(text)

    def close(self) -> None:
        if self._leftovers and self.connection_state() == "connected":
            with suppress(OSError):  # as far as it can be done now
                self._leftovers.remove(self._connector.session())
        self._connector.close()

    def identity(self) -> str:
        return str(self._url)

    def appearance(self) -> str:
        options = self._options
        return f"{options.permissions} {options.file_mode:o} {options.dir_mode:o}"

    def asks_user(self) -> bool:
        """What the program asks, and whom, is not known here: `pass` may want the passphrase of its key."""
        return bool(self._options.password_command)

    def connection_state(self) -> str:
        return self._connector.state()

    def stat(self, path: LayerPath) -> FileStat:
        return self._look(path, "stat").stat(self._appearance)

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        (found,) = self.list_dirs([path])
        if isinstance(found, OSError):
            raise found
        return found

    def list_dirs(self, paths: Sequence[LayerPath]) -> list[list[DirEntry] | OSError]:
        with self._in_use.using(*paths):
            return self._lister.entries(self._connector.session(), paths)

    def list_names(self, paths: Sequence[LayerPath]) -> list[list[NamedEntry] | OSError]:
        with self._in_use.using(*paths):
            return self._lister.named(self._connector.session(), paths)

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,  # noqa: ARG002  (which SMB cannot set: see Capabilities.modes)
    ) -> BackendFile:
        session = self._connector.session()
        on_server = self._at(session, path)
        made = create is Creation.EXCLUSIVE
        try:
            with self._in_use.using(path), self._handles.opening(on_server) as being_opened:
                if made:
                    opened = opening.create(session, on_server, access, sparse=self._known_facts().has_holes)
                else:
                    opened = opening.open_existing(session, on_server, access, truncate=truncate)
                changed = made or truncate or being_opened.changed
                file = self._handles.register(on_server, access, opened.facts, opened.handle, changed=changed)
        except StatusError as error:
            diagnose = diagnosis.of_creation if made else diagnosis.of_path
            raise diagnose(session, error, on_server, "open") from error
        return SmbFile(self._handles, file, path, self._appearance, self._known_facts(), opened.beginning)

    def read_files(self, wanted: Sequence[WantedFile], *, unchanging: bool) -> list[FileContent | OSError]:
        session = self._connector.session()
        asked = [Asked(each, self._at(session, each.path)) for each in wanted]
        contents = whole_files.read(session, asked, self._appearance, unchanging=unchanging)
        return [
            content or read_one(self, each, unchanging=unchanging)
            for each, content in zip(wanted, contents, strict=True)
        ]

    def space_usage(self) -> SpaceUsage:
        """FsFullSizeInformation, which counts no files."""
        session = self._connector.session()
        root = self._at(session, "")
        try:
            bodies = session.call(
                commands.create(root, LOOK, CreateOptions.DIRECTORY),
                commands.query_volume(VolumeClass.FULL_SIZE),
                commands.close(),
            )
        except StatusError as error:
            raise diagnosis.of_path(session, error, root, "space_usage") from error
        size = session.parse(replies.volume_size, session.parse(replies.info, bodies[1]))
        return SpaceUsage(size.total, size.free, size.available, 0, 0, size.unit or 1, MAX_NAME_BYTES)

    def readlink(self, path: LayerPath) -> str:
        link = self._look(path, "readlink").link
        if link is None:
            raise os_error(errno.EINVAL, path)
        return link.decode(NAME_ENCODING, NAME_ERRORS)

    def mkdir(self, path: LayerPath, mode: int) -> None:  # noqa: ARG002  (as in open())
        session = self._connector.session()
        on_server = self._at(session, path)
        making = commands.create(on_server, LOOK, CreateOptions.DIRECTORY, Disposition.CREATE)
        try:
            session.call(making, commands.close())
        except StatusError as error:
            raise diagnosis.of_creation(session, error, on_server, "mkdir") from error

    def unlink(self, path: LayerPath) -> None:
        session = self._connector.session()
        on_server = self._at(session, path)
        with self._handles.removing(on_server):
            try:
                removal.remove_file(session, on_server, self._leftovers)
            except StatusError as error:
                raise diagnosis.of_path(session, error, on_server, "unlink") from error
        self._paths.removed(path)

    def rmdir(self, path: LayerPath) -> None:
        if not path:
            raise os_error(errno.EBUSY, path)
        session = self._connector.session()
        on_server = self._at(session, path)
        try:
            with self._in_use.vacated(path):
                removal.remove_directory(session, on_server)
        except StatusError as error:
            raise diagnosis.of_path(session, error, on_server, "rmdir") from error
        self._paths.removed(path)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        """FileRenameInformation. NOREPLACE is the server's to keep; a target that is open is replaced in two steps."""
        if flags not in (RenameFlags.NONE, RenameFlags.NOREPLACE):
            raise NotSupportedError(f"rename with {flags}")
        if not old or not new:
            raise os_error(errno.EBUSY, old)
        session = self._connector.session()
        source, target = self._at(session, old), self._at(session, new)
        replace = flags is RenameFlags.NONE
        try:
            if source == target:
                self._look(old, "rename")
                if not replace:
                    raise os_error(errno.EEXIST, new)
                return
            with (
                self._in_use.vacated(old, new),
                self._handles.renaming(source, target),
                self._handles.removing(target),
                self._handles.released_below(source, self._deadline),
            ):
                removal.rename(session, source, target, self._leftovers, replace=replace)
        except StatusError as error:
            self._handles.hold_locks()
            raise diagnosis.of_rename(session, error, source, target, replace=replace) from error
        self._paths.renamed(old, new)
        self._handles.hold_locks()

    def symlink(self, path: LayerPath, target: str) -> None:
        """A file of a certain size and content, as Linux's cifs makes them with its option mfsymlinks."""
        content = symlinks.pack(target.encode(NAME_ENCODING, NAME_ERRORS))
        session = self._connector.session()
        on_server = self._at(session, path)
        access = FileAccess.WRITE_DATA | LOOK
        making = commands.create(on_server, access, CreateOptions.NON_DIRECTORY, Disposition.CREATE)
        try:
            session.call(making, commands.write(PREVIOUS_HANDLE, 0, content), commands.close())
        except StatusError as error:
            raise diagnosis.of_creation(session, error, on_server, "symlink") from error

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        """FileLinkInformation."""
        if not self._known_facts().has_file_ids:  # nothing would tell a link from a copy
            raise NotSupportedError("link")
        session = self._connector.session()
        source, target = self._at(session, existing), self._at(session, new)
        opening_it = commands.create(source, FileAccess.WRITE_ATTRIBUTES | LOOK, CreateOptions.NON_DIRECTORY)
        requests = session.engine.call(opening_it, commands.link(target), commands.close())
        try:
            session.expect(requests[0])
        except StatusError as error:
            problem = diagnosis.of_path(session, error, source, "link")
            raise (os_error(errno.EPERM, existing) if problem.errno == errno.EISDIR else problem) from error
        try:
            session.expect(requests[1])
        except StatusError as error:
            raise diagnosis.of_creation(session, error, target, "link") from error

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        """The times, in units of 100 ns."""
        session = self._connector.session()
        on_server = self._at(session, path)
        setting = attributes.set_times(change)
        if setting is None:
            return
        access = FileAccess.WRITE_ATTRIBUTES | LOOK
        try:
            with self._handles.changing_path(on_server):
                session.call(commands.create(on_server, access, CreateOptions(0)), setting, commands.close())
        except StatusError as error:
            raise diagnosis.of_path(session, error, on_server, "set_attributes") from error

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        return xattrs.value_of(self._attributes(path), name)

    def list_xattrs(self, path: LayerPath) -> list[str]:
        return sorted(self._attributes(path))

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self._require_attributes("set_xattr", name)
        xattrs.check_mode(lambda: self._attributes(path), name, mode)
        self._set_attribute(path, name, value, "set_xattr")

    def remove_xattr(self, path: LayerPath, name: str) -> None:
        self._require_attributes("remove_xattr", name)
        self.get_xattr(path, name)
        self._set_attribute(path, name, None, "remove_xattr")

    def _attributes(self, path: LayerPath) -> dict[str, bytes]:
        if not self._known_facts().has_attributes:
            raise NotSupportedError("extended attributes")
        session = self._connector.session()
        return xattrs.all_at(session, self._at(session, path))

    def _set_attribute(self, path: LayerPath, name: str, value: bytes | None, operation: str) -> None:
        session = self._connector.session()
        xattrs.set_at(session, self._at(session, path), name, value, operation)

    def _require_attributes(self, operation: str, name: str) -> None:
        if not self._known_facts().has_attributes or not xattrs.is_ours(name):
            raise NotSupportedError(f"{operation} of {name}")

    def _look(self, path: LayerPath, operation: str) -> look.Look:
        session = self._connector.session()
        on_server = self._at(session, path)
        try:
            return look.at(session, on_server, self._appearance)
        except StatusError as error:
            if error.status == Status.OBJECT_NAME_NOT_FOUND:
                self._handles.found_absent(on_server)
            raise diagnosis.of_path(session, error, on_server, operation) from error

    def _known_facts(self) -> ShareFacts:
        if self._facts is None:
            raise RuntimeError("connect() has not been called")
        return self._facts

    def _at(self, session: Session, path: LayerPath) -> bytes:
        return self._paths.on_server(session.root, path)
