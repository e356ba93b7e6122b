"""What the kernel does by itself: opens where nobody else uses the layers, and reads and writes of a local upper."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netoverlay.overlay.implicit_handles import MOST_FILES
from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, sftp_login
from tests.servers.sshd import SshServer

ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="the kernel takes backing files from root only")
TEXT = "of the base\n"


def status(mount: OverlayMount) -> dict[str, Any]:
    (mounted,) = json.loads(run(*COMMAND, "status", "--json", mount.path))["mounts"]
    found: dict[str, Any] = mounted["status"]
    return found


def requests_for(mount: OverlayMount, action: Callable[[], object]) -> dict[str, int]:
    """How many requests of each kind the kernel has sent for `action`."""
    before = status(mount)["requests"]
    action()
    after = status(mount)["requests"]
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}


@contextlib.contextmanager
def mounted(tmp_path: Path, *, private: bool) -> Iterator[OverlayMount]:
    base = tmp_path / "base"
    (base / "sub").mkdir(parents=True)
    for number in range(20):
        (base / "sub" / f"file{number}").write_text(TEXT)
    tables = "[mount]\nallow_other = true\n"
    with OverlayMount(tmp_path / "m", layer_table(str(base)), private=private, tables=tables) as mount:
        yield mount


def read_all(top: Path) -> None:
    """With nothing but open, read and close: Python's files ask more."""
    for name in os.listdir(top / "sub"):
        descriptor = os.open(top / "sub" / name, os.O_RDONLY)
        assert os.read(descriptor, 100).decode() == TEXT
        os.close(descriptor)


def test_what_is_cached_is_opened_and_read_without_a_request(tmp_path: Path) -> None:
    with mounted(tmp_path, private=True) as mount:
        first = requests_for(mount, lambda: read_all(mount.path))
        assert first["read"] == 20
        asked_once = {name: first.get(name) for name in ("open", "opendir", "flush")}
        assert asked_once == {"open": 1, "opendir": 1, "flush": 1}
        assert not first.keys() & {"release", "releasedir"}
        read_all(mount.path)
        assert requests_for(mount, lambda: read_all(mount.path)) == {}


def test_directories_are_listed_without_a_request_where_others_use_the_upper_too(tmp_path: Path) -> None:
    with mounted(tmp_path, private=False) as mount:
        (mount.path / "made").mkdir()
        for directory in (mount.path / "sub", mount.path / "made", mount.path):
            first = requests_for(mount, lambda directory=directory: os.listdir(directory))
            assert first["readdirplus"] >= 1
            assert not first.keys() & {"releasedir"}
            os.listdir(directory)  # for which its time of access is asked for
            assert requests_for(mount, lambda directory=directory: os.listdir(directory)) == {}
        (mount.path / "made" / "new").touch()
        assert os.listdir(mount.path / "made") == ["new"]


def test_nothing_is_listed_from_memory_where_nothing_is_believed(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    keys = [f'url = "{tmp_path}/m/upper"', "ttl = 0.0"]
    with OverlayMount(tmp_path / "m", layer_table(str(tmp_path / "base")), upper_keys=keys) as mount:
        for number in range(3):
            (mount.upper / f"theirs{number}").touch()
            assert f"theirs{number}" in os.listdir(mount.path)


def test_only_who_may_have_written_asks_for_something_when_he_closes(tmp_path: Path, sshd: SshServer) -> None:
    """Where the kernel keeps the locks. Of an upper on a server: it has to tell of what could not be written."""
    upper, base = tmp_path / "served" / "upper", tmp_path / "base"
    upper.mkdir(parents=True)
    (base / "sub").mkdir(parents=True)
    (base / "sub" / "file").write_text(TEXT)
    keys = [f'url = "{sshd.url(upper)}"', *sftp_login(sshd), "private = true"]
    with OverlayMount(tmp_path / "m", layer_table(str(base)), upper_keys=keys) as mount:
        requests = requests_for(mount, lambda: read_all(mount.path))
        assert requests["open"] == requests["release"] == 1
        assert "flush" not in requests
        assert requests_for(mount, lambda: (mount.path / "sub" / "file").write_text("new"))["flush"] == 1


def test_files_stay_what_they_are_for_who_has_them_open(tmp_path: Path) -> None:
    """Though nobody is told that they are open."""
    with mounted(tmp_path, private=True) as mount:
        top = mount.path
        with (top / "sub" / "file0").open("r+") as unlinked, (top / "sub" / "file1").open("r+") as replaced:
            (top / "sub" / "file0").unlink()
            (top / "new").write_text("new\n")
            (top / "new").rename(top / "sub" / "file1")
            for file in (unlinked, replaced):
                assert file.read() == TEXT
                file.write("more\n")
                file.flush()
                assert os.pread(file.fileno(), 100, 0).decode() == f"{TEXT}more\n"
            assert (top / "sub" / "file1").read_text() == "new\n"
        (top / "mine").write_text("mine\n")
        with (top / "mine").open("r+") as mine:
            (top / "mine").unlink()
            mine.write("yours")
            mine.flush()
            assert os.pread(mine.fileno(), 100, 0) == b"yours"
        assert not (top / "mine").exists()


def test_a_file_without_a_name_stays_while_many_are_made(tmp_path: Path) -> None:
    with mounted(tmp_path, private=True) as mount:
        unnamed = os.open(mount.path, os.O_RDWR | os.O_TMPFILE)
        os.write(unnamed, b"unnamed")
        for number in range(MOST_FILES + 50):
            (mount.path / f"made{number}").touch()
        assert os.pread(unnamed, 100, 0) == b"unnamed"
        here = os.open(mount.path, os.O_PATH)
        os.link(f"/proc/self/fd/{unnamed}", "named", dst_dir_fd=here, follow_symlinks=True)
        os.close(here)
        os.close(unnamed)
        assert (mount.path / "named").read_bytes() == b"unnamed"
        open_there = os.listdir(f"/proc/{mount.daemon()}/fd")
        assert MOST_FILES - 50 < len(open_there) < MOST_FILES + 50


def test_more_files_than_are_kept_open(tmp_path: Path) -> None:
    count = MOST_FILES + 50
    with mounted(tmp_path, private=True) as mount:
        files = [(mount.path / f"made{number}").open("w+") for number in range(count)]
        for number, file in enumerate(files):
            file.write(str(number))
            file.flush()
        descriptors = [os.open(mount.path / f"made{number}", os.O_RDWR | os.O_DIRECT) for number in range(count)]
        for descriptor in descriptors:
            os.ftruncate(descriptor, 4096)
            os.fsync(descriptor)
        for file in files:
            file.close()
        for number, descriptor in enumerate(descriptors):
            buffer = mmap.mmap(-1, 4096)
            assert os.preadv(descriptor, [buffer], 0) == 4096
            assert buffer[:].rstrip(b"\0") == str(number).encode()
            os.close(descriptor)


def test_locks_that_the_kernel_keeps_are_told(tmp_path: Path) -> None:
    with mounted(tmp_path, private=True) as mount, (mount.path / "sub" / "file3").open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 5)
        fcntl.flock(file, fcntl.LOCK_SH)
        (posix, flock) = sorted(status(mount)["locks"], key=lambda lock: str(lock["call"]))
        assert (posix["path"], posix["call"], posix["kind"]) == ("sub/file3", "fcntl", "exclusive")
        assert (posix["start"], posix["end"], posix["pid"]) == (5, 14, os.getpid())
        assert (flock["path"], flock["call"], flock["kind"], flock["end"]) == ("sub/file3", "flock", "shared", None)


@ONLY_ROOT
def test_an_uppers_files_are_read_and_written_without_a_request(tmp_path: Path) -> None:
    with mounted(tmp_path, private=False) as mount:
        made, changed = mount.path / "made", mount.path / "sub" / "file0"
        with changed.open("a") as file:
            file.write("more\n")

        def work() -> None:
            for path in (made, changed):
                with path.open("a+") as file:
                    file.write("text\n")
                    file.flush()
                    os.fsync(file.fileno())
                    with mmap.mmap(file.fileno(), 5) as mapped:
                        mapped[0:1] = b"T"
                assert path.read_text().endswith("ext\n")

        assert not requests_for(mount, work).keys() & {"read", "write"}
        assert made.read_text() == (mount.upper / "made").read_text() == "Text\n"
        assert changed.read_text() == (mount.upper / "sub" / "file0").read_text() == "Tf the base\nmore\ntext\n"
        assert (tmp_path / "base" / "sub" / "file0").read_text() == TEXT
        assert made.stat().st_size == 5


@ONLY_ROOT
def test_what_is_open_from_before_its_copy_up_is_read_with_what_is_opened_later(tmp_path: Path) -> None:
    with mounted(tmp_path, private=False) as mount:
        path = mount.path / "sub" / "file1"
        with path.open() as before, mmap.mmap(before.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == TEXT.encode()
            with path.open("r+") as writer:
                writer.write("OF")
                writer.flush()
                with path.open("r+") as later:
                    later.seek(3)
                    later.write("THE")
                    later.flush()
                    assert path.read_text() == before.read() == mapped[:].decode() == "OF THE base\n"
        with path.open("r+") as file:
            file.write("or")
        assert path.read_text() == "or THE base\n"


@ONLY_ROOT
def test_a_write_that_is_passed_through_takes_set_ids(tmp_path: Path) -> None:
    with mounted(tmp_path, private=False) as mount:
        program = mount.path / "program"
        program.write_bytes(b"text")
        program.chmod(0o6777)
        mount.path.chmod(0o777)
        # Root of the test's own directories is no other user's to enter.
        descriptor = os.open(program, os.O_PATH)
        script = f"import os; os.setuid(65534); f = os.open('/proc/self/fd/{descriptor}', os.O_RDWR); os.write(f, b'T')"
        subprocess.run([sys.executable, "-c", script], check=True, pass_fds=[descriptor])
        os.close(descriptor)
        assert program.read_bytes() == b"Text"
        assert program.stat().st_mode & 0o7777 == 0o777
