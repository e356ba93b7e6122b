"""What a layer lacks, in words; and to whom it is said."""

from __future__ import annotations

import dataclasses

import pytest

from netoverlay.backend_api import Capabilities
from netoverlay.cli import _tell_at_terminal
from netoverlay.limitations import in_one_line, limitations
from netoverlay.testing.memory_backend import ALL_CAPABILITIES

SFTP = Capabilities(writable=True, modes=True, owners=True, symlinks=True, hard_links=True)
SMB = Capabilities(
    writable=True, symlinks=True, hard_links=True, xattrs=True, file_ids=True, holes=True, time_granularity_ns=100
)


def line(capabilities: Capabilities, *, is_upper: bool, is_root: bool = True, missed_only: bool = False) -> str | None:
    found = limitations(capabilities, is_upper=is_upper, is_root=is_root)
    return in_one_line("layer", (each for each in found if each.missed or not missed_only))


@pytest.mark.parametrize("is_upper", [True, False])
def test_nothing_is_said_of_what_can_do_everything(is_upper: bool) -> None:
    assert line(ALL_CAPABILITIES, is_upper=is_upper) is None


def test_a_lower_on_an_sftp_server() -> None:
    expected = "layer: hard links are files of their own, no extended attributes"
    assert line(SFTP, is_upper=False, missed_only=True) == expected
    assert line(SFTP, is_upper=False) == f"{expected}, holes are read as zeros, times in units of 1 s"


def test_a_lower_on_an_smb_server() -> None:
    expected = "layer: owners and modes only as far as it tells them"
    assert line(SMB, is_upper=False, missed_only=True) == expected
    rest = 'no extended attributes of "trusted." and "security.", times in units of 100 ns'
    assert line(SMB, is_upper=False) == f"{expected}, {rest}"


def test_an_upper_that_keeps_little() -> None:
    little = dataclasses.replace(SMB, xattrs=False, case_sensitive=False, max_name_bytes=143)
    assert line(little, is_upper=True, missed_only=True) == (
        "layer: modes are not kept, owners are not kept, no FIFOs and sockets, no extended attributes, "
        "names that differ only in case are one, names of at most 143 bytes"
    )


def test_the_upper_of_an_ordinary_user() -> None:
    local = dataclasses.replace(ALL_CAPABILITIES, devices=False, privileged_xattrs=False)
    assert line(local, is_upper=True, is_root=False, missed_only=True) is None
    assert line(local, is_upper=True, is_root=False) == (
        'layer: no devices, no extended attributes of "trusted." and "security.", what is copied up becomes your own'
    )


@pytest.mark.parametrize(
    ("nanoseconds", "words"), [(2_000_000_000, "2 s"), (1_000_000, "1 ms"), (1_000, "1 us"), (100, "100 ns")]
)
def test_units_of_time(nanoseconds: int, words: str) -> None:
    coarse = dataclasses.replace(ALL_CAPABILITIES, time_granularity_ns=nanoseconds)
    assert line(coarse, is_upper=False) == f"layer: times in units of {words}"


@pytest.mark.parametrize("at_terminal", [True, False])
def test_only_a_person_is_told(
    at_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: at_terminal)
    _tell_at_terminal("layer: no symbolic links")
    assert capsys.readouterr().err == ("netoverlay: layer: no symbolic links\n" if at_terminal else "")
