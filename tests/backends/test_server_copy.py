"""Copies between the files of one server, of one layer or of two: no data passes here."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from netoverlay.backend_api import (
    Access,
    Backend,
    BackendFile,
    Creation,
    NotSupportedError,
    UnavailableError,
    parse_url,
)
from netoverlay.backend_api.places import FilePlace
from netoverlay.cache.content import ContentCache
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.metadata import MetadataCache
from netoverlay.overlay.content import copy_content
from netoverlay.wrappers.id_map import IdMap, OwnerMap
from netoverlay.wrappers.limits import LimitedBackend
from netoverlay.wrappers.metrics import MeteredBackend
from netoverlay.wrappers.owners import OwnersBackend
from netoverlay.wrappers.retry import RetryingBackend
from netoverlay_sftp import SftpBackend
from netoverlay_sftp import copying as sftp_copying
from netoverlay_smb import SmbBackend
from netoverlay_smb import copying as smb_copying
from netoverlay_smb import facts as smb_facts
from netoverlay_smb.replies import Copied
from netoverlay_smb.status import NOT_SUPPORTED, Status
from tests.backends.sftp_layer import sftp_backend
from tests.backends.smb_layer import smb_backend
from tests.servers.proxy import Proxy

MIB = 1 << 20
SIZE = 20 * MIB + 12_345
OVERHEAD = 90_000
"""What logging in and asking may take, of bytes: with what comes along with opening a file over SMB (64 KiB)."""
DATA = random.Random(SIZE).randbytes(SIZE)
KINDS = ("sftp", "smb")
MakeBackend = Callable[..., Backend]


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def make(kind, sshd, smbd) -> MakeBackend:
    """Makes a backend, not connected, of the one server or the other."""
    return (
        (lambda root, **more: sftp_backend(sshd, root, **more))
        if kind == "sftp"
        else (lambda root, **more: smb_backend(smbd, root, **more))
    )


@pytest.fixture
def proxy(kind, sshd, smbd) -> Iterator[Proxy]:
    with Proxy((sshd if kind == "sftp" else smbd).port) as running:
        yield running


@pytest.fixture
def roots(tmp_path) -> tuple[Path, Path]:
    """Of a lower and an upper."""
    roots = tmp_path / "lower", tmp_path / "upper"
    for root in roots:
        root.mkdir()
    return roots


@pytest.fixture
def layers(make, proxy, roots) -> Iterator[tuple[Backend, Backend]]:
    with make(roots[0], port=proxy.port) as lower, make(roots[1], port=proxy.port) as upper:
        assert lower.connect().server_copy
        assert upper.connect().server_copy
        yield lower, upper


def new(backend: Backend, path: str = "copy") -> BackendFile:
    return backend.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=0o644)


def refuses(target: BackendFile, source: BackendFile) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011  (the errno is what matters)
        target.copy_range(source, 0, 0, 10)
    assert caught.value.errno == errno.EXDEV


def holes_are_kept(path: Path) -> bool:
    return path.stat().st_blocks * 512 < path.stat().st_size // 2


def test_between_two_layers_of_one_server_no_data_passes(layers, roots, proxy):
    (roots[0] / "file").write_bytes(DATA)
    with layers[0].open("file", Access.READ) as source, new(layers[1]) as target:
        copy_content(source, target, SIZE)
    assert (roots[1] / "copy").read_bytes() == DATA
    assert proxy.passed < OVERHEAD


@pytest.mark.parametrize("size", [100_000, SIZE])
@pytest.mark.parametrize("immutable", [True, False])
def test_through_all_wrappers_no_data_passes(make, kind, proxy, roots, tmp_path, size, immutable):
    (roots[0] / "file").write_bytes(DATA[:size])
    os.utime(roots[0] / "file", (10**9, 10**9))
    meters = [
        MeteredBackend(RetryingBackend(LimitedBackend(make(root, port=proxy.port), 20.0), 20.0)) for root in roots
    ]
    with closing(DiskStore(str(tmp_path / "store"))) as store:
        cache = ContentCache(MetadataCache(meters[0], ttl=60), store, immutable=immutable)
        with OwnersBackend(cache, OwnerMap(IdMap(1000), IdMap(1000))) as lower, meters[1] as upper:
            lower.connect()
            upper.connect()
            with lower.open("file", Access.READ) as source, new(upper) as target:
                passed = proxy.passed
                opened = meters[0].snapshot().get("open.calls", 0)
                copy_content(source, target, size)
                assert proxy.passed - passed < OVERHEAD
            opened = meters[0].snapshot().get("open.calls", 0) - opened
            assert opened == (1 if kind == "smb" and size == SIZE else 0), "but for its holes, it need not be opened"
            assert meters[1].snapshot()["bytes_written"] == 0
    assert (roots[1] / "copy").read_bytes() == DATA[:size]


def test_a_sparse_file(layers, roots, kind):
    with new(layers[0], "file") as file:  # Samba tells no holes of what was made on its own disk
        file.write_at(0, DATA[: MIB // 2])
        file.write_at(300 * MIB, DATA[: MIB // 2])
        file.truncate(400 * MIB)
    with layers[0].open("file", Access.READ) as source, new(layers[1]) as target:
        copy_content(source, target, 400 * MIB)
    copy = roots[1] / "copy"
    with copy.open("rb") as file:
        assert file.read(MIB) == DATA[: MIB // 2] + bytes(MIB // 2)
        file.seek(300 * MIB - 10)
        assert file.read(MIB) == bytes(10) + DATA[: MIB // 2] + bytes(MIB // 2 - 10)
    assert copy.stat().st_size == 400 * MIB
    assert holes_are_kept(copy) == (kind == "smb"), "SFTP tells no holes"


def test_a_connection_that_is_lost_in_between(layers, roots, proxy):
    (roots[0] / "file").write_bytes(DATA)
    with layers[0].open("file", Access.READ) as source, new(layers[1]) as target:
        done = target.copy_range(source, 0, 0, 5 * MIB)
        assert done == 5 * MIB
        for piece in (5 * MIB, SIZE):
            proxy.cut()
            while done < piece:
                try:
                    count = target.copy_range(source, done, done, piece - done)
                except UnavailableError:
                    continue
                assert count
                done += count
    assert (roots[1] / "copy").read_bytes() == DATA


def test_both_files_of_one_layer_are_opened_again(make, proxy, roots):
    (roots[0] / "file").write_bytes(DATA[:MIB])
    with (
        make(roots[0], port=proxy.port) as layer,
        ExitStack() as stack,
    ):
        layer.connect()
        source, target = stack.enter_context(layer.open("file", Access.READ)), stack.enter_context(new(layer))
        proxy.cut()
        while True:
            try:
                assert target.copy_range(source, 0, 0, MIB) == MIB
                break
            except UnavailableError:
                continue
    assert (roots[0] / "copy").read_bytes() == DATA[:MIB]


def test_a_source_that_is_no_longer_what_was_opened(layers, roots):
    (roots[0] / "file").write_bytes(b"0123456789")
    os.utime(roots[0] / "file", (10**9, 10**9))
    with layers[0].open("file", Access.READ) as source, new(layers[1]) as target:
        assert target.copy_range(source, 0, 0, 10) == 10
        with (roots[0] / "file").open("ab") as file:
            file.write(b"more")
        refuses(target, source)
        (roots[0] / "file").unlink()
        refuses(target, source)
        (roots[0] / "file").mkdir()
        refuses(target, source)


def test_a_fifo_is_never_opened(layers, roots):
    (roots[0] / "file").write_bytes(b"")
    os.utime(roots[0] / "file", (10**9, 10**9))
    with layers[0].open("file", Access.READ) as source, new(layers[1]) as target:
        (roots[0] / "file").unlink()
        os.mkfifo(roots[0] / "file")
        os.utime(roots[0] / "file", (10**9, 10**9))
        refuses(target, source)


def test_a_source_that_was_written_by_its_own_layer(layers):
    with new(layers[0], "file") as source, new(layers[1]) as target:
        source.write_at(0, b"0123456789")
        refuses(target, source)


def test_a_source_that_may_not_be_read(layers, roots):
    (roots[0] / "file").write_bytes(b"0123456789")
    with layers[0].open("file", Access.WRITE) as source, new(layers[1]) as target:
        refuses(target, source)


def test_another_way_to_the_server_is_another_server(layers, make, roots):
    (roots[0] / "file").write_bytes(b"0123456789")
    with make(roots[0]) as other:
        other.connect()
        with other.open("file", Access.READ) as source, new(layers[1]) as target:
            refuses(target, source)
            copy_content(source, target, 10)
    assert (roots[1] / "copy").read_bytes() == b"0123456789"


def test_between_the_two_transports_data_passes(sshd, smbd, roots):
    (roots[0] / "file").write_bytes(DATA)
    makers = {"sftp": lambda root: sftp_backend(sshd, root), "smb": lambda root: smb_backend(smbd, root)}
    for source_kind, target_kind in (("sftp", "smb"), ("smb", "sftp")):
        with makers[source_kind](roots[0]) as lower, makers[target_kind](roots[1]) as upper:
            lower.connect()
            upper.connect()
            with lower.open("file", Access.READ) as source, new(upper, f"to-{target_kind}") as target:
                refuses(target, source)
                copy_content(source, target, SIZE)
        assert (roots[1] / f"to-{target_kind}").read_bytes() == DATA


def test_a_copied_range_is_seen_by_reads_at_once(layers, roots):
    (roots[0] / "file").write_bytes(b"0123456789")
    (roots[1] / "copy").write_bytes(b"abcdefghij")
    upper = layers[1]
    with (
        layers[0].open("file", Access.READ) as source,
        upper.open("copy", Access.READ) as reader,
        upper.open("copy", Access.READ_WRITE) as target,
    ):
        assert reader.read_at(0, 99) == b"abcdefghij"
        assert target.copy_range(source, 0, 2, 3) == 3
        assert reader.read_at(0, 99) == b"ab012fghij"


def test_a_place_is_of_one_user_at_one_server():
    here = FilePlace("sftp://me@host:22/base", "file", 1, 2, None)
    for text, reaches in {
        "sftp://me@HOST:22/other": True,
        "sftp://me@host/base": False,
        "sftp://you@host:22/base": False,
        "sftp://host:22/base": False,
        "smb://me@host:22/base": False,
        "sftp://me@host2:22/base": False,
    }.items():
        assert (here.url_if_reached(parse_url(text)) is not None) == reaches, text
    assert FilePlace("in memory", "file", 1, 2, None).url_if_reached(parse_url("sftp://host/")) is None


def test_sftp_a_source_that_becomes_shorter(sshd, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"0123456789")
    monkeypatch.setattr(sftp_copying, "_size", lambda *_: 100)
    with sftp_backend(sshd, tmp_path) as layer:
        layer.connect()
        with layer.open("file", Access.READ) as source, new(layer) as target:
            assert target.copy_range(source, 4, 0, 50) == 6
            assert target.read_at(0, 99) == b"456789"


def smb_files(layer: SmbBackend) -> tuple[BackendFile, BackendFile]:
    layer.connect()
    return layer.open("file", Access.READ), new(layer)


def test_smb_the_server_tells_what_it_copies_at_once(smbd, tmp_path):
    (tmp_path / "file").write_bytes(DATA)
    with smb_backend(smbd, tmp_path) as layer:
        source, target = smb_files(layer)
        session = layer._connector.session()
        session.copy_limits = Copied(1000, 5 * MIB, 100 * MIB)
        with source, target:
            assert target.copy_range(source, 0, 0, SIZE) == SIZE
        assert session.copy_limits == Copied(256, MIB, 16 * MIB)
    assert (tmp_path / "copy").read_bytes() == DATA


def test_smb_a_source_that_becomes_shorter(smbd, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(DATA[: 2 * MIB])
    found = smb_copying.source
    monkeypatch.setattr(smb_copying, "source", lambda *arguments: (found(*arguments)[0], 5 * MIB))
    with smb_backend(smbd, tmp_path) as layer:
        source, target = smb_files(layer)
        with source, target:
            done = target.copy_range(source, 0, 0, 5 * MIB)
            assert done <= 2 * MIB
            assert target.read_at(0, done) == DATA[:done]


def test_smb_a_copy_that_the_server_refuses_is_made_here(smbd, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"0123456789")
    monkeypatch.setattr(smb_copying, "source", lambda *_: (bytes(24), 10))
    with smb_backend(smbd, tmp_path) as layer:
        source, target = smb_files(layer)
        with source, target:
            refuses(target, source)
            copy_content(source, target, 10)
    assert (tmp_path / "copy").read_bytes() == b"0123456789"


def test_smb_a_name_space_is_not_followed(smbd, tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    with smb_backend(smbd, tmp_path) as lower, smb_backend(smbd, tmp_path) as upper:
        lower.connect()
        upper.connect()
        with lower.open("file", Access.READ) as source, new(upper) as target:
            upper._connector.session().is_referred = True
            refuses(target, source)


def test_sftp_files_of_removed_names(sshd, tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    with sftp_backend(sshd, tmp_path) as layer:
        assert isinstance(layer, SftpBackend)
        layer.connect()
        with layer.open("file", Access.READ) as source, new(layer) as target:
            layer.unlink("file")
            layer.unlink("copy")
            assert target.copy_range(source, 0, 0, 10) == 10
            assert target.read_at(0, 99) == b"0123456789"


def test_smb_a_server_that_cannot_copy(smbd, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"0123456789")
    monkeypatch.setattr(smb_facts, "NOT_SUPPORTED", frozenset({*NOT_SUPPORTED, Status.INTERNAL_ERROR}))
    with smb_backend(smbd, tmp_path) as layer:
        assert not layer.connect().server_copy
        source, target = layer.open("file", Access.READ), new(layer)
        with source, target:
            with pytest.raises(NotSupportedError):
                target.copy_range(source, 0, 0, 10)
            copy_content(source, target, 10)
    assert (tmp_path / "copy").read_bytes() == b"0123456789"
