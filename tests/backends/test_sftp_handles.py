"""More open files than the server grants handles, and files whose handle or connection is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from netoverlay.backend_api import Access, AttributeChange, Creation, StaleHandleError, UnavailableError
from netoverlay_sftp import SftpBackend
from netoverlay_sftp.file import SftpFile
from tests.backends.sftp_layer import connected
from tests.servers.sshd import SshServer

DESCRIPTORS = 48
FILES = 3 * DESCRIPTORS


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[SshServer]:
    with SshServer(tmp_path_factory.mktemp("handles") / "sshd", open_files=DESCRIPTORS) as running:
        yield running


@pytest.fixture
def backend(server, tmp_path) -> Iterator[SftpBackend]:
    with connected(server, tmp_path) as made:
        yield made


def opened(backend: SftpBackend, path: str, access: Access = Access.READ) -> SftpFile:
    file = backend.open(path, access)
    assert isinstance(file, SftpFile)
    return file


def created(backend: SftpBackend, path: str, data: bytes) -> SftpFile:
    file = backend.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=0o644)
    assert isinstance(file, SftpFile)
    file.write_at(0, data)
    return file


def has_handle(file: SftpFile) -> bool:
    return file._file.handle is not None


@pytest.fixture
def crowd(backend, tmp_path) -> Iterator[list[SftpFile]]:
    """Opens so many files that every other file loses its handle."""
    (tmp_path / "crowd").mkdir()
    for number in range(FILES):
        (tmp_path / "crowd" / str(number)).write_bytes(b"%d" % number)
    files: list[SftpFile] = []
    yield files
    for file in files:
        file.close()


def push_out(backend: SftpBackend, crowd: list[SftpFile]) -> None:
    crowd += [opened(backend, f"crowd/{number}") for number in range(FILES)]


def lose_connection(backend: SftpBackend, server: SshServer) -> None:
    server.end_sessions()
    while True:
        try:
            backend.stat("")
            return
        except UnavailableError:
            continue


def test_all_files_can_be_read_though_few_have_a_handle(backend, crowd):
    push_out(backend, crowd)
    assert 0 < sum(map(has_handle, crowd)) < FILES
    for number, file in reversed(list(enumerate(crowd))):
        assert file.read_at(0, 10) == b"%d" % number


def test_many_threads_fight_for_handles(backend, crowd):
    push_out(backend, crowd)

    def read_all(start: int) -> None:
        for step in range(FILES):
            number = (start * 17 + step * 5) % FILES
            assert crowd[number].read_at(0, 10) == b"%d" % number

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_all, range(8)))


def test_a_file_that_was_written_goes_on(backend, crowd):
    with created(backend, "file", b"first") as file:
        push_out(backend, crowd)
        for each in crowd:  # those that are only read are given up first
            each.read_at(0, 1)
        file.write_at(5, b" second")
        assert file.read_at(0, 100) == b"first second"


def test_a_file_that_was_made_or_emptied_goes_on_too(backend, crowd, tmp_path):
    (tmp_path / "emptied").write_bytes(b"content")
    with (
        backend.open("made", Access.READ_WRITE, create=Creation.EXCLUSIVE) as made,
        backend.open("emptied", Access.READ_WRITE, truncate=True) as emptied,
    ):
        writers = [created(backend, f"writer-{number}", b"") for number in range(FILES)]
        assert not has_handle(made)
        assert made.read_at(0, 100) == b""
        assert emptied.read_at(0, 100) == b""
        for writer in writers:
            writer.close()


def test_writers_lose_their_handles_last_and_get_them_back(backend, tmp_path):
    files = [created(backend, f"file-{number}", b"%d" % number) for number in range(FILES)]
    assert sum(map(has_handle, files)) < FILES
    for number, file in enumerate(files):
        file.write_at(10, b"again")
        assert file.read_at(0, 20) == (b"%d" % number).ljust(10, b"\0") + b"again"
    for file in files:
        file.close()


def test_a_removed_file_keeps_its_handle(backend, crowd, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with opened(backend, "file") as file:
        backend.unlink("file")
        push_out(backend, crowd)
        assert file.read_at(0, 100) == b"content"


def test_a_file_without_a_handle_gets_one_before_it_is_removed(backend, crowd, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with opened(backend, "file") as file:
        push_out(backend, crowd)
        assert not has_handle(file)
        backend.unlink("file")
        assert file.read_at(0, 100) == b"content"


def test_a_file_without_a_handle_gets_one_before_it_is_replaced(backend, crowd, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "other").write_bytes(b"replacement")
    with opened(backend, "file") as file:
        push_out(backend, crowd)
        backend.rename("other", "file")
        assert file.read_at(0, 100) == b"content"
        with opened(backend, "file") as after:
            assert after.read_at(0, 100) == b"replacement"


def test_a_renamed_file_is_found_again(backend, crowd, tmp_path):
    (tmp_path / "directory" / "below").mkdir(parents=True)
    (tmp_path / "directory" / "below" / "file").write_bytes(b"content")
    (tmp_path / "directory-not").mkdir()
    (tmp_path / "directory-not" / "file").write_bytes(b"other")
    with opened(backend, "directory/below/file") as file, opened(backend, "directory-not/file") as other:
        backend.rename("directory", "moved")
        push_out(backend, crowd)
        assert not has_handle(file)
        assert file.read_at(0, 100) == b"content"
        assert other.read_at(0, 100) == b"other"


def test_the_old_name_of_a_renamed_file_is_another_files(server, backend, tmp_path):
    (tmp_path / "old").write_bytes(b"content")
    with opened(backend, "old") as file:
        backend.rename("old", "new")
        created(backend, "old", b"another").close()
        backend.unlink("old")
        lose_connection(backend, server)
        assert file.read_at(0, 100) == b"content"


def test_a_failed_unlink_changes_nothing(backend, crowd, tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").write_bytes(b"content")
    with opened(backend, "directory/file") as file:
        with pytest.raises(IsADirectoryError):
            backend.unlink("directory")
        with pytest.raises(OSError, match="not empty"):
            backend.rmdir("directory")
        push_out(backend, crowd)
        assert file.read_at(0, 100) == b"content"


def test_a_file_that_others_replaced_is_stale(backend, crowd, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with opened(backend, "file") as file:
        push_out(backend, crowd)
        (tmp_path / "new").write_bytes(b"something else")
        os.replace(tmp_path / "new", tmp_path / "file")
        with pytest.raises(StaleHandleError):
            file.read_at(0, 100)


@pytest.mark.parametrize("kind", ["directory", "fifo", "symlink", "nothing"])
def test_what_is_no_file_any_more_is_stale(backend, crowd, tmp_path, kind):
    """A FIFO must not even be tried: opening it would wait for ever."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    with opened(backend, "file") as file:
        push_out(backend, crowd)
        path.unlink()
        if kind == "directory":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "symlink":
            path.symlink_to(tmp_path / "crowd" / "0")
        with pytest.raises(StaleHandleError):
            file.read_at(0, 100)


def test_a_change_of_our_own_does_not_make_stale(backend, crowd, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with opened(backend, "file") as file:
        with opened(backend, "file", Access.WRITE) as writer:
            writer.write_at(7, b" and more")
        backend.set_attributes("file", AttributeChange(mtime_ns=5_000_000_000))
        push_out(backend, crowd)
        assert not has_handle(file)
        assert file.read_at(0, 100) == b"content and more"


# A connection that was lost.


def test_open_files_survive_a_lost_connection(server, backend, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with opened(backend, "file") as file, created(backend, "written", b"first") as written:
        lose_connection(backend, server)
        assert file.read_at(0, 100) == b"content"
        written.write_at(5, b" second")
        assert written.read_at(0, 100) == b"first second"
        assert file.stat().size == 7
    assert (tmp_path / "written").read_bytes() == b"first second"


def test_a_removed_file_does_not_survive_it(server, backend, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with opened(backend, "file") as file:
        backend.unlink("file")
        lose_connection(backend, server)
        with pytest.raises(StaleHandleError):
            file.read_at(0, 100)
        (tmp_path / "file").write_bytes(b"content")
        with pytest.raises(StaleHandleError):
            file.read_at(0, 100)


def test_a_changed_file_does_not_survive_it(server, backend, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with opened(backend, "file") as file:
        os.utime(tmp_path / "file", (1, 1))
        lose_connection(backend, server)
        with pytest.raises(StaleHandleError):
            file.read_at(0, 100)


def test_closing_after_the_loss_is_quiet(server, backend, tmp_path):
    file = created(backend, "file", b"content")
    lose_connection(backend, server)
    file.close()
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.read_at(0, 1)


def test_a_restarted_server_is_found_again(tmp_path):
    with SshServer(tmp_path / "sshd") as server, connected(server, tmp_path, deadline=5.0) as backend:
        (tmp_path / "file").write_bytes(b"content")
        with opened(backend, "file") as file:
            server.stop()
            with pytest.raises(UnavailableError):
                file.read_at(0, 100)
            with pytest.raises(UnavailableError):
                backend.stat("file")
            assert backend.connection_state() == "down"
            server.start()
            assert file.read_at(0, 100) == b"content"
            assert backend.connection_state() == "connected"
