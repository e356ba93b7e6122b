"""What the mount table and the daemons say together, and how it is shown."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import msgspec
import pytest

from netoverlay import mount_table
from netoverlay.status.control_server import ControlServer
from netoverlay.status.overview import MountReport, overview_json, report_all, report_one
from netoverlay.status.rendering import in_units, print_layer_reports, print_locks, print_mounts, settling_shown
from netoverlay.status.snapshot import FaultStatus, LayerReport, LazyStatus, LeaseStatus, LockStatus
from tests.status.examples import make_snapshot

MINE, OTHERS = os.geteuid(), os.geteuid() + 1
LINE = "{id} 29 0:{minor} / {mountpoint} rw,nosuid - {type} dev rw,user_id={user},group_id=0,default_permissions\n"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mountinfo"
    rows = [
        ("/mnt/dev", "fuse.netoverlay", MINE),
        ("/mnt/dead", "fuse.netoverlay", MINE),
        (r"/mnt/a\040b\134c", "fuse.netoverlay", OTHERS),
        ("/mnt/else", "fuse.sshfs", MINE),
    ]
    lines = [
        LINE.format(id=40 + minor, minor=minor, mountpoint=mountpoint, type=type_name, user=user)
        for minor, (mountpoint, type_name, user) in enumerate(rows)
    ]
    path.write_text("29 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n" + "".join(lines))
    monkeypatch.setattr(mount_table, "TABLE", str(path))
    return path


def test_mount_table(table: Path) -> None:
    assert mount_table.netoverlay_mounts() == [
        ("/mnt/dev", os.makedev(0, 0), MINE),
        ("/mnt/dead", os.makedev(0, 1), MINE),
        (r"/mnt/a b\c", os.makedev(0, 2), OTHERS),
    ]


def test_mount_of_a_relative_path_and_of_a_link(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "real"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    table.write_text(LINE.format(id=1, minor=9, mountpoint=target, type="fuse.netoverlay", user=MINE))
    monkeypatch.chdir(tmp_path)
    expected = (str(target), os.makedev(0, 9), MINE)
    assert [mount_table.mount_at(path) for path in ("real", "link", "./link/", f"{tmp_path}/real")] == [expected] * 4
    assert mount_table.mount_at(str(tmp_path)) is None


def test_states(table: Path, socket_directory: Path) -> None:
    servers = [ControlServer(place, lambda place=place: make_snapshot(place)) for place in ("/mnt/dev", "/mnt/lazy")]
    for server in servers:
        server.start()
    try:
        reports = {report.mountpoint: report for report in report_all()}
        if MINE != 0:
            assert r"/mnt/a b\c" not in reports
        assert reports["/mnt/dev"] == MountReport(
            mountpoint="/mnt/dev", state="mounted", status=make_snapshot("/mnt/dev")
        )
        assert reports["/mnt/lazy"].state == "detached"
        assert reports["/mnt/dead"] == MountReport(
            mountpoint="/mnt/dead", state="unserved", problem="/mnt/dead: its daemon is gone"
        )
        assert report_one("/mnt/dev") == reports["/mnt/dev"]
        with pytest.raises(OSError, match="no netoverlay mount"):
            report_one("/mnt")
    finally:
        for server in servers:
            server.stop()


PLAIN = """\
/mnt/dead: unserved: /mnt/dead: its daemon is gone; unmount it with `netoverlay umount --lazy /mnt/dead`

/mnt/dev: mounted, read-write, profile dev, process {pid}, since 2026-01-02 03:04:05
layer  url                     state      calls  errors  read     written  copied
upper  /var/upper              connected  7      1       1.5 KiB  0 B      0 B
lower  sftp://host/srv/[base]  connected  7      1       1.5 KiB  0 B      0 B
requests: getattr 12, lookup 5
"""


def reports() -> list[MountReport]:
    return [
        MountReport(mountpoint="/mnt/dead", state="unserved", problem="/mnt/dead: its daemon is gone"),
        MountReport(
            mountpoint="/mnt/dev", state="mounted", status=make_snapshot("/mnt/dev", url="sftp://host/srv/[base]")
        ),
    ]


def test_status_in_a_pipe() -> None:
    output = io.StringIO()
    print_mounts(reports(), output)
    assert output.getvalue() == PLAIN.format(pid=os.getpid())


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_status_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    output = _Terminal()
    print_mounts(reports(), output)
    assert "sftp://host/srv/[base]" in output.getvalue()
    assert "┃" in output.getvalue()


def test_settling_is_shown_at_a_terminal_only() -> None:
    for output in (_Terminal(), io.StringIO()):
        with settling_shown(output) as show:
            for left in (5 << 20, 1 << 20, 0):
                show(LazyStatus(files=1, bytes=left, settling=True))
        assert ("settling" in output.getvalue()) is output.isatty()


def test_what_is_lazy_is_told() -> None:
    output = io.StringIO()
    status = msgspec.structs.replace(make_snapshot(), lazy=LazyStatus(files=2, bytes=3 << 30, settling=False))
    print_mounts([MountReport(mountpoint="/mnt/dev", state="mounted", status=status)], output)
    line = "upper: 2 files copied lazily, 3.0 GiB of which only the base has: `netoverlay settle` brings it"
    assert line in output.getvalue().splitlines()


def test_faults_are_told() -> None:
    output = io.StringIO()
    at = time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1))
    faults = (
        FaultStatus(at=at, count=1, level="error", text="the upper is lost"),
        FaultStatus(at=at, count=3, level="warning", text="the cache is full"),
    )
    status = msgspec.structs.replace(make_snapshot(), faults=faults)
    print_mounts([MountReport(mountpoint="/mnt/dev", state="mounted", status=status)], output)
    lines = output.getvalue().splitlines()
    assert "error at 2026-01-02 03:04:05: the upper is lost" in lines
    assert "warning at 2026-01-02 03:04:05, 3 times by now: the cache is full" in lines


def test_no_mounts() -> None:
    output = io.StringIO()
    print_mounts([], output)
    assert output.getvalue() == "no mounts\n"


LOCKS = """\
/mnt/dev: mounted, read-write, profile dev, process {pid}, since 2026-01-02 03:04:05
upper /var/upper: locks are kept by this mount (private: nobody else uses it)
lower /srv/base: locks are kept by this mount (private: nobody else uses it)
file       process  lock             bytes  state    held in
a/b        812      fcntl exclusive  0-511  held     /var/upper
(removed)  ?        flock shared     all    waiting  this mount
"""


def test_locks() -> None:
    locks = (
        LockStatus(
            path="a/b", pid=812, call="fcntl", kind="exclusive", start=0, end=511, state="held", layer="/var/upper"
        ),
        LockStatus(path="", pid=0, call="flock", kind="shared", start=0, end=None, state="waiting", layer=None),
    )
    status = msgspec.structs.replace(make_snapshot(), locks=locks)
    output = io.StringIO()
    print_locks([MountReport(mountpoint="/mnt/dev", state="mounted", status=status)], output)
    assert output.getvalue() == LOCKS.format(pid=os.getpid())


def test_a_lease_that_is_lost() -> None:
    told = make_snapshot()
    lease = LeaseStatus(state="lost", since=0.0, problem="the upper is lost: unmount")
    upper = msgspec.structs.replace(told.layers[0], lease=lease)
    report = MountReport(
        mountpoint="/mnt/dev", state="mounted", status=msgspec.structs.replace(told, layers=(upper, *told.layers[1:]))
    )
    output = io.StringIO()
    print_mounts([report], output)
    lines = output.getvalue().splitlines()
    assert lines[2].split("  ")[2] == "connected, lease lost"
    assert "upper: the upper is lost: unmount" in lines
    assert json.loads(overview_json([report]))["mounts"][0]["status"]["layers"][0]["lease"] == {
        "state": "lost",
        "since": 0.0,
        "problem": "the upper is lost: unmount",
    }


def test_a_layer_that_cannot_be_reached() -> None:
    told = make_snapshot()
    lower = msgspec.structs.replace(told.layers[1], state="down", problem="no route to the host")
    told = msgspec.structs.replace(told, layers=(told.layers[0], lower))
    output = io.StringIO()
    print_mounts([MountReport(mountpoint="/mnt/dev", state="mounted", status=told)], output)
    assert "lower /srv/base: no route to the host" in output.getvalue().splitlines()


def test_json_document() -> None:
    document = json.loads(overview_json(reports()))
    assert document["version"] == 1
    dead, live = document["mounts"]
    assert dead == {
        "mountpoint": "/mnt/dead",
        "state": "unserved",
        "problem": "/mnt/dead: its daemon is gone",
        "status": None,
    }
    assert set(live["status"]) == {"mount", "layers", "requests", "inodes", "locks", "lazy", "faults"}
    assert set(live["status"]["mount"]) == {"mountpoint", "profile", "pid", "since", "read_only"}
    upper = live["status"]["layers"][0]
    assert set(upper) == {"role", "url", "state", "problem", "capabilities", "locks", "counters", "lease"}
    assert upper["capabilities"]["writable"] is True
    assert upper["counters"]["bytes_read"] == 1536


def test_layer_reports() -> None:
    table = {"local": True, "writable": False, "modes": True, "max_name_bytes": 255, "time_granularity_ns": 1}
    rows = [
        LayerReport(key="lower[0]", url="sftp://host/srv", capabilities=None, problem="connection refused"),
        LayerReport(key="upper", url="/var/upper", capabilities=table, locks="refused"),
    ]
    output = io.StringIO()
    print_layer_reports(rows, output)
    assert output.getvalue().splitlines() == [
        "layer     url              locks    capabilities",
        "lower[0]  sftp://host/srv           unreachable",
        "upper     /var/upper       refused  local modes",
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (1 << 60, "1048576.0 TiB")],
)
def test_units(count: int, text: str) -> None:
    assert in_units(count) == text
