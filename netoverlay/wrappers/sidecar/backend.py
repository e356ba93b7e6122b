"""Everything that an upper needs, over a backend that has names, bytes and times only."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from contextlib import suppress

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Backend,
    BackendFile,
    Capabilities,
    Creation,
    DirEntry,
    FileStat,
    FileType,
    LayerPath,
    LayerSetupError,
    NotSupportedError,
    RenameFlags,
    XattrMode,
    join_path,
    os_error,
)
from netoverlay.backend_api.delegate import DelegatingBackend
from netoverlay.wrappers.sidecar import access_lists, markers
from netoverlay.wrappers.sidecar.attributes import OPAQUE_ATTRIBUTE, OPAQUE_VALUE, WHITEOUT, check_mode
from netoverlay.wrappers.sidecar.context import Context
from netoverlay.wrappers.sidecar.file import SidecarFile
from netoverlay.wrappers.sidecar.journal import Journal
from netoverlay.wrappers.sidecar.names import NameChanges
from netoverlay.wrappers.sidecar.nodes import Directory, Node

FLUSH_SECONDS = 1.0
"""How long what was set may be known here only, if nobody asks for it to be recorded."""
_NEEDS = {"writable": "permission to write", "atomic_replace": "atomic rename over an existing file"}


class SidecarBackend(DelegatingBackend):
    """Keeps in a journal what `inner` cannot, and names on the server that no program sees (docs/upper.md).

    Nobody else may change what `inner` shows. The calls are those of Backend, with its errors; beyond these, making a
    name that begins with ".wh." is EPERM.
    """

    def __init__(
        self,
        inner: Backend,
        journal_directory: LayerPath,
        *,
        journal_through: Backend | None = None,
        on_connected: Callable[[Capabilities], None] = lambda _: None,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        """`inner` is rooted at a directory that holds both the upper and `journal_directory`, its work directory.

        `journal_through`: how to reach the journal, if `inner` caches: a backend of the same root, which connecting
        `inner` connects, and closing it closes. `on_connected` is called in connect(), when the server is reached and
        nothing of the upper was looked at: to take it for this mount, or to refuse.
        """
        super().__init__(inner)
        self._directory = journal_directory
        self._journal = Journal(journal_through or inner, journal_directory, flush_seconds)
        self._on_connected = on_connected
        self._context: Context | None = None
        self._names: NameChanges | None = None

    def connect(self) -> Capabilities:
        """As Backend; also LayerSetupError for a server that lacks what cannot be made up for, or a damaged journal."""
        claims = self.inner.connect()
        missing = [text for claim, text in _NEEDS.items() if not getattr(claims, claim)]
        if missing:
            raise LayerSetupError(
                f"it cannot be the upper layer: the server lacks {' and '.join(missing)}", errno.EOPNOTSUPP
            )
        self._on_connected(claims)
        with suppress(FileExistsError):
            self.inner.mkdir(self._directory, 0o700)
        intents = self._journal.load()
        context = Context(self.inner, claims, self._directory, self._journal)
        for intent in intents.values():
            context.recovery.conclude(intent)
        context.recovery.sweep()
        self._journal.start()
        self._context, self._names = context, NameChanges(context)
        return dataclasses.replace(
            claims,
            local=False,
            modes=True,
            owners=True,
            symlinks=True,
            special_files=True,
            devices=True,
            whiteout_devices=True,
            xattrs=True,
            privileged_xattrs=True,
            file_ids=True,
            link_counts=True,
            rename_noreplace=True,
            rename_exchange=True,
            rename_whiteout=True,
            time_granularity_ns=1,
        )

    def close(self) -> None:
        try:
            if self._context is not None:
                self._context.attributes.settle_directories()
            self._journal.close()
        finally:
            self.inner.close()

    def stat(self, path: LayerPath) -> FileStat:
        return self._at(path).stat(path)

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        context = self._at(path)
        directory = context.directory(path)
        with context.tree.listing(directory) as changing:
            changes = directory.marker_changes
            listed = self.inner.list_dir(path)
            marked = context.marks.read(path, listed)
            with context.tree.lock:
                known = context.marks.learn(directory, marked, changes)
                hidden = marked.hidden if known is None else known
                names = {entry.name for entry in listed}
                entries = [
                    DirEntry(name, context.attributes.shown(context.adopt(directory, name, told), told))
                    for name, told in listed
                    if name not in changing and not markers.is_marker(name)
                ]
                entries += [DirEntry(name, WHITEOUT) for name in hidden.keys() - names - changing]
                changed = list(changing)
        for name in changed:  # what the listing tells of these may be from before the change, or after it
            with suppress(FileNotFoundError):
                entries.append(DirEntry(name, self.stat(join_path(path, name))))
        return entries

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
            file, node = self._changes().create(path, access, mode)
            opened = self._opened(file, node)
            opened.note_made()
            return opened
        context = self._at(path)
        if not path:
            raise os_error(errno.EISDIR, path)
        with context.holding(path) as (place,):
            found = context.found(place)
            if found.stat is None:
                raise os_error(errno.ENOENT, path)
            if found.node is None or found.node.type is not None:
                raise os_error(errno.ELOOP if found.stat.type is FileType.SYMLINK else errno.ENXIO, path)
            opened = self._opened(self.inner.open(path, access, truncate=truncate), found.node)
            if truncate:
                opened.note_made()
                context.attributes.note_unsettled(found.node)
                context.attributes.note_write(found.node)
            return opened

    def readlink(self, path: LayerPath) -> str:
        node = self._at(path).tree.find(path)
        if node is not None and node.target is not None:
            return node.target
        try:
            return self.inner.readlink(path)
        except (FileNotFoundError, NotSupportedError):
            if self.stat(path).type is not FileType.SYMLINK:
                raise os_error(errno.EINVAL, path) from None
            raise

    def mkdir(self, path: LayerPath, mode: int) -> None:
        self._changes().mkdir(path, mode)

    def unlink(self, path: LayerPath) -> None:
        self._changes().unlink(path)

    def rmdir(self, path: LayerPath) -> None:
        self._changes().rmdir(path)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        self._changes().rename(old, new, flags)

    def symlink(self, path: LayerPath, target: str) -> None:
        self._changes().symlink(path, target)

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        self._changes().link(existing, new)

    def mknod(self, path: LayerPath, type: FileType, mode: int, rdev: int = 0) -> None:
        self._changes().mknod(path, type, mode, rdev)

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        context = self._at(path)
        stat, node = context.look_up(path)
        if node is None:
            raise os_error(errno.EPERM, path)
        context.attributes.set(node, stat, change, lambda there: self.inner.set_attributes(path, there))

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        node = self._node(path)
        if name == OPAQUE_ATTRIBUTE and isinstance(node, Directory) and self._is_opaque(node, path):
            return OPAQUE_VALUE
        if node is None:
            raise os_error(errno.ENODATA, path)
        return self._at(path).attributes.get_xattr(node, name)

    def list_xattrs(self, path: LayerPath) -> list[str]:
        node = self._node(path)
        if node is None:
            return []
        names = self._at(path).attributes.list_xattrs(node)
        opaque = isinstance(node, Directory) and self._is_opaque(node, path)
        return [OPAQUE_ATTRIBUTE, *names] if opaque else names

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        context = self._at(path)
        stat, node = context.look_up(path)
        if node is None:
            raise os_error(errno.EPERM, path)
        if name in access_lists.NAMES:
            context.attributes.set_access_list(
                node, stat, name, value, lambda there: self.inner.set_attributes(path, there)
            )
            return
        if name == OPAQUE_ATTRIBUTE and isinstance(node, Directory):
            opaque = self._is_opaque(node, path)
            check_mode(opaque or name in (node.xattrs or {}), mode)
            context.marks.set_opaque(node, path, opaque=value == OPAQUE_VALUE)
            if value == OPAQUE_VALUE:
                if name in (node.xattrs or {}):
                    context.attributes.remove_xattr(node, stat.type, name)
                return
            mode = XattrMode.ANY
        context.attributes.set_xattr(node, stat.type, name, value, mode)

    def remove_xattr(self, path: LayerPath, name: str) -> None:
        context = self._at(path)
        stat, node = context.look_up(path)
        if node is None:
            raise os_error(errno.ENODATA, path)
        if name == OPAQUE_ATTRIBUTE and isinstance(node, Directory) and self._is_opaque(node, path):
            context.marks.set_opaque(node, path, opaque=False)
            return
        context.attributes.remove_xattr(node, stat.type, name)

    def sync_directory(self, path: LayerPath) -> None:
        self._at(path).attributes.settle_directories()
        self._journal.sync()
        self.inner.sync_directory(path)

    def sync(self) -> None:
        self.connected().attributes.settle_directories()
        self._journal.sync()
        self.inner.sync()

    def connected(self) -> Context:
        """All that belongs to the upper, once it is connected. ENOTCONN before."""
        if self._context is None:
            raise OSError(errno.ENOTCONN, "the layer is not connected: call connect() first")
        return self._context

    def _at(self, path: LayerPath) -> Context:
        """For what only looks at `path`, or changes no names."""
        context = self.connected()
        context.check_path(path)
        context.recovery.settle()
        return context

    def _changes(self) -> NameChanges:
        if self._names is None:
            raise OSError(errno.ENOTCONN, "the layer is not connected: call connect() first")
        return self._names

    def _opened(self, file: BackendFile, node: Node) -> SidecarFile:
        context = self.connected()
        return SidecarFile(file, node, context.attributes, context.journal)

    def _node(self, path: LayerPath) -> Node | None:
        """What is known to be at `path`, without asking the server again; None for a whiteout."""
        context = self._at(path)
        return context.tree.find(path) or context.look_up(path)[1]

    def _is_opaque(self, node: Directory, path: LayerPath) -> bool:
        return self.connected().marks.is_opaque(node, path)
