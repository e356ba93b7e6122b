"""Many small files in one call: how often a server is asked, and what it has to keep for that."""

from __future__ import annotations

import errno
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from netoverlay.backend_api import Access, FileContent, WantedFile
from netoverlay.backend_api.whole_files import read_one
from netoverlay_sftp.multiplexer import Multiplexer
from netoverlay_sftp.protocol import PacketType
from netoverlay_smb.protocol import Command
from netoverlay_smb.symlinks import MFSYMLINK_BYTES
from tests.backends import sftp_layer, smb_layer
from tests.servers.sshd import SshServer

COUNT = 100
DESCRIPTORS = 48


def fill(root, count=COUNT):
    wanted = []
    for number in range(count):
        content = b"%d" % number * number
        (root / f"file{number}").write_bytes(content)
        wanted.append(WantedFile(f"file{number}", len(content)))
    return wanted


def contents(wanted, found):
    return {each.path: one.data for each, one in zip(wanted, found, strict=True) if isinstance(one, FileContent)}


def on_disk(root, wanted):
    return {each.path: (root / each.path).read_bytes() for each in wanted}


@pytest.fixture(params=["sftp", "smb"])
def backend(request, sshd, smbd, tmp_path):
    server, layer = (sshd, sftp_layer) if request.param == "sftp" else (smbd, smb_layer)
    with layer.connected(server, tmp_path) as made:
        yield made


@pytest.mark.parametrize(("unchanging", "packets"), [(True, 3), (False, 5)])
def test_what_is_asked_of_an_sftp_server(sshd, tmp_path, monkeypatch, unchanging, packets):
    wanted = fill(tmp_path)
    pieces = []
    submit_many = Multiplexer.submit_many
    with sftp_layer.connected(sshd, tmp_path) as backend, monkeypatch.context() as patch:
        patch.setattr(
            Multiplexer,
            "submit_many",
            lambda self, asked: pieces.append([packet for packet, _ in asked]) or submit_many(self, asked),
        )
        patch.setattr(Multiplexer, "submit", None)
        found = backend.read_files(wanted, unchanging=unchanging)
    assert contents(wanted, found) == on_disk(tmp_path, wanted)
    pieces = [piece for piece in pieces if piece]
    assert len(pieces) == (2 if unchanging else 3), "opening and reading, and closing, each of all files in one piece"
    assert sum(map(len, pieces)) == packets * COUNT - 1, "of an empty file nothing is read"
    assert set(pieces[-1]) == {PacketType.CLOSE}


@pytest.mark.parametrize("unchanging", [True, False])
def test_what_is_asked_of_an_smb_server(smbd, tmp_path, unchanging):
    wanted = fill(tmp_path)
    with smb_layer.connected(smbd, tmp_path) as backend:
        engine = backend._connector.session().engine
        pieces = []
        submit_all = engine.submit_all
        engine.submit_all = lambda compounds: pieces.append(compounds) or submit_all(compounds)
        found = backend.read_files(wanted, unchanging=unchanging)
    assert contents(wanted, found) == on_disk(tmp_path, wanted)
    assert len(pieces) <= 3, "as many at once as there are credits for"
    commands = [[body.command for body in bodies] for compounds in pieces for bodies in compounds]
    assert sum(each.count(Command.CREATE) for each in commands) == COUNT
    assert all(each[-1] is Command.CLOSE for each in commands)


def test_what_is_no_file_is_told_and_not_opened(backend, tmp_path):
    wanted = fill(tmp_path, 3)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    odd = [WantedFile(name, 10) for name in ("fifo", "directory", "missing", "file1/below")]
    found = backend.read_files([*odd, *wanted], unchanging=False)
    assert contents(wanted, found[len(odd) :]) == on_disk(tmp_path, wanted)
    singly = [read_one(backend, each, unchanging=False) for each in odd]
    assert [repr(one) for one in found[: len(odd)]] == [repr(one) for one in singly]
    assert found[1].errno == errno.EISDIR


def test_what_has_the_size_of_a_link(smbd, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * MFSYMLINK_BYTES)
    with smb_layer.connected(smbd, tmp_path) as backend:
        backend.symlink("link", "file")
        wanted = [WantedFile(name, MFSYMLINK_BYTES) for name in ("file", "link")]
        file, link = backend.read_files(wanted, unchanging=False)
    assert file.data == b"x" * MFSYMLINK_BYTES
    assert link.errno == errno.ELOOP


def test_a_locked_file_is_refused_alone(smbd, tmp_path):
    wanted = fill(tmp_path, 20)
    with (tmp_path / "file7").open("r+b") as held, smb_layer.connected(smbd, tmp_path) as backend:
        fcntl.lockf(held, fcntl.LOCK_EX)
        for _ in range(3):
            found = backend.read_files(wanted, unchanging=True)
            assert isinstance(found[7], PermissionError)
            assert len(contents(wanted, found)) == 19
        fcntl.lockf(held, fcntl.LOCK_UN)
        (tmp_path / "file7").unlink()  # which would be refused while the server had it open for us
        assert contents(wanted[8:], backend.read_files(wanted[8:], unchanging=True)) == on_disk(tmp_path, wanted[8:])


@pytest.fixture(scope="module")
def small_sshd(tmp_path_factory):
    with SshServer(tmp_path_factory.mktemp("small") / "sshd", open_files=DESCRIPTORS) as running:
        yield running


@pytest.mark.parametrize("unchanging", [True, False])
def test_a_server_with_few_handles(small_sshd, tmp_path, unchanging):
    wanted = fill(tmp_path)
    with sftp_layer.connected(small_sshd, tmp_path) as backend:
        held = [backend.open(f"file{number}", Access.READ) for number in range(2 * DESCRIPTORS)]

        def work(number):
            if number % 2:
                return contents(wanted, backend.read_files(wanted, unchanging=unchanging))
            return {each.path: held[at].read_at(0, each.size) for at, each in enumerate(wanted[: len(held)])}

        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(work, range(8)):
                assert found.items() <= on_disk(tmp_path, wanted).items()
                assert len(found) >= len(held)
        for file in held:
            file.close()
        assert not backend._handles._transient
        assert not backend._handles._counts
