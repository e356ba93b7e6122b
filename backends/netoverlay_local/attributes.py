"""Between the attributes of the seam and those of the kernel."""

from __future__ import annotations

import hashlib
import os
import stat as stat_bits
import struct

from netoverlay.backend_api import AttributeChange, FileStat, FileType
from netoverlay_local.system_calls import Time, set_times

FILE_TYPES = {file_type.value: file_type for file_type in FileType}
TYPE_MASK = 0o170000
DEVICE_TYPES = (FileType.CHARACTER_DEVICE, FileType.BLOCK_DEVICE)
KEEP_OWNER = -1
"""chown(2)."""


def to_file_stat(result: os.stat_result, root_device: int) -> FileStat:
    """What the kernel told of a file, of a layer whose root lies on `root_device`."""
    file_type = FILE_TYPES[result.st_mode & TYPE_MASK]
    same_device = result.st_dev == root_device
    return FileStat(
        file_type,
        result.st_size,
        result.st_mode & 0o7777,
        result.st_uid,
        result.st_gid,
        result.st_mtime_ns,
        result.st_atime_ns,
        result.st_ctime_ns,
        result.st_nlink,
        result.st_ino if same_device else foreign_file_id(result.st_dev, result.st_ino),
        result.st_rdev if file_type in DEVICE_TYPES else None,
        result.st_blocks,
    )


def foreign_file_id(device: int, inode: int) -> int:
    """The id of a file on a file system that is mounted somewhere beneath the root.

    The top bit, which no inode number in use has, keeps these apart from the root's own file system.
    """
    digest = hashlib.blake2b(struct.pack("=QQ", device, inode), digest_size=8).digest()
    return int.from_bytes(digest, "little") | 1 << 63


def apply_change(proc_path: bytes, change: AttributeChange) -> None:
    """Owner, then mode, then times of the inode that `proc_path` (Pinned.proc_path) leads to.

    The owner comes first because chown(2) clears the set-id bits. EOPNOTSUPP for the mode of a symlink.
    """
    if change.uid is not None or change.gid is not None:
        uid = KEEP_OWNER if change.uid is None else change.uid
        gid = KEEP_OWNER if change.gid is None else change.gid
        os.chown(proc_path, uid, gid)
    if change.mode is not None:
        os.chmod(proc_path, change.mode)
    if change.atime_ns is not None or change.mtime_ns is not None:
        atime: Time = "now" if change.atime_now else change.atime_ns
        mtime: Time = "now" if change.mtime_now else change.mtime_ns
        set_times(proc_path, atime, mtime)


def has_mode(result: os.stat_result, mode: int) -> bool:
    """Whether the permission, set-id and sticky bits are exactly `mode`."""
    return stat_bits.S_IMODE(result.st_mode) == mode
