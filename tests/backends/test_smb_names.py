"""Names between Linux and SMB: every one comes back as it was."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netoverlay.testing.suite.names import AWKWARD_NAMES
from netoverlay_smb import names

ILLEGAL_ON_WINDOWS = frozenset('"*:<>?\\|/') | {chr(code) for code in range(0x20)}
STANDING_FOR_OTHERS = frozenset(map(chr, [*range(0xF001, 0xF02A), *range(0xF080, 0xF100)]))

LINUX_BYTES = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(str.encode),
    # Pieces whose neighbours matter: halves of surrogate pairs, private characters, ends of names.
    st.lists(
        st.sampled_from(
            b"\xed\xa0\x80|\xed\xb0\x80|\xed|\xa0|\x80|\xbf|\xc3|\xa9|\xef\x80\xa8|\xef\x80\xa9|\xef\x81\x81|\xef\x83"
            b"|\xf0\x90\x80\x80|.| |a|:|\\|\x7f".split(b"|")
        ),
        max_size=10,
    ).map(b"".join),
).filter(lambda name: name and b"/" not in name and b"\0" not in name)


def utf16(units: list[int]) -> bytes:
    return b"".join(unit.to_bytes(2, "little") for unit in units)


WINDOWS_NAMES = (
    st.one_of(st.binary(max_size=40), st.lists(st.integers(0xD7FF, 0xE000)).map(utf16))
    .map(lambda wire: names.decode_utf16(wire[: len(wire) // 2 * 2]))
    .filter(lambda name: not (ILLEGAL_ON_WINDOWS | STANDING_FOR_OTHERS) & set(name) and not name.endswith((" ", ".")))
)

GOLDEN = [
    ("plain.txt", "plain.txt"),
    ('"*:<>?\\|', "\uf020\uf021\uf022\uf023\uf024\uf025\uf026\uf027"),
    ("\x01\t\x1f\x7f", "\uf001\uf009\uf01f\x7f"),
    ("trailing ", "trailing\uf028"),
    ("trailing.", "trailing\uf029"),
    ("...", "..\uf029"),
    (" . a", " . a"),
    ("caf\udce9", "caf\uf0e9"),
    ("caf\xe9", "caf\xe9"),
    ("\uf022", "\uf0ef\uf080\uf0a2"),
    ("\uf0e9", "\uf0ef\uf083\uf0a9"),
    ("\uf029", "\uf0ef\uf080\uf0a9"),
    ("\uf029a", "\uf029a"),
    ("\uf030\uf07f\uf100", "\uf030\uf07f\uf100"),
    ("\udced\udca0\udc80", "\ud800"),
    ("\udced\udcb0\udc80.", "\udc00\uf029"),
    ("\udced\udca0\udc80\udced\udcb0\udc80", "\uf0ed\uf0a0\uf080\uf0ed\uf0b0\uf080"),
    ("\U0001f40c", "\U0001f40c"),
]


@pytest.mark.parametrize(("here", "there"), GOLDEN, ids=[ascii(here) for here, _ in GOLDEN])
def test_known_names(here, there):
    assert names.to_server(here) == there
    assert names.from_server(there) == here


@given(LINUX_BYTES)
@example(b"\xed\xa0\x80\xed\xb0\x80")
@example(b"\xed\xa0\x80\xed\xa0\x80\xed\xb0\x80\xed\xb0\x80")
@example(b"\xef\x80\xa9")
def test_every_linux_name_comes_back(name):
    here = os.fsdecode(name)
    there = names.to_server(here)
    assert not ILLEGAL_ON_WINDOWS & set(there)
    assert not there.endswith((" ", "."))
    assert names.from_server(names.decode_utf16(names.encode_utf16(there))) == here


@pytest.mark.parametrize("name", AWKWARD_NAMES, ids=ascii)
def test_awkward_names_come_back(name):
    assert names.from_server(names.to_server(name)) == name


@given(WINDOWS_NAMES)
@example("\ud800")
@example("\udc00\ud800")
@example("\ud800\udbff")
def test_names_that_only_windows_can_have_lead_back_to_their_files(name):
    here = names.from_server(name)
    assert os.fsdecode(os.fsencode(here)) == here
    assert names.to_server(here) == name


@given(st.text(st.characters(), max_size=20))
def test_whatever_a_server_sends_is_a_linux_string(name):
    here = names.from_server(name)
    assert os.fsdecode(os.fsencode(here)) == here


@given(st.lists(st.integers(0, 0xFFFF)).map(utf16))
def test_any_utf16_comes_back(wire):
    assert names.encode_utf16(names.decode_utf16(wire)) == wire


def test_half_a_unit_is_refused():
    with pytest.raises(ValueError, match="truncated"):
        names.decode_utf16(b"a\0b")


@pytest.mark.parametrize("sent", ["", ".", "..", "\uf029", ".\uf029", "a/b", "a\0"], ids=ascii)
def test_what_is_no_name_on_linux_is_not_usable(sent):
    assert not names.is_usable(names.from_server(sent))


@pytest.mark.parametrize("sent", ["a", "...", ".hidden", "a\\b"])
def test_names_are_usable(sent):
    assert names.is_usable(sent)


@pytest.mark.parametrize("listed", ["CSHOFG~F", "AHY9U3~9.C", "PQWPP9~P.Y"])
def test_short_names_of_samba_are_noticed(listed):
    assert names.may_be_short(listed)


@pytest.mark.parametrize("listed", ["file~", "a~1", "CSHOFG~F.long", "cshofg~f", "CSHOFG-F"])
def test_other_names_are_not_taken_for_short_ones(listed):
    assert not names.may_be_short(listed)


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("", "", ""),
        ("", "a", "a"),
        ("", "a/b c/d", "a\\b c\\d"),
        ("base\\tree", "", "base\\tree"),
        ("base\\tree", "a/b\\c./d", "base\\tree\\a\\b\uf026c\uf029\\d"),
    ],
)
def test_paths(root, path, expected):
    assert names.server_path(root, path) == expected


@pytest.mark.parametrize(
    "path", ["/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b", "a\ud800b", "\udc00"], ids=ascii
)
def test_paths_that_no_layer_has(path):
    with pytest.raises(OSError, match="Invalid") as caught:
        names.server_path("root", path)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "name", ["n" * 255, "\xfc" * 127, "\u20ac" * 85, "\U0001f40c" * 63, "\udcff" * 255], ids=lambda n: ascii(n[0])
)
def test_the_longest_names(name):
    server_name = names.server_path("", f"{'d' * 200}/{name}").partition("\\")[2]
    assert len(names.encode_utf16(server_name)) <= 2 * 255
    with pytest.raises(OSError, match="too long") as caught:
        names.server_path("", name + "\U0001f40c")
    assert caught.value.errno == errno.ENAMETOOLONG
