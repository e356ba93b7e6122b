"""SMB2 as far as we speak it: the numbers of MS-SMB2 and MS-FSCC, and the header of every message."""

from __future__ import annotations

import enum
import struct

DEFAULT_PORT = 445


class ProtocolError(Exception):
    """The server sent what is no proper SMB2."""


class Command(enum.IntEnum):
    """MS-SMB2 2.2.1.1."""

    LOGOFF = 2
    CREATE = 5
    CLOSE = 6
    FLUSH = 7
    READ = 8
    WRITE = 9
    LOCK = 10
    IOCTL = 11
    CANCEL = 12
    ECHO = 13
    QUERY_DIRECTORY = 14
    QUERY_INFO = 16
    SET_INFO = 17
    OPLOCK_BREAK = 18


class HeaderFlags(enum.IntFlag):
    """MS-SMB2 2.2.1.2, Flags."""

    SERVER_TO_CLIENT = 0x1
    ASYNC = 0x2
    RELATED = 0x4
    SIGNED = 0x8


class FileAccess(enum.IntFlag):
    """MS-SMB2 2.2.13.1.1, File_Pipe_Printer_Access_Mask."""

    READ_DATA = 0x1
    WRITE_DATA = 0x2
    APPEND_DATA = 0x4
    READ_EA = 0x8
    WRITE_EA = 0x10
    READ_ATTRIBUTES = 0x80
    WRITE_ATTRIBUTES = 0x100
    DELETE = 0x1_0000
    READ_CONTROL = 0x2_0000
    SYNCHRONIZE = 0x10_0000


class Disposition(enum.IntEnum):
    """MS-SMB2 2.2.13, CreateDisposition."""

    OPEN = 1
    CREATE = 2


class CreateOptions(enum.IntFlag):
    """MS-SMB2 2.2.13, CreateOptions."""

    DIRECTORY = 0x1
    NON_DIRECTORY = 0x40
    OPEN_REPARSE_POINT = 0x20_0000


class FileAttributes(enum.IntFlag):
    """MS-FSCC 2.6."""

    READONLY = 0x1
    DIRECTORY = 0x10
    NORMAL = 0x80
    REPARSE_POINT = 0x400


class OplockLevel(enum.IntEnum):
    """MS-SMB2 2.2.13, RequestedOplockLevel."""

    NONE = 0x0
    LEVEL_II = 0x1
    EXCLUSIVE = 0x8
    BATCH = 0x9
    LEASE = 0xFF


class LeaseState(enum.IntFlag):
    """MS-SMB2 2.2.13.2.8."""

    NONE = 0x0
    READ = 0x1
    HANDLE = 0x2
    WRITE = 0x4


class LockFlags(enum.IntFlag):
    """MS-SMB2 2.2.26.1."""

    SHARED = 0x1
    EXCLUSIVE = 0x2
    UNLOCK = 0x4
    FAIL_IMMEDIATELY = 0x10


class InfoType(enum.IntEnum):
    """MS-SMB2 2.2.37, InfoType."""

    FILE = 1
    FILE_SYSTEM = 2
    SECURITY = 3


class InfoClass(enum.IntEnum):
    """MS-FSCC 2.4: what is asked, set or listed of a file."""

    BASIC = 4
    STANDARD = 5
    RENAME = 10
    LINK = 11
    DISPOSITION = 13
    FULL_EA = 15
    ALL = 18
    END_OF_FILE = 20
    ID_BOTH_DIRECTORY = 37
    ID_FULL_DIRECTORY = 38


class VolumeClass(enum.IntEnum):
    """MS-FSCC 2.5: what is asked of a file system."""

    ATTRIBUTES = 5
    FULL_SIZE = 7


class VolumeFlags(enum.IntFlag):
    """MS-FSCC 2.5.1, FileSystemAttributes."""

    SPARSE_FILES = 0x40


class Control(enum.IntEnum):
    """Control codes of IOCTL (MS-FSCC 2.3, MS-SMB2 2.2.31)."""

    SET_SPARSE = 0x9_00C4
    GET_REPARSE_POINT = 0x9_00A8
    REQUEST_RESUME_KEY = 0x14_0078
    COPY_CHUNKS = 0x14_80F2
    """FSCTL_SRV_COPYCHUNK_WRITE, whose target need not be open for reading."""
    QUERY_ALLOCATED_RANGES = 0x9_40CF
    SET_ZERO_DATA = 0x9_80C8


class SecurityParts(enum.IntFlag):
    """MS-SMB2 2.2.37, AdditionalInformation."""

    OWNER = 0x1
    GROUP = 0x2
    DACL = 0x4


SHARE_ALL = 7
"""Others may read, write and delete what we have open, as on Linux (MS-SMB2 2.2.13, ShareAccess)."""

HEADER = struct.Struct("<4sHHIHHIIQIIQ16s")
"""MS-SMB2 2.2.1: magic, size 64, credit charge, status, command, credits, flags, next command, message id, process id
(or the lower half of the async id), tree id (or its upper half), session id, signature."""
HEADER_BYTES = HEADER.size
MAGIC = b"\xfeSMB"
TRANSFORM_MAGIC = b"\xfdSMB"
COMPRESSED_MAGIC = b"\xfcSMB"
SIGNATURE_AT = 48
NO_SIGNATURE = bytes(16)
LENGTH_BYTES = 4
"""Before each message on TCP: 0 and the length in 24 bits, big-endian (MS-SMB2 2.1)."""
NOTIFICATION_ID = 0xFFFF_FFFF_FFFF_FFFF
"""The message id of what no request asked for: oplock and lease breaks."""
CREDIT_BYTES = 65536
"""What one credit pays for (MS-SMB2 3.1.5.2)."""
PREVIOUS_HANDLE = b"\xff" * 16
"""In a related compound: the handle of the CREATE before."""
