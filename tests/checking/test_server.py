"""Every kind of finding in an upper on a server, SFTP and SMB: made, told and left alone, repaired, and gone."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest

from netoverlay.checking.findings import ExitCode, Kind
from netoverlay.fsck import Repairs
from netoverlay.overlay.owner import this_process
from netoverlay.wrappers.sidecar.reading import PIECE_BYTES
from tests.checking.uppers import CheckedUpper, Result
from tests.mounted.mounting import sftp_login, smb_login
from tests.overlay.trees import write_tree
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

HIDDEN = "h" * 253
"""A name whose whiteout has no room for the usual form."""
TOO_LONG = "n" * 256


@pytest.fixture(params=["sftp", "smb"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def upper(tmp_path: Path, kind: str, sshd: SshServer, smbd: SmbServer) -> CheckedUpper:
    """One that was used before, with a journal."""
    at = tmp_path / "served" / "upper"
    if kind == "sftp":
        made = CheckedUpper(tmp_path, [f'url = "{sshd.url(at)}"', *sftp_login(sshd)])
    else:
        made = CheckedUpper(tmp_path, [f'url = "{smbd.url_of(at)}"', *smb_login(smbd)])
    write_tree(made.base, {"hidden": b"below", HIDDEN: b"below"})
    write_tree(made.root, dict.fromkeys(("a", "b", "file", "gone", "special", "unrecorded"), b"content"))
    write_tree(
        made.root, {"directory": {"inside": b""}, "opaque": {}, ".wh.hidden": b"", ".wh..wh..long": {HIDDEN: b""}}
    )
    assert made.check(Repairs.ALL) == (set(), [], ExitCode.CLEAN)
    return made


class JournalOnDisk:
    """The lines of the journal."""

    def __init__(self, upper: CheckedUpper) -> None:
        self.path = upper.work / "attributes.jsonl"
        self.lines = [json.loads(line) for line in self.path.read_bytes().splitlines()]
        assert self.lines.pop() == {"end": True}

    def place(self, name: str) -> tuple[int, int]:
        """The numbers of its directory and of itself."""
        (line,) = (line for line in self.lines if line.get("name") == name)
        return line["in"], line["node"]

    def write(self, *more: dict[str, object], ended: bool = False, torn: bytes = b"") -> None:
        lines = [*self.lines, *more, *([{"end": True}] if ended else [])]
        self.path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines) + torn)


def dead_process() -> int:
    """The number of one that was there."""
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def plant(upper: CheckedUpper) -> set[tuple[Kind, str]]:
    """Everything that a mount can put in order, at once: what is to be found."""
    work, root = upper.work, upper.root
    journal = JournalOnDisk(upper)
    directory, _ = journal.place("a")
    unrecorded = journal.place("unrecorded")[1]
    journal.lines = [line for line in journal.lines if line.get("node") != unrecorded or "name" in line]
    journal.write(
        {"name": TOO_LONG, "in": directory, "node": 7001},
        {"node": journal.place("special")[1], "type": "fifo", "mode": 0o600},
        {"intent": 7002, "exchange": [[directory, "a"], [directory, "b"]], "aside": ".wh..wh..aside-7002"},
        torn=b'{"node":70',
    )
    os.rename(root / "a", work / ".wh..wh..aside-7002")  # the first of three steps
    (work / ".wh..wh..aside-7003").mkdir()
    (work / "attributes.jsonl.new").write_bytes(b"{")
    (work / "#9").write_bytes(b"half")
    owner = dataclasses.replace(this_process("/mnt"), pid=dead_process(), started=1, nonce="0" * 16)
    (work / "lock").write_bytes(owner.pack())
    (work / "lock-12").write_bytes(dataclasses.replace(owner, released=True).pack())
    (root / "gone").unlink()
    (root / ".wh.file").touch()
    (root / ".wh.none").touch()
    (root / "opaque" / ".wh..wh..opq").touch()
    (root / "opaque" / ".wh.hidden").touch()
    (root / "directory" / ".wh..wh..long").mkdir()
    return {
        (Kind.OWNER_DEAD, "upper.work/lock"),
        (Kind.LEASE_ASIDE, "upper.work/lock-12"),
        (Kind.ASIDE, "upper.work/.wh..wh..aside-7002"),
        (Kind.ASIDE, "upper.work/.wh..wh..aside-7003"),
        (Kind.JOURNAL_UNFINISHED, "upper.work/attributes.jsonl.new"),
        (Kind.JOURNAL_TORN, "upper.work/attributes.jsonl"),
        (Kind.JOURNAL_OPEN, "upper.work/attributes.jsonl"),
        (Kind.CHANGE_UNFINISHED, "upper.work/attributes.jsonl"),
        (Kind.TEMPORARY, "upper.work/#9"),
        (Kind.RECORD_MISSING, "upper/unrecorded"),
        (Kind.RECORD_GONE, "upper/gone"),
        (Kind.RECORD_TYPE, "upper/special"),
        (Kind.RECORD_NAME, f"upper/{TOO_LONG}"),
        (Kind.WHITEOUT_BESIDE_FILE, "upper/file"),
        (Kind.WHITEOUT_OVER_NOTHING, "upper/none"),
        (Kind.WHITEOUT_IN_OPAQUE, "upper/opaque/hidden"),
        (Kind.LONG_DIRECTORY_EMPTY, "upper/directory/.wh..wh..long"),
    }


def test_all_that_a_crash_or_others_can_leave(upper: CheckedUpper) -> None:
    expected = plant(upper)
    before = upper.tree()
    told = upper.check()
    assert told.found == expected
    assert told.exit_code is ExitCode.LEFT
    assert upper.tree() == before
    repaired = upper.check(Repairs.ALL)
    assert (repaired.found, repaired.exit_code) == (expected, ExitCode.CORRECTED)
    assert upper.check() == (set(), [], ExitCode.CLEAN)
    assert (upper.root / "special").read_bytes() == b"content"
    assert sorted(path.name for path in upper.work.iterdir()) == ["attributes.jsonl"]
    assert sorted(path.name for path in upper.root.iterdir()) == sorted(
        ["a", "b", "file", "special", "unrecorded", "directory", "opaque", ".wh.hidden", ".wh..wh..long"]
    )


def test_a_journal_that_cannot_be_used_is_left_as_it_is(upper: CheckedUpper) -> None:
    journal = JournalOnDisk(upper)
    journal.lines[0]["version"] = 2
    journal.write(ended=True)
    foreign = explained(upper)
    assert foreign.found == {(Kind.JOURNAL_FOREIGN, "upper.work/attributes.jsonl")}
    assert "version 2" in foreign.lines[0]
    journal.lines[0]["version"] = 1
    journal.write(torn=b"x" * (PIECE_BYTES + 1))
    assert explained(upper).found == {(Kind.JOURNAL_DAMAGED, "upper.work/attributes.jsonl")}


def explained(upper: CheckedUpper) -> Result:
    """What is told, also to who wants it repaired, which changes nothing of the journal."""
    content = (upper.work / "attributes.jsonl").read_bytes()
    told = upper.check()
    assert upper.check(Repairs.ALL) == told
    assert told.exit_code is ExitCode.LEFT
    assert (upper.work / "attributes.jsonl").read_bytes() == content
    return told


@pytest.mark.parametrize("kind", ["smb"])
def test_names_that_the_server_may_take_for_one(upper: CheckedUpper) -> None:
    write_tree(upper.root / "directory", {"Twin": b"one", "twin": b"other"})
    told = upper.check(Repairs.ALL)
    assert told.found == {(Kind.CASE_CLASH, "upper/directory/twin")}
    assert told.exit_code is ExitCode.LEFT
    assert upper.check().found == told.found


def test_a_lease_of_a_living_owner_is_respected(upper: CheckedUpper) -> None:
    (upper.work / "lock").write_bytes(
        dataclasses.replace(this_process("/mnt/mine"), nonce="0" * 16, expires_seconds=60.0).pack()
    )
    before = upper.tree()
    for repairs in Repairs:
        with pytest.raises(Exception, match="another mount owns it: /mnt/mine"):
            upper.check(repairs)
    assert {path: about[0] for path, about in upper.tree().items()} == {
        path: about[0] for path, about in before.items()
    }
