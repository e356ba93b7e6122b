"""An open file: its bytes are the server's, its attributes are its node's, whatever becomes of its names."""

from __future__ import annotations

from netoverlay.backend_api import (
    AllocateMode,
    AttributeChange,
    BackendFile,
    FileStat,
    FileType,
    Readable,
    XattrMode,
)
from netoverlay.backend_api.delegate import DelegatingFile
from netoverlay.wrappers.sidecar import access_lists
from netoverlay.wrappers.sidecar.attributes import Attributes
from netoverlay.wrappers.sidecar.journal import Journal
from netoverlay.wrappers.sidecar.nodes import Node


class SidecarFile(DelegatingFile):
    """What was set or written is recorded when sync() or close() returns."""

    def __init__(self, inner: BackendFile, node: Node, attributes: Attributes, journal: Journal) -> None:
        super().__init__(inner)
        self._node = node
        self._attributes = attributes
        self._journal = journal
        self._changed = False

    def stat(self) -> FileStat:
        return self._attributes.shown(self._node, self.inner.stat())

    def close(self) -> None:
        try:
            self.inner.close()
        finally:
            if self._changed:
                self._changed = False
                self._attributes.note_settled(self._node)
                self._journal.flush()

    def write_at(self, offset: int, data: Readable) -> None:
        self._about_to_write()
        self.inner.write_at(offset, data)
        if len(data):
            self._attributes.note_write(self._node)

    def truncate(self, size: int) -> None:
        self._about_to_write()
        self.inner.truncate(size)
        self._attributes.note_write(self._node)

    def allocate(self, mode: AllocateMode, offset: int, length: int) -> None:
        self._about_to_write()
        self.inner.allocate(mode, offset, length)
        self._attributes.note_write(self._node)

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        self._about_to_write()
        count = super().copy_range(source, source_offset, offset, length)
        self._attributes.note_write(self._node)
        return count

    def sync(self, *, data_only: bool = False) -> None:
        self.inner.sync(data_only=data_only)
        self._attributes.note_settled(self._node)
        self._journal.sync()

    def set_attributes(self, change: AttributeChange) -> None:
        self._changed = True
        self._attributes.set(self._node, self.stat(), change, self.inner.set_attributes)

    def get_xattr(self, name: str) -> bytes:
        return self._attributes.get_xattr(self._node, name)

    def list_xattrs(self) -> list[str]:
        return self._attributes.list_xattrs(self._node)

    def set_xattr(self, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self._changed = True
        if name in access_lists.NAMES:
            self._attributes.set_access_list(self._node, self.stat(), name, value, self.inner.set_attributes)
            return
        self._attributes.set_xattr(self._node, FileType.REGULAR, name, value, mode)

    def remove_xattr(self, name: str) -> None:
        self._changed = True
        self._attributes.remove_xattr(self._node, FileType.REGULAR, name)

    def fileno(self) -> int | None:
        """None: what is written past us would not change the times."""
        return None

    def note_made(self) -> None:
        """The file is new, or was emptied: close() has something to record."""
        self._changed = True

    def _about_to_write(self) -> None:
        """Before it is done, so that a crash meanwhile does not leave the old times on what is new."""
        if not self._changed or self._node.settled:
            self._changed = True
            if self._node.settled:
                self._attributes.note_unsettled(self._node)
