"""An upper on a server that fails: what programs are told, and what is left, on real servers over real mounts."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, through_proxy, wait_for_end
from tests.servers.proxy import Proxy
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

MIB = 1 << 20
DEADLINE = 2.0
WAIT_SECONDS = 30.0
SIZE = 24 * MIB
DATA = random.Random(SIZE).randbytes(SIZE)
IMPATIENT = """
from netoverlay.overlay.lease import Timing

Timing.for_deadline = classmethod(lambda cls, _: cls(beat_seconds=0.2, expires_seconds=7.0, margin_seconds=3.0))
"""
"""As sitecustomize.py: the lease is lost within seconds."""


@dataclass
class Upper:
    """A mount whose upper is a directory of this machine that a server has, reached through a proxy."""

    mount: OverlayMount
    proxy: Proxy
    base: Path
    root: Path
    work: Path

    def left(self) -> list[str]:
        """What is in the work directory that belongs to one change only."""
        return [name for name in os.listdir(self.work) if name.startswith(("#", ".wh..wh..aside-"))]

    def served(self) -> list[str]:
        """The names that the server has below the upper, hidden ones as well."""
        return sorted(name for _, directories, files in os.walk(self.root) for name in [*directories, *files])

    def lease(self) -> dict[str, object]:
        told = json.loads(run(*COMMAND, "status", "--json", self.mount.path))
        found: dict[str, object] = told["mounts"][0]["status"]["layers"][0]["lease"]
        return found


Serve = Callable[..., Upper]


def keys_of(server: SshServer | SmbServer, proxy: Proxy, path: Path, known_hosts: Path) -> tuple[str, list[str]]:
    """The url of a directory by way of the proxy, and how to log in."""
    url, login = through_proxy(server, proxy.port, path, known_hosts)
    return url, [*login, f"deadline = {DEADLINE}"]


@pytest.fixture
def serve(tmp_path: Path, server: SshServer | SmbServer) -> Iterator[Serve]:
    """Mounts; `one_server`: the base is on the server as well."""
    mounted: list[OverlayMount] = []
    with Proxy(server.port) as proxy:

        def make(*, one_server: bool = False, prefix: tuple[str, ...] = (), root: Path | None = None) -> Upper:
            base, upper = tmp_path / "base", root or tmp_path / "served" / "upper"
            base.mkdir()
            (base / "file").write_bytes(DATA)
            url, login = keys_of(server, proxy, upper, tmp_path / "known_hosts")
            lower = (keys_of(server, proxy, base, tmp_path / "known_hosts")) if one_server else (str(base), [])
            mount = OverlayMount(
                tmp_path / "m",
                layer_table(*lower),
                upper=upper,
                upper_keys=[f'url = "{url}"', *login],
                prefix=prefix,
                unmount_prefix=(),
            )
            mount.mount()
            mounted.append(mount)
            return Upper(mount, proxy, base, upper, upper.with_name(f"{upper.name}.work"))

        try:
            yield make
        finally:
            proxy.delay = 0.0
            proxy.restore()
            for mount in mounted:
                mount.unmount_quietly()


def wait_until(holds: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < give_up_at
        time.sleep(0.002)


def code_of(call: Callable[[], object]) -> int | None:
    try:
        call()
    except OSError as error:
        return error.errno
    return None


@pytest.fixture
def impatient(tmp_path: Path) -> tuple[str, ...]:
    """What the command of a mount starts with whose lease is lost soon."""
    patch = tmp_path / "patch" / "sitecustomize.py"
    patch.parent.mkdir()
    patch.write_text(IMPATIENT)
    return ("env", f"PYTHONPATH={patch.parent}:{os.environ.get('PYTHONPATH', '')}")


@pytest.mark.parametrize("server", ["sftp"], indirect=True)
def test_the_status_tells_of_the_lease(serve: Serve, impatient: tuple[str, ...]) -> None:
    upper = serve(prefix=impatient)
    mount = upper.mount
    (mount.path / "mine").write_text("before\n")
    assert upper.lease() | {"since": None} == {"state": "held", "since": None, "problem": None}
    assert "connected, lease held" in run(*COMMAND, "status", mount.path)
    upper.proxy.refuse()
    wait_until(lambda: upper.lease()["state"] == "unrenewed")
    assert "it cannot be renewed, and is lost in" in str(upper.lease()["problem"])
    wait_until(lambda: upper.lease()["state"] == "lost")
    upper.proxy.restore()
    assert code_of(lambda: (mount.path / "mine").write_text("after\n")) == errno.EIO
    assert (mount.path / "mine").read_text() == "before\n"
    lease = upper.lease()
    assert lease["state"] == "lost"
    assert f"unmount with `netoverlay umount {mount.path}`, and mount again" in str(lease["problem"])
    text = run(*COMMAND, "status", mount.path)
    assert "lease lost" in text
    assert f"upper: {lease['problem']}" in text
    mount.unmount_quietly()
    mount.mount()
    assert upper.lease()["state"] == "held"
    (mount.path / "mine").write_text("after\n")


# A copy-up whose connection is cut.


def append(path: Path, added: bytes) -> None:
    """The first change of a file of the base."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, added)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Thread(threading.Thread):
    """Runs a call, and keeps what came of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.code: int | None = None
        self.start()

    def run(self) -> None:
        self.code = code_of(self._call)

    def ended(self) -> int | None:
        self.join(WAIT_SECONDS)
        assert not self.is_alive()
        return self.code


def in_the_middle(upper: Upper) -> bool:
    """Whether a copy has begun, and some of it is on the server."""
    return any(size_of(upper.work / name) > 0 for name in upper.left())


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize(
    ("server", "one_server"),
    [("sftp", False), ("sftp", True), ("smb", True)],
    ids=["sftp-through-here", "sftp-by-the-server", "smb-by-the-server"],
    indirect=["server"],
)
def test_a_copy_up_goes_on_after_a_cut(serve: Serve, one_server: bool) -> None:
    upper = serve(one_server=one_server)
    file = upper.mount.path / "file"
    upper.proxy.delay = 0.05
    appending = Thread(lambda: append(file, b"added"))
    wait_until(lambda: in_the_middle(upper))
    upper.proxy.cut()
    upper.proxy.delay = 0.0
    assert appending.ended() is None
    assert file.read_bytes() == DATA + b"added"
    assert (upper.root / "file").read_bytes() == DATA + b"added"
    assert upper.left() == []


@pytest.mark.parametrize("server", ["smb"], indirect=True)
def test_a_copy_up_without_the_server_is_an_error_and_leaves_nothing(serve: Serve) -> None:
    upper = serve()
    file = upper.mount.path / "file"
    upper.proxy.delay = 0.05
    appending = Thread(lambda: append(file, b"added"))
    wait_until(lambda: in_the_middle(upper))
    upper.proxy.refuse()
    upper.proxy.delay = 0.0
    assert appending.ended() in (errno.EIO, errno.ETIMEDOUT)
    assert upper.left()
    upper.proxy.restore()
    assert file.read_bytes() == DATA
    append(file, b"more")
    assert upper.left() == []
    assert file.read_bytes() == DATA + b"more"
    assert (upper.root / "file").read_bytes() == DATA + b"more"


# Files that are open when their names go.


OpenOver = Callable[[Path], int]


@pytest.fixture
def open_over(serve: Serve) -> Iterator[OpenOver]:
    """Opens a file for reading and writing, and writes a little; closed before the mount goes."""
    held: list[int] = []

    def open_one(path: Path) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        held.append(descriptor)
        os.pwrite(descriptor, b"0123456789", 0)
        os.fsync(descriptor)
        return descriptor

    yield open_one
    for descriptor in held:
        code_of(lambda descriptor=descriptor: os.close(descriptor))  # type: ignore[misc]


def goes_on(descriptor: int) -> None:
    """What a program sees of its open file once that has no name any more."""
    assert os.fstat(descriptor).st_nlink == 0
    assert os.pread(descriptor, 99, 0) == b"0123456789"
    assert os.pwrite(descriptor, b"ABC", 8) == 3
    os.fsync(descriptor)
    assert os.pread(descriptor, 99, 0) == b"01234567ABC"
    assert os.fstat(descriptor).st_size == 11
    os.ftruncate(descriptor, 3)
    assert os.pread(descriptor, 99, 0) == b"012"


def test_open_files_outlive_their_names_and_leave_nothing(serve: Serve, open_over: OpenOver) -> None:
    upper = serve()
    top = upper.mount.path
    (top / "new").write_text("new\n")
    (top / "new2").write_text("new\n")
    removed, replaced, of_base = (open_over(top / name) for name in ("removed", "replaced", "file"))
    (top / "removed").unlink()
    (top / "new").rename(top / "replaced")
    (top / "new2").rename(top / "file")
    assert sorted(os.listdir(top)) == ["file", "replaced"]
    for descriptor in (removed, replaced):
        goes_on(descriptor)
    assert os.fstat(of_base).st_nlink == 0
    assert os.pread(of_base, 12, 0) == b"0123456789" + DATA[10:12]
    (top / "removed").write_text("another one\n")
    assert os.pread(removed, 99, 0) == b"012"
    for descriptor in (removed, replaced, of_base):
        os.close(descriptor)
    for name in ("replaced", "file"):
        assert (top / name).read_text() == "new\n"
    wait_until(lambda: upper.served() == ["file", "removed", "replaced"])
    assert upper.left() == []
    killed_with_open_files(upper, open_over)


def killed_with_open_files(upper: Upper, open_over: OpenOver) -> None:
    """What the daemon had open when it was killed is gone after the next mount."""
    top = upper.mount.path
    (top / "new").write_text("new\n")
    (top / "directory").mkdir()
    names = ("removed", "replaced", "file", "directory/inside")
    held = [open_over(top / name) for name in names]
    unnamed = os.open(top, os.O_TMPFILE | os.O_RDWR)
    os.write(unnamed, b"without a name")
    (top / "removed").unlink()
    (top / "file").unlink()
    (top / "directory" / "inside").unlink()
    (top / "new").rename(top / "replaced")
    pid = upper.mount.daemon()
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
    run("umount", "-l", top)
    for descriptor in (*held, unnamed):
        assert code_of(lambda descriptor=descriptor: os.pread(descriptor, 99, 0)) is not None  # type: ignore[misc]
        code_of(lambda descriptor=descriptor: os.close(descriptor))  # type: ignore[misc]
    upper.mount.mount()
    assert sorted(os.listdir(top)) == ["directory", "replaced"]
    assert (top / "replaced").read_text() == "new\n"
    wait_until(lambda: upper.served() == [".wh.file", "directory", "replaced"])
    assert upper.left() == []
    (top / "directory").rmdir()


# A server without room.


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    top = tmp_path / "small"
    top.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=16m", "netoverlay-test", top)
    try:
        yield top
    finally:
        run("umount", "-l", top)


def write_whole(path: Path, size: int, finish: Callable[[int], None]) -> tuple[int | None, int | None, int | None]:
    """What write(2), `finish` and close(2) say."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    piece = bytes(range(256)) * (MIB // 256)

    def write() -> None:
        for _ in range(size // MIB):
            os.write(descriptor, piece)

    return code_of(write), code_of(lambda: finish(descriptor)), code_of(lambda: os.close(descriptor))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_server_without_room_is_told_by_fsync_and_by_close(small: Path, serve: Serve) -> None:
    upper = serve(root=small / "upper")
    top = upper.mount.path
    written, synced, closed = write_whole(top / "synced", 20 * MIB, os.fsync)
    assert errno.ENOSPC in (written, synced)
    assert {written, synced, closed} <= {errno.ENOSPC, None}
    (top / "synced").unlink()
    written, _, closed = write_whole(top / "closed", 20 * MIB, lambda _: None)
    assert errno.ENOSPC in (written, closed)
    assert {written, closed} <= {errno.ENOSPC, None}
    with pytest.raises(OSError, match="No space left"):
        append(top / "file", b"added")
    assert (top / "file").read_bytes() == DATA
    assert upper.left() == []
    (top / "closed").unlink()
    assert write_whole(top / "fits", 8 * MIB, os.fsync) == (None, None, None)
    assert (upper.root / "fits").stat().st_size == 8 * MIB
    assert sorted(os.listdir(top)) == ["file", "fits"]


# A connection that is lost between a write and its sync.


def test_fsync_is_no_success_for_what_is_not_on_the_server(serve: Serve) -> None:
    upper = serve()
    path, served = upper.mount.path / "file2", upper.root / "file2"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for number in range(2):
            data = bytes([number + 1]) * (2 * MIB)
            assert os.pwrite(descriptor, data, number * len(data)) == len(data)
            (upper.proxy.cut, upper.proxy.refuse)[number % 2]()
            code = code_of(lambda: os.fsync(descriptor))
            assert code in ({errno.EIO} if number % 2 else {errno.EIO, None})
            if code is None:
                assert served.read_bytes()[number * len(data) :] == data
            upper.proxy.restore()
        code_of(lambda: os.fsync(descriptor))  # may have to tell of what was feared to be lost
        os.fsync(descriptor)
        assert served.read_bytes() == path.read_bytes() == b"".join(bytes([n]) * (2 * MIB) for n in (1, 2))
        lost_by_a_server_that_crashed(upper)
    finally:
        code_of(lambda: os.close(descriptor))


def lost_by_a_server_that_crashed(upper: Upper) -> None:
    """It loses what it had not synced, and is there again before anybody asks it for anything."""
    path, served = upper.mount.path / "lost", upper.root / "lost"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(descriptor, b"kept", 0)
        os.fsync(descriptor)
        os.pwrite(descriptor, b"lost", 0)
        assert os.fstat(descriptor).st_size == 4  # attributes come after what was written has been sent
        assert served.read_bytes() == b"lost"
        served.write_bytes(b"kept")
        upper.proxy.cut()
        assert code_of(lambda: os.fsync(descriptor)) in (errno.EIO, errno.ESTALE)
    finally:
        code_of(lambda: os.close(descriptor))
