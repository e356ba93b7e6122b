"""Every kind of finding in a local upper: made, told and left alone, repaired, and gone."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from netoverlay.backend_api import LayerSetupError, LayerUrl
from netoverlay.checking.check import check_upper
from netoverlay.checking.findings import ExitCode, Kind
from netoverlay.checking.subject import Subject
from netoverlay.fsck import Repairs
from netoverlay.overlay.owner import Owner
from netoverlay.testing.faults import CHANGES, CrashedError, Faults
from netoverlay.testing.faulty_backend import FaultyBackend
from netoverlay_local import PLUGIN
from tests.checking.repairing import put_in_order
from tests.checking.uppers import LEFT, CheckedUpper, mark, whiteout
from tests.overlay.trees import Mounted, write_tree

KEY = "0123456789abcdef" * 2
TOKEN = "0011223344556677"
SIZE = 100


@pytest.fixture
def upper(tmp_path: Path) -> CheckedUpper:
    made = CheckedUpper(tmp_path)
    write_tree(made.base, {"file": b"below", "hidden": b"", "big": b"b" * SIZE, "from": {"inside": b""}})
    write_tree(made.root, {"file": b"above", "made": {"inside": b"new"}})
    made.work.mkdir(mode=0o700)
    whiteout(made.root / "hidden")
    return made


class Case(NamedTuple):
    """Something that is wrong."""

    kind: Kind
    path: str
    make: Callable[[CheckedUpper], object]


def temporary(upper: CheckedUpper) -> None:
    write_tree(upper.work / "#5", {"below": {"file": b"half"}})


def write(path: str, data: bytes) -> Callable[[CheckedUpper], object]:
    def make(upper: CheckedUpper) -> None:
        file = upper.root.parent / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)

    return make


def in_opaque(upper: CheckedUpper) -> None:
    mark(upper.root / "made", "opaque", b"y")
    (upper.root / "made" / "below").mkdir()
    whiteout(upper.root / "made" / "below" / "gone")


def data_nowhere(upper: CheckedUpper) -> None:
    os.truncate(upper.root / "file", 5)
    mark(upper.root / "file", "metacopy", b"")
    mark(upper.root / "file", "redirect", b"/none")


def same_number(upper: CheckedUpper) -> None:
    for name in ("file", "made"):
        mark(upper.root / name, "netoverlay.ino", (1 << 60).to_bytes(8))
    os.link(upper.root / "file", upper.root / "again")  # which is no other file


def lazy(
    *, missing: list[list[int]], more: bytes = b"", size: int = SIZE, path: str = "big", has_map: bool = True
) -> Callable[[CheckedUpper], None]:
    """A lazily copied file."""

    def make(upper: CheckedUpper) -> None:
        status = (upper.base / "big").stat()
        header = {
            "format": "netoverlay-lazy",
            "version": 1,
            "layer": PLUGIN.create(LayerUrl("file", str(upper.base)), PLUGIN.options(), 30.0).identity(),
            "path": path,
            "size": status.st_size,
            "mtime": status.st_mtime_ns,
            "file_id": status.st_ino,
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            "missing": missing,
        }
        (upper.work / "lazy").mkdir(mode=0o700)
        if has_map:
            (upper.work / "lazy" / TOKEN).write_bytes(json.dumps(header).encode() + b"\n" + more)
        file = upper.root / "big"
        file.write_bytes(b"u" * size)
        mark(file, "redirect", b"/.netoverlay-lazy")
        mark(file, "metacopy", f"netoverlay:{TOKEN}".encode())

    return make


def unused_map(upper: CheckedUpper) -> None:
    lazy(missing=[[0, 5]])(upper)
    (upper.root / "big").unlink()


def indexed(name: str, *, linked: bool) -> Callable[[CheckedUpper], None]:
    """An entry in the index, for a file that has another name in the upper or not."""

    def make(upper: CheckedUpper) -> None:
        index = upper.work / "links"
        index.mkdir(mode=0o700)
        if linked:
            os.link(upper.root / "file", index / name)
        else:
            (index / name).write_bytes(b"content")

    return make


CASES = (
    Case(Kind.TEMPORARY, "upper.work/#5", temporary),
    Case(Kind.OWNER_DEAD, "upper.work/lock", write("upper.work/lock", Owner(pid=5, mountpoint="/mnt").pack())),
    Case(Kind.OWNER_DAMAGED, "upper.work/lock", write("upper.work/lock", b"half an own")),
    Case(Kind.LEASE_ASIDE, "upper.work/lock-77", write("upper.work/lock-77", Owner(released=True).pack())),
    Case(Kind.WHITEOUT_OVER_NOTHING, "upper/none", lambda upper: whiteout(upper.root / "none")),
    Case(Kind.WHITEOUT_IN_OPAQUE, "upper/made/below/gone", in_opaque),
    Case(Kind.OPAQUE_FILE, "upper/file", lambda upper: mark(upper.root / "file", "opaque", b"y")),
    Case(Kind.REDIRECT_FILE, "upper/file", lambda upper: mark(upper.root / "file", "redirect", b"/big")),
    Case(Kind.REDIRECT_OUT, "upper/made", lambda upper: mark(upper.root / "made", "redirect", b"/../etc")),
    Case(Kind.REDIRECT_NOWHERE, "upper/made", lambda upper: mark(upper.root / "made", "redirect", b"/none")),
    Case(Kind.DATA_NOWHERE, "upper/file", data_nowhere),
    Case(Kind.INODE_TWICE, "upper/made", same_number),
    Case(Kind.LAZY_MAP_DAMAGED, "upper/big", lazy(missing=[], has_map=False)),
    Case(Kind.LAZY_BASE_LOST, "upper/big", lazy(missing=[[0, 5]], path="none")),
    Case(Kind.LAZY_MAP_LONG, "upper/big", lazy(missing=[[0, 5], [40, SIZE]], size=50)),
    Case(Kind.LAZY_MAP_TORN, "upper/big", lazy(missing=[[0, 5]], more=b'{"have":[0')),
    Case(Kind.LAZY_WHOLE, "upper/big", lazy(missing=[])),
    Case(Kind.LAZY_MAP_UNUSED, f"upper.work/lazy/{TOKEN}", unused_map),
    Case(Kind.LAZY_MAP_UNUSED, "upper.work/lazy/0.new", write("upper.work/lazy/0.new", b"{")),
    Case(Kind.INDEX_DAMAGED, "upper.work/links/what", indexed("what", linked=True)),
    Case(Kind.INDEX_ONLY_NAME, "upper.work/links/what", indexed("what", linked=False)),
    Case(Kind.INDEX_GONE, f"upper.work/links/{KEY}+-1:5:7", indexed(f"{KEY}+-1:5:7", linked=False)),
    Case(Kind.INDEX_COMPLETE, f"upper.work/links/{KEY}=1:5:7", indexed(f"{KEY}=1:5:7", linked=True)),
    Case(Kind.TIMES_DAMAGED, "upper.work/ctimes", write("upper.work/ctimes", b'{"5":[1')),
    Case(Kind.TIMES_UNUSED, "upper.work/ctimes", write("upper.work/ctimes", b'{"5":[1,2]}')),
)
BEFORE_THE_CHECKS = {Kind.OWNER_DEAD, Kind.OWNER_DAMAGED, Kind.LEASE_ASIDE}
WITH_THEIR_BASE = {Kind.LAZY_MAP_LONG, Kind.LAZY_MAP_TORN}
"""Of which a part stays lazy; tests/crash/test_lazy_crash.py interrupts these."""


def test_nothing_is_found_in_an_upper_that_is_as_it_should_be(upper: CheckedUpper) -> None:
    before = upper.tree()
    assert upper.check() == (set(), [], ExitCode.CLEAN)
    assert upper.tree() == before


def test_an_upper_that_was_never_mounted_is_left_so(upper: CheckedUpper) -> None:
    upper.work.rmdir()
    before = upper.tree()
    assert upper.check().exit_code is ExitCode.CLEAN
    assert upper.tree() == before
    assert upper.check(Repairs.ALL).exit_code is ExitCode.CLEAN


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.rpartition("/")[2] + " " + case.kind.row.code)
def test_each_kind(upper: CheckedUpper, case: Case) -> None:
    case.make(upper)
    before = upper.tree()
    told = upper.check()
    assert told.found == {(case.kind, case.path)}
    assert told.exit_code is ExitCode.LEFT
    assert upper.tree() == before

    asked = upper.check(Repairs.ASKED)  # the answer is no
    assert asked.found == told.found

    repaired = upper.check(Repairs.ALL)
    again = upper.check()
    if case.kind in LEFT:
        assert repaired.exit_code is again.exit_code is ExitCode.LEFT
        assert again == told
    else:
        assert repaired.exit_code is ExitCode.CORRECTED or asked.exit_code is ExitCode.CORRECTED
        assert again == (set(), [], ExitCode.CLEAN)


@pytest.mark.parametrize("case", [case for case in CASES if case.kind not in LEFT], ids=lambda case: case.kind.row.code)
def test_what_was_repaired_mounts(tmp_path: Path, case: Case) -> None:
    upper = CheckedUpper(tmp_path)
    write_tree(upper.base, {"big": b"b" * SIZE})
    write_tree(upper.root, {"file": b"above", "made": {"inside": b"new"}})
    upper.work.mkdir(mode=0o700)
    case.make(upper)
    upper.check(Repairs.ALL)
    (tmp_path / "served" / "lower0").symlink_to(upper.base)
    mounted = Mounted(tmp_path / "served")
    shown = mounted.tree() if case.kind not in (Kind.LAZY_MAP_LONG, Kind.LAZY_MAP_TORN) else {}
    mounted.close()
    assert shown.get("file", b"above") == b"above"
    if case.kind is Kind.LAZY_WHOLE:
        assert shown["big"] == b"u" * SIZE
    if case.kind is Kind.REDIRECT_OUT:
        assert shown["made"] == {"inside": b"new"}


@pytest.mark.parametrize("kind", [Kind.INDEX_DAMAGED, Kind.TIMES_DAMAGED])
def test_a_mount_that_cannot_begin_says_what_to_do(tmp_path: Path, kind: Kind) -> None:
    upper = CheckedUpper(tmp_path)
    write_tree(upper.root.parent, {"upper": {"file": b""}, "upper.work": {}, "lower0": {}})
    next(case for case in CASES if case.kind is kind).make(upper)
    with pytest.raises(LayerSetupError, match="netoverlay fsck"):
        Mounted(tmp_path / "served")


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.kind not in LEFT | BEFORE_THE_CHECKS | WITH_THEIR_BASE],
    ids=lambda case: case.kind.row.code,
)
def test_a_repair_that_is_interrupted_is_done_the_next_time(tmp_path: Path, case: Case) -> None:
    for nth in range(1, 20):
        upper = CheckedUpper(tmp_path / str(nth))
        write_tree(upper.base, {"file": b"below", "big": b"b" * SIZE})
        write_tree(upper.root, {"file": b"above", "made": {"inside": b"new"}})
        upper.work.mkdir(mode=0o700)
        (upper.root.parent / "lower0").symlink_to(upper.base)
        case.make(upper)
        faults = Faults()
        wounded = Mounted(
            upper.root.parent, wrap_upper=lambda backend, f=faults: FaultyBackend(backend, f), mounted=False
        )
        faults.crash(*CHANGES, nth=nth, after=True)
        done = False
        with contextlib.suppress(CrashedError):
            for finding in check_upper(Subject(wounded.stack, None), None):
                assert finding.repair is not None
                finding.repair()
            done = True
        wounded.abandon()
        put_in_order(Mounted(upper.root.parent, mounted=False))
        if done:
            return
    pytest.fail("it was never done")


def test_what_cannot_be_read_is_told_and_nothing_concluded_from_it(tmp_path: Path) -> None:
    write_tree(tmp_path, {"lower0": {"file": b""}, "upper": {"shut": {"file": b"x"}}})
    Mounted(tmp_path).close()
    write_tree(tmp_path / "upper.work", {"lazy": {TOKEN: b"may be of a file in there"}})
    faults = Faults()
    mounted = Mounted(tmp_path, wrap_upper=lambda backend: FaultyBackend(backend, faults))
    faults.fail("list_dir", path="upper/shut")
    subject = Subject(mounted.overlay.tree.stack, None)
    assert [(finding.kind, finding.path) for finding in check_upper(subject, None)] == [(Kind.UNREADABLE, "upper/shut")]
    faults.clear()
    mounted.close()


def test_without_lowers_only_what_they_decide_is_not_checked(upper: CheckedUpper) -> None:
    whiteout(upper.root / "none")
    in_opaque(upper)
    upper.base.rename(upper.base.with_name("away"))
    assert upper.check().found == {(Kind.WHITEOUT_IN_OPAQUE, "upper/made/below/gone")}
    upper.base.mkdir()  # as the directory where nothing is mounted
    assert upper.check(Repairs.ALL).found == {(Kind.WHITEOUT_IN_OPAQUE, "upper/made/below/gone")}
    assert (upper.root / "hidden").exists()
