"""What the wrapper keeps, where it keeps it, and that it is there at the next mount."""

from __future__ import annotations

import dataclasses
import errno
import json
import threading

import pytest

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Creation,
    FileType,
    LayerSetupError,
    RenameFlags,
    UnavailableError,
    os_error,
    split_path,
)
from netoverlay.backend_api.delegate import DelegatingBackend
from netoverlay.testing.faults import Faults
from netoverlay.testing.faulty_backend import FaultyBackend
from netoverlay.testing.suite.layer import refused, run_threads
from netoverlay.wrappers.metrics import MeteredBackend
from netoverlay.wrappers.sidecar import SidecarBackend, journal
from tests.wrappers.sidecars import (
    JOURNAL,
    LIKE_SFTP,
    NULL_DEVICE,
    WORK,
    Server,
    absent,
    die,
    is_whiteout,
    make,
    read,
    seen,
    shown,
)

OPAQUE = "trusted.overlay.opaque"
TIME_NS = 1_600_000_000_123_456_789


def whiteout(backend, path):
    backend.mknod(path, FileType.CHARACTER_DEVICE, 0, 0)


def fill(backend):
    make(backend, "up/file", b"content", 0o4711)
    backend.set_attributes("up/file", AttributeChange(uid=1001, gid=1002, atime_ns=TIME_NS, mtime_ns=TIME_NS + 1))
    backend.set_xattr("up/file", "user.empty", b"")
    backend.set_xattr("up/file", "trusted.bytes", bytes(range(256)))
    backend.set_xattr("up/file", "security.capability", b"\1")
    backend.mkdir("up/directory", 0o1755)
    make(backend, "up/directory/latin-1 caf\udce9", b"odd", 0)
    backend.mknod("up/directory/device", FileType.CHARACTER_DEVICE, 0o666, NULL_DEVICE)
    backend.mknod("up/socket", FileType.SOCKET, 0o755)
    backend.symlink("up/symlink", "caf\udce9")
    backend.set_attributes("up/symlink", AttributeChange(uid=7, gid=8))
    backend.symlink("up/long symlink", "\udce9" * 4095)
    backend.link("up/file", "up/directory/linked")
    whiteout(backend, "up/gone \udcff")
    backend.set_xattr("up/directory", OPAQUE, b"y")


class TestKeeping:
    def test_everything_is_there_at_the_next_mount(self):
        server = Server()
        with server.mounted() as backend:
            fill(backend)
            before = shown(backend)
            times = backend.stat("up/file")[5:8]
        with server.mounted() as again:
            assert shown(again) == before
            assert again.stat("up/file")[5:8] == times
            assert times[:2] == (TIME_NS + 1, TIME_NS)
            assert again.stat("up/directory/linked").nlink == 2

    def test_it_is_so_after_many_mounts_and_with_what_was_there_before(self):
        server = Server()
        with server.plain() as plain:
            make(plain, "up/old", b"old", 0o640)
        views = []
        for _ in range(4):
            with server.mounted() as backend:
                views.append(shown(backend))
        assert views[0]["up/old"].mode == 0o640
        assert views == views[:1] * 4, "what was found has the same file id, too"

    def test_what_was_synced_survives_the_process(self):
        server = Server()
        backend = server.backend()
        backend.connect()
        fill(backend)
        backend.sync()
        before = shown(backend)
        die(backend)
        with server.mounted() as again:
            assert shown(again) == before

    def test_closing_a_file_records_it(self):
        server = Server()
        backend = server.backend()
        backend.connect()
        with backend.open("up/file", Access.WRITE, create=Creation.EXCLUSIVE, mode=0o751) as file:
            file.set_xattr("user.name", b"value")
            file.set_attributes(AttributeChange(uid=5))
        die(backend)
        with server.mounted() as again:
            assert (again.stat("up/file").mode, again.stat("up/file").uid) == (0o751, 5)
            assert again.get_xattr("up/file", "user.name") == b"value"

    def test_nothing_waits_for_long(self):
        server = Server()
        with server.mounted(flush_seconds=0.01) as backend:
            backend.set_attributes("up", AttributeChange(mode=0o711))
            for _ in range(500):
                if b"457" in server.journal():  # 0o711
                    return
                threading.Event().wait(0.01)
        pytest.fail("it was not written")

    def test_times_of_what_is_being_written_are_not_believed_after_a_crash(self):
        server = Server()
        with server.mounted() as backend:
            make(backend, "up/file")
            backend.set_attributes("up/file", AttributeChange(mtime_ns=TIME_NS))
        backend = server.backend()
        backend.connect()
        file = backend.open("up/file", Access.WRITE)
        file.write_at(0, b"new")
        backend.sync()
        die(backend)
        with server.mounted() as again:
            assert again.stat("up/file").mtime_ns > TIME_NS

    def test_what_is_made_in_a_set_group_id_directory_has_its_group(self):
        server = Server()
        with server.mounted() as backend:
            backend.mkdir("up/shared", 0o755)
            backend.set_attributes("up/shared", AttributeChange(mode=0o2775, gid=1002))
            make(backend, "up/shared/file")
            backend.mkdir("up/shared/directory", 0o755)
            backend.symlink("up/shared/symlink", "file")
            backend.mknod("up/shared/fifo", FileType.FIFO, 0o644)
            make(backend, "up/shared/directory/deep")
            groups = {path: seen.owner[1] for path, seen in shown(backend).items() if path.startswith("up/shared/")}
            assert groups == dict.fromkeys(groups, 1002)
            assert len(groups) == 5
            assert backend.stat("up/shared/directory").mode == 0o2755

    def test_each_change_of_names_has_a_time_of_its_own(self):
        """A server may have whole seconds only."""
        server = Server(dataclasses.replace(LIKE_SFTP, time_granularity_ns=10**9))
        with server.mounted() as backend:
            times = []
            for change in (
                lambda: make(backend, "up/file"),
                lambda: backend.rename("up/file", "up/moved"),
                lambda: backend.link("up/moved", "up/linked"),
                lambda: whiteout(backend, "up/gone"),
                lambda: backend.unlink("up/moved"),
            ):
                change()
                times.append((backend.stat("up").mtime_ns, backend.stat("up").ctime_ns))
            assert sorted(set(times)) == times
        with server.mounted() as again:
            assert (again.stat("up").mtime_ns, again.stat("up").ctime_ns) == times[-1]

    def test_times_of_a_directory_with_changed_names_are_not_believed_after_a_crash(self):
        server = Server()
        with server.mounted() as backend:
            backend.set_attributes("up", AttributeChange(mtime_ns=TIME_NS))
        backend = server.backend()
        backend.connect()
        make(backend, "up/file")
        die(backend)
        with server.mounted() as again:
            assert again.stat("up").mtime_ns > TIME_NS

    def test_file_ids_are_never_used_twice(self):
        server = Server()
        ids = set()
        for _ in range(3):
            with server.mounted() as backend:
                for _ in range(3):
                    make(backend, "up/file")
                    ids.add(backend.stat("up/file").file_id)
                    backend.unlink("up/file")
        assert len(ids) == 9


class TestOnTheServer:
    def test_whiteouts_and_opaque_directories_are_those_of_oci(self):
        server = Server()
        with server.mounted() as backend:
            backend.mkdir("up/directory", 0o755)
            backend.set_xattr("up/directory", OPAQUE, b"y")
            whiteout(backend, "up/gone")
            make(backend, "up/file")
            backend.rename("up/file", "up/moved", RenameFlags.WHITEOUT)
            assert is_whiteout(backend, "up/gone")
            assert is_whiteout(backend, "up/file")
        assert server.names() == [".wh.file", ".wh.gone", "directory", "moved"]
        assert server.names("up/directory") == [".wh..wh..opq"]

    def test_markers_of_others_are_understood(self):
        server = Server()
        with server.plain() as plain:
            plain.mkdir("up/directory", 0o755)
            for name in (".wh.gone", "both", ".wh.both", "directory/.wh..wh..opq", "directory/.wh..wh.plnk"):
                make(plain, f"up/{name}")
        with server.mounted() as backend:
            assert is_whiteout(backend, "up/gone")
            assert backend.stat("up/both").type is FileType.REGULAR
            assert sorted(entry.name for entry in backend.list_dir("up")) == ["both", "directory", "gone"]
            assert backend.get_xattr("up/directory", OPAQUE) == b"y"
            assert backend.list_dir("up/directory") == []
            backend.unlink("up/both")
            assert absent(backend, "up/both")
            backend.unlink("up/gone")
            assert absent(backend, "up/gone")
            backend.rmdir("up/directory")
        assert server.names() == []

    def test_opaque_is_an_attribute(self):
        server = Server()
        with server.mounted() as backend:
            backend.mkdir("up/directory", 0o755)
            with refused(errno.ENODATA, advice="no mark"):
                backend.get_xattr("up/directory", OPAQUE)
            backend.set_xattr("up/directory", OPAQUE, b"y")
            assert backend.list_xattrs("up/directory") == [OPAQUE]
            assert OPAQUE.encode() not in server.journal()
            backend.remove_xattr("up/directory", OPAQUE)
            assert backend.list_xattrs("up/directory") == []
            backend.set_xattr("up/directory", OPAQUE, b"x")
            assert backend.get_xattr("up/directory", OPAQUE) == b"x"
        assert server.names("up/directory") == []

    def test_modes_let_us_in_and_others_see_something_sensible(self):
        server = Server()
        with server.mounted() as backend:
            make(backend, "up/file", b"", 0o6044)
            backend.mkdir("up/directory", 0)
            make(backend, "up/directory/inside")
            backend.mknod("up/fifo", FileType.FIFO, 0o666)
            backend.set_attributes("up/directory", AttributeChange(mode=0o1055, mtime_ns=TIME_NS))
        with server.plain() as plain:
            assert plain.stat("up/file").mode == 0o644
            assert plain.stat("up/directory").mode == 0o755
            assert plain.stat("up/directory").mtime_ns == TIME_NS // 10**9 * 10**9
            assert (plain.stat("up/fifo").type, plain.stat("up/fifo").size) == (FileType.REGULAR, 0)

    def test_the_journal_is_ascii_lines(self):
        server = Server()
        with server.mounted() as backend:
            fill(backend)
        lines = server.journal().decode("ascii").splitlines()
        assert json.loads(lines[0]) == {"format": "netoverlay-sidecar", "version": 1, "next": 2}
        assert all(isinstance(json.loads(line), dict) for line in lines)


class TestNames:
    @pytest.mark.parametrize("name", [".wh.x", ".wh.", ".wh..wh..opq"])
    def test_markers_are_neither_made_nor_found(self, name):
        server = Server()
        with server.mounted() as backend:
            make(backend, "up/file")
            whiteout(backend, "up/x")
            path = f"up/{name}"
            for make_it in (
                lambda: make(backend, path),
                lambda: backend.mkdir(path, 0o755),
                lambda: backend.symlink(path, "target"),
                lambda: backend.mknod(path, FileType.FIFO, 0o600),
                lambda: backend.link("up/file", path),
                lambda: backend.rename("up/file", path),
            ):
                with refused(errno.EPERM, advice="a name that would be taken for a marker"):
                    make_it()
            for find_it in (
                lambda: backend.stat(path),
                lambda: backend.open(path, Access.READ),
                lambda: backend.unlink(path),
                lambda: backend.rename(path, "up/new"),
                lambda: backend.stat(f"{path}/below"),
            ):
                with refused(errno.ENOENT, advice="a marker is not shown"):
                    find_it()
            assert sorted(entry.name for entry in backend.list_dir("up")) == ["file", "x"]

    def test_the_longest_name_can_have_a_whiteout(self):
        server = Server()
        with server.backend() as backend:
            assert backend.connect().max_name_bytes == 255
            names = [letter * length for length, letter in enumerate("abcde", 251)]
            for name in names:
                make(backend, f"up/{name}")
                backend.rename(f"up/{name}", "up/moved", RenameFlags.WHITEOUT)
                assert is_whiteout(backend, f"up/{name}")
            assert server.names() == [".wh..wh..long", f".wh.{names[0]}", "moved"]
            assert server.names("up/.wh..wh..long") == names[1:]
        with server.mounted() as backend:
            assert all(is_whiteout(backend, f"up/{name}") for name in names)
            assert sorted(entry.name for entry in backend.list_dir("up")) == [*names, "moved"]
            for name in names:
                backend.unlink(f"up/{name}")
        assert server.names() == ["moved"]

    def test_a_directory_with_long_whiteouts_is_not_empty_and_moves_with_them(self):
        server = Server()
        name = "n" * 255
        with server.mounted() as backend:
            backend.mkdir("up/one", 0o755)
            whiteout(backend, f"up/one/{name}")
            backend.rename("up/one", "up/two")
        with server.mounted() as backend:
            with refused(errno.ENOTEMPTY, advice="a whiteout is in it"):
                backend.rmdir("up/two")
            assert is_whiteout(backend, f"up/two/{name}")
            backend.unlink(f"up/two/{name}")
            backend.rmdir("up/two")
        assert server.names() == []

    def test_a_directory_in_which_an_empty_one_for_long_names_was_left_is_removed(self):
        server = Server()
        with server.plain() as plain:
            plain.mkdir("up/left", 0o755)
            plain.mkdir("up/left/.wh..wh..long", 0o755)
        with server.mounted() as backend:
            backend.rmdir("up/left")
        assert server.names() == []
        assert server.names(WORK) == ["attributes.jsonl"]

    def test_a_name_that_is_longer_on_the_server_can_have_a_whiteout(self):
        """SMB stores some characters in more bytes than they have here."""

        class Counting(DelegatingBackend):
            def open(self, path, access, **how):
                if len(split_path(path)[1]) + 2 * path.count(":") > 255:
                    raise os_error(errno.ENAMETOOLONG, path)
                return super().open(path, access, **how)

        server = Server()
        name = ":" * 84
        with server.mounted(Counting) as backend:
            whiteout(backend, f"up/{name}")
            assert is_whiteout(backend, f"up/{name}")
        assert server.names("up/.wh..wh..long") == [name]


class TestWhiteouts:
    def test_a_whiteout_is_a_name_that_is_taken(self):
        server = Server()
        with server.mounted() as backend:
            whiteout(backend, "up/gone")
            make(backend, "up/file")
            for make_it in (
                lambda: make(backend, "up/gone"),
                lambda: backend.mkdir("up/gone", 0o755),
                lambda: backend.mknod("up/gone", FileType.FIFO, 0o600),
                lambda: backend.link("up/file", "up/gone"),
                lambda: backend.rename("up/file", "up/gone", RenameFlags.NOREPLACE),
            ):
                with refused(errno.EEXIST, advice="a whiteout stands there"):
                    make_it()
            backend.mkdir("up/directory", 0o755)
            with refused(errno.ENOTDIR, advice="a directory over a device"):
                backend.rename("up/directory", "up/gone")
            with refused(errno.EISDIR, advice="a device over a directory"):
                backend.rename("up/gone", "up/directory")
            with refused(errno.ENXIO, advice="open of a device"):
                backend.open("up/gone", Access.READ)
            assert backend.list_xattrs("up/gone") == []

    def test_a_directory_that_shows_a_whiteout_is_not_empty(self):
        server = Server()
        with server.mounted() as backend:
            backend.mkdir("up/directory", 0o755)
            whiteout(backend, "up/directory/gone")
            with refused(errno.ENOTEMPTY, advice="rmdir"):
                backend.rmdir("up/directory")
            backend.mkdir("up/other", 0o755)
            with refused(errno.ENOTEMPTY, advice="rename"):
                backend.rename("up/other", "up/directory")
            assert is_whiteout(backend, "up/directory/gone")

    def test_what_is_made_where_one_was_is_not_hidden_by_it(self):
        server = Server()
        with server.mounted() as backend:
            for name in ("one", "two"):
                whiteout(backend, f"up/{name}")
                make(backend, f"up/made-{name}", name.encode())
                backend.rename(f"up/made-{name}", f"up/{name}")
            backend.unlink("up/one")
        with server.mounted() as again:
            assert absent(again, "up/one")
            assert read(again, "up/two") == b"two"
        assert server.names() == ["two"]


class TestLinksAndOpenFiles:
    def test_links_are_one_file(self):
        server = Server()
        with server.mounted() as backend:
            make(backend, "up/one", b"content")
            backend.link("up/one", "up/two")
            backend.set_attributes("up/one", AttributeChange(mode=0o600, uid=9))
            assert seen(backend, "up/one") == seen(backend, "up/two")
            backend.rename("up/one", "up/two")
            assert backend.stat("up/one").nlink == 2, "rename() between two names of one file does nothing"
            backend.unlink("up/one")
            assert backend.stat("up/two").nlink == 1
            backend.mknod("up/fifo", FileType.FIFO, 0o600)
            backend.link("up/fifo", "up/fifo too")
        with server.mounted() as again:
            assert (again.stat("up/two").nlink, again.stat("up/two").uid) == (1, 9)
            assert again.stat("up/fifo").file_id == again.stat("up/fifo too").file_id

    def test_an_open_file_has_its_attributes_after_its_name(self):
        server = Server()
        with server.mounted() as backend:
            make(backend, "up/file", b"old", 0o604)
            with backend.open("up/file", Access.READ_WRITE) as file:
                backend.rename("up/file", "up/moved")
                file.set_xattr("user.name", b"by file")
                assert backend.get_xattr("up/moved", "user.name") == b"by file"
                backend.unlink("up/moved")
                make(backend, "up/moved", b"new", 0o640)
                file.set_attributes(AttributeChange(mode=0o611))
                assert (file.stat().mode, file.stat().nlink) == (0o611, 0)
                assert file.get_xattr("user.name") == b"by file"
                assert backend.stat("up/moved").mode == 0o640
                assert backend.list_xattrs("up/moved") == []
        with server.mounted() as again:
            assert again.stat("up/moved").mode == 0o640


@pytest.mark.parametrize("path", ["up/whiteout", f"{WORK}/#1", f"up/{'n' * 255}"])
def test_what_is_empty_is_there_though_the_connection_is_lost_before_it_is_closed(path):
    def lose():
        raise UnavailableError("the connection is lost")

    server, faults = Server(), Faults()
    with server.mounted(lambda inner: FaultyBackend(inner, faults)) as backend:
        faults.fail("file.close", error=lose, path="up*/*", times=2)
        whiteout(backend, path)
        assert is_whiteout(backend, path)
        backend.mknod("up/fifo", FileType.FIFO, 0o600)
        assert backend.stat("up/fifo").type is FileType.FIFO


class TestJournal:
    @pytest.mark.parametrize("torn", [b"{", b'{"name":"fi', b'{"node":2,"mode":1}', b"\0\0\0\n", b"\0" * 100])
    def test_a_torn_end_is_ignored(self, torn):
        server = Server()
        with server.mounted() as backend:
            fill(backend)
            before = shown(backend)
        server.write_journal(server.journal() + torn)
        with server.mounted() as again:
            assert shown(again) == before
            make(again, "up/new", mode=0o611)
        with server.mounted() as third:
            assert third.stat("up/new").mode == 0o611
            third.unlink("up/new")
            assert shown(third) == before

    @pytest.mark.parametrize("start", [b"", b'{"format":"netover'])
    def test_a_torn_beginning_is_none(self, start):
        server = Server()
        with server.plain() as plain:
            plain.mkdir(WORK, 0o700)
            make(plain, JOURNAL, start)
        with server.mounted() as backend:
            make(backend, "up/file", mode=0o611)
        with server.mounted() as again:
            assert again.stat("up/file").mode == 0o611

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b'{"format":"netoverlay-sidecar","version":2,"next":2}\n', "another version"),
            (b"something else\n", "damaged"),
            (b'{"format":"netoverlay-sidecar","version":1,"next":2}\n' + b"x" * 300_000, "damaged"),
        ],
    )
    def test_what_is_no_journal_is_refused(self, content, problem):
        server = Server()
        with server.plain() as plain:
            plain.mkdir(WORK, 0o700)
            make(plain, JOURNAL, content)
        with server.backend() as backend, pytest.raises(LayerSetupError, match=problem):
            backend.connect()
        assert server.journal() == content

    @pytest.mark.parametrize("missing", ["writable", "atomic_replace"])
    def test_a_server_that_cannot_be_an_upper_is_refused(self, missing):
        server = Server()
        server.claims = dataclasses.replace(LIKE_SFTP, **{missing: False})
        with server.backend() as backend, pytest.raises(LayerSetupError, match="cannot be the upper"):
            backend.connect()

    def test_history_is_dropped_at_the_next_mount(self):
        server = Server()
        with server.mounted() as backend:
            fill(backend)
            for number in range(2000):
                backend.set_attributes("up/file", AttributeChange(mtime_ns=number))
                backend.sync()
            before = shown(backend)
        assert len(server.journal()) > 200_000
        with server.mounted() as again:
            assert len(server.journal()) < 5000
            assert shown(again) == before
            again.unlink("up/socket")
        with server.mounted() as third:
            assert absent(third, "up/socket")
        assert server.names(WORK) == ["attributes.jsonl"]

    def test_what_was_lost_again_and_again_before_it_was_synced_is_written_again(self):
        server, faults = Server(), Faults()
        with server.mounted(lambda inner: FaultyBackend(inner, faults)) as backend:
            fill(backend)
            for losses in (1, 3):
                faults.fail("file.sync", error=errno.EIO, path=JOURNAL, times=losses)
                backend.set_attributes("up/file", AttributeChange(mode=0o600 + losses))
                backend.sync()
            faults.fail("file.sync", error=errno.EIO, path=JOURNAL, times=None)
            backend.set_attributes("up/file", AttributeChange(mode=0o611))
            with pytest.raises(OSError, match="Input/output error"):
                backend.sync()
            faults.clear()
            before = shown(backend)
        with server.mounted() as again:
            assert shown(again) == before

    def test_history_is_dropped_while_mounted(self, monkeypatch):
        monkeypatch.setattr(journal, "COMPACT_BYTES", 20_000)
        server = Server()
        with server.mounted(flush_seconds=0.001) as backend:
            fill(backend)

            def work(number):
                for turn in range(150):
                    make(backend, f"up/{number}-{turn}", mode=0o600 + number)
                    backend.rename(f"up/{number}-{turn}", f"up/moved-{number}")

            run_threads(work, 4)
            before = shown(backend)
        assert len(server.journal()) < 100_000
        with server.mounted() as again:
            assert shown(again) == before

    def test_a_lost_reply_to_the_replacement(self, monkeypatch):
        server = Server()
        with server.mounted() as backend:
            fill(backend)
            for number in range(300):
                backend.set_attributes("up/file", AttributeChange(mtime_ns=number))
                backend.sync()
            inner_rename = backend.inner.rename

            def rename(old, new, flags=RenameFlags.NONE):
                inner_rename(old, new, flags)
                raise OSError(errno.EIO, "lost")

            with monkeypatch.context() as patched:
                patched.setattr(backend.inner, "rename", rename)
                with pytest.raises(OSError, match="lost"):
                    backend._journal.compact()
            make(backend, "up/after", mode=0o611)
            before = shown(backend)
        with server.mounted() as again:
            assert shown(again) == before


class TestCalls:
    def test_it_is_taken_before_anything_is_looked_at(self):
        server = Server()
        told = []

        def refuse(claims):
            told.append(claims)
            raise LayerSetupError("another mount has it")

        with server.plain() as inner:
            backend = SidecarBackend(inner, WORK, on_connected=refuse)
            with pytest.raises(LayerSetupError, match="another mount"):
                backend.connect()
            assert told == [LIKE_SFTP]
            assert [entry.name for entry in inner.list_dir("")] == ["up"]

    def test_a_known_file_costs_one_look(self):
        server = Server()
        with server.mounted() as backend:
            fill(backend)
        meters = []

        def metered(inner):
            meters.append(MeteredBackend(inner))
            return meters[0]

        with server.mounted(metered) as backend:
            backend.list_dir("up")
            before = meters[0].calls()
            backend.stat("up/file")
            assert meters[0].calls() == before + 1
            backend.get_xattr("up/file", "trusted.bytes")
            assert is_whiteout(backend, "up/gone \udcff")
            assert absent(backend, "up/missing")
            assert meters[0].calls() == before + 3, "markers are known"

    def test_many_threads(self):
        server = Server()
        with server.mounted(flush_seconds=0.001) as backend:
            for number in range(4):
                backend.mkdir(f"up/{number}", 0o755)

            def work(number):
                mine, shared = f"up/{number % 4}", f"up/{(number + 1) % 4}"
                for turn in range(40):
                    path = f"{WORK}/#{number}-{turn}"
                    make(backend, path, b"%d" % number, 0o600 | number)
                    backend.set_xattr(path, "user.number", b"%d" % number)
                    backend.rename(path, f"{mine}/file-{number}")
                    assert backend.stat(f"{mine}/file-{number}").mode == 0o600 | number
                    backend.rename(f"{mine}/file-{number}", f"{shared}/there-{number}", RenameFlags.WHITEOUT)
                    backend.rename(f"{mine}/file-{number}", f"{shared}/there-{number}", RenameFlags.EXCHANGE)
                    assert is_whiteout(backend, f"{shared}/there-{number}")
                    assert read(backend, f"{mine}/file-{number}") == b"%d" % number
                    assert f"file-{number}" in {entry.name for entry in backend.list_dir(mine)}

            run_threads(work)
            before = shown(backend)
        assert before["up/0/file-4"].mode == 0o604
        with server.mounted() as again:
            assert shown(again) == before
