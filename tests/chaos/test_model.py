"""The comparison itself: what may be there is let through, and what may not is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.model import Region, first_state
from tests.chaos.observe import Attributes, Kind, Seen
from tests.chaos.steps import Call, Step, bytes_of

OLD = bytes_of(1, 5000)
FILE = Seen(Kind.FILE, Attributes(0o644, 7, b"file", 100), 1, 1, len(OLD), "", OLD)
OTHER = Seen(Kind.FILE, Attributes(0o600, 8, b"other", 200), 2, 1, 5, "", b"other")
SHOWN = {"w0/file": FILE, "w0/other": OTHER}
OPEN = Step(Call.OPEN, "w0/file", slot=1)
WRITE = Step(Call.WRITE, slot=1, offset=4000, seed=2, number=3000)
NEW = OLD[:4000] + bytes_of(2, 3000)
SYNC = Step(Call.SYNC, slot=1)
RENAME = Step(Call.RENAME, "w0/file", "w0/other")
CHMOD = Step(Call.CHMOD, "w0/file", number=0o700)


def with_content(content: bytes) -> dict[str, Seen]:
    attributes = replace(FILE.attributes, mtime_ns=999)
    return {**SHOWN, "w0/file": replace(FILE, content=content, size=len(content), attributes=attributes)}


def found(done: list[Step], shown: dict[str, Seen], *, in_flight: Step | None = None, is_local: bool = False) -> str:
    region = Region(first_state(SHOWN), is_local=is_local)
    for step in done:
        region.begin(step)
        region.end(step)
    if in_flight is not None:
        region.begin(in_flight)
    return "\n".join(region.differences(shown))


@pytest.mark.parametrize("content", [OLD, NEW, NEW[:6000], NEW[:4096] + OLD[4096:], OLD + bytes(1000) + NEW[6000:]])
def test_a_write_that_is_not_synced_may_be_there_in_part(content: bytes) -> None:
    assert found([OPEN, WRITE], with_content(content)) == ""
    assert found([OPEN], with_content(content), in_flight=WRITE, is_local=True) == ""


@pytest.mark.parametrize("content", [b"", OLD[:4500], NEW + b"x", bytes(4000) + NEW[4000:], OLD[:100] + NEW[200:5100]])
def test_a_part_of_a_copy_up_is_told(content: bytes) -> None:
    assert found([OPEN], with_content(content), in_flight=WRITE)


def test_what_was_synced_must_be_there() -> None:
    assert found([OPEN, WRITE, SYNC], with_content(NEW)) == ""
    assert "allowed are" in found([OPEN, WRITE, SYNC], with_content(OLD))
    assert "torn" in found([OPEN, WRITE, SYNC], with_content(OLD + NEW[5000:]))
    assert "allowed are" in found([OPEN, WRITE], with_content(OLD), is_local=True)


def test_a_rename_is_done_or_not() -> None:
    after = {"w0/other": FILE}
    assert found([], SHOWN, in_flight=RENAME) == found([], after, in_flight=RENAME) == ""
    assert found([RENAME], after) == ""
    assert "w0/file" in found([RENAME], SHOWN)
    assert "w0/other: lost" in found([], {"w0/file": FILE}, in_flight=RENAME)
    assert found([], {"w0/file": FILE, "w0/other": FILE}, in_flight=RENAME)


def test_attributes_are_of_one_moment_and_of_no_other_file() -> None:
    changed = {**SHOWN, "w0/file": replace(FILE, attributes=replace(FILE.attributes, mode=0o700))}
    assert found([CHMOD], SHOWN) == found([CHMOD], changed) == ""
    assert "attributes" in found([CHMOD], SHOWN, is_local=True)
    assert "attributes" in found([CHMOD, OPEN, SYNC], SHOWN)
    stolen = {**SHOWN, "w0/file": replace(FILE, attributes=OTHER.attributes)}
    assert "attributes" in found([CHMOD], stolen)
    assert "inode number" in found([CHMOD], {**SHOWN, "w0/file": replace(changed["w0/file"], ino=9)})
