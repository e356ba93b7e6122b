"""Mounting and unmounting: mount(2) for who may, the set-user-ID program fusermount3 for everybody else.

fusermount3 opens the device itself, mounts it, and hands the descriptor over a socket that it finds in the environment
variable _FUSE_COMMFD (the protocol of libfuse's mount.c).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from netoverlay.mount_table import mounted_device

DEVICE: Final = "/dev/fuse"
_SUBTYPE: Final = "netoverlay"
_FUSERMOUNT: Final = "fusermount3"

_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_CAP_SYS_ADMIN: Final = 21

_SYS_FSCONFIG: Final = 431
_SYS_FSPICK: Final = 433
"""The same on all machines; the C library may have no functions for them."""
_AT_FDCWD: Final = -100
_FSPICK_CLOEXEC: Final = 1
_FSPICK_NOFOLLOW: Final = 2
_FSCONFIG_RECONFIGURE: Final = 7

_REMEDIES: Final = (
    (
        "user_allow_other",
        errno.EPERM,
        "allow_other for an ordinary user needs the line user_allow_other in /etc/fuse.conf",
    ),
    ("mount_max", errno.EMFILE, "too many FUSE file systems are mounted: raise mount_max in /etc/fuse.conf"),
    ("no write access", errno.EACCES, "an ordinary user can mount only on a directory that he may write to"),
    ("device not found", errno.ENODEV, f"{DEVICE} is missing: load the kernel module with `modprobe fuse`"),
    (
        f"failed to open {DEVICE}",
        errno.EACCES,
        f"{DEVICE} cannot be opened: in a container it must be passed in (--device {DEVICE})",
    ),
)
"""What fusermount3 says, what errno that is, and what a person can do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """How a mount is made. Permissions are always checked by the kernel (default_permissions)."""

    source: str
    """What the mount table shows as its source."""
    allow_other: bool = False
    """Users other than the one who mounts may use it."""
    read_only: bool = False
    nosuid: bool = True
    """Ignore set-id bits and file capabilities. fusermount3 always does."""
    nodev: bool = True
    """Ignore device files. fusermount3 always does."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount that was made here."""

    device: int
    """The descriptor through which it is served, for Channel to own."""
    mountpoint: str
    """With all symbolic links resolved, as the mount table has it."""
    device_number: int
    """Its st_dev."""

    @property
    def can_shrink(self) -> bool:
        """Whether shrink() is permitted."""
        return _may_mount()

    def shrink(self) -> None:
        """Have the kernel forget all files that nobody has open, works in, watches or has mounted something on.

        EPERM without CAP_SYS_ADMIN. Not on a thread that serves it.
        """
        libc = _libc()
        picked = libc.syscall(_SYS_FSPICK, _AT_FDCWD, os.fsencode(self.mountpoint), _FSPICK_CLOEXEC | _FSPICK_NOFOLLOW)
        _check(picked < 0, "cannot pick the file system", self.mountpoint)
        try:
            # With nothing to change; on its way the kernel shrinks the cache of names (reconfigure_super, fs/super.c).
            result = libc.syscall(_SYS_FSCONFIG, picked, _FSCONFIG_RECONFIGURE, None, None, 0)
            _check(result, "cannot reconfigure", self.mountpoint)
        finally:
            os.close(picked)

    def raise_read_ahead(self, size: int) -> None:
        """Let the kernel read up to `size` bytes ahead of a sequential reader; more than INIT can have it do.

        PermissionError, FileNotFoundError or EROFS where /sys is not to be written to.
        """
        major, minor = os.major(self.device_number), os.minor(self.device_number)
        Path(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb").write_text(str(size >> 10), encoding="ascii")

    def detach(self) -> None:
        """Unmount it, or if it is in use take it out of the tree and let its users finish. Errors as unmount().

        Not on a thread that serves it.
        """
        try:
            unmount(self.mountpoint, self.device_number)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            unmount(self.mountpoint, self.device_number, lazy=True)


def mount(mountpoint: str, options: MountOptions) -> Mount:
    """Mount an as yet unserved file system on the directory `mountpoint`.

    OSError with a sentence for a person: ENOENT, ENOTDIR; ENOTCONN (a dead mount is in the way); EPERM, EACCES; ENODEV.
    """
    _check_mountpoint(mountpoint)
    resolved = os.path.realpath(mountpoint)
    device = (_mount_directly if _may_mount() else _mount_by_helper)(resolved, options)
    device_number = mounted_device(resolved)
    if device_number is None:
        os.close(device)
        raise OSError(errno.EIO, "the new mount is not in the mount table", mountpoint)
    return Mount(device, resolved, device_number)


def unmount(mountpoint: str, device_number: int | None = None, *, lazy: bool = False) -> None:
    """Unmount what is mounted last on `mountpoint`; with `lazy`, detach it at once and let it end with its last user.

    A symbolic link as the last part of `mountpoint` is not followed: to look at it would ask the file system.
    EBUSY if it is in use (not with `lazy`), EINVAL if nothing is mounted there or it is not `device_number` (the st_dev
    of the mount that is meant).
    """
    found = mounted_device(mountpoint)
    if found is None or device_number not in (None, found):
        what = "nothing" if found is None else "another file system"
        raise OSError(errno.EINVAL, f"{what} is mounted there", mountpoint)
    if _may_mount():
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        _check(_libc().umount2(os.fsencode(mountpoint), ctypes.c_int(flags)), "cannot unmount", mountpoint)
        return
    command = [_helper(), "-u", *(["-z"] if lazy else []), "--", mountpoint]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()
        code = errno.EBUSY if "busy" in message else errno.EPERM
        raise OSError(code, f"cannot unmount: {message}", mountpoint)


def _check_mountpoint(mountpoint: str) -> None:
    try:
        mode = os.stat(mountpoint).st_mode
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        remedy = f"a mount whose server is gone is in the way: `{_FUSERMOUNT} -u -z {mountpoint}`"
        raise OSError(errno.ENOTCONN, remedy, mountpoint) from None
    if not stat.S_ISDIR(mode):
        raise OSError(errno.ENOTDIR, "the mount point is not a directory", mountpoint)


def _may_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN (capabilities(7))."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str, mountpoint: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}", mountpoint)


def _mount_directly(mountpoint: str, options: MountOptions) -> int:
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        remedy = "is missing: load the kernel module with `modprobe fuse`, or pass the device into the container"
        raise OSError(errno.ENODEV, f"{DEVICE} {remedy}") from None
    data = f"fd={device},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()},default_permissions"
    if options.allow_other:
        data += ",allow_other"
    flags = (
        (_MS_RDONLY if options.read_only else 0)
        | (_MS_NOSUID if options.nosuid else 0)
        | (_MS_NODEV if options.nodev else 0)
    )
    try:
        result = _libc().mount(
            os.fsencode(options.source),
            os.fsencode(mountpoint),
            f"fuse.{_SUBTYPE}".encode(),
            ctypes.c_ulong(flags),
            data.encode(),
        )
        _check(result, "cannot mount", mountpoint)
    except OSError:
        os.close(device)
        raise
    return device


def _helper() -> str:
    found = shutil.which(_FUSERMOUNT)
    if found is None:
        raise OSError(errno.ENOENT, f"{_FUSERMOUNT} is needed to mount as an ordinary user: install the package fuse3")
    return found


def _mount_by_helper(mountpoint: str, options: MountOptions) -> int:
    source = options.source.replace("\\", "\\\\").replace(",", "\\,")
    words = [f"fsname={source}", f"subtype={_SUBTYPE}", "default_permissions"]
    words += ["allow_other"] if options.allow_other else []
    words += ["ro"] if options.read_only else []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        # The program itself opens the device, and sends it before it exits: one message waits in the socket.
        done = subprocess.run(
            [_helper(), "-o", ",".join(words), "--", mountpoint],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise _helper_error(done.stderr.decode(errors="replace").strip(), mountpoint)
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise OSError(errno.EIO, f"{_FUSERMOUNT} mounted, but sent no descriptor", mountpoint)
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _helper_error(message: str, mountpoint: str) -> OSError:
    for sign, code, remedy in _REMEDIES:
        if sign in message:
            return OSError(code, remedy, mountpoint)
    return OSError(errno.EPERM, f"cannot mount: {message}", mountpoint)
