"""What a local layer claims, and the refusal of what it does not claim."""

from __future__ import annotations

import os

from netoverlay.backend_api import AttributeChange, Capabilities, FileType, NotSupportedError, RenameFlags
from netoverlay_local.system_calls import RenameFlag

WHITEOUT_DEVICE = os.makedev(0, 0)
PRIVILEGED_NAMESPACE = "trusted."
"""Of "security." everybody may read, and the kernel says by attribute who may write."""


class Claims:
    """The capabilities of a connected layer, and one check for each kind of call.

    Every check raises NotSupportedError, also where the kernel would have said EROFS or EPERM: a caller is to see
    one error for what a layer cannot do, and others only for what it could not do this time.
    """

    __slots__ = ("can",)

    def __init__(self, capabilities: Capabilities) -> None:
        self.can = capabilities

    def require(self, claimed: bool, operation: str) -> None:
        if not claimed:
            raise NotSupportedError(operation)

    def require_writable(self, operation: str) -> None:
        if not self.can.writable:
            raise NotSupportedError(operation)

    def require_change(self, change: AttributeChange) -> None:
        self.require_writable("set_attributes")
        self.require(change.mode is None or self.can.modes, "changing the mode")
        self.require(change.uid is None or self.can.owners, "changing the owner")
        self.require(change.gid is None or self.can.owners, "changing the group")

    def require_xattr(self, name: str, operation: str) -> None:
        self.require(self.can.xattrs, operation)
        if name.startswith(PRIVILEGED_NAMESPACE):
            self.require(self.can.privileged_xattrs, f"{operation} of {name}")

    def require_xattr_change(self, name: str, operation: str) -> None:
        self.require_writable(operation)
        self.require_xattr(name, operation)

    def visible_xattrs(self, names: list[str]) -> list[str]:
        """Those of `names` that get_xattr() would answer."""
        if self.can.privileged_xattrs:
            return names
        return [name for name in names if not name.startswith(PRIVILEGED_NAMESPACE)]

    def require_node(self, type: FileType, rdev: int) -> None:
        self.require_writable("mknod")
        if type in (FileType.FIFO, FileType.SOCKET):
            self.require(self.can.special_files, f"mknod of a {type.name}")
        elif type is FileType.CHARACTER_DEVICE and rdev == WHITEOUT_DEVICE:
            self.require(self.can.whiteout_devices, "mknod of a whiteout")
        else:
            self.require(self.can.devices, f"mknod of a {type.name}")

    def rename_flags(self, flags: RenameFlags) -> RenameFlag:
        """`flags` as renameat2(2) takes them."""
        self.require_writable("rename")
        result = RenameFlag(0)
        for flag, kernel_flag, claimed in (
            (RenameFlags.NOREPLACE, RenameFlag.NOREPLACE, self.can.rename_noreplace),
            (RenameFlags.EXCHANGE, RenameFlag.EXCHANGE, self.can.rename_exchange),
            (RenameFlags.WHITEOUT, RenameFlag.WHITEOUT, self.can.rename_whiteout),
        ):
            if flag in flags:
                self.require(claimed, f"rename({flag.name})")
                result |= kernel_flag
        return result
