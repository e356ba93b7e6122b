"""Find out what a directory's file system, and this process on it, can do, without leaving a trace.

Asked of the kernel where a question changes nothing: getxattr(2) of a name that is not there, F_OFD_GETLK, and calls on
a file that never has a name (O_TMPFILE). No harmless call tells what rename flags and device numbers a file system
takes, so these come from a table of file systems, and are not claimed of one that is not in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass, replace

from netoverlay.backend_api import Capabilities
from netoverlay_local.file import FLOCK
from netoverlay_local.system_calls import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, fallocate

CAP_SYS_ADMIN = 21
CAP_MKNOD = 27
"""linux/capability.h."""
WHOLE_ID_RANGE = ["0", "0", "4294967295"]
"""The uid_map of the initial user namespace (user_namespaces(7))."""

PROBE_XATTRS = {"user": "user.netoverlay.probe", "trusted": "trusted.netoverlay.probe"}
PROBE_TIME_NS = 1_000_000_000_123_456_789
GRANULARITIES_NS = (1, 100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)
NO_TEMPORARY_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSPC, errno.EDQUOT)
"""open(2): what a file system without O_TMPFILE says, and a full one."""
NO_FALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class FileSystemTraits:
    """What is known of a type of file system; the defaults are for those that are not in the table."""

    posix: bool = True
    """Owners, modes, links and special files."""
    rename_noreplace: bool = False
    rename_exchange: bool = False
    rename_whiteout: bool = False
    whiteout_devices: bool = False


_NATIVE = FileSystemTraits(rename_noreplace=True, rename_exchange=True, rename_whiteout=True, whiteout_devices=True)
_FAT = FileSystemTraits(posix=False, rename_noreplace=True, rename_exchange=True)
UNKNOWN_FILE_SYSTEM = FileSystemTraits()

# From the `rename` and `mknod` inode operations in the kernel's fs/*/namei.c. overlayfs keeps whiteouts to itself.
FILE_SYSTEMS = {
    "bcachefs": _NATIVE,
    "btrfs": _NATIVE,
    "exfat": FileSystemTraits(posix=False),
    "ext2": FileSystemTraits(rename_noreplace=True, whiteout_devices=True),
    "ext3": _NATIVE,
    "ext4": _NATIVE,
    "f2fs": _NATIVE,
    "msdos": _FAT,
    "overlay": FileSystemTraits(rename_noreplace=True, rename_exchange=True),
    "tmpfs": _NATIVE,
    "ubifs": _NATIVE,
    "vfat": _FAT,
    "xfs": _NATIVE,
}


def probe_capabilities(root: int) -> Capabilities:
    """The capabilities of the layer whose root directory is open as `root`."""
    usage = os.fstatvfs(root)
    # The check is of the effective user, as the kernel's is; a read-only mount counts as not writable.
    writable = os.access(".", os.W_OK | os.X_OK, dir_fd=root, effective_ids=True)
    traits = FILE_SYSTEMS.get(file_system_type(root), UNKNOWN_FILE_SYSTEM)
    xattrs = _has_xattrs(root, PROBE_XATTRS["user"])
    has_locks = _has_locks(root)
    capabilities = Capabilities(
        local=True,
        writable=writable,
        modes=traits.posix,
        owners=traits.posix,
        symlinks=traits.posix,
        hard_links=traits.posix,
        special_files=traits.posix,
        devices=traits.posix and _is_privileged(CAP_MKNOD),
        whiteout_devices=traits.whiteout_devices,
        xattrs=xattrs,
        privileged_xattrs=xattrs and _has_xattrs(root, PROBE_XATTRS["trusted"]) and _is_privileged(CAP_SYS_ADMIN),
        file_ids=True,
        link_counts=True,
        atomic_replace=True,
        rename_noreplace=traits.rename_noreplace,
        rename_exchange=traits.rename_exchange,
        rename_whiteout=traits.rename_whiteout,
        # lseek(2) answers everywhere; for a writable layer the claim is also that holes can be made.
        holes=True,
        server_copy=True,
        locks=has_locks,
        whole_locks=has_locks,
        time_granularity_ns=_told_granularity(os.fstat(root)),
        max_name_bytes=usage.f_namemax,
    )
    return _probe_writing(root, capabilities) if writable else capabilities


def file_system_type(descriptor: int) -> str:
    """The type of the mount that an open file lies on, as mountinfo (proc(5)) names it; "" if it is not shown there."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="utf-8") as lines:
        mount_id = next(line.split()[1] for line in lines if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            mount, _, source = line.partition(" - ")
            if mount.split(maxsplit=1)[0] == mount_id:
                return source.split()[0]
    return ""


def _probe_writing(root: int, capabilities: Capabilities) -> Capabilities:
    try:
        file = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=root)
    except OSError as error:
        if error.errno not in NO_TEMPORARY_FILES:
            raise
        return replace(capabilities, holes=False)
    try:
        return replace(
            capabilities,
            holes=_can_allocate(file, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE),
            allocate=_can_allocate(file, 0) and _can_allocate(file, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE),
            time_granularity_ns=_kept_granularity(file),
        )
    finally:
        os.close(file)


def _can_allocate(file: int, mode: int) -> bool:
    try:
        fallocate(file, mode, 0, 1)
    except OSError as error:
        if error.errno not in NO_FALLOCATE:
            raise
        return False
    return True


def _kept_granularity(file: int) -> int:
    os.utime(file, ns=(PROBE_TIME_NS, PROBE_TIME_NS))
    kept = os.fstat(file).st_mtime_ns
    return next(
        (unit for unit in GRANULARITIES_NS if kept == PROBE_TIME_NS - PROBE_TIME_NS % unit), GRANULARITIES_NS[-1]
    )


def _told_granularity(root: os.stat_result) -> int:
    """Of a file system that was not written to: as fine as the times of its root show it to be."""
    times = (root.st_atime_ns, root.st_mtime_ns, root.st_ctime_ns)
    return next(
        unit
        for unit in reversed(GRANULARITIES_NS)
        if unit == GRANULARITIES_NS[0] or all(time % unit == 0 for time in times)
    )


def _has_xattrs(descriptor: int, name: str) -> bool:
    try:
        os.getxattr(descriptor, name)
    except OSError as error:
        return error.errno == errno.ENODATA
    return True


def _has_locks(descriptor: int) -> bool:
    request = FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, request)
    except OSError:
        return False
    return True


def _is_privileged(capability: int) -> bool:
    """Whether this process has `capability` in the initial user namespace, where the kernel asks for these."""
    with open("/proc/self/uid_map", encoding="utf-8") as lines:
        if lines.read().split() != WHOLE_ID_RANGE:
            return False
    with open("/proc/self/status", encoding="utf-8", errors="replace") as lines:
        effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return bool(effective >> capability & 1)
