"""Symbolic links in files, as cifs and Macs write them, and the reparse points of Windows."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netoverlay_smb import symlinks
from netoverlay_smb.names import encode_utf16

GOLDEN_TARGET = b"../some/where"
GOLDEN = b"XSym\n0013\n" + b"2fae0c156136f2839c71f62d6b0ebe30" + b"\n../some/where\n" + b" " * 1010
TARGETS = st.binary(min_size=1, max_size=1024).filter(lambda target: b"\0" not in target)

RELATIVE_LINK = bytes.fromhex(
    "0c0000a0"  # IO_REPARSE_TAG_SYMLINK
    "2c00 0000"  # 44 bytes follow; reserved
    "1000 1000"  # the substitute name: 16 bytes in, 16 bytes long
    "0000 1000"  # the print name
    "01000000"  # SYMLINK_FLAG_RELATIVE
    "2e002e005c00610022f062005c006300"  # "..\a<U+F022>b\c"
    "2e002e005c00610022f062005c006300"
)
ABSOLUTE_LINK = bytes.fromhex(
    "0c0000a0"  # IO_REPARSE_TAG_SYMLINK
    "2800 0000"  # 40 bytes follow; reserved
    "0a00 1200"  # the substitute name: behind the print name, 18 bytes long
    "0000 0a00"  # the print name: 10 bytes
    "00000000"  # absolute
    "43003a005c0064007800"  # "C:\dx"
    "5c003f003f005c0043003a005c0064007800"  # "\??\C:\dx"
)
LX_LINK = bytes.fromhex(
    "1d0000a0"  # IO_REPARSE_TAG_LX_SYMLINK
    "0c00 0000"  # 12 bytes follow; reserved
    "02000000"  # version
    "2f657463c3bcff5c"  # "/etc", u with diaeresis, a byte that is no UTF-8, a backslash
)


def test_the_file_of_a_link_is_as_cifs_writes_it():
    assert len(GOLDEN) == symlinks.MFSYMLINK_BYTES == 1067
    assert symlinks.pack(GOLDEN_TARGET) == GOLDEN
    assert symlinks.target_of(GOLDEN) == GOLDEN_TARGET


def test_the_longest_target_fills_the_file():
    content = symlinks.pack(b"t" * 1024)
    assert len(content) == symlinks.MFSYMLINK_BYTES
    assert content.endswith(b"\n" + b"t" * 1024)
    assert symlinks.pack(b"t" * 1023).endswith(b"t\n")


@given(TARGETS)
def test_targets_come_back(target):
    assert symlinks.target_of(symlinks.pack(target)) == target


@pytest.mark.parametrize(
    ("target", "code"), [(b"t" * 1025, errno.ENAMETOOLONG), (b"", errno.ENOENT), (b"a\0b", errno.EINVAL)]
)
def test_targets_that_no_link_can_have(target, code):
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at
        symlinks.pack(target)
    assert caught.value.errno == code


def test_a_file_that_differs_in_any_byte_is_no_link():
    for position in range(symlinks.MFSYMLINK_BYTES):
        content = bytearray(GOLDEN)
        content[position] ^= 0x01
        assert symlinks.target_of(bytes(content)) is None


@pytest.mark.parametrize("content", [b"", GOLDEN[:-1], GOLDEN + b" ", GOLDEN.replace(b"0013", b"9999")])
def test_a_file_of_another_size_or_length_is_no_link(content):
    assert symlinks.target_of(content) is None


def test_an_empty_target_is_no_link():
    empty = b"XSym\n0000\nd41d8cd98f00b204e9800998ecf8427e\n\n".ljust(symlinks.MFSYMLINK_BYTES)
    assert symlinks.target_of(empty) is None


@pytest.mark.parametrize(
    ("buffer", "target"),
    [(RELATIVE_LINK, "../a:b/c"), (ABSOLUTE_LINK, "C:/dx"), (LX_LINK, "/etc\xfc\udcff\\")],
    ids=["relative", "absolute", "lx"],
)
def test_reparse_points(buffer, target):
    assert symlinks.reparse_target(buffer) == target
    assert symlinks.reparse_target(buffer + b"behind it") == target


def windows_link(substitute: str, shown: str, flags: int) -> bytes:
    first, second = encode_utf16(substitute), encode_utf16(shown)
    data = struct.pack("<HHHHI", 0, len(first), len(first), len(second), flags) + first + second
    return struct.pack("<IHH", symlinks.REPARSE_TAG_SYMLINK, len(data), 0) + data


@pytest.mark.parametrize(
    ("buffer", "target"),
    [
        (windows_link("\\??\\C:\\x", "", 0), "C:/x"),
        (windows_link("\\x\\y", "ignored", 1), "/x/y"),
        (windows_link("a/b", "", 1), "a/b"),
        (windows_link("\ud800", "", 1), "\udced\udca0\udc80"),
        (windows_link("", "", 1), None),
        (windows_link("a\0b", "", 1), None),
    ],
    ids=ascii,
)
def test_unusual_links_of_windows(buffer, target):
    assert symlinks.reparse_target(buffer) == target


@pytest.mark.parametrize("buffer", [RELATIVE_LINK, ABSOLUTE_LINK, LX_LINK], ids=["relative", "absolute", "lx"])
def test_reparse_points_that_end_early_are_none(buffer):
    for length in range(len(buffer)):
        assert symlinks.reparse_target(buffer[:length]) is None


def test_other_reparse_points_are_none():
    assert symlinks.reparse_target(struct.pack("<IHH", 0xA0000003, 4, 0) + b"data") is None
    assert symlinks.reparse_target(LX_LINK.replace(b"\x02\0\0\0", b"\x01\0\0\0")) is None


@given(
    st.sampled_from([symlinks.REPARSE_TAG_SYMLINK, symlinks.REPARSE_TAG_LX_SYMLINK, 0xA0000003]),
    st.binary(max_size=60),
)
def test_nonsense_gives_a_target_or_none(tag, data):
    target = symlinks.reparse_target(struct.pack("<IHH", tag, len(data), 0) + data)
    assert target is None or (target and "\0" not in target)
