"""From what a server tells of a file to what the seam calls its attributes, and back for its times."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from netoverlay.backend_api import AttributeChange, FileStat, FileType, NotSupportedError
from netoverlay_smb import commands, replies
from netoverlay_smb.commands import Body
from netoverlay_smb.options import SmbOptions
from netoverlay_smb.protocol import PREVIOUS_HANDLE, FileAttributes, InfoClass
from netoverlay_smb.replies import FileFacts
from netoverlay_smb.security import Ownership

_BASIC = struct.Struct("<QQQQII")
_BLOCK_BYTES = 512
_READONLY = int(FileAttributes.READONLY)
_SYMLINK_MODE = 0o777
_WRITE_BITS = 0o222
NOTHING_TOLD = Ownership(None, None, None)


@dataclass(frozen=True, slots=True)
class Appearance:
    """How files look for which the server does not say it."""

    file_mode: int
    dir_mode: int
    modes_from_server: bool
    owners_from_server: bool
    has_file_ids: bool
    tells_xattrs: bool
    """Listings say who has extended attributes: not those with modes, which have something else in that field."""

    @classmethod
    def of(cls, options: SmbOptions, *, lists_modes: bool, has_file_ids: bool) -> Appearance:
        """As the profile says. Where listings have modes they have no owners, so that nothing asks for those."""
        return cls(
            file_mode=options.file_mode,
            dir_mode=options.dir_mode,
            modes_from_server=options.permissions == "server",
            owners_from_server=options.permissions == "server" and not lists_modes,
            has_file_ids=has_file_ids,
            tells_xattrs=not lists_modes,
        )

    def stat(self, facts: FileFacts, told: Ownership = NOTHING_TOLD, *, link: bytes | None = None) -> FileStat:
        """`link` is the target of a symbolic link."""
        kind = FileType.DIRECTORY if facts.is_directory else FileType.REGULAR
        mode = told.mode if self.modes_from_server else None
        if link is not None:
            kind, mode = FileType.SYMLINK, _SYMLINK_MODE
        if mode is None:
            mode = self._default_mode(facts)
        owned = self.owners_from_server
        return FileStat(
            kind,
            facts.size if link is None else len(link),
            mode,
            told.uid if owned else None,
            told.gid if owned else None,
            facts.mtime_ns,
            facts.atime_ns,
            facts.ctime_ns,
            facts.nlink,
            facts.file_id if self.has_file_ids else None,
            None,
            facts.allocated // _BLOCK_BYTES,
            facts.ea_size > 0 if self.tells_xattrs and facts.ea_size is not None else None,
        )

    def _default_mode(self, facts: FileFacts) -> int:
        if facts.is_directory:
            return self.dir_mode
        if facts.attributes & _READONLY:
            return self.file_mode & ~_WRITE_BITS
        return self.file_mode


def set_times(change: AttributeChange, handle: bytes = PREVIOUS_HANDLE) -> Body | None:
    """MS-FSCC 2.4.7; None if there is nothing to set. NotSupportedError for what SMB cannot change exactly."""
    if change.mode is not None:
        raise NotSupportedError("set_attributes(mode)")
    if change.uid is not None or change.gid is not None:
        raise NotSupportedError("set_attributes(owner)")
    if change.atime_ns is None and change.mtime_ns is None:
        return None
    accessed, modified = (0 if time is None else replies.to_ticks(time) for time in (change.atime_ns, change.mtime_ns))
    return commands.set_file(InfoClass.BASIC, _BASIC.pack(0, accessed, modified, 0, 0, 0), handle)


def clear_read_only() -> Body:
    """So that a file can be deleted."""
    return commands.set_file(InfoClass.BASIC, _BASIC.pack(0, 0, 0, 0, FileAttributes.NORMAL, 0))
