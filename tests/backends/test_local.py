"""What only a local layer has to get right: it is rooted, and leaves the machine and the process as they are."""

import errno
import os
import stat
import subprocess
import sys
import threading

import pytest

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Creation,
    FileType,
    LayerSetupError,
    RenameFlags,
    parse_url,
)
from netoverlay.backend_api.registry import load_plugin
from netoverlay_local import LocalBackend
from netoverlay_local.attributes import foreign_file_id
from netoverlay_local.probe import file_system_type
from tests.backends.local_layers import MEMORY_DIRECTORY, fresh_directory, ordinary_user

SWAPS = 300
NOT_BENEATH = (errno.ELOOP, errno.ENOTDIR, errno.EXDEV, errno.EINVAL)
HOLD_LEASE = """
import fcntl, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
time.sleep(60)
"""
"""Ends by SIGIO, which gives the lease back, when the kernel asks for it (fcntl(2))."""


@pytest.fixture
def outside(tmp_path):
    """A directory beside the layer, with a file that nobody may reach through it."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_bytes(b"secret")
    return path


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "layer"
    path.mkdir()
    return path


@pytest.fixture
def layer(root):
    with LocalBackend(str(root)) as backend:
        backend.connect()
        yield backend


def touching_calls(layer, path):
    """Every call that could read or change what is at `path`."""
    return [
        lambda: layer.stat(path),
        lambda: layer.list_dir(path),
        lambda: layer.open(path, Access.READ),
        lambda: layer.open(path, Access.WRITE, truncate=True),
        lambda: layer.open(path, Access.WRITE, create=Creation.EXCLUSIVE),
        lambda: layer.readlink(path),
        lambda: layer.mkdir(path, 0o755),
        lambda: layer.unlink(path),
        lambda: layer.rmdir(path),
        lambda: layer.rename(path, "moved"),
        lambda: layer.rename("own", path),
        lambda: layer.rename("own", path, RenameFlags.EXCHANGE),
        lambda: layer.symlink(path, "target"),
        lambda: layer.link(path, "linked"),
        lambda: layer.link("own", path),
        lambda: layer.mknod(path, FileType.FIFO, 0o600),
        lambda: layer.set_attributes(path, AttributeChange(mode=0o777)),
        lambda: layer.get_xattr(path, "user.netoverlay.test"),
        lambda: layer.list_xattrs(path),
        lambda: layer.set_xattr(path, "user.netoverlay.test", b"value"),
        lambda: layer.remove_xattr(path, "user.netoverlay.test"),
    ]


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../outside",
        "../outside/secret",
        "directory/../../outside/secret",
        "relative/secret",
        "absolute/secret",
        "magic/secret",
        "up/outside/secret",
        "nul\0/secret",
        "directory\0",
    ],
)
def test_no_path_leads_out(layer, root, outside, path):
    layer.mkdir("directory", 0o755)
    (root / "own").write_bytes(b"own")
    (root / "relative").symlink_to("../outside")
    (root / "absolute").symlink_to(outside)
    (root / "magic").symlink_to("/proc/self/root" + str(outside))
    (root / "up").symlink_to("..")
    before = (outside.stat(), root.parent.stat(), sorted(os.listdir(root)))
    for call in touching_calls(layer, path):
        with pytest.raises(OSError, check=lambda error: error.errno in NOT_BENEATH):
            call()
    assert (outside.stat(), root.parent.stat(), sorted(os.listdir(root))) == before
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_directory_that_becomes_a_symlink_leads_nowhere(layer, root, outside):
    """Somebody on the server's side swaps a directory for a link to outside, again and again."""
    layer.mkdir("swapped", 0o755)
    (root / "swapped" / "secret").write_bytes(b"inside")
    (root / "link").symlink_to(outside)
    done = threading.Event()

    def swap():
        while not done.is_set():
            layer.rename("swapped", "link", RenameFlags.EXCHANGE)

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes = set()
    try:
        for number in range(SWAPS):
            try:
                with layer.open("swapped/secret", Access.READ) as file:
                    outcomes.add(file.read_at(0, 99))
                layer.open(f"swapped/{number}", Access.WRITE, create=Creation.EXCLUSIVE).close()
            except OSError as error:
                outcomes.add(error.errno)
    finally:
        done.set()
        swapper.join()
    assert outcomes <= {b"inside", errno.ELOOP, errno.ENOTDIR}
    assert os.listdir(outside) == ["secret"]


def test_connecting_leaves_no_trace(root):
    before = root.stat()
    with LocalBackend(str(root)) as backend:
        assert backend.connect().writable
    after = root.stat()
    assert os.listdir(root) == []
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


def test_descriptors_are_closed(root):
    before = os.listdir("/proc/self/fd")
    with LocalBackend(str(root)) as backend:
        backend.connect()
        backend.mkdir("directory", 0o7777)
        backend.open("directory/file", Access.WRITE, create=Creation.EXCLUSIVE)
        for path in ("directory", "directory/file", "missing/below", "directory/missing"):
            for call in touching_calls(backend, path):
                try:
                    call()
                except OSError as error:
                    assert error.errno != errno.EBADF  # noqa: PT017 - the other errors are other tests' business
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: None, errno.ENOENT),
        (lambda path: path.write_bytes(b""), errno.ENOTDIR),
        (lambda path: path.mkdir(mode=0o700), errno.EACCES),
    ],
    ids=["missing", "file", "unreadable"],
)
def test_an_unusable_root_is_named(make, code):
    with fresh_directory() as directory:
        path = directory / "root"
        make(path)
        with ordinary_user() if code == errno.EACCES else fresh_directory():
            if code == errno.EACCES and os.stat(path).st_uid == os.geteuid():
                path.chmod(0)
            with pytest.raises(LayerSetupError, match=str(path)) as caught:
                LocalBackend(str(path)).connect()
    assert caught.value.errno == code


def test_the_root_may_be_reached_through_a_symlink(layer, root, tmp_path):
    (tmp_path / "alias").symlink_to(root)
    with LocalBackend(str(tmp_path / "alias")) as alias:
        alias.connect()
        layer.mkdir("directory", 0o755)
        assert [entry.name for entry in alias.list_dir("")] == ["directory"]
        assert alias.identity() == layer.identity() == f"file://{os.path.realpath(root)}"


def test_calls_before_connect_and_after_close(root):
    backend = LocalBackend(str(root))
    with pytest.raises(OSError, match="not connected"):
        backend.stat("")
    backend.connect()
    backend.close()
    for call in touching_calls(backend, "name") + touching_calls(backend, "directory/name"):
        with pytest.raises(OSError, check=lambda error: error.errno == errno.EBADF):
            call()


def test_mounts_inside_the_layer():
    """/dev/shm is a file system of its own on every Linux."""
    device, inode = os.stat(MEMORY_DIRECTORY).st_dev, os.stat(MEMORY_DIRECTORY).st_ino
    assert device != os.stat("/dev").st_dev
    with LocalBackend("/dev") as backend:
        backend.connect()
        told = backend.stat("shm")
        listed = {entry.name: entry.stat for entry in backend.list_dir("")}["shm"]
        assert told.file_id == listed.file_id == foreign_file_id(device, inode)
        assert told.file_id >> 63 == 1
        assert backend.stat("null").rdev == os.makedev(1, 3)
        backend.list_dir("shm")


def test_copying_between_file_systems_is_refused(layer, root):
    (root / "file").write_bytes(b"content")
    with fresh_directory(MEMORY_DIRECTORY) as other_root, LocalBackend(str(other_root)) as other:
        other.connect()
        with (
            layer.open("file", Access.READ) as source,
            other.open("copy", Access.WRITE, create=Creation.EXCLUSIVE) as target,
            pytest.raises(OSError, check=lambda error: error.errno == errno.EXDEV),
        ):
            target.copy_range(source, 0, 0, 7)


def test_times_before_1970_and_single_nanoseconds(layer, root):
    (root / "file").write_bytes(b"")
    for time_ns in (-1, -1_500_000_001, 1, 999_999_999):
        layer.set_attributes("file", AttributeChange(atime_ns=time_ns, mtime_ns=time_ns))
        told = layer.stat("file")
        assert (told.atime_ns, told.mtime_ns) == (time_ns, time_ns)


def test_modes_are_exact_in_a_set_gid_directory(layer, root):
    root.chmod(0o2777)
    layer.mkdir("directory", 0o755)
    layer.mknod("fifo", FileType.FIFO, 0o666)
    layer.open("file", Access.WRITE, create=Creation.EXCLUSIVE, mode=0o666).close()
    modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in os.listdir(root)}
    assert modes == {"directory": 0o755, "fifo": 0o666, "file": 0o666}


def test_opening_waits_for_a_lease(layer, root):
    (root / "file").write_bytes(b"content")
    holder = subprocess.Popen([sys.executable, "-c", HOLD_LEASE, str(root / "file")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with layer.open("file", Access.READ) as file:
            assert file.read_at(0, 99) == b"content"
    finally:
        holder.kill()
        holder.communicate()


def test_file_system_types_are_those_of_the_mount_table():
    for path, expected in (("/proc", "proc"), (MEMORY_DIRECTORY, "tmpfs"), ("/sys", "sysfs")):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            assert file_system_type(descriptor) == expected
        finally:
            os.close(descriptor)


def test_the_plugin_makes_a_backend_of_a_path(root):
    plugin = load_plugin("file")
    with plugin.create(parse_url(str(root)), plugin.options(), 10.0) as backend:
        assert backend.connect().local
