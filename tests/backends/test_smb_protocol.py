"""The bytes of SMB2: requests field by field and as smbprotocol packs them, replies that it packs, and nonsense."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smbprotocol import create_contexts, file_info, ioctl
from smbprotocol import open as theirs
from smbprotocol.connection import SMB2Echo
from smbprotocol.header import SMB2HeaderRequest
from smbprotocol.session import SMB2Logoff

from netoverlay_smb import commands, replies
from netoverlay_smb.commands import Body
from netoverlay_smb.names import encode_utf16
from netoverlay_smb.protocol import (
    CREDIT_BYTES,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    NO_SIGNATURE,
    PREVIOUS_HANDLE,
    Command,
    Control,
    CreateOptions,
    Disposition,
    FileAccess,
    InfoClass,
    LeaseState,
    LockFlags,
    OplockLevel,
    ProtocolError,
    VolumeClass,
)
from tests.searching import attempts

HANDLE = bytes(range(0x10, 0x20))
HANDLE_HEX = HANDLE.hex()
PREVIOUS_HEX = "ff" * 16
KEY = bytes(range(0x40, 0x50))


def sent(body: Body) -> str:
    """What follows the header."""
    return (body.content + bytes(body.tail or b"")).hex()


def fields(*parts: str) -> str:
    return "".join(parts).replace(" ", "")


def info_request(kind: str, wanted: str, size: str, additional: str, handle: str) -> str:
    return fields(
        "2900",  # StructureSize: 41
        kind,  # InfoType
        wanted,  # FileInfoClass
        size,  # OutputBufferLength
        "0000",  # InputBufferOffset
        "0000",  # Reserved
        "00000000",  # InputBufferLength
        additional,  # AdditionalInformation
        "00000000",  # Flags
        handle,  # FileId
    )


def set_request(changed: str, size: str, *data: str) -> str:
    return fields(
        "2100",  # StructureSize: 33
        "01",  # InfoType: file
        changed,  # FileInfoClass
        size,  # BufferLength
        "6000",  # BufferOffset: 96
        "0000",  # Reserved
        "00000000",  # AdditionalInformation
        HANDLE_HEX,  # FileId
        *data,
    )


GOLDEN: dict[str, tuple[Body, Command, str]] = {
    "create, of the root, with nothing more": (
        commands.create(b"", FileAccess.READ_ATTRIBUTES, CreateOptions.DIRECTORY),
        Command.CREATE,
        fields(
            "3900",  # StructureSize: 57
            "00",  # SecurityFlags
            "00",  # RequestedOplockLevel: none
            "02000000",  # ImpersonationLevel: impersonation
            "0000000000000000",  # SmbCreateFlags
            "0000000000000000",  # Reserved
            "80000000",  # DesiredAccess
            "00000000",  # FileAttributes
            "07000000",  # ShareAccess: read, write, delete
            "01000000",  # CreateDisposition: open
            "01002000",  # CreateOptions: directory, open the reparse point itself
            "7800",  # NameOffset: 120
            "0000",  # NameLength
            "00000000",  # CreateContextsOffset
            "00000000",  # CreateContextsLength
            "0000",  # Buffer, which is never empty
        ),
    ),
    "create, with a lease and an oplock": (
        commands.create(
            encode_utf16("a\\b"),
            FileAccess.READ_DATA | FileAccess.DELETE,
            CreateOptions.NON_DIRECTORY,
            Disposition.CREATE,
            share=1,
            contexts=commands.lease_context(KEY, LeaseState.READ | LeaseState.HANDLE),
            oplock=OplockLevel.LEASE,
        ),
        Command.CREATE,
        fields(
            "3900",  # StructureSize: 57
            "00",  # SecurityFlags
            "ff",  # RequestedOplockLevel: lease
            "02000000",  # ImpersonationLevel
            "0000000000000000",  # SmbCreateFlags
            "0000000000000000",  # Reserved
            "01000100",  # DesiredAccess
            "00000000",  # FileAttributes
            "01000000",  # ShareAccess: read
            "02000000",  # CreateDisposition: create
            "40002000",  # CreateOptions
            "7800",  # NameOffset: 120
            "0600",  # NameLength
            "80000000",  # CreateContextsOffset: 128
            "4c000000",  # CreateContextsLength: 76
            "61005c006200 0000",  # Buffer: the name, filled up to 8
            "00000000",  # Next
            "1000",  # NameOffset: 16
            "0400",  # NameLength
            "0000",  # Reserved
            "1800",  # DataOffset: 24
            "34000000",  # DataLength: 52
            b"RqLs".hex(),  # the name of the context, filled up to 8
            "00000000",
            KEY.hex(),  # LeaseKey
            "03000000",  # LeaseState: read, handle
            "00000000",  # Flags
            "0000000000000000",  # LeaseDuration
            "00" * 16,  # ParentLeaseKey
            "0000",  # Epoch
            "0000",  # Reserved
        ),
    ),
    "close": (
        commands.close(HANDLE),
        Command.CLOSE,
        fields("1800", "0000", "00000000", HANDLE_HEX),  # StructureSize: 24, Flags, Reserved, FileId
    ),
    "close, of what was opened before": (
        commands.close(),
        Command.CLOSE,
        fields("1800", "0000", "00000000", PREVIOUS_HEX),
    ),
    "flush": (
        commands.flush(HANDLE),
        Command.FLUSH,
        fields("1800", "0000", "00000000", HANDLE_HEX),  # StructureSize: 24, Reserved1, Reserved2, FileId
    ),
    "read": (
        commands.read(HANDLE, 0x1_0203_0405, 0x2_0001),
        Command.READ,
        fields(
            "3100",  # StructureSize: 49
            "50",  # Padding: where the data is wanted, at 80
            "00",  # Flags
            "01000200",  # Length
            "0504030201000000",  # Offset
            HANDLE_HEX,  # FileId
            "00000000",  # MinimumCount
            "00000000",  # Channel
            "00000000",  # RemainingBytes
            "0000",  # ReadChannelInfoOffset
            "0000",  # ReadChannelInfoLength
            "00",  # Buffer
        ),
    ),
    "write": (
        commands.write(HANDLE, 0x1_0203_0405, memoryview(b"data!")),
        Command.WRITE,
        fields(
            "3100",  # StructureSize: 49
            "7000",  # DataOffset: 112
            "05000000",  # Length
            "0504030201000000",  # Offset
            HANDLE_HEX,  # FileId
            "00000000",  # Channel
            "00000000",  # RemainingBytes
            "0000",  # WriteChannelInfoOffset
            "0000",  # WriteChannelInfoLength
            "00000000",  # Flags
            b"data!".hex(),  # Buffer
        ),
    ),
    "query_directory": (
        commands.query_directory(HANDLE, InfoClass.ID_FULL_DIRECTORY, 0x1_0001, restart=True),
        Command.QUERY_DIRECTORY,
        fields(
            "2100",  # StructureSize: 33
            "26",  # FileInformationClass: 38
            "01",  # Flags: restart scans
            "00000000",  # FileIndex
            HANDLE_HEX,  # FileId
            "6000",  # FileNameOffset: 96
            "0200",  # FileNameLength
            "01000100",  # OutputBufferLength
            "2a00",  # Buffer: *
        ),
    ),
    "query_file": (
        commands.query_file(InfoClass.ALL, HANDLE, 0x1000),
        Command.QUERY_INFO,
        info_request("01", "12", "00100000", "00000000", HANDLE_HEX),
    ),
    "query_attribute_list": (
        commands.query_attribute_list(),
        Command.QUERY_INFO,
        info_request("01", "0f", "00fe0000", "00000000", PREVIOUS_HEX),
    ),
    "query_volume": (
        commands.query_volume(VolumeClass.FULL_SIZE, HANDLE),
        Command.QUERY_INFO,
        info_request("02", "07", "00040000", "00000000", HANDLE_HEX),
    ),
    "query_security": (
        commands.query_security(HANDLE),
        Command.QUERY_INFO,
        info_request("03", "00", "00fe0000", "07000000", HANDLE_HEX),  # owner, group, access control list
    ),
    "set_file": (
        commands.set_file(InfoClass.BASIC, b"\1\2\3", HANDLE),
        Command.SET_INFO,
        set_request("04", "03000000", "010203"),
    ),
    "rename": (
        commands.rename(encode_utf16("abc"), HANDLE, replace=True),
        Command.SET_INFO,
        set_request(
            "0a",
            "1a000000",
            "01",  # ReplaceIfExists
            "00000000000000",  # Reserved
            "0000000000000000",  # RootDirectory
            "06000000",  # FileNameLength
            "610062006300",  # FileName
        ),
    ),
    "rename, to a name of one character": (
        commands.rename(encode_utf16("a"), HANDLE, replace=False),
        Command.SET_INFO,
        set_request(
            "0a",
            "18000000",  # Windows takes no less than 24
            "00",  # ReplaceIfExists
            "00000000000000",  # Reserved
            "0000000000000000",  # RootDirectory
            "02000000",  # FileNameLength
            "6100",  # FileName
            "0000",  # Padding
        ),
    ),
    "link": (
        commands.link(encode_utf16("abc"), HANDLE),
        Command.SET_INFO,
        set_request(
            "0b",
            "1a000000",
            "00",  # ReplaceIfExists
            "00000000000000",  # Reserved
            "0000000000000000",  # RootDirectory
            "06000000",  # FileNameLength
            "610062006300",  # FileName
        ),
    ),
    "link, of a name of one character": (
        commands.link(encode_utf16("a"), HANDLE),
        Command.SET_INFO,
        set_request("0b", "18000000", "00" * 16, "02000000", "6100", "0000"),
    ),
    "delete_on_close": (
        commands.delete_on_close(HANDLE),
        Command.SET_INFO,
        set_request("0d", "01000000", "01"),  # DeletePending
    ),
    "set_size": (
        commands.set_size(0x1_0203_0405, HANDLE),
        Command.SET_INFO,
        set_request("14", "08000000", "0504030201000000"),  # EndOfFile
    ),
    "control": (
        commands.control(Control.SET_ZERO_DATA, b"\1\2", HANDLE, reply_bytes=0),
        Command.IOCTL,
        fields(
            "3900",  # StructureSize: 57
            "0000",  # Reserved
            "c8800900",  # CtlCode
            HANDLE_HEX,  # FileId
            "78000000",  # InputOffset: 120
            "02000000",  # InputCount
            "00000000",  # MaxInputResponse
            "00000000",  # OutputOffset
            "00000000",  # OutputCount
            "00000000",  # MaxOutputResponse
            "01000000",  # Flags: it is an FSCTL
            "00000000",  # Reserved2
            "0102",  # Buffer
        ),
    ),
    "request_resume_key": (
        commands.request_resume_key(HANDLE),
        Command.IOCTL,
        fields(
            "3900",  # StructureSize: 57
            "0000",  # Reserved
            "78001400",  # CtlCode
            HANDLE_HEX,  # FileId
            "78000000",  # InputOffset: 120
            "00000000",  # InputCount
            "00000000",  # MaxInputResponse
            "00000000",  # OutputOffset
            "00000000",  # OutputCount
            "00fe0000",  # MaxOutputResponse
            "01000000",  # Flags: it is an FSCTL
            "00000000",  # Reserved2
        ),
    ),
    "copy_chunks": (
        commands.copy_chunks(KEY + bytes(8), [(0x1_0203_0405, 6, 0x10_0000), (7, 8, 9)], HANDLE),
        Command.IOCTL,
        fields(
            "3900",  # StructureSize: 57
            "0000",  # Reserved
            "f2801400",  # CtlCode
            HANDLE_HEX,  # FileId
            "78000000",  # InputOffset: 120
            "50000000",  # InputCount: 80
            "00000000",  # MaxInputResponse
            "00000000",  # OutputOffset
            "00000000",  # OutputCount
            "0c000000",  # MaxOutputResponse: 12
            "01000000",  # Flags: it is an FSCTL
            "00000000",  # Reserved2
            KEY.hex() + "00" * 8,  # SourceKey
            "02000000",  # ChunkCount
            "00000000",  # Reserved
            *("0504030201000000", "0600000000000000", "00001000", "00000000"),  # SourceOffset, TargetOffset, Length,
            *("0700000000000000", "0800000000000000", "09000000", "00000000"),  # Reserved
        ),
    ),
    "lock": (
        commands.lock(
            HANDLE,
            [
                commands.LockElement(0x0102030405, 6, LockFlags.EXCLUSIVE | LockFlags.FAIL_IMMEDIATELY),
                commands.LockElement(7, 8, LockFlags.UNLOCK),
            ],
        ),
        Command.LOCK,
        fields(
            "3000",  # StructureSize: 48
            "0200",  # LockCount
            "00000000",  # LockSequenceNumber, LockSequenceIndex
            HANDLE_HEX,  # FileId
            *("0504030201000000", "0600000000000000", "12000000", "00000000"),  # Offset, Length, Flags, Reserved
            *("0700000000000000", "0800000000000000", "04000000", "00000000"),
        ),
    ),
    "echo": (commands.echo(), Command.ECHO, fields("0400", "0000")),  # StructureSize: 4, Reserved
    "logoff": (commands.logoff(), Command.LOGOFF, fields("0400", "0000")),
    "acknowledge_oplock": (
        commands.acknowledge_oplock(HANDLE, OplockLevel.LEVEL_II),
        Command.OPLOCK_BREAK,
        # StructureSize: 24, OplockLevel, Reserved, Reserved2, FileId
        fields("1800", "01", "00", "00000000", HANDLE_HEX),
    ),
    "acknowledge_lease": (
        commands.acknowledge_lease(KEY, LeaseState.READ),
        Command.OPLOCK_BREAK,
        # StructureSize: 36, Reserved, Flags, LeaseKey, LeaseState, LeaseDuration
        fields("2400", "0000", "00000000", KEY.hex(), "01000000", "0000000000000000"),
    ),
}


@pytest.mark.parametrize("what", GOLDEN)
def test_a_request_is_as_the_standard_has_it(what):
    body, command, expected = GOLDEN[what]
    assert sent(body) == expected
    assert body.command == command


def test_every_request_is_looked_at():
    makers = {
        name
        for name, member in vars(commands).items()
        if callable(member) and getattr(member, "__annotations__", {}).get("return") == "Body" and name[0] != "_"
    }
    assert makers == {what.partition(",")[0] for what in GOLDEN}


def filled(structure: Any, **values: Any) -> Any:
    for name, value in values.items():
        structure[name] = value
    return structure


def their_create() -> Any:
    # One whose data fills eight bytes: smbprotocol pads the last context, which needs none.
    context = filled(create_contexts.SMB2CreateContextRequest(), buffer_name=b"DHnQ", buffer_data=bytes(16))
    return filled(
        theirs.SMB2CreateRequest(),
        requested_oplock_level=0xFF,
        impersonation_level=2,
        desired_access=0x81,
        share_access=7,
        create_disposition=1,
        create_options=0x20_0040,
        buffer_path=encode_utf16("directory\\name"),
        buffer_contexts=[context],
    )


def their_rename() -> Any:
    return filled(file_info.FileRenameInformation(), replace_if_exists=True, file_name="dir\\n\u00e4me")


SAME_AS_THEIRS: dict[str, tuple[Body, Any]] = {
    "create": (
        commands.create(
            encode_utf16("directory\\name"),
            FileAccess.READ_DATA | FileAccess.READ_ATTRIBUTES,
            CreateOptions.NON_DIRECTORY,
            contexts=commands.create_context(b"DHnQ", bytes(16)),
            oplock=OplockLevel.LEASE,
        ),
        their_create(),
    ),
    "close": (commands.close(HANDLE), filled(theirs.SMB2CloseRequest(), file_id=HANDLE)),
    "flush": (commands.flush(HANDLE), filled(theirs.SMB2FlushRequest(), file_id=HANDLE)),
    "read": (
        commands.read(HANDLE, 7, 70_000),
        filled(theirs.SMB2ReadRequest(), padding=0x50, length=70_000, offset=7, file_id=HANDLE),
    ),
    "write": (
        commands.write(HANDLE, 7, b"x" * 70_000),
        filled(theirs.SMB2WriteRequest(), offset=7, file_id=HANDLE, buffer=b"x" * 70_000),
    ),
    "query_directory": (
        commands.query_directory(HANDLE, InfoClass.ID_BOTH_DIRECTORY, 9000),
        filled(
            theirs.SMB2QueryDirectoryRequest(),
            file_information_class=37,
            file_id=HANDLE,
            output_buffer_length=9000,
            buffer=encode_utf16("*"),
        ),
    ),
    "query_file": (
        commands.query_file(InfoClass.ALL, HANDLE, 4096),
        filled(
            theirs.SMB2QueryInfoRequest(), info_type=1, file_info_class=18, output_buffer_length=4096, file_id=HANDLE
        ),
    ),
    "query_security": (
        commands.query_security(HANDLE),
        filled(
            theirs.SMB2QueryInfoRequest(),
            info_type=3,
            output_buffer_length=65024,
            additional_information=7,
            file_id=HANDLE,
        ),
    ),
    "rename": (
        commands.rename(encode_utf16("dir\\n\u00e4me"), HANDLE, replace=True),
        filled(
            theirs.SMB2SetInfoRequest(), info_type=1, file_info_class=10, file_id=HANDLE, buffer=their_rename().pack()
        ),
    ),
    "control": (
        commands.control(Control.SET_SPARSE, b"\1", HANDLE, reply_bytes=100),
        filled(
            ioctl.SMB2IOCTLRequest(),
            ctl_code=0x9_00C4,
            file_id=HANDLE,
            output_offset=0,
            max_output_response=100,
            flags=1,
            buffer=b"\1",
        ),
    ),
    "copy_chunks": (
        commands.copy_chunks(KEY + bytes(8), [(1 << 32, 6, 0x10_0000)], HANDLE),
        filled(
            ioctl.SMB2IOCTLRequest(),
            ctl_code=0x14_80F2,
            file_id=HANDLE,
            output_offset=0,
            max_output_response=12,
            flags=1,
            buffer=filled(
                ioctl.SMB2SrvCopyChunkCopy(),
                source_key=KEY + bytes(8),
                chunks=[filled(ioctl.SMB2SrvCopyChunk(), source_offset=1 << 32, target_offset=6, length=0x10_0000)],
            ),
        ),
    ),
    "echo": (commands.echo(), SMB2Echo()),
    "logoff": (commands.logoff(), SMB2Logoff()),
}


@pytest.mark.parametrize("what", SAME_AS_THEIRS)
def test_a_request_is_as_smbprotocol_packs_it(what):
    body, structure = SAME_AS_THEIRS[what]
    assert sent(body) == structure.pack().hex()
    assert body.command == structure.COMMAND


def test_a_lease_is_asked_for_as_smbprotocol_packs_it():
    lease = filled(
        create_contexts.SMB2CreateRequestLeaseV2(),
        lease_key=KEY,
        lease_state=7,
        parent_lease_key=bytes(16),
        epoch=b"\0\0",
    )
    assert commands.lease_context(KEY, LeaseState(7)) == commands.create_context(b"RqLs", lease.pack())


def test_the_header_is_as_smbprotocol_packs_it():
    structure = filled(
        SMB2HeaderRequest(),
        credit_charge=3,
        command=8,
        credit_request=64,
        flags=0xC,
        next_command=104,
        message_id=0x1122_3344_5566_7788,
        process_id=0,
        tree_id=0x99AA_BBCC,
        session_id=0xDDEE_FF00_1122_3344,
        signature=bytes(range(16)),
    )
    ids = (0x1122_3344_5566_7788, 0, 0x99AA_BBCC, 0xDDEE_FF00_1122_3344)
    assert HEADER.pack(MAGIC, 64, 3, 0, 8, 64, 0xC, 104, *ids, bytes(range(16))) == structure.pack()
    assert (HEADER.size, HEADER_BYTES, len(NO_SIGNATURE)) == (64, 64, 16)


@pytest.mark.parametrize(
    ("size", "charge"),
    [(0, 1), (1, 1), (CREDIT_BYTES, 1), (CREDIT_BYTES + 1, 2), (1 << 20, 16), (8 << 20, 128)],
)
def test_what_a_request_costs(size, charge):
    assert commands.charge_of(size) == charge
    assert commands.read(HANDLE, 0, size).charge == charge
    assert commands.write(HANDLE, 0, bytes(size)).charge == charge
    assert commands.query_directory(HANDLE, InfoClass.ID_FULL_DIRECTORY, size).charge == charge
    assert commands.control(Control.GET_REPARSE_POINT, reply_bytes=size).charge == charge
    assert commands.control(Control.SET_SPARSE, bytes(size), reply_bytes=0).charge == charge


def test_a_context_without_data_has_no_place_for_it():
    # Next, NameOffset: 16, NameLength: 4, Reserved, DataOffset, DataLength, the name filled up to 8
    assert commands.create_context(b"QFid", b"").hex() == fields(
        "00000000", "1000", "0400", "0000", "0000", "00000000", b"QFid".hex(), "00000000"
    )


# Replies.

WHEN = datetime(2020, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
WHEN_TICKS = 132_224_078_456_789_010
WHEN_NS = 1_577_934_245_678_901_000
TIMES = (0, WHEN_TICKS + 1, WHEN_TICKS, WHEN_TICKS + 2)
"""Creation, access, modification, change."""
TIMES_NS = (WHEN_NS, WHEN_NS + 100, WHEN_NS + 200)
"""Modification, access, change."""


def context(name: bytes, data: bytes, *, last: bool = True) -> bytes:
    made = commands.create_context(name, data)
    if last:
        return made
    made += bytes(-len(made) % 8)
    return len(made).to_bytes(4, "little") + made[4:]


CONTEXTS = context(b"QFid", b"x" * 32, last=False) + context(b"AAPL", b"", last=False) + context(b"long name", b"y" * 7)


def created_reply(contexts: bytes = CONTEXTS) -> bytes:
    fixed = struct.pack(
        "<HBBIQQQQQQII16sII",
        89,  # StructureSize
        9,  # OplockLevel: batch
        0,  # Flags
        2,  # CreateAction: created
        *TIMES,
        4096,  # AllocationSize
        5,  # EndofFile
        0x20,  # FileAttributes
        0,  # Reserved2
        HANDLE,
        152 if contexts else 0,  # CreateContextsOffset
        len(contexts),
    )
    return fixed + contexts


def all_information(name: str = "\\a") -> bytes:
    path = encode_utf16(name)
    return (
        struct.pack(
            "<QQQQIIQQIBBHQIIQIII",
            *TIMES,
            0x21,  # FileAttributes
            0,  # Reserved
            8192,  # AllocationSize
            5000,  # EndOfFile
            2,  # NumberOfLinks
            0,  # DeletePending
            0,  # Directory
            0,  # Reserved
            0x1122_3344_5566_7788,  # IndexNumber
            0,  # EaSize
            0x12_0089,  # AccessFlags
            0,  # CurrentByteOffset
            0,  # Mode
            0,  # AlignmentRequirement
            len(path),  # FileNameLength
        )
        + path
    )


def full_entry(name: bytes, *, following: int | None = None, claimed: int | None = None, number: int = 7) -> bytes:
    size = 80 + len(name)
    padded = size + -size % 8
    fixed = struct.pack(
        "<IIQQQQQQIIIIQ",
        padded if following is None else following,  # NextEntryOffset
        0,  # FileIndex
        *TIMES,
        5,  # EndOfFile
        4096,  # AllocationSize
        0x400,  # FileAttributes: reparse point
        len(name) if claimed is None else claimed,  # FileNameLength
        0xA000_000C,  # EaSize, or the reparse tag
        0,  # Reserved
        number,  # FileId
    )
    return (fixed + name).ljust(padded, b"\0")


def both_entry(name: bytes, *, following: int | None = None, claimed: int | None = None, mode: int = 0o100644) -> bytes:
    size = 104 + len(name)
    padded = size + -size % 8
    fixed = struct.pack(
        "<IIQQQQQQIIIBB24sHQ",
        padded if following is None else following,  # NextEntryOffset
        0,  # FileIndex
        *TIMES,
        5,  # EndOfFile
        4096,  # AllocationSize
        0x10,  # FileAttributes: directory
        len(name) if claimed is None else claimed,  # FileNameLength
        0,  # EaSize
        2,  # ShortNameLength
        0,  # Reserved1
        b"A\0",  # ShortName
        mode,  # Reserved2
        7,  # FileId
    )
    return (fixed + name).ljust(padded, b"\0")


def listing(entry: Callable[..., bytes]) -> bytes:
    names = [encode_utf16(name) for name in (".", "\u00e4\U0001f600", "third")]
    return entry(names[0]) + entry(names[1]) + entry(names[2], following=0)[: -len("\0")]


def test_what_was_opened():
    told = replies.created(created_reply())
    assert told == (HANDLE, 9, 2, 0x20, CONTEXTS)
    assert list(replies.create_contexts(told.contexts)) == [
        (b"QFid", b"x" * 32),
        (b"AAPL", b""),
        (b"long name", b"y" * 7),
    ]
    assert replies.created(created_reply(b"")).contexts == b""
    assert list(replies.create_contexts(b"")) == []


def test_what_was_opened_as_smbprotocol_packs_it():
    lease = filled(
        create_contexts.SMB2CreateResponseLeaseV2(),
        lease_key=KEY,
        lease_state=3,
        parent_lease_key=bytes(16),
        epoch=b"\0\0",
    )
    packed = filled(create_contexts.SMB2CreateContextRequest(), buffer_name=b"RqLs", buffer_data=lease)
    structure = filled(
        theirs.SMB2CreateResponse(),
        oplock_level=0xFF,
        create_action=1,
        file_attributes=0x10,
        file_id=HANDLE,
        buffer=[packed],
    )
    told = replies.created(structure.pack())
    assert told[:4] == (HANDLE, 0xFF, 1, 0x10)
    ((name, data),) = replies.create_contexts(told.contexts)
    assert (name, data[:20]) == (b"RqLs", KEY + b"\3\0\0\0")


def test_what_was_read():
    structure = filled(theirs.SMB2ReadResponse(), data_offset=80, buffer=b"payload")
    assert replies.read_payload(structure.pack()) == (80, 7)
    assert replies.read_data(structure.pack()) == b"payload"


def test_what_was_written():
    assert replies.written(filled(theirs.SMB2WriteResponse(), count=70_000).pack()) == 70_000
    assert replies.written(b"\x11\0") == 0


@pytest.mark.parametrize("kind", [theirs.SMB2QueryInfoResponse, theirs.SMB2QueryDirectoryResponse])
def test_what_was_found(kind):
    assert replies.info(filled(kind(), buffer=b"found").pack()) == b"found"


def test_what_came_of_a_control():
    structure = filled(
        ioctl.SMB2IOCTLResponse(),
        ctl_code=0x9_00A8,
        file_id=HANDLE,
        output_offset=112,
        output_count=6,
        buffer=b"output",
    )
    assert replies.controlled(structure.pack()) == b"output"


def test_what_there_is_to_know_of_a_file():
    facts = replies.all_information(all_information())
    assert (facts.mtime_ns, facts.atime_ns, facts.ctime_ns) == TIMES_NS
    assert facts[3:] == (5000, 8192, 0x21, 0x1122_3344_5566_7788, 2, 0)
    assert replies.name_of_all(all_information("\\d\\\u00e4")) == "\\d\\\u00e4"


def test_how_many_links_a_file_has():
    assert replies.link_count(VALID[replies.link_count]) == 2


def test_what_is_listed():
    found = replies.listed(listing(full_entry))
    assert [entry.name for entry in found] == [".", "\u00e4\U0001f600", "third"]
    facts = found[1].facts
    assert (facts.mtime_ns, facts.atime_ns, facts.ctime_ns) == TIMES_NS
    assert facts[3:] == (5, 4096, 0x400, 7, None, None)
    assert (found[1].reparse_tag, found[1].unix_mode) == (0xA000_000C, 0)
    assert replies.listed(b"") == []


def test_what_is_listed_with_modes():
    found = replies.listed_with_modes(listing(both_entry))
    assert [entry.name for entry in found] == [".", "\u00e4\U0001f600", "third"]
    facts = found[2].facts
    assert (facts.mtime_ns, facts.atime_ns, facts.ctime_ns) == TIMES_NS
    assert facts[3:] == (5, 4096, 0x10, 7, None, None)
    assert facts.is_directory
    assert (found[2].reparse_tag, found[2].unix_mode) == (0, 0o100644)
    assert replies.listed_with_modes(b"") == []


def test_an_entry_is_as_smbprotocol_packs_it():
    values = {
        "creation_time": WHEN,
        "last_access_time": WHEN,
        "last_write_time": WHEN,
        "change_time": WHEN,
        "end_of_file": 5,
        "allocation_size": 4096,
        "file_attributes": 0x20,
        "file_id": 9,
        "file_name": encode_utf16("n\u00e4me"),
    }
    full = filled(file_info.FileIdFullDirectoryInformation(), **values)
    both = filled(file_info.FileIdBothDirectoryInformation(), **values)
    for (entry,), ea_size in ((replies.listed(full.pack()), 0), (replies.listed_with_modes(both.pack()), None)):
        assert entry.name == "n\u00e4me"
        assert entry.facts == (WHEN_NS, WHEN_NS, WHEN_NS, 5, 4096, 0x20, 9, None, ea_size)


def test_what_a_volume_is():
    # FileSystemAttributes, MaximumComponentNameLength, FileSystemNameLength, FileSystemName
    data = bytes.fromhex("8f000000ff00000008000000") + encode_utf16("NTFS")
    assert replies.volume(data) == (0x8F, 255, "NTFS")
    # Total, CallerAvailable and ActualAvailable units, SectorsPerAllocationUnit, BytesPerSector
    assert replies.volume_size(struct.pack("<QQQII", 100, 40, 50, 8, 512)) == (409_600, 163_840, 204_800, 4096)


def test_what_is_allocated():
    assert replies.ranges(struct.pack("<QQQQ", 0, 4096, 1 << 40, 1)) == [(0, 4096), (1 << 40, 1)]
    assert replies.ranges(b"") == []


def ioctl_reply(output: bytes) -> bytes:
    return struct.pack("<HHI16sIIIIII", 49, 0, 0x14_80F2, HANDLE, 112, 0, 112, len(output), 0, 0) + output


def test_a_copy_that_the_server_makes():
    key = filled(ioctl.SMB2SrvRequestResumeKey(), resume_key=KEY + b"12345678", context=b"")
    assert replies.resume_key(ioctl_reply(key.pack())) == KEY + b"12345678"
    done = filled(
        ioctl.SMB2SrvCopyChunkResponse(), chunks_written=3, chunk_bytes_written=4, total_bytes_written=0x10_0000
    )
    assert replies.copied(ioctl_reply(done.pack())) == (3, 4, 0x10_0000)


def test_a_broken_oplock_and_a_broken_lease():
    # StructureSize: 24, OplockLevel, Reserved, Reserved2, FileId
    oplock = bytes.fromhex(fields("1800", "01", "00", "00000000", HANDLE_HEX))
    assert replies.broken(oplock) == replies.OplockBreak(HANDLE, 1)
    for flags, must_acknowledge in (("01000000", True), ("00000000", False)):
        lease = fields(
            "2c00",  # StructureSize: 44
            "0200",  # NewEpoch
            flags,  # whether an acknowledgement is required
            KEY.hex(),  # LeaseKey
            "07000000",  # CurrentLeaseState
            "03000000",  # NewLeaseState
            "00000000",  # BreakReason
            "00000000",  # AccessMaskHint
            "00000000",  # ShareMaskHint
        )
        assert replies.broken(bytes.fromhex(lease)) == replies.LeaseBreak(KEY, 3, must_acknowledge)


def test_times_there_and_back():
    assert replies.to_ns(WHEN_TICKS) == WHEN_NS
    assert replies.to_ticks(WHEN_NS + 99) == WHEN_TICKS
    assert replies.to_ns(replies.to_ticks(-1)) == -100
    assert replies.to_ticks(-(10**30)) == 1


# Nonsense.


def chained(data: bytes) -> list[tuple[bytes, bytes]]:
    return list(replies.create_contexts(data))


VALID: dict[Callable[[bytes], Any], bytes] = {
    replies.created: created_reply(),
    chained: CONTEXTS,
    replies.read_payload: struct.pack("<HBBIII", 17, 80, 0, 4, 0, 0) + b"data",
    replies.read_data: struct.pack("<HBBIII", 17, 80, 0, 4, 0, 0) + b"data",
    replies.written: struct.pack("<HHI", 17, 0, 5) + bytes(8),
    replies.info: struct.pack("<HHI", 9, 72, 5) + b"found",
    replies.controlled: struct.pack("<HHI16sIIIIII", 49, 0, 0x9_00A8, HANDLE, 112, 0, 112, 4, 0, 0) + b"data",
    replies.resume_key: ioctl_reply(KEY + bytes(16)),
    replies.copied: ioctl_reply(struct.pack("<III", 3, 4, 5)),
    replies.all_information: all_information(),
    replies.name_of_all: all_information(),
    replies.link_count: struct.pack("<QQIBBH", 8192, 5000, 2, 0, 0, 0),
    replies.listed: listing(full_entry),
    replies.listed_with_modes: listing(both_entry),
    replies.volume: bytes.fromhex("8f000000ff00000008000000") + encode_utf16("NTFS"),
    replies.volume_size: struct.pack("<QQQII", 100, 40, 50, 8, 512),
    replies.ranges: struct.pack("<QQ", 0, 4096),
    replies.broken: struct.pack("<HHI16sII", 44, 0, 1, KEY, 7, 3) + bytes(12),
}


def test_every_parser_is_looked_at():
    parsers = {
        member
        for name, member in vars(replies).items()
        if callable(member) and not isinstance(member, type) and getattr(member, "__module__", "") == replies.__name__
        if name[0] != "_" and name not in ("to_ns", "to_ticks", "create_contexts")
    }
    assert parsers == VALID.keys() - {chained}


@pytest.mark.parametrize("parse", VALID, ids=lambda parse: parse.__name__)
@given(body=st.binary(max_size=300))
def test_nonsense_raises_nothing_but_what_callers_expect(parse, body):
    with suppress(ProtocolError, ValueError):
        parse(body)


@pytest.mark.parametrize("parse", VALID, ids=lambda parse: parse.__name__)
@settings(max_examples=attempts(100), deadline=None)
@given(data=st.data())
def test_a_spoilt_reply_raises_nothing_but_what_callers_expect(parse, data):
    body = bytearray(VALID[parse])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        new = data.draw(st.sampled_from([0, 1, 8, 16, 0x7F, 0x80, 0xFF]))
        body[at : at + data.draw(st.sampled_from([1, 2, 4]))] = bytes([new])
    with suppress(ProtocolError, ValueError):
        parse(bytes(body))


@pytest.mark.parametrize("parse", VALID, ids=lambda parse: parse.__name__)
def test_a_reply_that_ends_too_early_raises_nothing_but_what_callers_expect(parse):
    for end in range(len(VALID[parse])):
        with suppress(ProtocolError, ValueError):
            parse(VALID[parse][:end])


CUT_OFF = {
    replies.created: range(len(created_reply())),
    chained: range(1, len(CONTEXTS)),
    replies.read_data: range(len(VALID[replies.read_data])),
    replies.info: range(len(VALID[replies.info])),
    replies.controlled: range(len(VALID[replies.controlled])),
    replies.resume_key: range(len(VALID[replies.resume_key]) - 8),
    replies.copied: range(len(VALID[replies.copied])),
    replies.all_information: range(72),
    replies.link_count: range(20),
    replies.listed: range(1, len(listing(full_entry)) - 5),
    replies.listed_with_modes: range(1, len(listing(both_entry)) - 5),
    replies.volume_size: range(32),
    replies.broken: range(24),
}


@pytest.mark.parametrize("parse", CUT_OFF, ids=lambda parse: parse.__name__)
def test_what_is_cut_off_is_never_taken_for_whole(parse):
    for end in CUT_OFF[parse]:
        with pytest.raises(ProtocolError):
            parse(VALID[parse][:end])


@pytest.mark.parametrize("offset", [0, 63, 72, 0xFFFF])
def test_a_part_that_lies_outside_of_its_reply_is_refused(offset):
    body = struct.pack("<HHI", 9, offset, 5) + b"foun"
    with pytest.raises(ProtocolError):
        replies.info(body)


# A chain whose entries overlap would make a few kilobytes into gigabytes of names, or hours of work.

OVERLAPS = {
    "an entry that begins in the one before": lambda entry: entry(b"a\0" * 400, following=8) * 3,
    "one that begins at the next byte": lambda entry: entry(b"a\0" * 400, following=1) + bytes(100),
    "one that begins in the fixed part": lambda entry: entry(b"", following=40) * 10,
    "one that begins within the name": lambda entry: entry(b"a\0" * 40, following=len(entry(b"")) + 8) * 3,
    "a name that goes on in the next entry": lambda entry: entry(b"a\0" * 4, claimed=400) * 10,
    "a name that goes on behind the end": lambda entry: entry(b"a\0" * 4, following=0, claimed=400),
    "an entry that begins behind the end": lambda entry: entry(b"a\0" * 4, following=0xFFFF_FFF8),
    "an entry that begins at the end": lambda entry: entry(b"a\0" * 4),
}


@pytest.mark.parametrize("what", OVERLAPS)
@pytest.mark.parametrize(
    ("parse", "entry"), [(replies.listed, full_entry), (replies.listed_with_modes, both_entry)], ids=["full", "both"]
)
def test_entries_of_a_listing_do_not_overlap(parse, entry, what):
    with pytest.raises(ProtocolError):
        parse(OVERLAPS[what](entry))


@given(chain=st.lists(st.tuples(st.sampled_from([0, 1, 8, 80, 88, 104, 112]), st.integers(0, 300)), max_size=20))
def test_a_listing_is_never_larger_than_what_was_sent(chain):
    for parse, entry in ((replies.listed, full_entry), (replies.listed_with_modes, both_entry)):
        data = b"".join(entry(b"a\0" * 4, following=following, claimed=claimed) for following, claimed in chain)
        with suppress(ProtocolError, ValueError):
            assert sum(80 + 2 * len(each.name) for each in parse(data)) <= len(data)


def header_of_context(following: int, name_at: int, name: int, data_at: int, data: int) -> bytes:
    return struct.pack("<IHHHHI", following, name_at, name, 0, data_at, data)


@pytest.mark.parametrize(
    "data",
    [
        header_of_context(1, 16, 4, 24, 4) + bytes(100),
        header_of_context(8, 16, 4, 24, 4) * 5,
        header_of_context(24, 16, 4, 24, 100) + bytes(8) + header_of_context(0, 16, 4, 24, 90) + bytes(100),
        header_of_context(0, 16, 4, 24, 9) + bytes(16),
        header_of_context(0, 16, 9, 0, 0) + bytes(8),
        header_of_context(0, 0xFFFF, 4, 0, 0) + bytes(8),
        header_of_context(0, 16, 4, 0xFFFF, 4) + bytes(8),
        header_of_context(24, 16, 4, 0, 0) + bytes(8),
        header_of_context(0xFFFF_FFF8, 16, 4, 0, 0) + bytes(8),
    ],
)
def test_contexts_do_not_overlap(data):
    with pytest.raises(ProtocolError):
        chained(data)


def test_the_handle_of_the_create_before_is_all_ones():
    assert PREVIOUS_HANDLE.hex() == PREVIOUS_HEX


def test_a_reparse_point_is_opened_itself_unless_asked_otherwise():
    """CreateOptions are the bytes 40 to 43: FILE_OPEN_REPARSE_POINT is 0x00200000 (MS-SMB2 2.2.13)."""
    for through, expected in ((False, "40002000"), (True, "40000000")):
        body = commands.create(b"a\0", FileAccess.READ_DATA, CreateOptions.NON_DIRECTORY, through=through)
        assert body.content[40:44].hex() == expected
