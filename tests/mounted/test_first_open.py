"""Small files of an unchanging base: nothing is read, for the kernel is given them when they are opened."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from netoverlay.overlay.first_open import GIVEN_UP_TO
from tests.mounted.mounting import OverlayMount, layer_table, sftp_login
from tests.mounted.test_kernel_alone import requests_for
from tests.servers.sshd import SshServer

PAGE = mmap.PAGESIZE
SIZES = (0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, GIVEN_UP_TO)
CONTENT = b"of the base: " + bytes(range(256)) * 8
READERS = 3
FILES = 105
SECONDS = 20.0


def content(size: int) -> bytes:
    return (CONTENT * (size // len(CONTENT) + 1))[:size]


@contextmanager
def mounted(tmp_path: Path, table: str, upper_keys: Sequence[str] = ()) -> Iterator[OverlayMount]:
    with OverlayMount(tmp_path / "m", table, upper_keys=upper_keys, private=False) as mount:
        yield mount


def read_all(top: Path) -> None:
    for size in SIZES:
        descriptor = os.open(top / f"s{size}", os.O_RDONLY)
        assert os.read(descriptor, GIVEN_UP_TO) == content(size)
        assert not os.read(descriptor, 1)
        os.close(descriptor)


def use_all(top: Path) -> None:
    read_all(top)
    for size in SIZES:
        assert os.stat(top / f"s{size}").st_size == size
    read_all(top)


@pytest.mark.parametrize("transport", ["local", "sftp"], indirect=True)
def test_a_small_file_is_read_without_a_request(tmp_path: Path, lower: Callable[[Path], str]) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for size in SIZES:
        (base / f"s{size}").write_bytes(content(size))
    with mounted(tmp_path, lower(base)) as mount:
        read_all(mount.path)
        mount.remount()
        requests = requests_for(mount, lambda: use_all(mount.path))
        assert requests["open"] == 2 * len(SIZES)
        assert "read" not in requests
        assert requests.get("getattr", 0) <= 1, "that of the directory"


def test_what_is_mapped_and_what_is_larger(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "mapped").write_bytes(content(3 * PAGE + 5))
    (base / "larger").write_bytes(content(GIVEN_UP_TO + 1))

    def use() -> None:
        with (mount.path / "mapped").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == content(3 * PAGE + 5)
        os.close(os.open(mount.path / "larger", os.O_RDONLY))

    with mounted(tmp_path, layer_table(str(base))) as mount:
        assert "read" not in requests_for(mount, use)
        assert (mount.path / "larger").read_bytes() == content(GIVEN_UP_TO + 1)


def overwrite(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, b"CHANGED")
    os.close(descriptor)


def append_mapped(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(len(CONTENT) + 7)
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[len(CONTENT) :] = b"CHANGED"


def rename_over(path: Path) -> None:
    other = path.with_name(f"{path.name}.new")
    other.write_bytes(b"CHANGED")
    other.rename(path)


def shorten(path: Path) -> None:
    os.truncate(path, 3)


CHANGES: tuple[tuple[Callable[[Path], object], set[bytes], bytes], ...] = (
    (overwrite, set(), b"CHANGED" + CONTENT[7:]),
    (shorten, set(), CONTENT[:3]),
    (lambda path: os.truncate(path, len(CONTENT) + 3), set(), CONTENT + bytes(3)),
    (lambda path: path.write_bytes(b"CHANGED"), {b""}, b"CHANGED"),
    (lambda path: path.chmod(0o600), set(), CONTENT),
    (append_mapped, {CONTENT + bytes(7)}, CONTENT + b"CHANGED"),
    (rename_over, set(), b"CHANGED"),
)
"""What is done to a file, and what may then be read of it meanwhile and after it."""


def one_of(read: bytes, possible: set[bytes]) -> bool:
    """Whether it is: a read(2) may also end where the file did when it began, or begin where it ends now."""
    return any(read == whole or (len(read) < len(whole) and whole.startswith(read)) for whole in possible)


def is_being_shortened(read: bytes) -> bool:
    """A read(2) has seen how long the file was, and then that its end is zeroed: as on any file system of Linux.

    filemap_read() in mm/filemap.c looks at the size before it copies, and holds nothing against truncate_setsize().
    """
    return len(read) == len(CONTENT) and all(now in (0, was) for now, was in zip(read, CONTENT, strict=True))


def test_nothing_stale_is_read_while_others_change_the_file(tmp_path: Path, sshd: SshServer) -> None:
    """All at the moment of the first open of a file, again and again.

    With such an upper the kernel asks for nothing that it has, so that what is stale would stay.
    """
    upper = tmp_path / "server" / "upper"
    upper.mkdir(parents=True)
    keys = [f'url = "{sshd.url(upper)}"', *sftp_login(sshd), "private = true"]
    base = tmp_path / "base"
    base.mkdir()
    for number in range(FILES):
        (base / str(number)).write_bytes(CONTENT)
    begin = threading.Barrier(READERS + 1, timeout=SECONDS)

    def read(path: Path) -> tuple[bytes, int]:
        begin.wait()
        descriptor = os.open(path, os.O_RDONLY)
        return os.read(descriptor, GIVEN_UP_TO), descriptor

    def change(action: Callable[[Path], object], path: Path) -> None:
        begin.wait()
        action(path)

    with mounted(tmp_path, layer_table(str(base)), keys) as mount, ThreadPoolExecutor(READERS + 1) as pool:
        for number in range(FILES):
            action, meanwhile, after = CHANGES[number % len(CHANGES)]
            path = mount.path / str(number)
            readers = [pool.submit(read, path) for _ in range(READERS)]
            pool.submit(change, action, path).result(SECONDS)
            for read_then, descriptor in (reader.result(SECONDS) for reader in readers):
                if not (action is shorten and is_being_shortened(read_then)):
                    assert one_of(read_then, {CONTENT, after, *meanwhile}), (number, read_then)
                assert os.pread(descriptor, GIVEN_UP_TO, 0) in ({CONTENT, after} if action is rename_over else {after})
                os.close(descriptor)
            assert path.read_bytes() == after, number
            assert path.stat().st_size == len(after)
