"""What a refusal means. SFTP has eight status codes; what they leave open is asked of the server, after the fact.

OpenSSH says "no such file" for ENOENT, ENOTDIR and ELOOP, and "failure" for EEXIST, ENOTEMPTY, EISDIR, EXDEV, ENOSPC,
EROFS and all the rest. A look at the names in question, and at the file system, tells them apart. In between, another
client may change things: then the answer is the errno of what is there now.
"""

from __future__ import annotations

import errno
import stat as stat_bits

from netoverlay.backend_api import os_error
from netoverlay_sftp import protocol
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.errors import StatusError, status_error
from netoverlay_sftp.paths import decode
from netoverlay_sftp.protocol import Extension, PacketType, VolumeStatus, pack_string


def volume_status(channel: SftpChannel, path: bytes) -> VolumeStatus:
    """statvfs(3) on the server. StatusError."""
    reply = channel.extended_reply(Extension.STATVFS, pack_string(path))
    return channel.parse(protocol.unpack_volume_status, reply)


def type_at(channel: SftpChannel, path: bytes) -> int | None:
    """The type bits of what stands at `path`; None if nothing does, or it cannot be told."""
    try:
        return stat_bits.S_IFMT(channel.lstat(path).permissions or 0)
    except StatusError:
        return None


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0] or b"/"


def _ancestor_is_file(channel: SftpChannel, path: bytes) -> bool:
    """Whether something above `path` is there and is no directory; all are asked for at once."""
    parts = path.split(b"/")[1:-1]
    above = [b"/" + b"/".join(parts[: depth + 1]) for depth in range(len(parts))]
    requests = channel.multiplexer.submit_many([(PacketType.LSTAT, pack_string(each)) for each in above])
    for request in requests:
        try:
            found = channel.parse(protocol.unpack_attributes, channel.expect(request, PacketType.ATTRS))
        except StatusError:
            continue
        if stat_bits.S_IFMT(found.permissions or 0) not in (stat_bits.S_IFDIR, stat_bits.S_IFLNK):
            return True
    return False


def _volume_error(channel: SftpChannel, path: bytes) -> int:
    """Why nothing can be written at `path`, if its file system says so; else EIO."""
    if Extension.STATVFS not in channel.extensions:
        return errno.EIO
    try:
        volume = volume_status(channel, path)
    except StatusError:
        return errno.EIO
    if volume.flags & protocol.VOLUME_READ_ONLY:
        return errno.EROFS
    if volume.available_blocks == 0 or (volume.files and volume.available_files == 0):
        return errno.ENOSPC
    return errno.EIO


def of_path(channel: SftpChannel, error: StatusError, path: bytes, operation: str) -> OSError:
    """Of an operation on something that must be there: ENOTDIR and ENOENT told apart."""
    plain = status_error(error, decode(path), operation)
    if plain.errno == errno.ENOENT and _ancestor_is_file(channel, path):
        return os_error(errno.ENOTDIR, decode(path))
    if plain.errno == errno.EIO:
        return os_error(_volume_error(channel, path), decode(path))
    return plain


def of_creation(channel: SftpChannel, error: StatusError, path: bytes, operation: str) -> OSError:
    """Of making something that must not be there yet."""
    plain = status_error(error, decode(path), operation)
    if plain.errno == errno.EIO:
        taken = type_at(channel, path) is not None
        return os_error(errno.EEXIST if taken else _volume_error(channel, _parent(path)), decode(path))
    return of_path(channel, error, path, operation)


def of_unlink(channel: SftpChannel, error: StatusError, path: bytes) -> OSError:
    """A directory cannot be unlinked, which servers say as "failure" or, by their file system, as "denied"."""
    plain = status_error(error, decode(path), "unlink")
    if plain.errno in (errno.EIO, errno.EACCES) and type_at(channel, path) == stat_bits.S_IFDIR:
        return os_error(errno.EISDIR, decode(path))
    return of_path(channel, error, path, "unlink")


def of_rmdir(channel: SftpChannel, error: StatusError, path: bytes) -> OSError:
    """What stands there may be no directory, or one with entries."""
    plain = status_error(error, decode(path), "rmdir")
    if plain.errno in (errno.EIO, errno.ENOENT):
        found = type_at(channel, path)
        if found is not None and found != stat_bits.S_IFDIR:
            return os_error(errno.ENOTDIR, decode(path))
        if found is not None:
            why = _volume_error(channel, path)
            return os_error(errno.EROFS if why == errno.EROFS else errno.ENOTEMPTY, decode(path))
    return of_path(channel, error, path, "rmdir")


_RENAME_ERRNO = {
    # (the source is a directory, the target is one): rename(2)
    (True, False): errno.ENOTDIR,
    (False, True): errno.EISDIR,
    (True, True): errno.ENOTEMPTY,
}


def of_rename(channel: SftpChannel, error: StatusError, old: bytes, new: bytes) -> OSError:
    """By the types of both sides, then by their file systems."""
    plain = status_error(error, decode(max(old, new, key=len)), "rename")
    if plain.errno not in (errno.EIO, errno.ENOENT):
        return plain
    source, target = type_at(channel, old), type_at(channel, new)
    code = errno.EIO
    if source is not None and target is not None:
        code = _RENAME_ERRNO.get((source == stat_bits.S_IFDIR, target == stat_bits.S_IFDIR), errno.EIO)
    elif plain.errno == errno.ENOENT:
        return of_path(channel, error, new if source is not None else old, "rename")
    return os_error(_other_volume(channel, old, new) if code == errno.EIO else code, decode(new))


def _other_volume(channel: SftpChannel, old: bytes, new: bytes) -> int:
    """EXDEV if the two are not in one file system; else why it cannot be written."""
    if Extension.STATVFS not in channel.extensions:
        return errno.EIO
    try:
        identifiers = {volume_status(channel, _parent(path)).identifier for path in (old, new)}
    except StatusError:
        return errno.EIO
    return errno.EXDEV if len(identifiers) > 1 else _volume_error(channel, _parent(new))


def removal_before_rename(channel: SftpChannel, old: bytes, new: bytes) -> PacketType | None:
    """How to remove `new` so that `old` can take its name, where rename(2) would replace it; None if it would not."""
    source, target = type_at(channel, old), type_at(channel, new)
    if source is None or target is None:
        return None
    if target == stat_bits.S_IFDIR:
        return PacketType.RMDIR if source == target else None
    return PacketType.REMOVE if source != stat_bits.S_IFDIR else None


def of_link(channel: SftpChannel, error: StatusError, existing: bytes, new: bytes) -> OSError:
    """The existing name may be missing, or a directory's; or the new one is taken."""
    plain = status_error(error, decode(existing), "link")
    found = type_at(channel, existing)
    if found is None and plain.errno in (errno.EIO, errno.ENOENT):
        return of_path(channel, error, existing, "link")
    if found == stat_bits.S_IFDIR:
        return os_error(errno.EPERM, decode(existing))
    if plain.errno == errno.EIO and type_at(channel, new) is None:
        return os_error(_other_volume(channel, existing, new), decode(new))
    return of_creation(channel, error, new, "link")


def of_readlink(channel: SftpChannel, error: StatusError, path: bytes) -> OSError:
    """EINVAL for what is no link, however the server puts it."""
    if type_at(channel, path) not in (None, stat_bits.S_IFLNK):
        return os_error(errno.EINVAL, decode(path))
    return of_path(channel, error, path, "readlink")


def of_change(channel: SftpChannel, error: StatusError, path: bytes) -> OSError:
    """Of a change of attributes: what is denied there is the change (EPERM), not the access."""
    plain = status_error(error, decode(path), "set_attributes")
    if plain.errno == errno.EACCES:
        return os_error(errno.EPERM, decode(path))
    return of_path(channel, error, path, "set_attributes")


def of_file(channel: SftpChannel, error: StatusError, path: bytes | None, operation: str) -> OSError:
    """Of an operation on an open file; `path` is None when it has no name any more."""
    plain = status_error(error, decode(path or b""), operation)
    if plain.errno == errno.EACCES and operation == "set_attributes":
        return os_error(errno.EPERM, plain.filename)
    if plain.errno == errno.EIO and path is not None:
        return os_error(_volume_error(channel, path), decode(path))
    return plain
