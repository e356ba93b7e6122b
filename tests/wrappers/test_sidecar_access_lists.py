"""POSIX ACLs in the sidecar: as a file system of this machine has them, and there at the next mount."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from netoverlay.backend_api import Access, AttributeChange, Backend, FileType, NotSupportedError
from netoverlay.backend_api.access_lists import ACCESS, DEFAULT
from netoverlay.testing.suite.layer import refused
from tests.wrappers.sidecars import Server, make

NOBODY = 0xFFFF_FFFF
PLAIN = ((1, 6, NOBODY), (4, 4, NOBODY), (32, 0, NOBODY))
RICH = ((1, 7, NOBODY), (2, 7, 23456), (4, 5, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY))


def listed(*entries: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


INVALID = {
    "short": b"\2\0\0",
    "version": listed(*PLAIN, version=1),
    "no mask": listed(PLAIN[0], (2, 7, 5), *PLAIN[1:]),
    "no other": listed(*PLAIN[:2]),
    "order": listed(*reversed(PLAIN)),
    "twice": listed(PLAIN[0], *PLAIN),
    "bits": listed((1, 8, NOBODY), *PLAIN[1:]),
    "tag": listed(*PLAIN, (64, 0, NOBODY)),
}


def states(backend: Backend) -> list[tuple[int | None, list[tuple[str, bytes]]]]:
    return [
        (
            backend.stat(path).mode,
            sorted((name, backend.get_xattr(path, name)) for name in backend.list_xattrs(path)),
        )
        for path in ("up/file", "up/dir")
    ]


def test_each_change_gives_what_it_gives_on_a_native_file(tmp_path) -> None:
    server = Server()
    native = {path: str(tmp_path / path.partition("/")[2]) for path in ("up/file", "up/dir")}
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    with server.mounted() as backend:
        make(backend, "up/file")
        backend.mkdir("up/dir", 0o755)

        def expect() -> None:
            assert states(backend) == [
                (os.stat(path).st_mode & 0o7777, sorted((name, os.getxattr(path, name)) for name in os.listxattr(path)))
                for path in native.values()
            ]

        def chmod(path: str, mode: int) -> None:
            backend.set_attributes(path, AttributeChange(mode=mode))
            os.chmod(native[path], mode)
            expect()

        def put(path: str, name: str, value: bytes) -> None:
            backend.set_xattr(path, name, value)
            os.setxattr(native[path], name, value)
            expect()

        chmod("up/file", 0o2604)
        chmod("up/dir", 0o755)
        for path in native:
            put(path, ACCESS, listed(*RICH))
            chmod(path, 0o4741)
            put(path, ACCESS, listed(*PLAIN))
            put(path, ACCESS, listed((1, 6, NOBODY), (4, 7, NOBODY), (16, 4, NOBODY), (32, 1, NOBODY)))
            chmod(path, 0o123)
        put("up/dir", DEFAULT, listed(*PLAIN))
        chmod("up/dir", 0o700)
        for _ in range(2):
            backend.remove_xattr("up/file", ACCESS)
            os.removexattr(native["up/file"], ACCESS)
            expect()
        put("up/dir", DEFAULT, listed())
        put("up/dir", DEFAULT, listed(*RICH))
        before = states(backend)
    with server.mounted() as again:
        assert states(again) == before
    with server.plain() as plain:
        assert plain.stat("up/dir").mode == 0o700


@pytest.mark.parametrize("value", INVALID.values(), ids=INVALID)
def test_what_is_no_access_list_is_refused(value: bytes) -> None:
    with Server().mounted() as backend:
        make(backend, "up/file")
        with refused(errno.EINVAL, advice="no ACL"):
            backend.set_xattr("up/file", ACCESS, value)
        assert backend.list_xattrs("up/file") == []


def test_only_directories_have_defaults_and_links_have_none() -> None:
    with Server().mounted() as backend:
        make(backend, "up/file")
        backend.symlink("up/link", "file")
        with refused(errno.EACCES, advice="a default ACL is a directory's"):
            backend.set_xattr("up/file", DEFAULT, listed(*RICH))
        with pytest.raises(NotSupportedError):
            backend.set_xattr("up/link", ACCESS, listed(*RICH))


def test_an_open_file_has_them_too() -> None:
    server = Server()
    with server.mounted() as backend:
        make(backend, "up/file", mode=0o600)
        with backend.open("up/file", Access.READ_WRITE) as file:
            file.set_xattr(ACCESS, listed(*RICH))
            assert (file.stat().type, file.stat().mode) == (FileType.REGULAR, 0o770)
            file.set_attributes(AttributeChange(mode=0o750))
            assert file.get_xattr(ACCESS) == listed(*RICH[:3], (16, 5, NOBODY), RICH[4])
            file.remove_xattr(ACCESS)
            assert file.list_xattrs() == []
        assert backend.stat("up/file").mode == 0o750
