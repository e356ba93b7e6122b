"""Owners and modes out of security descriptors: those of a real Samba, field by field, and nonsense."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netoverlay_smb.security import MalformedDescriptorError, Ownership, ownership_of

# Recorded from Samba 4.17.12.
OTHERS_0604 = bytes.fromhex(
    "01 00 0490"  # revision 1; DACL present, protected, self-relative
    "14000000 24000000 00000000 34000000"  # where the owner, the group, no SACL and the DACL are
    "0102000000000016 01000000 d2040000"  # owner S-1-22-1-1234
    "0102000000000016 02000000 29090000"  # group S-1-22-2-2345
    "0200 4c00 0300 0000"  # ACL of revision 2, 76 bytes, 3 ACEs
    "00 00 1800 9f011200 0102000000000016 01000000 d2040000"  # the owner is allowed to read and write
    "00 00 1800 00000000 0102000000000016 02000000 29090000"  # the group is allowed nothing
    "00 00 1400 89001200 0101000000000001 00000000"  # everyone is allowed to read
)
MAPPED_0000 = bytes.fromhex(
    "01 00 0490"
    "14000000 30000000 00000000 40000000"
    "0105000000000005 15000000 4e366f81 06e17022 060001f0 e8030000"  # owner S-1-5-21-...-1000: the server's root
    "0102000000000016 02000000 00000000"  # group S-1-22-2-0
    "0200 5800 0300 0000"
    "00 00 2400 00000000 0105000000000005 15000000 4e366f81 06e17022 060001f0 e8030000"  # nothing for the owner,
    "00 00 1800 00000000 0102000000000016 02000000 00000000"  # the group
    "00 00 1400 00000000 0101000000000001 00000000"  # and everyone
)
DIRECTORY_0755_OF_ACL_XATTR = bytes.fromhex(
    "01 00 0480"
    "14000000 30000000 00000000 40000000"
    "0105000000000005 15000000 4e366f81 06e17022 060001f0 e8030000"
    "0102000000000016 02000000 00000000"
    "0200 9400 0600 0000"  # 6 ACEs
    "00 00 2400 ff011f00 0105000000000005 15000000 4e366f81 06e17022 060001f0 e8030000"  # everything for the owner
    "00 00 1800 a9001200 0102000000000016 02000000 00000000"  # reading and traversing for the group
    "00 00 1400 a9001200 0101000000000001 00000000"  # and everyone
    "00 0b 1400 ff011f00 0101000000000003 00000000"  # for what is made in it: CREATOR OWNER,
    "00 0b 1400 a9001200 0101000000000003 01000000"  # CREATOR GROUP
    "00 0b 1400 a9001200 0101000000000001 00000000"  # and everyone
)
APPLE_0640 = bytes.fromhex(
    "01 00 0490"
    "14000000 24000000 00000000 34000000"
    "0102000000000016 01000000 d2040000"
    "0102000000000016 02000000 29090000"
    "0200 a000 0600 0000"
    "00 00 1800 9f011200 0102000000000016 01000000 d2040000"
    "00 00 1800 89001200 0102000000000016 02000000 29090000"
    "00 00 1400 00000000 0101000000000001 00000000"
    "01 00 1c00 00000000 0103000000000005 58000000 03000000 a0810000"  # denying nothing to S-1-5-88-3-0100640
    "01 00 1c00 00000000 0103000000000005 58000000 01000000 d2040000"  # S-1-5-88-1-1234
    "01 00 1c00 00000000 0103000000000005 58000000 02000000 29090000"  # S-1-5-88-2-2345
)
RECORDED = {
    "others-0604": (OTHERS_0604, Ownership(1234, 2345, 0o604)),
    "mapped-0000": (MAPPED_0000, Ownership(None, 0, 0o000)),
    "directory-0755": (DIRECTORY_0755_OF_ACL_XATTR, Ownership(None, 0, 0o755)),
    "apple-0640": (APPLE_0640, Ownership(1234, 2345, 0o640)),
}

EVERYONE = (1, 0)
AUTHENTICATED_USERS = (5, 11)
CREATOR_OWNER = (3, 0)
OWNER = (5, 21, 1, 2, 3, 1001)
GROUP = (5, 21, 1, 2, 3, 513)
SOMEBODY = (5, 21, 1, 2, 3, 1002)
ALLOW, DENY = 0, 1
INHERIT_ONLY = 0x08
READ, WRITE, EXECUTE, EVERYTHING = 0x120089, 0x120116, 0x1200A0, 0x1F01FF


def sid(authority: int, *numbers: int) -> bytes:
    return struct.pack(f"<BB6s{len(numbers)}I", 1, len(numbers), authority.to_bytes(6, "big"), *numbers)


def ace(kind: int, mask: int, who: tuple[int, ...], flags: int = 0) -> bytes:
    packed = sid(*who)
    return struct.pack("<BBHI", kind, flags, 8 + len(packed), mask) + packed


def descriptor(*aces: bytes, owner: tuple[int, ...] | None = OWNER, group: tuple[int, ...] | None = GROUP) -> bytes:
    packed_owner, packed_group = (sid(*who) if who else b"" for who in (owner, group))
    dacl = struct.pack("<BBHHH", 2, 0, 8 + len(b"".join(aces)), len(aces), 0) + b"".join(aces)
    group_at = 20 + len(packed_owner)
    dacl_at = group_at + len(packed_group)
    header = struct.pack("<BBHIIII", 1, 0, 0x8004, 20 if owner else 0, group_at if group else 0, 0, dacl_at)
    return header + packed_owner + packed_group + dacl


@pytest.mark.parametrize(("recorded", "told"), RECORDED.values(), ids=RECORDED)
def test_descriptors_of_samba(recorded, told):
    assert ownership_of(recorded) == told


@pytest.mark.parametrize(
    ("aces", "mode"),
    [
        pytest.param([], 0o000, id="an empty list"),
        pytest.param([ace(ALLOW, EVERYTHING, EVERYONE)], 0o777, id="everyone stands in for owner and group"),
        pytest.param([ace(ALLOW, EVERYTHING, AUTHENTICATED_USERS)], 0o777, id="so does who could log in"),
        pytest.param([ace(ALLOW, READ, OWNER), ace(ALLOW, EVERYTHING, EVERYONE)], 0o477, id="owner's own"),
        pytest.param([ace(ALLOW, 0, GROUP), ace(ALLOW, READ, EVERYONE)], 0o404, id="group's own is nothing"),
        pytest.param([ace(ALLOW, READ, OWNER), ace(ALLOW, WRITE, OWNER)], 0o600, id="two add up"),
        pytest.param([ace(ALLOW, READ, EVERYONE), ace(ALLOW, WRITE, AUTHENTICATED_USERS)], 0o666, id="of two groups"),
        pytest.param([ace(DENY, WRITE, GROUP), ace(ALLOW, EVERYTHING, EVERYONE)], 0o757, id="a refusal"),
        pytest.param([ace(DENY, WRITE, EVERYONE), ace(ALLOW, EVERYTHING, OWNER)], 0o500, id="a refusal to everyone"),
        pytest.param([ace(ALLOW, READ | WRITE, OWNER), ace(DENY, WRITE, OWNER)], 0o600, id="a refusal too late"),
        pytest.param([ace(ALLOW, 0x80000000, OWNER), ace(ALLOW, 0x20000000, GROUP)], 0o410, id="generic, some"),
        pytest.param([ace(ALLOW, 0x10000000, OWNER), ace(ALLOW, 0x40000000, EVERYONE)], 0o722, id="generic, all"),
        pytest.param(
            [ace(ALLOW, READ, OWNER), ace(ALLOW, EVERYTHING, EVERYONE, INHERIT_ONLY), ace(ALLOW, READ, CREATOR_OWNER)],
            0o400,
            id="what is only inherited",
        ),
        pytest.param([ace(ALLOW, EVERYTHING, EVERYONE, INHERIT_ONLY)], 0o000, id="all is only inherited"),
        pytest.param([ace(ALLOW, EVERYTHING, SOMEBODY)], None, id="a list of others"),
        pytest.param([ace(9, EVERYTHING, EVERYONE)], None, id="a conditional grant"),
        pytest.param([ace(9, EVERYTHING, EVERYONE), ace(ALLOW, READ, OWNER)], 0o400, id="a conditional grant more"),
    ],
)
def test_modes(aces, mode):
    assert ownership_of(descriptor(*aces)) == Ownership(None, None, mode)


def test_no_list_is_open_to_all():
    absent = struct.pack("<BBHIIII", 1, 0, 0x8000, 0, 0, 0, 0)
    null = struct.pack("<BBHIIII", 1, 0, 0x8004, 0, 0, 0, 0)
    assert ownership_of(absent) == ownership_of(null) == Ownership(None, None, 0o777)


@pytest.mark.parametrize(
    ("owner", "group", "uid", "gid"),
    [
        ((22, 1, 0xFFFFFFFE), (22, 2, 0), 0xFFFFFFFE, 0),
        ((22, 2, 7), (22, 1, 8), None, None),
        ((5, 88, 1, 7), (5, 88, 2, 8), 7, 8),
        ((22, 1), (22, 2, 1, 1), None, None),
        (None, None, None, None),
    ],
)
def test_owners(owner, group, uid, gid):
    assert ownership_of(descriptor(owner=owner, group=group)) == Ownership(uid, gid, 0)


def test_exact_numbers_win():
    exact = [ace(DENY, 0, (5, 88, 1, 10)), ace(DENY, 0, (5, 88, 2, 20)), ace(DENY, 0, (5, 88, 3, 0o104751))]
    told = ownership_of(descriptor(ace(ALLOW, READ, EVERYONE), *exact, owner=(22, 1, 1), group=(22, 2, 2)))
    assert told == Ownership(10, 20, 0o4751)


@pytest.mark.parametrize("recorded", [recorded for recorded, _ in RECORDED.values()], ids=RECORDED)
def test_a_descriptor_that_ends_early_is_malformed(recorded):
    for length in range(len(recorded)):
        with pytest.raises(MalformedDescriptorError):
            ownership_of(recorded[:length])


@pytest.mark.parametrize("control", [0x0004, 0x0000])
def test_a_descriptor_with_pointers_is_malformed(control):
    with pytest.raises(MalformedDescriptorError, match="self-relative"):
        ownership_of(struct.pack("<BBHIIII", 1, 0, control, 0, 0, 0, 0))


@given(st.binary(max_size=200))
def test_nonsense_is_malformed_and_nothing_worse(nonsense):
    for candidate in (nonsense, b"\x01\x00\x04\x80" + nonsense):
        with suppress(MalformedDescriptorError):
            ownership_of(candidate)


@given(
    st.sampled_from([recorded for recorded, _ in RECORDED.values()]),
    st.lists(st.tuples(st.integers(4, 120), st.integers(0, 255)), max_size=4),
)
def test_damage_is_malformed_and_nothing_worse(recorded, changes):
    damaged = bytearray(recorded)
    for position, value in changes:
        damaged[position] = value
    with suppress(MalformedDescriptorError):
        told = ownership_of(bytes(damaged))
        assert told.mode is None or 0 <= told.mode <= 0o7777
