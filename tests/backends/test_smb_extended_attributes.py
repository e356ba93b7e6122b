"""Lists of extended attributes: known bytes, round trips, and nonsense."""

from __future__ import annotations

import errno
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netoverlay_smb import extended_attributes as ea

# Recorded from Samba 4.17.12.
RECORDED = bytes.fromhex(
    "14000000 00 09 0200"  # the next is 20 bytes on; no flags; 9 bytes of name, 2 of value
    "4d6978656443617365 00 7631"  # "MixedCase", "v1"
    "10000000 00 04 0100"
    "626164ff 00 36 0000"  # "bad\xff", "6", and up to a multiple of 4
    "20000000 00 05 1000"
    "656d707479 00 6e65746f7665726c61792d656d707479 0000"  # "empty", our marker
    "00000000 00 0a 0100"  # the last
    "77697468207370616365 00 37"  # "with space", "7"
)
NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)


def text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def test_the_list_of_samba():
    assert ea.unpack_list(RECORDED) == {
        "user.MixedCase": b"v1",
        "user.bad\udcff": b"6",
        "user.empty": ea.EMPTY_MARKER,
        "user.with space": b"7",
    }


def test_no_list_is_an_empty_one():
    assert ea.unpack_list(b"") == {}


def test_one_attribute_is_as_the_specification_says():
    assert ea.pack("Key", b"\0value") == bytes.fromhex("00000000 00 03 0600") + b"Key\0\0value"
    assert ea.pack("Key", b"") == bytes.fromhex("00000000 00 03 0000") + b"Key\0"


@given(NAMES, st.binary(max_size=100))
def test_attributes_come_back(name, value):
    assert ea.unpack_list(ea.pack(text(name), value)) == {"user." + text(name): value}


@given(st.one_of(st.binary(), st.binary().map(lambda value: ea.EMPTY_MARKER + value)))
def test_values_come_back_and_are_never_empty(value):
    stored = ea.to_server_value(value)
    assert stored
    assert ea.from_server_value(stored) == value


def test_only_the_values_that_need_it_are_marked():
    assert ea.to_server_value(b"value") == b"value"
    assert ea.to_server_value(b"") == ea.EMPTY_MARKER == b"netoverlay-empty"
    assert ea.from_server_value(b"") == b""


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("", b"v", errno.EINVAL),
        ("a\0b", b"v", errno.EINVAL),
        ("n" * 256, b"v", errno.ERANGE),
        ("\xfc" * 128, b"v", errno.ERANGE),
        ("n", bytes(65536), errno.E2BIG),
    ],
    ids=["no name", "NUL", "long", "long in UTF-8", "value"],
)
def test_attributes_that_smb_cannot_have(name, value, code):
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at
        ea.pack(name, value)
    assert caught.value.errno == code


def test_the_largest_attribute():
    assert ea.unpack_list(ea.pack("n" * 255, bytes(65535))) == {"user." + "n" * 255: bytes(65535)}


def test_a_list_that_ends_early_is_malformed():
    for length in range(1, len(RECORDED)):
        with pytest.raises(ea.MalformedAttributesError):
            ea.unpack_list(RECORDED[:length])


@pytest.mark.parametrize("step", [1, 8, 19, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_next_entry_inside_this_one_or_outside_of_the_list_is_malformed(step):
    with pytest.raises(ea.MalformedAttributesError):
        ea.unpack_list(struct.pack("<I", step) + RECORDED[4:])


@given(st.lists(st.binary(max_size=40)).map(b"".join))
def test_nonsense_is_malformed_and_nothing_worse(nonsense):
    with suppress(ea.MalformedAttributesError):
        assert all(name.startswith("user.") for name in ea.unpack_list(nonsense))
