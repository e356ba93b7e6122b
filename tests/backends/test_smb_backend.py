"""What is particular to SMB: round trips, credits, files that others have open, names, modes, lost connections."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from netoverlay.backend_api import (
    Access,
    AllocateMode,
    AttributeChange,
    Backend,
    BackendFile,
    Creation,
    FileStat,
    FileType,
    LayerSetupError,
    RenameFlags,
    StaleHandleError,
    UnavailableError,
    XattrMode,
    parse_url,
)
from netoverlay.cache.metadata import MetadataCache
from netoverlay_smb import PLUGIN, SmbBackend, SmbOptions, commands, extended_attributes, names, replies, symlinks
from netoverlay_smb.handles import GENERIC_READ, GENERIC_WRITE
from netoverlay_smb.listing import HIDDEN_PREFIX
from netoverlay_smb.protocol import Command, CreateOptions, LeaseState, OplockLevel
from tests.backends.smb_layer import connected, smb_backend
from tests.servers.processes import required_program
from tests.servers.proxy import Proxy
from tests.servers.smbd import FRUIT_SETTINGS, REMEDY, SmbServer

PATIENCE = 20.0
"""Seconds within which what must not block has to be done: a server waits 35 for an oplock that nobody gives back."""


def write_file(backend: Backend, path: str, data: bytes) -> None:
    with backend.open(path, Access.WRITE, create=Creation.EXCLUSIVE) as file:
        file.write_at(0, data)


def read_file(backend: Backend, path: str) -> bytes:
    with backend.open(path, Access.READ) as file:
        return file.read_at(0, file.stat().size + 1)


def names_in(backend: Backend, path: str = "") -> list[str]:
    return sorted(entry.name for entry in backend.list_dir(path))


def listed(backend: Backend, path: str = "") -> dict[str, FileStat]:
    return {entry.name: entry.stat for entry in backend.list_dir(path)}


@contextmanager
def raises(code: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:  # noqa: PT011  (the errno is what matters)
        yield
    assert caught.value.errno == code


@pytest.fixture
def backend(smbd, tmp_path) -> Iterator[SmbBackend]:
    with connected(smbd, tmp_path) as it:
        yield it


@pytest.fixture
def own_smbd(tmp_path) -> Iterator[SmbServer]:
    """A server for one test, which may end its sessions; it serves `root`."""
    (tmp_path / "root").mkdir()
    with SmbServer(tmp_path / "smbd", {"root": tmp_path / "root"}) as server:
        yield server


def served(directory: Path, *share_settings: str, settings: tuple[str, ...] = ()) -> SmbServer:
    """A server of its own kind, of the whole of `directory`."""
    return SmbServer(directory / "smbd", {"all": directory}, settings=settings, share_settings=share_settings)


# Round trips.


class Sendings:
    """Counts what is sent to the server, in pieces that wait for nothing in between; closing files is not counted."""

    def __init__(self, backend: SmbBackend) -> None:
        self.count = 0
        self.compounds = 0
        engine = backend._connector.session().engine
        submit_all = engine.submit_all

        def counting(compounds):
            self.compounds += len(compounds)
            self.count += any(body.command is not Command.CLOSE for bodies in compounds for body in bodies)
            return submit_all(compounds)

        engine.submit_all = counting

    def during(self, call: Callable[[], object]) -> int:
        self.count = 0
        call()
        return self.count


@pytest.mark.parametrize("permissions", ["server", "profile"])
def test_the_number_of_round_trips(smbd, tmp_path, permissions):
    for name in ("small", "target", "other", "gone", "first"):
        (tmp_path / name).write_bytes(b"content")
    (tmp_path / "directory").mkdir()
    for number in range(10):
        (tmp_path / "directory" / f"file-{number}").touch()
    with connected(smbd, tmp_path, permissions=permissions) as backend:
        backend.unlink("first")  # with which one looks for what others have left
        sendings = Sendings(backend)

        def open_and_read() -> None:
            with backend.open("small", Access.READ) as file:
                assert file.read_at(0, 4096) == b"content"

        assert sendings.during(lambda: backend.stat("small")) == 1
        assert sendings.during(open_and_read) == 1
        assert sendings.during(lambda: backend.list_dir("directory")) == (1 if permissions == "profile" else 2)
        assert sendings.during(lambda: backend.mkdir("made", 0o700)) == 1
        assert sendings.during(lambda: backend.unlink("gone")) == 1
        assert sendings.during(lambda: backend.symlink("link", "small")) == 1
        assert sendings.during(lambda: backend.rename("other", "free")) == 1
        assert sendings.during(lambda: backend.rmdir("made")) == 1
        assert sendings.during(backend.space_usage) == 1
        assert sendings.during(lambda: backend.readlink("link")) == 2
        with backend.open("small", Access.READ_WRITE) as file:
            assert sendings.during(lambda: file.write_at(0, b"CONTENT")) == 1
            assert sendings.during(lambda: file.read_at(0, 4096)) == 1
            assert sendings.during(file.stat) == 1
            assert sendings.during(file.sync) == 1
        assert sorted(os.listdir(tmp_path)) == ["directory", "free", "link", "small", "target"]


def test_a_long_listing_is_asked_for_in_few_round_trips(smbd, tmp_path):
    for number in range(3000):
        (tmp_path / f"a-name-of-some-length-{number:05}").touch()
    with connected(smbd, tmp_path, permissions="profile") as backend:
        sendings = Sendings(backend)
        entries: list[object] = []
        assert sendings.during(lambda: entries.extend(backend.list_dir(""))) <= 4
        assert len(entries) == 3000


# Credits.


@pytest.mark.parametrize("credits", [64, 8192])
def test_many_threads_and_open_files_with_the_credits_that_there_are(tmp_path, credits):
    (tmp_path / "root" / "many").mkdir(parents=True)
    for number in range(300):
        (tmp_path / "root" / "many" / f"file-{number}").write_bytes(b"%d" % number)
    threads, open_files = 32, 1000
    contents = [os.urandom(700_000) for _ in range(threads)]
    with (
        served(tmp_path, settings=(f"smb2 max credits = {credits}",)) as server,
        connected(server, tmp_path / "root") as backend,
    ):

        def work(number: int) -> None:
            write_file(backend, f"file-{number}", contents[number])
            assert read_file(backend, f"file-{number}") == contents[number]
            assert len(backend.list_dir("many")) == 300

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))

        def hold(number: int):
            return backend.open(f"many/file-{number % 300}", Access.READ)

        with ThreadPoolExecutor(threads) as pool:
            files = list(pool.map(hold, range(open_files)))
            reads = list(pool.map(lambda file: file.read_at(0, 10), files))
            list(pool.map(lambda file: file.close(), files))
        assert reads == [b"%d" % (number % 300) for number in range(open_files)]
        assert backend.connection_state() == "connected"


# What others have open.


class OtherClient:
    """Samba's own client, with a file open for reading and writing, as others may, too; but not delete it."""

    def __init__(self, server: SmbServer, path: Path, marker: Path) -> None:
        """`marker` is a file that comes to be when it has opened the file."""
        share, root = next((share, root) for share, root in server.shares.items() if path.is_relative_to(root))
        words = [required_program("smbclient", REMEDY), f"--configfile={server.config}", f"--port={server.port}"]
        login = f"--authentication-file={server.directory}/login_{server.user}"
        self._process = subprocess.Popen(
            [*words, login, f"//127.0.0.1/{share}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._write(f'open "{path.relative_to(root)}"')

        def is_open() -> bool:
            self._write(f"!touch {marker}")  # which it does not look for before more is sent than it has read
            return marker.exists()

        assert eventually(is_open)

    def _write(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()

    def close(self) -> None:
        said, _ = self._process.communicate(b"close 1\n", timeout=PATIENCE)
        assert b"fnum 1" in said
        assert b"NT_STATUS" not in said


@contextmanager
def held_by_smbclient(server: SmbServer, path: Path, marks: Path) -> Iterator[None]:
    other = OtherClient(server, path, marks / "opened")
    yield
    other.close()


@contextmanager
def held_by_another_of_ours(server: SmbServer, path: Path) -> Iterator[BackendFile]:
    with connected(server, path.parent) as other, other.open(path.name, Access.READ_WRITE) as file:
        yield file


@pytest.fixture(params=["another of ours", "smbclient"])
def holding(request, smbd, tmp_path, tmp_path_factory):
    """holding(name): a context in which another client has it open."""
    if request.param == "smbclient":
        return lambda name: held_by_smbclient(smbd, tmp_path / name, tmp_path_factory.mktemp("marks"))
    return lambda name: held_by_another_of_ours(smbd, tmp_path / name)


def hidden_names(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.startswith(HIDDEN_PREFIX)]


def test_what_another_has_open_is_removed_at_once(smbd, backend, tmp_path):
    (tmp_path / "file").write_bytes(b"held")
    with held_by_another_of_ours(smbd, tmp_path / "file") as held:
        backend.unlink("file")
        with raises(errno.ENOENT):
            backend.stat("file")
        assert names_in(backend) == []
        assert len(hidden_names(tmp_path)) == 1
        write_file(backend, "file", b"new")
        assert read_file(backend, "file") == b"new"
        assert names_in(backend) == ["file"]
        assert held.read_at(0, 100) == b"held"
    assert eventually(lambda: hidden_names(tmp_path) == [])
    assert read_file(backend, "file") == b"new"


def test_what_another_has_open_is_hidden_and_deleted_in_one_round_trip(smbd, backend, tmp_path):
    for name in ("first", "file"):
        (tmp_path / name).write_bytes(b"held")
    backend.unlink("first")
    with held_by_another_of_ours(smbd, tmp_path / "file"):
        assert Sendings(backend).during(lambda: backend.unlink("file")) == 2
    assert eventually(lambda: hidden_names(tmp_path) == [])


def test_what_was_hidden_by_who_was_killed_before_he_deleted_it(smbd, tmp_path):
    (tmp_path / "directory").mkdir()
    for name in ("file", "other", f"{HIDDEN_PREFIX}1", f"{HIDDEN_PREFIX}2", f"directory/{HIDDEN_PREFIX}3"):
        (tmp_path / name).write_bytes(b"content")
    with (
        connected(smbd, tmp_path) as backend,
        held_by_another_of_ours(smbd, tmp_path / f"{HIDDEN_PREFIX}2") as held,
    ):
        backend.unlink("file")
        assert eventually(lambda: hidden_names(tmp_path) == [f"{HIDDEN_PREFIX}2"])
        assert held.read_at(0, 100) == b"content"
    assert eventually(lambda: hidden_names(tmp_path) == [])
    assert sorted(os.listdir(tmp_path)) == ["directory", "other"]


def test_what_another_has_open_is_renamed(smbd, backend, tmp_path):
    (tmp_path / "file").write_bytes(b"held")
    with held_by_another_of_ours(smbd, tmp_path / "file") as held:
        backend.rename("file", "other")
        assert names_in(backend) == ["other"]
        assert read_file(backend, "other") == b"held"
        assert held.read_at(0, 100) == b"held"


def test_what_another_has_open_is_replaced(backend, tmp_path, holding):
    (tmp_path / "file").write_bytes(b"held")
    (tmp_path / "new").write_bytes(b"new")
    with holding("file") as held:
        with raises(errno.EEXIST):
            backend.rename("new", "file", RenameFlags.NOREPLACE)
        backend.rename("new", "file")
        assert names_in(backend) == ["file"]
        assert read_file(backend, "file") == b"new"
        assert held is None or held.read_at(0, 100) == b"held"
    assert eventually(lambda: hidden_names(tmp_path) == [])


def test_what_another_does_not_let_go_stays_as_it_is(smbd, backend, tmp_path, tmp_path_factory):
    (tmp_path / "file").write_bytes(b"held")
    with held_by_smbclient(smbd, tmp_path / "file", tmp_path_factory.mktemp("marks")):
        for call in (lambda: backend.unlink("file"), lambda: backend.rename("file", "other")):
            with raises(errno.EBUSY):
                call()
        assert os.listdir(tmp_path) == ["file"]
        with backend.open("file", Access.READ_WRITE) as file:
            file.write_at(4, b" on")
    assert read_file(backend, "file") == b"held on"
    assert eventually(lambda: removed(backend, "file"))


def removed(backend: SmbBackend, path: str) -> bool:
    with suppress(OSError):
        backend.unlink(path)
        return True
    return False


def test_a_file_that_we_have_open_ourselves_is_removed_without_waiting_for_it(backend, tmp_path):
    (tmp_path / "file").write_bytes(b"held")
    with backend.open("file", Access.READ_WRITE) as file:
        backend.unlink("file")
        assert names_in(backend) == []
        file.write_at(4, b" on")
        assert file.read_at(0, 100) == b"held on"
    assert eventually(lambda: os.listdir(tmp_path) == [])


def test_a_directory_in_which_others_have_something_open_is_renamed(backend, tmp_path, holding):
    """Samba refuses it only for what is open on the same connection, which is put aside for as long."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").write_bytes(b"held")
    with backend.open("directory/file", Access.READ_WRITE) as ours, holding("directory/file") as held:
        backend.rename("directory", "other")
        assert ours.read_at(0, 100) == b"held"
        assert held is None or held.read_at(0, 100) == b"held"
        assert names_in(backend) == ["other"]
    assert read_file(backend, "other/file") == b"held"


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_directory_from_which_something_open_was_removed(backend, tmp_path, how):
    """It is like any other: what is open has gone out of it."""
    (tmp_path / "directory").mkdir()
    write_file(backend, "directory/file", b"held")
    with backend.open("directory/file", Access.READ) as file:
        if how == "replaced":
            write_file(backend, "new", b"new")
            backend.rename("new", "directory/file")
        else:
            backend.unlink("directory/file")
        backend.rename("directory", "other")
        assert names_in(backend) == ["other"]
        if how == "replaced":
            backend.unlink("other/file")
        backend.rmdir("other")
        assert names_in(backend) == []
        assert file.read_at(0, 100) == b"held"
    assert eventually(lambda: os.listdir(tmp_path) == [])


def test_what_a_crash_of_the_server_leaves_of_removed_files_keeps_no_directory(backend, tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / f"{HIDDEN_PREFIX}0123").write_bytes(b"removed")
    assert names_in(backend, "directory") == []
    (tmp_path / "directory" / "file").touch()
    with raises(errno.ENOTEMPTY):
        backend.rmdir("directory")
    assert len(os.listdir(tmp_path / "directory")) == 2
    backend.unlink("directory/file")
    backend.rmdir("directory")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("occasion", ["the next one that is removed", "the end"])
def test_what_a_crash_of_the_server_leaves_of_removed_files_is_removed_later(own_smbd, tmp_path, occasion):
    root = tmp_path / "root"
    with connected(own_smbd, root) as backend:
        write_file(backend, "file", b"content")
        with backend.open("file", Access.READ):
            backend.unlink("file")
            own_smbd.end_sessions()
            again(lambda: backend.stat(""))
        (left,) = hidden_names(root)
        if occasion == "the next one that is removed":
            write_file(backend, "next", b"content")
            with backend.open("next", Access.READ):
                backend.unlink("next")
                (hidden,) = hidden_names(root)
                assert hidden != left
    assert eventually(lambda: hidden_names(root) == [])


def test_two_clients_at_the_same_names(smbd, tmp_path):
    """What is removed or replaced while others open and close it is either there or not, and leaves nothing behind."""
    with connected(smbd, tmp_path) as one, connected(smbd, tmp_path) as two:

        def work(number: int) -> None:
            chance = random.Random(number)
            for _ in range(200):
                backend = chance.choice((one, two))
                name, other = (str(chance.randrange(6)) for _ in range(2))
                calls = (
                    partial(write_file, backend, name, b"x" * 1067),
                    partial(backend.unlink, name),
                    partial(backend.rename, name, other),
                    partial(read_file, backend, name),
                    partial(backend.list_dir, ""),
                    partial(backend.stat, name),
                )
                with suppress(FileNotFoundError, FileExistsError):
                    chance.choice(calls)()

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(work, range(12)))
        for backend in (one, two):
            backend.stat("")  # after which all that was closed before is closed
        there = names_in(one)
        assert names_in(two) == there
    assert eventually(lambda: sorted(os.listdir(tmp_path)) == there)


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it comes true: the server is told that a file is closed, and needs a moment for what follows."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return True
        pause.wait(0.01)
    return False


def within_patience(call: Callable[[], object]) -> object:
    """What it returns; it must not have to wait for us."""
    done: list[object] = []
    worker = threading.Thread(target=lambda: done.append(call()), daemon=True)
    worker.start()
    worker.join(PATIENCE)
    assert done, "it had to wait"
    return done[0]


@pytest.mark.parametrize("access", Access)
def test_what_we_have_open_blocks_nobody(smbd, backend, tmp_path, access):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).write_bytes(b"content")
    path = str(tmp_path.relative_to(smbd.shares["tests"])).replace("/", "\\")
    local = tmp_path / "local"
    local.write_bytes(b"from smbclient")
    files = [backend.open(name, access) for name in ("a", "b", "c", "d")]
    with connected(smbd, tmp_path) as other:

        def rewrite() -> bool:
            with other.open("a", Access.READ_WRITE, truncate=True) as file:
                file.write_at(0, b"rewritten")
            other.rename("b", "renamed")
            other.rename("renamed", "c")
            other.unlink("c")
            return True

        assert within_patience(rewrite)
    for command in (f"get {path}\\a -", f"put {local} {path}\\a", f"rename {path}\\d {path}\\e", f"del {path}\\e"):
        within_patience(lambda command=command: smbd.smbclient("tests", command))
    if access.reads:
        assert eventually(lambda: files[0].read_at(0, 100) == b"from smbclient")
    for file in files:
        file.close()
    assert names_in(backend) == ["a", "local"]


WATCHING_SECONDS = 1.5
"""After which the engine's own thread receives, if nothing was asked meanwhile."""


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("kind", ["oplock", "lease"])
def test_what_the_server_breaks_is_given_up_at_once(smbd, backend, tmp_path, kind, busy):
    """The server would hold the other one up for 35 s; that one waits for PATIENCE at most."""
    (tmp_path / "file").write_bytes(b"content")
    session = backend._connector.session()
    path = names.encode_utf16(names.server_path(session.root, "file"))
    asked: dict[str, object] = {"oplock": OplockLevel.BATCH}
    if kind == "lease":
        every = LeaseState.READ | LeaseState.HANDLE | LeaseState.WRITE
        asked = {"oplock": OplockLevel.LEASE, "contexts": commands.lease_context(os.urandom(16), every)}
    access = GENERIC_READ | GENERIC_WRITE
    request = session.submit(commands.create(path, access, CreateOptions.NON_DIRECTORY, **asked))[0]
    created = replies.created(session.expect(request))
    assert created.oplock == asked["oplock"], "the server must have granted it"
    ended = threading.Event()

    def look_on() -> None:
        while not ended.is_set():
            backend.stat("file")

    with connected(smbd, tmp_path, deadline=PATIENCE) as other, ThreadPoolExecutor(1) as pool:
        if busy:
            pool.submit(look_on)
        else:
            time.sleep(WATCHING_SECONDS)
        try:
            with other.open("file", Access.READ_WRITE) as file:
                file.write_at(0, b"another")
        finally:
            ended.set()
    assert read_file(backend, "file") == b"another"
    session.call(commands.close(created.handle))


# The attribute READONLY.


def make_read_only(smbd: SmbServer, path: Path) -> None:
    smbd.smbclient("tests", f'setmode "{path.relative_to(smbd.shares["tests"])}" +r')


@contextmanager
def read_by_another(server: SmbServer, path: Path) -> Iterator[BackendFile]:
    with connected(server, path.parent) as other, other.open(path.name, Access.READ) as file:
        yield file


def test_a_read_only_file_is_removed_and_replaced(smbd, tmp_path):
    for name in ("a", "b", "c", "d", "new", "newer"):
        (tmp_path / name).write_bytes(name.encode())
        if not name.startswith("new"):
            make_read_only(smbd, tmp_path / name)
    with connected(smbd, tmp_path, permissions="profile", file_mode=0o640) as backend:
        assert {name: found.mode for name, found in listed(backend).items()} == dict.fromkeys("abcd", 0o440) | {
            "new": 0o640,
            "newer": 0o640,
        }
        assert backend.stat("a").mode == 0o440
        with backend.open("a", Access.READ) as file:
            assert file.stat().mode == 0o440
        backend.unlink("a")
        backend.rename("new", "b")
        assert read_file(backend, "b") == b"new"
        backend.rename("c", "moved")
        assert read_file(backend, "moved") == b"c"
        with read_by_another(smbd, tmp_path / "d") as held:
            backend.rename("newer", "d")
            assert held.read_at(0, 100) == b"d"
        assert read_file(backend, "d") == b"newer"
        make_read_only(smbd, tmp_path / "moved")
        with read_by_another(smbd, tmp_path / "moved") as held:
            backend.unlink("moved")
            assert held.read_at(0, 100) == b"c"
        assert names_in(backend) == ["b", "d"]
    assert eventually(lambda: hidden_names(tmp_path) == [])


# Owners and modes.

MODES = [0o000, 0o007, 0o070, 0o100, 0o444, 0o604, 0o640, 0o664, 0o700, 0o750, 0o755, 0o777]
OWNERS = [(os.getuid(), os.getgid())] if os.geteuid() else [(0, 0), (1234, 0), (0, 4321), (1234, 4321), (54321, 54321)]
"""Who is not root cannot give files away."""


def make_files(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Files and directories of all modes and owners; what each is."""
    made = {}
    for uid, gid in OWNERS:
        for mode in MODES:
            for kind in ("file", "directory"):
                if os.geteuid() and not mode & 0o400:
                    continue  # nor can the server read those of its own user then
                name = f"{kind}-{uid}-{gid}-{mode:04o}"
                (directory / name).touch() if kind == "file" else (directory / name).mkdir()
                os.chown(directory / name, uid, gid)
                (directory / name).chmod(mode)
                made[name] = (uid, gid, mode)
    return made


def test_the_server_tells_modes_and_owners(smbd, tmp_path):
    """All but who serves them: those are users of the server's domain, which has no numbers for us."""
    made = make_files(tmp_path)
    with connected(smbd, tmp_path) as backend:
        found = listed(backend)
        assert found.keys() == made.keys()
        for name, (uid, gid, mode) in made.items():
            told = found[name]
            assert told.mode == mode, name
            assert told.uid in ((uid, None) if uid == os.geteuid() else (uid,)), name
            assert told.gid in ((gid, None) if gid == os.getegid() else (gid,)), name
            assert backend.stat(name)._replace(atime_ns=told.atime_ns) == told, name
            if told.type is FileType.REGULAR:
                with backend.open(name, Access.READ) as file:
                    assert file.stat()._replace(atime_ns=told.atime_ns) == told, name


def test_the_profile_tells_modes_and_nobody_owners(smbd, tmp_path):
    made = make_files(tmp_path)
    with connected(smbd, tmp_path, permissions="profile", file_mode=0o604, dir_mode=0o1705) as backend:
        for name, told in listed(backend).items():
            expected = 0o1705 if told.type is FileType.DIRECTORY else 0o604
            assert (told.uid, told.gid) == (None, None)
            assert told.mode in (expected, expected & ~0o222)  # what nobody may write is READONLY on Samba
            if made[name][2] & 0o200:
                assert told.mode == expected
            assert backend.stat(name)._replace(nlink=None) == told
        assert backend.stat("").mode == 0o1705


def test_a_share_for_macs_tells_modes(tmp_path):
    (tmp_path / "root").mkdir()
    made = make_files(tmp_path / "root")
    for mode in (0o4755, 0o2750, 0o6711, 0o1777):
        (tmp_path / "root" / f"special-{mode:o}").touch()
        (tmp_path / "root" / f"special-{mode:o}").chmod(mode)
        made[f"special-{mode:o}"] = (0, 0, mode)
    settings = (*FRUIT_SETTINGS, "fruit:metadata = stream", "fruit:resource = stream")
    with served(tmp_path, *settings) as server, connected(server, tmp_path / "root") as backend:
        found = listed(backend)
        assert {name: told.mode for name, told in found.items()} == {name: mode for name, (_, _, mode) in made.items()}
        for name, told in found.items():
            assert (told.uid, told.gid) == (None, None)
            assert backend.stat(name)._replace(nlink=None, atime_ns=told.atime_ns) == told, name
            if told.type is FileType.REGULAR:
                with backend.open(name, Access.READ) as file:
                    assert file.stat()._replace(nlink=None, atime_ns=told.atime_ns) == told, name
        server.end_sessions()
        again(lambda: backend.stat(""))
        modes = {name: told.mode for name, told in listed(backend).items()}
        assert modes == {name: told.mode for name, told in found.items()}, "a new connection has to ask for them, too"


@pytest.fixture
def as_nobody(monkeypatch) -> Iterator[tuple[SmbBackend, Path]]:
    """Logged in as a user who may not do everything."""
    monkeypatch.setenv("SECRET", "correct horse battery staple")
    with tempfile.TemporaryDirectory() as name:  # and not below pytest's, which is nobody else's
        place = Path(name)
        place.chmod(0o755)
        (place / "root").mkdir()
        passwords = {"nobody": os.environ["SECRET"]}
        with SmbServer(place / "smbd", {"root": place / "root"}, passwords=passwords) as server:
            url = server.url("root", user="nobody")
            with smb_backend_at(url, password_env="SECRET") as backend:
                backend.connect()
                yield backend, place / "root"


def smb_backend_at(url: str, **options: object) -> SmbBackend:
    return PLUGIN.create(parse_url(url), SmbOptions(**options), PATIENCE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only a server that root runs has other users")
def test_what_is_open_is_removed_where_nothing_may_be_put_into_the_root(as_nobody):
    backend, root = as_nobody
    (root / "directory").mkdir()
    (root / "directory").chmod(0o777)
    write_file(backend, "directory/file", b"held")
    with backend.open("directory/file", Access.READ) as file:
        backend.unlink("directory/file")
        assert names_in(backend, "directory") == []
        assert len(hidden_names(root / "directory")) == 1
        assert file.read_at(0, 100) == b"held"
    assert eventually(lambda: os.listdir(root / "directory") == [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only a server that root runs has other users")
def test_what_may_not_be_read_is_listed_and_looked_at(as_nobody):
    """As on Linux, where a directory that may be read tells what is in it."""
    backend, root = as_nobody
    (root / "secret").write_bytes(b"content")
    (root / "secret").chmod(0o600)
    (root / "closed").mkdir(mode=0o700)
    (root / "link").write_bytes(symlinks.pack(b"target"))
    (root / "link").chmod(0o600)
    (root / "open").touch()
    (root / "a:b").touch(mode=0o600)
    assert names_in(backend) == ["a:b", "closed", "link", "open", "secret"]
    for name, told in listed(backend).items():
        assert backend.stat(name)._replace(nlink=told.nlink) == told
    assert backend.stat("secret").size == 7
    assert backend.stat("closed").type is FileType.DIRECTORY
    assert backend.stat("link").type is FileType.REGULAR
    for call in (
        lambda: backend.open("secret", Access.READ),
        lambda: backend.list_dir("closed"),
        lambda: backend.stat("closed/file"),
        lambda: backend.rename("closed/file", "file"),
        lambda: backend.mkdir("made", 0o700),
        lambda: backend.unlink("open"),
    ):
        with raises(errno.EACCES):
            call()
    assert sorted(os.listdir(root)) == ["a:b", "closed", "link", "open", "secret"]


# Names.


def test_names_that_differ_in_case_only(smbd, tmp_path):
    """Made on the server's own disk, for by default a client cannot."""
    for name in ("name", "Name", "NAME"):
        (tmp_path / name).write_text(name)
    with smb_backend(smbd, tmp_path) as backend:
        assert not backend.connect().case_sensitive
        assert names_in(backend) == ["NAME", "Name", "name"]
        for name in ("name", "Name", "NAME"):
            assert read_file(backend, name) == name.encode()
            assert backend.stat(name).file_id == (tmp_path / name).stat().st_ino
        assert backend.stat("nAME").file_id in {(tmp_path / name).stat().st_ino for name in ("name", "Name", "NAME")}
        with raises(errno.EEXIST):
            write_file(backend, "nAmE", b"")


def test_the_case_of_a_name_is_changed(smbd, tmp_path):
    (tmp_path / "name").write_bytes(b"content")
    (tmp_path / "directory").mkdir()
    with connected(smbd, tmp_path) as backend:
        backend.rename("name", "Name")
        backend.rename("directory", "Directory")
        assert sorted(os.listdir(tmp_path)) == ["Directory", "Name"]
        with backend.open("Name", Access.READ_WRITE) as file:
            backend.rename("Name", "NAME", RenameFlags.NOREPLACE)
            assert file.read_at(0, 100) == b"content"
        assert names_in(backend) == ["Directory", "NAME"]


def test_a_server_that_tells_names_in_another_case_apart(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "name").write_text("name")
    with served(tmp_path, "case sensitive = yes") as server, smb_backend(server, tmp_path / "root") as backend:
        assert backend.connect().case_sensitive
        with raises(errno.ENOENT):
            backend.stat("Name")
        write_file(backend, "Name", b"Name")
        assert read_file(backend, "name") == b"name"
        assert sorted(os.listdir(tmp_path / "root")) == ["Name", "name"]


ON_THE_DISK = [
    "a:b",
    "a.b.c:d",
    "a\\b",
    "\\",
    'q"*<>?|',
    "control\x01",
    "line\nfeed",
    "trail.",
    "trail ",
    "con",
    "aux.c",
    "x:" + "y" * 200,
    "ABCDEF~1",
    "ABCDEF~1.TXT",
    "ü:ü",
    " lead",
    ".hidden",
    "😀",
    "e\u0301",
]
"""Names that SMB does not have, or that look as if; Samba lists most of them under others."""


def test_every_name_that_the_servers_disk_can_have(smbd, tmp_path, backend):
    (tmp_path / "b").write_text("not the one behind a backslash")
    for name in ON_THE_DISK:
        (tmp_path / name).write_text(name)
    directory = tmp_path / "a directory: \\ of them"
    directory.mkdir()
    for name in ON_THE_DISK:
        (directory / name).write_text(name)
    for root, place in (("", tmp_path), (directory.name, directory)):
        found = listed(backend, root)
        assert sorted(found) == sorted(os.listdir(place))
        for name in ON_THE_DISK:
            path = f"{root}/{name}" if root else name
            assert found[name].file_id == (place / name).stat().st_ino, name
            assert backend.stat(path) == found[name], name
            assert read_file(backend, path) == name.encode(), name


def test_what_has_a_name_that_smb_does_not_have_can_be_worked_with(smbd, tmp_path, backend):
    for name in ("a:b", "c:d", "e:f", "plain"):
        (tmp_path / name).write_text(name)
    (tmp_path / "di:r").mkdir()
    (tmp_path / "di:r" / "in:side").write_text("inside")
    names_in(backend)
    names_in(backend, "di:r")
    with raises(errno.EEXIST):
        write_file(backend, "a:b", b"")
    backend.unlink("a:b")
    with raises(errno.ENOENT):
        backend.stat("a:b")
    write_file(backend, "a:b", b"new")
    assert read_file(backend, "a:b") == b"new"
    backend.rename("plain", "c:d")
    assert read_file(backend, "c:d") == b"plain"
    backend.rename("e:f", "g:h")
    assert read_file(backend, "g:h") == b"e:f"
    with backend.open("di:r/in:side", Access.READ) as file:
        backend.rename("di:r", "other:dir")
        assert file.read_at(0, 100) == b"inside"
    assert read_file(backend, "other:dir/in:side") == b"inside"
    backend.mkdir("di:r", 0o700)
    assert names_in(backend, "di:r") == []
    assert names_in(backend) == ["a:b", "c:d", "di:r", "g:h", "other:dir"]
    with connected(smbd, tmp_path) as other:
        assert names_in(other) == ["a:b", "c:d", "di:r", "g:h", "other:dir"]
        assert read_file(other, "a:b") == b"new"
        assert read_file(other, "c:d") == b"plain"
    backend.unlink("other:dir/in:side")
    backend.rmdir("other:dir")
    assert "other:dir" not in names_in(backend)


def test_a_name_is_forgotten_with_what_it_stood_for(own_smbd, tmp_path):
    """What is made in its place gets the name that was asked for, and not the one that the server had made up."""
    (tmp_path / "root" / "a:b").touch()
    with connected(own_smbd, tmp_path / "root") as backend:
        names_in(backend)
        backend.unlink("a:b")
        own_smbd.end_sessions()  # what the server remembers of names that it made up is gone with them
        within_patience(lambda: again(lambda: backend.stat("")))
        write_file(backend, "a:b", b"")
        assert os.listdir(tmp_path / "root") == ["a\uf022b"]
        assert names_in(backend) == ["a:b"]


def test_names_as_linux_and_macs_map_them(backend, tmp_path):
    """What SMB does not have stands for itself in Unicode's private use area: theirs is read, and ours is as theirs."""
    (tmp_path / "a\uf022b").write_bytes(b"theirs")
    (tmp_path / "end\uf028").touch()
    assert names_in(backend) == ["a:b", "end "]
    assert read_file(backend, "a:b") == b"theirs"
    backend.rename("a:b", "c?d")
    write_file(backend, "dot.", b"")
    write_file(backend, "back\\slash", b"")
    assert sorted(os.listdir(tmp_path)) == sorted(["c\uf025d", "end\uf028", "dot\uf029", "back\uf026slash"])


def test_a_name_that_is_not_utf8_is_not_told_by_samba(backend, tmp_path):
    """It leaves such files out, and knows of none; ours of that name is another one."""
    here = os.fsencode(tmp_path)
    with open(here + b"/caf\xe9", "wb") as file:
        file.write(b"theirs")
    (tmp_path / "beside").touch()
    assert names_in(backend) == ["beside"]
    with raises(errno.ENOENT):
        backend.stat("caf\udce9")
    write_file(backend, "caf\udce9", b"ours")
    assert names_in(backend) == ["beside", "caf\udce9"]
    assert read_file(backend, "caf\udce9") == b"ours"
    assert sorted(os.listdir(here)) == [b"beside", b"caf\xe9", "caf\uf0e9".encode()]


@pytest.mark.parametrize(
    "path", ["..", "../secret", "a/../../secret", "a/..", "/etc/passwd", "a//b", "./a", "a\0b", "a/"]
)
def test_no_path_leads_out_of_the_root(smbd, tmp_path, path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    with connected(smbd, tmp_path / "root") as backend:
        for call in (
            lambda: backend.stat(path),
            lambda: backend.list_dir(path),
            lambda: backend.open(path, Access.READ),
            lambda: backend.open(path, Access.WRITE, create=Creation.EXCLUSIVE),
            lambda: backend.mkdir(path, 0o700),
            lambda: backend.unlink(path),
            lambda: backend.rmdir(path),
            lambda: backend.symlink(path, "target"),
            lambda: backend.link("a", path),
            lambda: backend.rename("a", path),
            lambda: backend.rename(path, "b"),
            lambda: backend.set_attributes(path, AttributeChange(mtime_ns=0)),
            lambda: backend.set_xattr(path, "user.x", b"x"),
        ):
            with raises(errno.EINVAL):
                call()
    assert sorted(os.listdir(tmp_path)) == ["root", "secret"]
    assert os.listdir(tmp_path / "root") == ["a"]


@pytest.mark.parametrize(
    "name", ["..\\secret", "a\\..\\..\\secret", "\\..\\secret", "\\\\127.0.0.1\\tests", "secret:stream"]
)
def test_a_backslash_or_a_colon_is_a_character_like_others(smbd, tmp_path, name):
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    with connected(smbd, tmp_path / "root") as backend:
        with raises(errno.ENOENT):
            backend.stat(name)
        write_file(backend, name, b"mine")
        assert names_in(backend) == sorted(["a", name])
        assert len(os.listdir(tmp_path / "root")) == 2
        assert read_file(backend, name) == b"mine"
    assert (tmp_path / "secret").read_text() == "secret"
    assert sorted(os.listdir(tmp_path)) == ["root", "secret"]


# Symbolic links.


def test_links_are_those_of_linux(backend, tmp_path):
    backend.symlink("link", "some/target")
    digest = hashlib.md5(b"some/target").hexdigest().encode()
    content = b"XSym\n0011\n" + digest + b"\nsome/target\n"
    assert (tmp_path / "link").read_bytes() == content.ljust(1067)
    (tmp_path / "theirs").write_bytes(content.ljust(1067))
    for name in ("link", "theirs"):
        assert backend.readlink(name) == "some/target"
        found = backend.stat(name)
        assert (found.type, found.size, found.mode) == (FileType.SYMLINK, 11, 0o777)
        assert listed(backend)[name] == found
        with raises(errno.ELOOP):
            backend.open(name, Access.READ)
        with raises(errno.ENOTDIR):
            backend.list_dir(name)


@pytest.mark.parametrize("target", ["x", "t" * 1024, "../ü", "\udcff", "with a\nline", "/absolute", "a\\b:c"])
def test_targets_of_links(backend, target):
    backend.symlink("link", target)
    assert backend.readlink("link") == target
    assert listed(backend)["link"].type is FileType.SYMLINK


def test_a_file_of_the_size_of_a_link_is_a_file(backend, tmp_path):
    contents = {
        "zeros": bytes(1067),
        "almost": symlinks.pack(b"target").replace(b"target", b"tarGet"),
        "longer": symlinks.pack(b"target") + b" ",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name, found in listed(backend).items():
        assert found.type is FileType.REGULAR
        assert found.size == len(contents[name])
        assert backend.stat(name)._replace(atime_ns=found.atime_ns) == found
        assert read_file(backend, name) == contents[name]
        with raises(errno.EINVAL):
            backend.readlink(name)


def test_a_file_of_the_size_of_a_link_that_another_lets_nobody_read(smbd, backend, tmp_path):
    (tmp_path / "file").write_bytes(symlinks.pack(b"target"))
    (tmp_path / "beside").touch()
    with connected(smbd, tmp_path) as other:
        with held_for_nobody_else(other, "file"):
            assert names_in(backend) == ["beside", "file"]
            assert backend.stat("file").type is FileType.REGULAR
            with raises(errno.EBUSY):
                backend.open("file", Access.READ)
        assert backend.stat("file").type is FileType.SYMLINK


@contextmanager
def held_for_nobody_else(backend: SmbBackend, path: str) -> Iterator[None]:
    session = backend._connector.session()
    at = backend._paths.on_server(session.root, path)
    (body,) = session.call(commands.create(at, GENERIC_READ, CreateOptions(0), share=0))
    yield
    session.call(commands.close(replies.created(body).handle))


def test_the_links_of_the_servers_own_disk(backend, tmp_path):
    """Samba follows them without saying so, within the share; those that lead nowhere or out of it are not there."""
    (tmp_path / "target").write_bytes(b"content")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").touch()
    for name, target in {"file": "target", "dir": "directory", "dangling": "nowhere", "out": "/etc"}.items():
        (tmp_path / name).symlink_to(target)
    assert names_in(backend) == ["dir", "directory", "file", "target"]
    assert backend.stat("file").file_id == backend.stat("target").file_id
    assert read_file(backend, "file") == b"content"
    assert names_in(backend, "dir") == ["file"]
    for name in ("dangling", "out"):
        with raises(errno.ENOENT):
            backend.stat(name)
    with raises(errno.EINVAL):
        backend.readlink("file")
    backend.rename("file", "renamed")
    assert os.readlink(tmp_path / "renamed") == "target"
    backend.unlink("renamed")
    assert (tmp_path / "target").read_bytes() == b"content"
    for call, code in {
        lambda: backend.unlink("dir"): errno.EISDIR,
        lambda: backend.rmdir("dir"): errno.ENOTEMPTY,
    }.items():
        with raises(code):
            call()
    assert os.listdir(tmp_path / "directory") == ["file"]


# What a file has beside its content.


def test_hard_links_and_file_ids(backend, tmp_path):
    write_file(backend, "a", b"content")
    backend.link("a", "b")
    os.link(tmp_path / "a", tmp_path / "c")
    backend.mkdir("directory", 0o700)
    number = (tmp_path / "a").stat().st_ino
    assert {name: backend.stat(name).file_id for name in "abc"} == dict.fromkeys("abc", number)
    assert {backend.stat(name).nlink for name in "abc"} == {3}
    assert {name: found.file_id for name, found in listed(backend).items()} == dict.fromkeys("abc", number) | {
        "directory": (tmp_path / "directory").stat().st_ino
    }
    with backend.open("b", Access.READ) as file:
        assert (file.stat().file_id, file.stat().nlink) == (number, 3)
    backend.rename("a", "b")  # two names of one file: nothing happens
    assert names_in(backend) == ["a", "b", "c", "directory"]
    backend.unlink("a")
    assert (tmp_path / "b").stat().st_nlink == 2
    with raises(errno.EEXIST):
        backend.link("b", "c")
    with raises(errno.EPERM):
        backend.link("directory", "other")


def test_holes(backend, tmp_path):
    size, piece = 8 << 20, b"x" * 65536
    with backend.open("file", Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
        file.truncate(size)
        file.write_at(4 << 20, piece)
        assert (tmp_path / "file").stat().st_blocks * 512 < 1 << 20
        assert file.seek_data(0) == 4 << 20
        assert file.seek_hole(0) == 0
        assert file.seek_hole(4 << 20) == (4 << 20) + len(piece)
        with raises(errno.ENXIO):
            file.seek_data(5 << 20)
        with raises(errno.ENXIO):
            file.seek_hole(size)
        file.write_at(0, b"y" * size)
        assert file.seek_hole(0) == size
        full = (tmp_path / "file").stat().st_blocks
        assert full * 512 >= size
        file.allocate(AllocateMode.PUNCH_HOLE, 1 << 20, 2 << 20)
        assert (tmp_path / "file").stat().st_blocks * 512 <= size - (2 << 20) + 65536
        assert file.seek_hole(0) == 1 << 20
        assert file.seek_data(1 << 20) == 3 << 20
        assert file.read_at(1 << 20, 4 << 20) == bytes(2 << 20) + b"y" * (2 << 20)
        assert file.stat().size == size
        assert file.stat().blocks == (tmp_path / "file").stat().st_blocks


def test_a_hole_that_is_the_servers_own(backend, tmp_path):
    """Samba tells of holes only in files that a client has said may have some; all else is data."""
    with open(tmp_path / "file", "wb") as made:
        made.write(b"x" * 65536)
        made.seek(1 << 20)
        made.write(b"x" * 65536)
        made.truncate(4 << 20)
    with backend.open("file", Access.READ_WRITE) as file:
        assert (file.seek_data(0), file.seek_hole(0)) == (0, 4 << 20)
        assert file.stat().blocks == (tmp_path / "file").stat().st_blocks
        file.allocate(AllocateMode.PUNCH_HOLE, 0, 65536)
        assert file.seek_data(0) == 1 << 20
        assert file.seek_hole(1 << 20) == (1 << 20) + 65536
    assert (tmp_path / "file").read_bytes() == bytes(1 << 20) + b"x" * 65536 + bytes((3 << 20) - 65536)


def test_a_file_with_more_holes_than_the_server_tells_at_once(backend, tmp_path):
    count = 6000
    with open(tmp_path / "file", "wb") as made:
        for number in range(count):
            made.seek(number * 8192)
            made.write(b"x" * 4096)
        made.truncate(count * 8192)
    with backend.open("file", Access.READ_WRITE) as file, open(tmp_path / "file", "rb") as here:
        file.allocate(AllocateMode.PUNCH_HOLE, 4096, 4096)  # now holes are told
        for offset in (0, 4096, 5000, 3000 * 8192, 3000 * 8192 + 4096, (count - 1) * 8192):
            assert file.seek_hole(offset) == os.lseek(here.fileno(), offset, os.SEEK_HOLE)
        for offset in (0, 4096, 5000, 3000 * 8192 + 4096, (count - 1) * 8192 - 1):
            assert file.seek_data(offset) == os.lseek(here.fileno(), offset, os.SEEK_DATA)
        with raises(errno.ENXIO):
            file.seek_data((count - 1) * 8192 + 4096)


@pytest.mark.parametrize(
    "time", [1_600_000_000_123_456_700, 0, 100, -1_000_000_000, -2_000_000_000_000_000_100, 4_000_000_000_000_000_000]
)
def test_times_of_a_hundred_nanoseconds(backend, tmp_path, time):
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    for name in ("file", "directory"):
        backend.set_attributes(name, AttributeChange(mtime_ns=time, atime_ns=time + 1_000_000_300))
        found = backend.stat(name)
        assert (found.mtime_ns, found.atime_ns) == (time, time + 1_000_000_300)
        on_disk = (tmp_path / name).stat()
        assert (on_disk.st_mtime_ns, on_disk.st_atime_ns) == (time, time + 1_000_000_300)
        assert listed(backend)[name].mtime_ns == time
        os.utime(tmp_path / name, ns=(time + 500, time + 700))
        assert (backend.stat(name).atime_ns, backend.stat(name).mtime_ns) == (time + 500, time + 700)
    with backend.open("file", Access.READ_WRITE) as file:
        file.set_attributes(AttributeChange(mtime_ns=time))
        assert file.stat().mtime_ns == time


def test_extended_attributes_are_those_of_the_servers_disk(backend, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    marker = extended_attributes.EMPTY_MARKER
    values = {
        "user.Plain": b"value",
        "user.empty": b"",
        "user.marker": marker,
        "user.zeros": bytes(100),
    }
    for name in ("file", "directory"):
        for key, value in values.items():
            backend.set_xattr(name, key, value)
        assert backend.list_xattrs(name) == sorted(values)
        assert {key: backend.get_xattr(name, key) for key in values} == values
        here = tmp_path / name
        stored = {key: os.getxattr(here, key) for key in os.listxattr(here) if key != "user.DOSATTRIB"}
        assert stored == values | {"user.empty": marker, "user.marker": marker + marker}
        os.setxattr(here, "user.theirs", b"theirs")
        assert backend.get_xattr(name, "user.theirs") == b"theirs"
        with raises(errno.EEXIST):
            backend.set_xattr(name, "user.theirs", b"", XattrMode.CREATE)
        backend.remove_xattr(name, "user.theirs")
        assert "user.theirs" not in os.listxattr(here)
        for call in (
            lambda name=name: backend.get_xattr(name, "user.theirs"),
            lambda name=name: backend.remove_xattr(name, "user.theirs"),
            lambda name=name: backend.set_xattr(name, "user.theirs", b"", XattrMode.REPLACE),
        ):
            with raises(errno.ENODATA):
                call()
    with backend.open("file", Access.READ_WRITE) as file:
        file.set_xattr("user.Plain", b"through the file")
        assert file.get_xattr("user.Plain") == b"through the file"
        assert os.getxattr(tmp_path / "file", "user.Plain") == b"through the file"


def test_the_name_of_an_extended_attribute_that_is_not_ascii(backend, tmp_path):
    """SMB does not say in which code page these names are, and Samba takes them to be in CP850: it is another name on
    the server's disk, and comes back to us as it was."""
    (tmp_path / "file").touch()
    backend.set_xattr("file", "user.ü", b"value")
    assert backend.list_xattrs("file") == ["user.ü"]
    assert backend.get_xattr("file", "user.ü") == b"value"
    assert "user.ü".encode().decode("cp850") in os.listxattr(tmp_path / "file")
    backend.remove_xattr("file", "user.ü")
    assert backend.list_xattrs("file") == []


def test_an_extended_attribute_that_is_too_large(backend, tmp_path):
    (tmp_path / "file").touch()
    for size, code in ((60_000, errno.ENOSPC), (70_000, errno.E2BIG)):
        with raises(code):
            backend.set_xattr("file", "user.large", bytes(size))
    assert backend.list_xattrs("file") == []


def test_the_space_is_that_of_the_servers_disk(backend, tmp_path):
    here = os.statvfs(tmp_path)
    told = backend.space_usage()
    assert told.total_bytes == here.f_blocks * here.f_frsize
    near = here.f_blocks * here.f_frsize // 20  # others work on that disk
    assert abs(told.available_bytes - here.f_bavail * here.f_frsize) < near
    assert told.available_bytes <= told.free_bytes
    assert told.max_name_bytes == 255


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 8 MiB, apart from pytest's directory so that a server in a container sees it, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        if libc.mount(b"small", os.fsencode(name), b"tmpfs", 0, b"size=8m"):
            pytest.fail(f"no file system can be mounted: {os.strerror(ctypes.get_errno())}")
        try:
            yield Path(name)
        finally:
            libc.umount2(os.fsencode(name), 2)  # MNT_DETACH


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk to be filled")
@pytest.mark.parametrize("size", [100_000, 3 << 20])
def test_a_full_disk(small_disk, tmp_path, size):
    with SmbServer(tmp_path / "smbd", {"small": small_disk}) as server, connected(server, small_disk) as backend:
        assert backend.space_usage().total_bytes == 8 << 20
        with backend.open("file", Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
            with raises(errno.ENOSPC):
                for offset in range(0, 64 << 20, size):
                    file.write_at(offset, b"x" * size)
            assert file.read_at(0, 1000) == b"x" * 1000
            file.truncate(1000)
            file.write_at(1000, b"y" * 100_000)
        assert (small_disk / "file").read_bytes() == b"x" * 1000 + b"y" * 100_000


# Connections that are lost.


def again(call: Callable[[], object]) -> object:
    """What it returns, tried once more if the connection was lost: as all that is repeatable is in a mount."""
    try:
        return call()
    except UnavailableError:
        return call()


def test_a_file_is_found_again(own_smbd, tmp_path):
    root = tmp_path / "root"
    (root / "file").write_bytes(b"content")
    with connected(own_smbd, root) as backend, backend.open("file", Access.READ_WRITE) as file:
        for number in range(3):
            own_smbd.end_sessions()
            assert again(lambda: file.read_at(0, 100)) == b"content" + b"!" * number
            file.write_at(7 + number, b"!")
            file.sync()
            assert (root / "file").read_bytes() == b"content" + b"!" * (number + 1)
        own_smbd.end_sessions()
        again(file.sync)
        assert again(file.stat).size == 10


def test_what_was_written_before_the_connection_was_lost_is_there(own_smbd, tmp_path):
    data = os.urandom(3_000_000)
    with connected(own_smbd, tmp_path / "root") as backend:
        with backend.open("file", Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
            file.write_at(0, data)
            own_smbd.end_sessions()
            assert again(lambda: file.read_at(0, len(data) + 1)) == data
            file.write_at(len(data), b"more")
        assert read_file(backend, "file") == data + b"more"


def test_a_root_that_is_gone_after_a_cut_is_no_absence_of_its_files(own_smbd, tmp_path):
    root = tmp_path / "root"
    (root / "sub").mkdir()
    (root / "sub" / "file").write_bytes(b"content")
    with connected(own_smbd, root / "sub") as backend:
        assert backend.stat("file").size == 7
        (root / "sub").rename(root / "away")
        own_smbd.end_sessions()
        for _ in range(2):
            with pytest.raises(UnavailableError):
                backend.stat("file")
        (root / "away").rename(root / "sub")
        assert again(lambda: backend.stat("file")).size == 7


def test_a_root_that_goes_away_is_no_absence_of_its_files(own_smbd, tmp_path):
    """A volume that is not mounted any more, say, below the directory of a share."""
    root = tmp_path / "root"
    (root / "sub").mkdir()
    (root / "sub" / "file").write_bytes(b"content")
    with connected(own_smbd, root / "sub") as backend:
        (root / "sub").rename(root / "away")
        for call in (
            lambda: backend.stat("file"),
            lambda: backend.list_dir(""),
            lambda: backend.open("file", Access.READ),
        ):
            with pytest.raises(UnavailableError):
                call()
        (root / "away").rename(root / "sub")
        assert backend.stat("file").size == 7
        with raises(errno.ENOENT):
            backend.stat("none")


@pytest.mark.parametrize("permissions", ["server", "profile"])
def test_a_large_directory_is_named_without_a_look_at_each_file(smbd, tmp_path, permissions):
    """But at what could be a link, or have another name."""
    for number in range(1000):
        (tmp_path / f"file{number}").touch()
    (tmp_path / "sub").mkdir()
    with connected(smbd, tmp_path, permissions=permissions) as backend:
        assert backend.connect().names_first is (permissions == "server")
        backend.symlink("link", "file1")
        sendings = Sendings(backend)
        before = sendings.compounds
        (named,) = backend.list_names([""])
        assert sendings.compounds - before < 100
        (whole,) = backend.list_dirs([""])
        assert {entry.name: entry.type for entry in named} == {entry.name: entry.stat.type for entry in whole}
        told = {entry.name: entry.stat for entry in named if entry.stat is not None}
        assert told["link"].type is FileType.SYMLINK
        assert told.keys() == ({"link"} if permissions == "server" else {entry.name for entry in named})


def test_a_lookup_in_a_large_directory_costs_three_round_trips(smbd, tmp_path):
    """Opening and listing it, the rest of the listing in two pieces that are in flight at once, and the look."""
    for number in range(1000):
        (tmp_path / f"file{number}").touch()
    with connected(smbd, tmp_path) as backend, MetadataCache(backend, ttl=None, ahead=0) as cache:
        cache.connect()
        sendings = Sendings(backend)
        assert sendings.during(lambda: cache.stat("file500")) <= 4
        assert sendings.during(lambda: cache.stat("file501")) == 1
        assert sendings.during(lambda: cache.stat("file501")) == 0
        with raises(errno.ENOENT):
            assert sendings.during(lambda: cache.stat("absent")) == 0


def test_a_small_directory_is_named_with_all_that_is_asked_of_a_far_server(smbd, tmp_path):
    (tmp_path / "file").touch()
    with connected(smbd, tmp_path) as backend:
        backend._connector.session().round_trip = 0.02
        assert [entry.stat for entry in backend.list_names([""])[0]] == [backend.list_dir("")[0].stat]


def test_a_listing_tells_link_counts(smbd, tmp_path):
    """So that a name that is renamed is not taken for another one of the same file."""
    (tmp_path / "one").touch()
    (tmp_path / "two").touch()
    os.link(tmp_path / "two", tmp_path / "other")
    with connected(smbd, tmp_path) as backend:
        assert {name: told.nlink for name, told in listed(backend).items()} == {"one": 1, "two": 2, "other": 2}


def test_what_could_not_be_opened_again_leaves_no_handle(own_smbd, tmp_path):
    """Counted by what the server has open."""
    root = tmp_path / "root"
    (root / "file").write_bytes(b"content")
    with connected(own_smbd, root) as backend:
        with backend.open("file", Access.READ_WRITE) as file:
            own_smbd.end_sessions()
            (root / "file").unlink()
            (root / "file").write_bytes(b"another one")  # of another size, for Samba may tell the time of the first one
            with raises(errno.ESTALE):
                again(lambda: file.read_at(0, 7))
        backend.stat("")
        (session,) = own_smbd._session_processes()
        held = [os.readlink(f"/proc/{session}/fd/{fd}") for fd in os.listdir(f"/proc/{session}/fd")]
        assert not [path for path in held if path.startswith(str(root / "file"))]


def test_reading_goes_on_where_the_beginning_ends(own_smbd, tmp_path):
    data = os.urandom(200_001)
    (tmp_path / "root" / "file").write_bytes(data)
    with connected(own_smbd, tmp_path / "root") as backend, backend.open("file", Access.READ) as file:
        for offset, size in (
            (0, 10),
            (65_530, 20),
            (0, 300_000),
            (65_535, 1),
            (65_536, 10),
            (199_990, 100),
            (300_000, 5),
        ):
            assert file.read_at(offset, size) == data[offset : offset + size], (offset, size)


@pytest.mark.parametrize("what", ["replaced", "removed", "a directory"])
def test_what_is_no_longer_there_is_stale(own_smbd, tmp_path, what):
    root = tmp_path / "root"
    (root / "file").write_bytes(b"content")
    with connected(own_smbd, root) as backend, backend.open("file", Access.READ_WRITE) as file:
        (root / "other").write_bytes(b"content")
        if what == "replaced":
            (root / "other").rename(root / "file")
        else:
            (root / "file").unlink()
        if what == "a directory":
            (root / "file").mkdir()
        own_smbd.end_sessions()
        for call in (lambda: file.read_at(0, 100), lambda: file.write_at(0, b"x"), file.stat):
            with pytest.raises(StaleHandleError):
                again(call)
    if what == "replaced":
        assert (root / "file").read_bytes() == b"content"


def test_a_file_that_was_renamed_on_the_server_is_stale(own_smbd, tmp_path):
    root = tmp_path / "root"
    (root / "file").write_bytes(b"content")
    with connected(own_smbd, root) as backend, backend.open("file", Access.READ_WRITE) as file:
        (root / "file").rename(root / "elsewhere")
        own_smbd.end_sessions()
        with pytest.raises(StaleHandleError):
            again(lambda: file.read_at(0, 100))
        assert backend.stat("elsewhere").size == 7


def test_a_file_that_we_have_renamed_is_found_again(own_smbd, tmp_path):
    root = tmp_path / "root"
    (root / "directory" / "deeper").mkdir(parents=True)
    (root / "directory" / "deeper" / "file").write_bytes(b"content")
    with (
        connected(own_smbd, root) as backend,
        backend.open("directory/deeper/file", Access.READ_WRITE) as file,
    ):
        backend.rename("directory", "moved")
        own_smbd.end_sessions()
        assert again(lambda: file.read_at(0, 100)) == b"content"
        backend.rename("moved/deeper/file", "file")
        backend.rename("moved", "directory")
        file.write_at(0, b"CONTENT")
        own_smbd.end_sessions()
        assert again(lambda: file.read_at(0, 100)) == b"CONTENT"
    assert (root / "file").read_bytes() == b"CONTENT"


def test_a_file_that_we_have_removed_is_lost_with_the_connection(own_smbd, tmp_path):
    (tmp_path / "root" / "file").write_bytes(b"content")
    with connected(own_smbd, tmp_path / "root") as backend, backend.open("file", Access.READ) as file:
        backend.unlink("file")
        own_smbd.end_sessions()
        with pytest.raises(StaleHandleError):
            again(lambda: file.read_at(0, 100))
        assert names_in(backend) == []


def test_many_threads_lose_the_connection(own_smbd, tmp_path):
    root = tmp_path / "root"
    data = os.urandom(2_000_000)
    (root / "file").write_bytes(data)
    rounds = 15
    with connected(own_smbd, root) as backend:
        barrier = threading.Barrier(9)

        def work(number: int) -> None:
            with backend.open("file", Access.READ) as file:
                for _ in range(rounds):
                    barrier.wait(PATIENCE)
                    assert retried(lambda: file.read_at(0, len(data) + 1)) == data
                    assert retried(lambda: backend.stat("file")).size == len(data)

        with ThreadPoolExecutor(8) as pool:
            working = [pool.submit(work, number) for number in range(8)]
            for _ in range(rounds):
                barrier.wait(PATIENCE)
                own_smbd.end_sessions()
            for each in working:
                each.result()


def retried(call: Callable[[], object]) -> object:
    """As again(), for when other threads' connections are lost, too."""
    for _ in range(20):
        try:
            return call()
        except UnavailableError:
            continue
    return call()


def test_a_silent_server_is_found_out_and_found_again(smbd, tmp_path):
    (tmp_path / "file").write_bytes(bytes(20_000_000))
    with Proxy(smbd.port) as proxy, connected(smbd, tmp_path, deadline=2.0, port=proxy.port) as backend:
        proxy.silence()
        with pytest.raises(UnavailableError):
            backend.stat("")
        proxy.restore()
        assert again(lambda: backend.stat("file")).size == 20_000_000


def test_a_password_that_is_changed_while_the_layer_is_connected(own_smbd, tmp_path):
    """The next login is refused, which nobody has to wait for; with the new one it goes on."""
    with connected(own_smbd, tmp_path / "root") as backend:
        right = own_smbd.password_file.read_text()
        own_smbd.password_file.write_text("wrong\n")
        backend.stat("")
        own_smbd.end_sessions()
        with pytest.raises(LayerSetupError):
            again(lambda: backend.stat(""))
        own_smbd.password_file.write_text(right)
        assert backend.stat("").type is FileType.DIRECTORY


# The end.


def threads_end(before: int) -> bool:
    return eventually(lambda: threading.active_count() <= before)


def test_closing_ends_everything(smbd, tmp_path):
    before = threading.active_count()
    backend = smb_backend(smbd, tmp_path)
    backend.connect()
    backend.close()
    backend.close()
    with pytest.raises(UnavailableError):
        backend.stat("")
    assert threads_end(before)
    assert backend.connection_state() == "down"


def test_a_failed_connect_leaves_nothing_behind(smbd, tmp_path):
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with smb_backend(smbd, tmp_path / "missing") as backend, pytest.raises(LayerSetupError):
            backend.connect()
    assert threads_end(threads)
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= files)


def test_the_identity_is_the_url(smbd, tmp_path):
    assert smb_backend(smbd, tmp_path).identity() == smbd.url_of(tmp_path)
