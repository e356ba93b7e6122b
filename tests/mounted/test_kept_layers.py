"""Mounted again: what an earlier mount of a base kept is served without the server, and also when there is none."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, through_proxy
from tests.servers.proxy import Proxy
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

DEADLINE = 5.0
DIRECTORIES = 6


@pytest.fixture
def base(tmp_path: Path) -> Path:
    top = tmp_path / "base"
    for number in range(DIRECTORIES):
        (top / f"d{number}" / "sub").mkdir(parents=True)
        (top / f"d{number}" / "file").write_bytes(bytes([number]) * 1000)
        (top / f"d{number}" / "link").symlink_to("file")
    return top


@pytest.fixture
def server(request: pytest.FixtureRequest) -> SshServer | SmbServer:
    """An sshd; where a transport of another kind could make a difference, the one of `both_servers`."""
    found: SshServer | SmbServer = request.getfixturevalue(getattr(request, "param", "sshd"))
    return found


both_servers = pytest.mark.parametrize("server", ["sshd", "smbd"], indirect=True)

Make = Callable[..., OverlayMount]


@pytest.fixture
def make(tmp_path: Path, base: Path, server: SshServer | SmbServer, proxy: Proxy) -> Iterator[Make]:
    """Makes a mount, which is not mounted yet, of a profile with the layer keys that are given."""
    url, login = through_proxy(server, proxy.port, base, tmp_path / "known_hosts")
    made: list[OverlayMount] = []

    def mount_of(*keys: str, immutable: bool = True) -> OverlayMount:
        table = layer_table(url, [*login, f"deadline = {DEADLINE}", *keys], immutable=immutable)
        made.append(OverlayMount(tmp_path / "m", table))
        return made[-1]

    yield mount_of
    proxy.restore()
    for mounted in made:
        mounted.unmount_quietly()


def layer_status(mounted: OverlayMount) -> dict:
    return json.loads(run(*COMMAND, "status", "--json", mounted.path))["mounts"][0]["status"]["layers"][1]


def calls(mounted: OverlayMount) -> dict[str, int]:
    """What was asked of the server, but for connecting and the look at the root that goes with it."""
    counters = layer_status(mounted)["counters"]
    found = {name: count for name, count in counters.items() if name.endswith(".calls") and name != "connect.calls"}
    return {name: count for name, count in found.items() if (name, count) != ("stat.calls", 1)}


def wait_for_state(mounted: OverlayMount, state: str) -> None:
    end = time.monotonic() + 20
    while layer_status(mounted)["state"] != state:
        assert time.monotonic() < end
        time.sleep(0.05)


def walk(top: Path) -> str:
    """All attributes of all files, and where the links point."""
    return run("ls", "-lR", "--time-style=full-iso", top) + run("find", top, "-printf", "%p %i %n %l\n")


def code_of(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def seconds_of(call: Callable[[], object]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


@both_servers
def test_the_walk_after_a_remount_asks_the_server_nothing(make: Make) -> None:
    mounted = make()
    with mounted:
        before = walk(mounted.path)
        first = calls(mounted)
        assert first["list_dir.calls"] == 2 * DIRECTORIES + 1
        assert "get_xattr.calls" not in first
    with mounted:
        assert walk(mounted.path) == before
        wait_for_state(mounted, "connected")
        assert calls(mounted) == {}
        assert (mounted.path / "d1" / "file").read_bytes() == b"\1" * 1000
        assert calls(mounted) != {}


def test_it_is_mounted_and_served_without_the_server(make: Make, proxy: Proxy, base: Path) -> None:
    (base / "d0" / "unread").write_bytes(b"x" * 1000)
    mounted = make('on_down = "cache"')
    with mounted:
        assert len(os.listdir(mounted.path)) == DIRECTORIES
        assert (mounted.path / "d0" / "file").read_bytes() == bytes(1000)
    proxy.refuse()
    assert seconds_of(mounted.mount) < DEADLINE
    wait_for_state(mounted, "down")
    assert layer_status(mounted)["problem"]
    assert sorted(os.listdir(mounted.path)) == sorted(os.listdir(base))
    assert (mounted.path / "d0" / "file").read_bytes() == bytes(1000)
    assert sorted(os.listdir(mounted.path / "d0")) == sorted(os.listdir(base / "d0"))
    assert code_of(lambda: os.stat(mounted.path / "d0" / "absent")) == errno.ENOENT
    (mounted.path / "mine").write_text("in the upper\n")
    for refused in (
        lambda: os.listdir(mounted.path / "d1"),
        lambda: os.stat(mounted.path / "d1" / "absent"),
        (mounted.path / "d0" / "unread").read_bytes,
    ):
        start = time.monotonic()
        assert code_of(refused) == errno.EIO
        assert time.monotonic() - start < DEADLINE / 2
    proxy.restore()
    wait_for_state(mounted, "connected")
    assert layer_status(mounted)["problem"] is None
    assert (mounted.path / "d0" / "unread").read_bytes() == b"x" * 1000
    assert "file" in os.listdir(mounted.path / "d1")
    assert code_of(lambda: os.stat(mounted.path / "d1" / "absent")) == errno.ENOENT
    assert (mounted.path / "mine").read_text() == "in the upper\n"


@pytest.mark.parametrize("server", ["smbd"], indirect=True)  # which has attributes, that a new upper's root needs
def test_what_was_prefetched_is_there_without_the_server(make: Make, proxy: Proxy, base: Path) -> None:
    mounted = make('on_down = "cache"')
    said = run(*COMMAND, "prefetch", mounted.profile, "d[12]/file")
    assert "2 files, 2.0 KiB, of which 2.0 KiB were fetched now" in said
    said = run(*COMMAND, "prefetch", mounted.profile, "d1/file", "d2")
    assert "3 files, " in said
    assert "2.0 KiB were fetched now" not in said
    proxy.refuse()
    mounted.mount()
    assert (mounted.path / "d1" / "file").read_bytes() == b"\1" * 1000
    assert (mounted.path / "d2" / "link").read_bytes() == b"\2" * 1000
    assert os.listdir(mounted.path / "d2" / "sub") == []
    assert code_of((mounted.path / "d3" / "file").read_bytes) == errno.EIO
    said = run(*COMMAND, "prefetch", mounted.profile, check=False)
    assert said.startswith(f"netoverlay: {mounted.profile}: lower[0].url: ")
    assert said.count("\n") == 1
    mounted.unmount_quietly()
    assert "freed" in run(*COMMAND, "cache", "drop", mounted.profile)
    with pytest.raises(AssertionError, match="status 1"):
        mounted.mount()


def test_calls_fail_at_once_while_it_is_down(make: Make, proxy: Proxy) -> None:
    mounted = make('on_down = "fail"')
    mounted.mount()
    assert sorted(os.listdir(mounted.path / "d0")) == ["file", "link", "sub"]
    proxy.refuse()
    assert code_of(lambda: os.listdir(mounted.path / "d1")) == errno.EIO
    for number in range(1, DIRECTORIES):
        assert seconds_of(lambda number=number: code_of(lambda: os.listdir(mounted.path / f"d{number}"))) < 1
    assert sorted(os.listdir(mounted.path / "d0")) == ["file", "link", "sub"]
    proxy.restore()
    wait_for_state(mounted, "connected")
    assert sorted(os.listdir(mounted.path / "d1")) == ["file", "link", "sub"]


def test_of_a_changing_base_what_was_known_last_is_served(make: Make, proxy: Proxy) -> None:
    mounted = make('on_down = "cache"', "ttl = 0.1", immutable=False)
    mounted.mount()
    assert (mounted.path / "d0" / "file").stat().st_size == 1000
    assert sorted(os.listdir(mounted.path / "d0")) == ["file", "link", "sub"]
    proxy.refuse()
    time.sleep(0.2)
    assert (mounted.path / "d0" / "file").stat().st_size == 1000
    assert sorted(os.listdir(mounted.path / "d0")) == ["file", "link", "sub"]
    assert code_of(lambda: os.listdir(mounted.path / "d1")) == errno.EIO


def test_a_base_that_was_changed_between_is_read_anew(make: Make, base: Path) -> None:
    os.utime(base, (10**9, 10**9))  # the server tells whole seconds, and may be changed within one
    mounted = make()
    with mounted:
        before = walk(mounted.path)
    (base / "new").write_text("new\n")
    (base / "d0" / "new").write_text("new\n")
    mounted.mount()
    wait_for_state(mounted, "connected")
    assert "has changed since it was mounted before" in mounted.log.read_text()
    mounted.unmount_quietly()
    mounted.mount()
    assert (mounted.path / "new").read_text() == "new\n"
    assert (mounted.path / "d0" / "new").read_text() == "new\n"
    assert walk(mounted.path) != before
