"""What is particular to SFTP: servers with fewer extensions, far ones, odd ones; and large transfers."""

from __future__ import annotations

import errno
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Creation,
    FileType,
    LayerSetupError,
    NotSupportedError,
    UnavailableError,
)
from netoverlay.backend_api.listing_limits import ListingLimits
from netoverlay_sftp.protocol import PacketType, pack_string
from tests.backends.scripted_listing import list_scripted
from tests.backends.sftp_layer import TRANSPORTS, connected, sftp_backend
from tests.servers.proxy import Proxy
from tests.servers.sshd import SshServer, descendants

FAR_DELAY = 0.004
"""In each direction: beyond the round trip from which further channels are opened."""


def write_file(backend, path, data, mode=0o644):
    with backend.open(path, Access.WRITE, create=Creation.EXCLUSIVE, mode=mode) as file:
        file.write_at(0, data)


def read_file(backend, path):
    with backend.open(path, Access.READ) as file:
        return file.read_at(0, file.stat().size + 1)


# Extensions that a server may lack.

WITHOUT = {
    "posix-rename": "atomic_replace",
    "hardlink": "hard_links",
    "copy-data": "server_copy",
}


@pytest.fixture(scope="module")
def bare_sshd(tmp_path_factory):
    """A server with nothing but the draft."""
    denied = ["posix-rename", "hardlink", "copy-data", "fsync", "lsetstat", "limits", "statvfs", "fstatvfs"]
    with SshServer(tmp_path_factory.mktemp("bare") / "sshd", denied_requests=denied, umask=0o077) as server:
        yield server


@pytest.fixture
def bare(bare_sshd, tmp_path):
    with connected(bare_sshd, tmp_path) as backend:
        yield backend


@pytest.mark.parametrize("denied", WITHOUT)
def test_what_the_server_lacks_is_not_claimed(tmp_path, denied):
    with (
        SshServer(tmp_path / "sshd", denied_requests=[denied]) as server,
        sftp_backend(server, tmp_path) as backend,
    ):
        claims = backend.connect()
        assert [name for name in WITHOUT.values() if not getattr(claims, name)] == [WITHOUT[denied]]


def test_without_extensions_what_needs_one_says_so(bare, tmp_path):
    write_file(bare, "file", b"x")
    with bare.open("file", Access.READ_WRITE) as file, bare.open("file", Access.READ) as source:
        for call in (file.sync, lambda: file.copy_range(source, 0, 10, 1), bare.space_usage):
            with pytest.raises(NotSupportedError):
                call()
    with pytest.raises(NotSupportedError):
        bare.link("file", "other")
    bare.symlink("link", "file")
    with pytest.raises(NotSupportedError):
        bare.set_attributes("link", AttributeChange(mtime_ns=0))
    assert (tmp_path / "file").stat().st_mtime != 0


def test_without_extensions_the_rest_works(bare, tmp_path):
    data = os.urandom(300_000)
    write_file(bare, "file", data, mode=0o666)
    assert read_file(bare, "file") == data
    assert bare.stat("file").mode == 0o666
    bare.mkdir("directory", 0o777)
    assert bare.stat("directory").mode == 0o777
    bare.set_attributes("file", AttributeChange(mode=0o600, mtime_ns=7_000_000_000))
    assert (bare.stat("file").mode, bare.stat("file").mtime_ns) == (0o600, 7_000_000_000)
    for code, call in {
        errno.EEXIST: lambda: bare.mkdir("file", 0o700),
        errno.ENOTDIR: lambda: bare.rmdir("file"),
        errno.EISDIR: lambda: bare.unlink("directory"),
        errno.EINVAL: lambda: bare.readlink("file"),
    }.items():
        with pytest.raises(OSError) as caught:  # noqa: PT011  (the errno is what matters)
            call()
        assert caught.value.errno == code


def test_without_posix_rename_a_target_is_replaced_all_the_same(bare, tmp_path):
    for name in ("a", "b"):
        write_file(bare, name, name.encode())
    bare.mkdir("empty", 0o700)
    bare.mkdir("full", 0o700)
    write_file(bare, "full/file", b"kept")
    with bare.open("b", Access.READ) as replaced:
        bare.rename("a", "b")
        assert replaced.read_at(0, 10) == b"b"
    assert read_file(bare, "b") == b"a"
    bare.rename("full", "empty")
    assert read_file(bare, "empty/file") == b"kept"
    bare.mkdir("other", 0o700)
    for code, ends in {
        errno.ENOTEMPTY: ("other", "empty"),
        errno.EISDIR: ("b", "other"),
        errno.ENOTDIR: ("other", "b"),
        errno.ENOENT: ("missing", "b"),
    }.items():
        with pytest.raises(OSError) as caught:  # noqa: PT011  (the errno is what matters)
            bare.rename(*ends)
        assert caught.value.errno == code, ends
    assert read_file(bare, "b") == b"a"
    assert read_file(bare, "empty/file") == b"kept"


# What SFTP would follow, or wait for.


def test_a_fifo_is_not_opened(sshd, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with connected(sshd, tmp_path, deadline=5.0) as backend:
        for access in Access:
            with pytest.raises(OSError, match="No such device or address"):
                backend.open("fifo", access)
        assert backend.stat("fifo").type is FileType.FIFO


def test_a_link_to_a_directory_is_not_listed(sshd, tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("directory")
    with connected(sshd, tmp_path) as backend, pytest.raises(NotADirectoryError):
        backend.list_dir("link")


def test_changing_a_symlink_leaves_its_target_alone(sshd, tmp_path):
    (tmp_path / "target").touch()
    os.utime(tmp_path / "target", (1, 1))
    with connected(sshd, tmp_path) as backend:
        backend.symlink("link", "target")
        backend.set_attributes("link", AttributeChange(mtime_ns=5_000_000_000))
        assert backend.stat("link").mtime_ns == 5_000_000_000
        assert (tmp_path / "target").stat().st_mtime == 1


@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/passwd", "a//b", "./a", "a\0b", "a/"])
def test_no_path_leads_out_of_the_root(sshd, tmp_path, path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "secret").touch()
    with connected(sshd, tmp_path / "root") as backend, pytest.raises(OSError, match="Invalid argument"):
        backend.stat(path)


def test_a_listing_tells_the_links_of_a_file(sshd, tmp_path):
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "b")
    with connected(sshd, tmp_path) as backend:
        assert [entry.stat.nlink for entry in backend.list_dir("")] == [2, 2]


@pytest.mark.parametrize("seconds", [-1, 2**32])
def test_times_that_sftp_cannot_tell_are_refused(sshd, tmp_path, seconds):
    (tmp_path / "file").touch()
    with connected(sshd, tmp_path) as backend, pytest.raises(OSError, match="Invalid argument"):
        backend.set_attributes("file", AttributeChange(mtime_ns=seconds * 1_000_000_000))


def test_names_that_are_none_are_left_out(caplog):
    names = [b".", b"..", b"good", b"", b"a/b", b"../up", b"nul\0", b"\xff"]
    with caplog.at_level(logging.WARNING):
        entries = list_scripted(iter([names]), ListingLimits(30), "")
    assert [entry.name for entry in entries] == ["good", "\udcff"]
    assert len(caplog.records) == 1


# Connections of all kinds.


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_allows_one_channel(tmp_path, transport):
    with (
        SshServer(tmp_path / "sshd", max_sessions=1) as server,
        connected(server, tmp_path, transport=transport) as backend,
    ):
        data = os.urandom(2_000_000)
        write_file(backend, "file", data)
        assert read_file(backend, "file") == data


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_far_server_gets_further_channels(sshd, tmp_path, transport):
    """And what is open in different channels can be copied by the server."""
    with (
        Proxy(sshd.port, delay=FAR_DELAY) as proxy,
        connected(sshd, tmp_path, transport=transport, port=proxy.port) as backend,
    ):
        contents = [os.urandom(1_500_000) for _ in range(6)]

        def work(number: int) -> None:
            write_file(backend, f"file-{number}", contents[number])
            assert read_file(backend, f"file-{number}") == contents[number]

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        channels = backend._connector.session()._data
        assert 1 < len(channels) <= 4
        with backend.open("copy", Access.READ_WRITE, create=Creation.EXCLUSIVE) as copy:
            for number in range(6):
                with backend.open(f"file-{number}", Access.READ) as source:
                    assert copy.copy_range(source, 500_000, number * 1_000_000, 5_000_000) == 1_000_000
        assert (tmp_path / "copy").read_bytes() == b"".join(content[500_000:] for content in contents)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_keys_are_renewed_in_the_middle_of_transfers(tmp_path, transport):
    with (
        SshServer(tmp_path / "sshd", settings=["RekeyLimit 1M"]) as server,
        connected(server, tmp_path, transport=transport) as backend,
    ):
        contents = [os.urandom(1_500_000) for _ in range(3)]

        def work(number: int) -> None:
            write_file(backend, f"file-{number}", contents[number])
            assert read_file(backend, f"file-{number}") == contents[number]
            assert f"file-{number}" in [entry.name for entry in backend.list_dir("")]

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(work, range(3)))


def test_a_silent_server_is_found_out_and_found_again(sshd, tmp_path):
    with (
        Proxy(sshd.port) as proxy,
        connected(sshd, tmp_path, deadline=2.0, port=proxy.port) as backend,
    ):
        (tmp_path / "file").write_bytes(bytes(20_000_000))
        proxy.silence()
        with pytest.raises(UnavailableError):
            backend.stat("")
        assert backend.connection_state() != "connected"
        proxy.restore()
        assert backend.stat("file").size == 20_000_000


def test_a_slow_server_that_is_alive_keeps_its_connection(tmp_path):
    """The process that serves SFTP stops; the one that holds the connection goes on, and says so when asked."""
    with SshServer(tmp_path / "sshd") as server, connected(server, tmp_path, deadline=2.0) as backend:
        before = backend._connector.session()
        assert server._process is not None
        serving = [pid for pid in descendants(server._process.pid) if not descendants(pid)]
        for pid in serving:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(UnavailableError, match="in time"):
                backend.stat("")
        finally:
            for pid in serving:
                os.kill(pid, signal.SIGCONT)
        assert backend.stat("").type is FileType.DIRECTORY
        assert backend._connector.session() is before


def assert_threads_end(before: int, seconds: float = 10.0) -> None:
    """No more threads run than before: the library's own need a moment to notice that their connection is closed."""
    give_up_at = time.monotonic() + seconds
    while threading.active_count() > before:
        assert time.monotonic() < give_up_at, threading.enumerate()
        time.sleep(0.02)


def test_closing_ends_everything(sshd, tmp_path):
    before = threading.active_count()
    backend = sftp_backend(sshd, tmp_path)
    backend.connect()
    backend.close()
    backend.close()
    with pytest.raises(UnavailableError):
        backend.stat("")
    assert_threads_end(before)
    assert backend.connection_state() == "down"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_failed_connect_leaves_nothing_behind(sshd, tmp_path, transport):
    before = set(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    for _ in range(3):
        with sftp_backend(sshd, Path("/no/such/root"), transport=transport) as backend, pytest.raises(LayerSetupError):
            backend.connect()
    assert_threads_end(threads)
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1


def test_the_identity_is_the_url(sshd, tmp_path):
    assert sftp_backend(sshd, tmp_path).identity() == f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{tmp_path}"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nobody_waits_for_a_further_channel(sshd, tmp_path, transport, monkeypatch):
    """Nor does closing while one is opened leave anything behind."""
    threads = threading.active_count()
    (tmp_path / "file").write_bytes(b"data")
    is_asked, may_open = threading.Event(), threading.Event()
    with (
        Proxy(sshd.port, delay=FAR_DELAY) as proxy,
        connected(sshd, tmp_path, transport=transport, port=proxy.port) as backend,
    ):
        session = backend._connector.session()
        open_stream = session._connection.open_stream

        def open_later():
            is_asked.set()
            assert may_open.wait(20)
            return open_stream()

        monkeypatch.setattr(session._connection, "open_stream", open_later)
        with backend.open("file", Access.READ) as file:
            session._data[0].multiplexer.submit(PacketType.FSTAT, pack_string(b"unknown"))  # now it is busy
            assert read_file(backend, "file") == file.read_at(0, 9) == b"data"
        assert is_asked.wait(20)
        assert len(session._data) == 1
        closing = threading.Thread(target=backend.close)
        closing.start()
        may_open.set()
        closing.join(20)
    assert_threads_end(threads)
