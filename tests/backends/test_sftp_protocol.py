"""The bytes of SFTP: known packets, round trips, and nonsense from a server."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netoverlay.backend_api import FileType
from netoverlay_sftp import protocol
from netoverlay_sftp.protocol import Attributes, Extension, OpenFlags, ProtocolError

UINT32 = st.integers(0, 0xFFFFFFFF)
PAIRS = st.one_of(st.just((None, None)), st.tuples(UINT32, UINT32))


def test_an_open_request_is_as_the_draft_says():
    body = protocol.pack_open(b"/a", OpenFlags.WRITE | OpenFlags.CREATE | OpenFlags.EXCLUSIVE, 0o640)
    assert body == bytes.fromhex("000000022f610000002a00000004000001a0")


def test_a_copy_request_is_as_openssh_says():
    handle, other = protocol.pack_string(b"h"), protocol.pack_string(b"o")
    body = protocol.pack_extended(Extension.COPY_DATA, protocol.pack_copy(handle, 1, 2, other, 3))
    assert body == bytes.fromhex(
        "00000009" + b"copy-data".hex() + "000000016800000000000000010000000000000002000000016f0000000000000003"
    )


@given(
    size=st.one_of(st.none(), st.integers(0, 2**64 - 1)), owner=PAIRS, mode=st.one_of(st.none(), UINT32), times=PAIRS
)
def test_attributes_come_back_as_they_were_sent(size, owner, mode, times):
    sent = Attributes(size, *owner, mode, *times)
    assert protocol.unpack_attributes(protocol.pack_attributes(sent)) == sent


@pytest.mark.parametrize("half", [Attributes(uid=1), Attributes(gid=1), Attributes(atime=1), Attributes(mtime=1)])
def test_half_a_pair_cannot_be_sent(half):
    with pytest.raises(ValueError, match="one value"):
        protocol.pack_attributes(half)


def test_extended_attributes_of_other_servers_are_skipped():
    pairs = protocol.pack_strings(b"acl@example", b"x", b"other", b"")
    body = struct.pack(">III", 0x80000004, 0o100644, 2) + pairs
    assert protocol.unpack_attributes(body) == Attributes(permissions=0o100644)


def name_packet(*names: bytes) -> bytes:
    attributes = protocol.pack_attributes(Attributes(5, 1, 2, 0o100600, 3, 4))
    return struct.pack(">I", len(names)) + b"".join(protocol.pack_strings(name, b"long") + attributes for name in names)


def test_names_are_bytes():
    listed = protocol.unpack_names(name_packet(b"\xff\xfe", b"a"))
    assert [entry.name for entry in listed] == [b"\xff\xfe", b"a"]
    assert listed[1].attributes == Attributes(5, 1, 2, 0o100600, 3, 4)


UNPACKERS = [
    protocol.unpack_attributes,
    protocol.unpack_names,
    protocol.unpack_handle,
    protocol.unpack_status,
    protocol.unpack_limits,
    protocol.unpack_volume_status,
    protocol.unpack_version,
]


@pytest.mark.parametrize("unpack", UNPACKERS)
@given(body=st.binary(max_size=200))
def test_nonsense_raises_nothing_but_a_protocol_error(unpack, body):
    with suppress(ProtocolError):
        unpack(body)


@pytest.mark.parametrize("cut", range(4, len(name_packet(b"name")) - 1))
def test_a_packet_that_ends_too_early_is_refused(cut):
    with pytest.raises(ProtocolError):
        protocol.unpack_names(name_packet(b"name")[:cut])


def test_a_count_of_billions_ends_with_the_packet():
    with pytest.raises(ProtocolError):
        protocol.unpack_names(struct.pack(">I", 0xFFFFFFFF) + name_packet(b"a")[4:])


@pytest.mark.parametrize(
    "missing",
    [
        Attributes(1, 1, 1, None, 1, 1),
        Attributes(None, 1, 1, 0o100644, 1, 1),
        Attributes(1, 1, 1, 0o100644, None, None),
        Attributes(1, 1, 1, 0o644, 1, 1),
    ],
)
def test_attributes_without_the_essential_are_refused(missing):
    with pytest.raises(ProtocolError):
        protocol.file_stat(missing)


def test_a_stat_without_an_owner_says_so():
    found = protocol.file_stat(Attributes(1, None, None, 0o104755, 2, 3))
    assert (found.type, found.mode, found.uid, found.gid) == (FileType.REGULAR, 0o4755, None, None)
    assert (found.atime_ns, found.mtime_ns) == (2_000_000_000, 3_000_000_000)


@pytest.mark.parametrize(
    ("long_name", "links"),
    [
        (b"-rw-r--r--    2 root     root            3 Nov 23 12:00 a", 2),
        (b"drwxr-xr-x   12 0        0            4096 Nov 23 12:00 b", 12),
        (b"-rw-r--r--   ? root", None),
        (b"", None),
        (b"x 3", None),
    ],
)
def test_the_link_count_is_the_second_column(long_name, links):
    assert protocol.link_count(long_name) == links
