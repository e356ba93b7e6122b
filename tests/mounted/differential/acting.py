"""Makes the steps, in the directory of one side, and holds what they open. One Actor a thread."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable
from typing import Final

from tests.mounted.differential import system_calls
from tests.mounted.differential.observing import Seen, content_of, digest, seen
from tests.mounted.differential.steps import GROUPS, Step
from tests.mounted.differential.system_calls import AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, UTIME_OMIT

PAGE: Final = mmap.PAGESIZE
Outcome = tuple[str, object]
Times = tuple[tuple[int, int], tuple[int, int]]


class Actor:
    """Open descriptors and mappings by slot, and the calls that use them."""

    def __init__(self, top: int) -> None:
        """`top` is a descriptor of the directory in which steps are made; it is closed with the rest."""
        self.top = top
        self.slots: dict[int, int] = {}
        self.maps: dict[int, mmap.mmap] = {}
        self.read: dict[int, list[tuple[bytes, int]]] = {}
        """The entries read from a directory so far, each with the position after it."""

    def do(self, step: Step) -> Outcome:
        """("value", ...) or ("error", the errno's name)."""
        group, groups = GROUPS[step.user]
        try:
            os.fchdir(self.top if step.at is None else self._slot(step.at))
            if step.user:
                system_calls.become(step.user, group, groups)
            try:
                function: Callable[..., object] = getattr(self, step.call)
                return "value", function(*step.arguments)
            finally:
                if step.user:
                    system_calls.become(0, *GROUPS[0])
        except OSError as error:
            return "error", errno.errorcode.get(error.errno or 0, str(error))
        finally:
            os.fchdir(self.top)

    def close_all(self) -> None:
        """The descriptors, the mappings, and the top."""
        for number in list(self.maps):
            self.unmap(number)
        for slot in list(self.slots):
            self.close(slot)
        os.close(self.top)

    # -- descriptors

    def _slot(self, slot: int) -> int:
        if slot not in self.slots:
            raise OSError(errno.EBADF, "nothing is open there")
        return self.slots[slot]

    def _regular(self, slot: int) -> int:
        """For calls that mean something else, on each file system, for what is no regular file."""
        descriptor = self._slot(slot)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        return descriptor

    def open(self, slot: int, path: bytes, flags: int, mode: int = 0o666) -> None:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, mode)
        self.close(slot)
        self.slots[slot] = descriptor

    def close(self, slot: int) -> None:
        self.read.pop(slot, None)
        if slot in self.slots:
            os.close(self.slots.pop(slot))

    def duplicate(self, slot: int, other: int) -> None:
        descriptor = os.dup(self._slot(slot))
        self.close(other)
        self.slots[other] = descriptor

    def set_flags(self, slot: int, flags: int) -> None:
        fcntl.fcntl(self._slot(slot), fcntl.F_SETFL, flags | os.O_NONBLOCK)

    def fsync(self, slot: int, data_only: bool) -> None:
        (os.fdatasync if data_only else os.fsync)(self._slot(slot))

    # -- data

    def pread(self, slot: int, size: int, offset: int) -> str:
        return digest(os.pread(self._slot(slot), size, offset))

    def readv(self, slot: int, sizes: tuple[int, ...]) -> str:
        buffers = [bytearray(size) for size in sizes]
        count = os.readv(self._regular(slot), buffers)
        return digest(b"".join(buffers)[:count])

    def seek(self, slot: int, offset: int, whence: int) -> int:
        return os.lseek(self._regular(slot), offset, whence)

    def pwrite(self, slot: int, letter: bytes, size: int, offset: int) -> int:
        return os.pwrite(self._slot(slot), letter * size, offset)

    def write(self, slot: int, letter: bytes, size: int) -> int:
        return os.write(self._slot(slot), letter * size)

    def writev(self, slot: int, letter: bytes, sizes: tuple[int, ...]) -> int:
        return os.writev(self._slot(slot), [letter * size for size in sizes])

    def append_record(self, path: bytes, record: bytes) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
        try:
            return os.write(descriptor, record)
        finally:
            os.close(descriptor)

    def records(self, path: bytes, size: int) -> list[bytes]:
        """What append_record() has written, in pieces of `size`, sorted."""
        with open(path, "rb") as file:
            content = file.read()
        start = len(content) % size
        return sorted(content[at : at + size] for at in range(start, len(content), size))

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._slot(slot), size)

    def truncate(self, path: bytes, size: int) -> None:
        os.truncate(path, size)

    def fallocate(self, slot: int, mode: int, offset: int, length: int) -> None:
        system_calls.fallocate(self._slot(slot), mode, offset, length)

    def copy_range(self, source: int, target: int, count: int, from_offset: int, to_offset: int) -> int:
        return os.copy_file_range(self._slot(source), self._slot(target), count, from_offset, to_offset)

    def seek_data(self, slot: int, offset: int) -> str:
        """What is in blocks may differ; not that everything before the data is zeros."""
        descriptor = self._regular(slot)
        size = os.fstat(descriptor).st_size
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            found = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO or offset >= size:
                raise
            found = size
        os.lseek(descriptor, position, os.SEEK_SET)
        return _only_zeros(descriptor, offset, found)

    def seek_hole(self, slot: int, offset: int) -> str:
        descriptor = self._regular(slot)
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        found = os.lseek(descriptor, offset, os.SEEK_HOLE)
        os.lseek(descriptor, position, os.SEEK_SET)
        if not offset <= found <= os.fstat(descriptor).st_size:
            return f"a hole at {found}"
        return _only_zeros(descriptor, found, found + 1)

    # -- mappings

    def map(self, number: int, slot: int, shared: bool, writable: bool, pages: int) -> int:
        descriptor = self._slot(slot)
        status = os.fstat(descriptor)
        length = min(status.st_size, pages * PAGE)
        if not stat.S_ISREG(status.st_mode) or length == 0:
            raise OSError(errno.EINVAL, "nothing to map")
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        made = mmap.mmap(descriptor, length, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE, protection)
        self.unmap(number)
        self.maps[number] = made
        return length

    def unmap(self, number: int) -> None:
        if number in self.maps:
            self.maps.pop(number).close()

    def map_write(self, number: int, letter: bytes, size: int, offset: int) -> int:
        mapped, reach = self._mapped(number)
        count = max(0, min(size, reach - offset))
        try:
            mapped[offset : offset + count] = letter * count
        except TypeError:
            raise OSError(errno.EACCES, "mapped for reading") from None
        mapped.flush()  # until then it is left open whether the times have changed
        return count

    def _mapped(self, number: int) -> tuple[mmap.mmap, int]:
        """A mapping, and how far it can be used: not past the last page that the file still has."""
        if number not in self.maps:
            raise OSError(errno.EBADF, "nothing is mapped there")
        mapped = self.maps[number]
        return mapped, min(len(mapped), -(-mapped.size() // PAGE) * PAGE)

    def mapping(self, number: int) -> str:
        mapped, reach = self._mapped(number)
        return digest(mapped[:reach])

    # -- names

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        system_calls.renameat2(old, new, flags)

    def link(self, old: bytes, new: bytes, follow: bool = False) -> None:
        system_calls.linkat(system_calls.AT_FDCWD, old, new, AT_SYMLINK_FOLLOW if follow else 0)

    def link_descriptor(self, slot: int, new: bytes, by_proc: bool) -> None:
        descriptor = self._slot(slot)
        if by_proc:
            path = b"/proc/thread-self/fd/%d" % descriptor
            system_calls.linkat(system_calls.AT_FDCWD, path, new, AT_SYMLINK_FOLLOW)
        else:
            system_calls.linkat(descriptor, b"", new, AT_EMPTY_PATH)

    def unlink(self, path: bytes) -> None:
        os.unlink(path)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(path)

    def mkdir(self, path: bytes, mode: int = 0o777) -> None:
        os.mkdir(path, mode)

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, path)

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(path)

    def mknod(self, path: bytes, mode: int, device: int = 0) -> None:
        os.mknod(path, mode, device)

    def access(self, path: bytes, mode: int) -> bool:
        return os.access(path, mode, effective_ids=True)

    def names(self, path: bytes) -> list[bytes]:
        return sorted(os.listdir(path))

    def size_of(self, path: bytes) -> tuple[int, int]:
        """stat(2), for its errors."""
        status = os.stat(path)
        return status.st_mode, 0 if stat.S_ISDIR(status.st_mode) else status.st_size

    # -- attributes

    def umask(self, mask: int) -> int:
        return os.umask(mask)

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(path, mode)

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._slot(slot), mode)

    def chown(self, path: bytes, uid: int, gid: int, follow: bool = True) -> None:
        os.chown(path, uid, gid, follow_symlinks=follow)

    def fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self._slot(slot), uid, gid)

    def utimens(self, path: bytes, times: Times, follow: bool = True) -> list[int]:
        system_calls.utimensat(path, times, 0 if follow else AT_SYMLINK_NOFOLLOW)
        return _explicit(times, os.stat(path, follow_symlinks=follow))

    def futimens(self, slot: int, times: Times) -> list[int]:
        system_calls.utimensat(self._slot(slot), times, 0)
        return _explicit(times, os.fstat(self._slot(slot)))

    def setxattr(self, path: bytes, name: str, value: bytes, flags: int = 0, follow: bool = True) -> None:
        os.setxattr(path, name, value, flags, follow_symlinks=follow)

    def fsetxattr(self, slot: int, name: str, value: bytes, flags: int = 0) -> None:
        os.setxattr(self._slot(slot), name, value, flags)

    def removexattr(self, path: bytes, name: str, follow: bool = True) -> None:
        os.removexattr(path, name, follow_symlinks=follow)

    def fremovexattr(self, slot: int, name: str) -> None:
        os.removexattr(self._slot(slot), name)

    def getxattr(self, path: bytes, name: str) -> str:
        return os.getxattr(path, name).hex()

    def flistxattr(self, slot: int) -> list[str]:
        return sorted(os.listxattr(self._slot(slot)))

    # -- reading directories

    def read_directory(self, slot: int, size: int) -> tuple[str, ...] | None:
        """Read on. At the end, the names since the beginning; None before it."""
        descriptor = self._slot(slot)
        entries = system_calls.getdents64(descriptor, size)
        read = self.read.setdefault(slot, [])
        read += [(entry.name, entry.position) for entry in entries]
        if entries:
            return None
        return tuple(sorted(os.fsdecode(name) for name, _ in read))

    def seek_directory(self, slot: int, index: int) -> None:
        """Go back to behind the entry `index` of those that were read, to the beginning with 0."""
        descriptor = self._slot(slot)
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTDIR, "no directory")
        read = self.read.setdefault(slot, [])
        del read[index:]
        os.lseek(descriptor, read[-1][1] if read else 0, os.SEEK_SET)

    # -- what the descriptors show

    def descriptors(self, *, native: bool, everything: bool) -> dict[str, Seen]:
        """The open slots, and their contents."""
        found = {}
        for slot, descriptor in sorted(self.slots.items()):
            status = os.fstat(descriptor)
            regular = everything and stat.S_ISREG(status.st_mode) and _readable(descriptor)
            content = content_of(descriptor) if regular else None
            found[f"slot {slot}"] = seen(descriptor, status, native=native, content=content)
        return found

    def open_types(self) -> dict[int, tuple[int, int]]:
        """What is open: type and flags."""
        return {slot: (stat.S_IFMT(os.fstat(fd).st_mode), _flags(fd)) for slot, fd in sorted(self.slots.items())}

    def positions(self) -> dict[int, int]:
        return {
            slot: os.lseek(descriptor, 0, os.SEEK_CUR)
            for slot, descriptor in self.slots.items()
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and not _flags(descriptor) & os.O_PATH
        }


def _explicit(times: Times, status: os.stat_result) -> list[int]:
    """Those of the times that were given as such, as they are now."""
    now = (status.st_atime_ns, status.st_mtime_ns)
    return [time for time, (_, nanoseconds) in zip(now, times, strict=True) if nanoseconds < UTIME_OMIT]


def _flags(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_GETFL)


def _readable(descriptor: int) -> bool:
    flags = _flags(descriptor)
    return not flags & os.O_PATH and flags & os.O_ACCMODE != os.O_WRONLY


def _only_zeros(descriptor: int, start: int, end: int) -> str:
    data = os.pread(descriptor, max(0, end - start), start)
    return "zeros" if not data.strip(b"\0") else f"data from {start} to {end}"
