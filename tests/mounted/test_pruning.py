"""Files that nobody uses are forgotten when there are too many, and nobody who uses one sees anything of it."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted.few_inodes import MOST
from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run

DIRECTORIES, FILES = 5, 12
PLACES = ("a", "b", "c", "d", "e")
IN_MODIFY, IN_CREATE = 0x2, 0x100
WAYS = ["prune", "shrink"] if os.geteuid() == 0 else ["prune"]


class FewInodes(OverlayMount):
    """A mount that keeps few inodes, with a directory for each test."""

    def __init__(self, directory: Path, lowers: str, way: str) -> None:
        super().__init__(directory, lowers)
        self._way = way
        self._places = iter(PLACES)

    def mount(self) -> None:
        command = (sys.executable, "-m", "tests.mounted.few_inodes", self._way)
        run(*command, "mount", self.profile, self.path, "--log-file", self.log, cwd=Path(__file__).parents[2])

    def place(self) -> Path:
        """One that no other test has."""
        return self.path / next(self._places)

    def inodes(self) -> int:
        told = json.loads(run(*COMMAND, "status", "--json", self.path))
        return int(told["mounts"][0]["status"]["inodes"])

    def crowd(self) -> None:
        """Look at so many files that all that can be forgotten has been, and wait for that."""
        for _ in range(2):
            walk(self.path)
        wait_until(lambda: self.inodes() <= MOST + DIRECTORIES)


def walk(path: Path) -> dict[str, tuple[int, bytes]]:
    """st_ino and content of all files that there are."""
    found = {}
    for directory, _, names in os.walk(path):
        for file in (Path(directory, name) for name in names):
            found[str(file.relative_to(path))] = (file.stat().st_ino, file.read_bytes())
    return found


def wait_until(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    give_up_at = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


@pytest.fixture(scope="module", params=WAYS)
def mount(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FewInodes]:
    directory = tmp_path_factory.mktemp("few")
    for place in PLACES:
        for number in range(DIRECTORIES):
            made = directory / "base" / place / f"d{number}"
            made.mkdir(parents=True)
            for file in range(FILES):
                (made / f"f{file}").write_bytes(f"{number}/{file}".encode())
    with FewInodes(directory, layer_table(str(directory / "base")), str(request.param)) as mount:
        yield mount


class Watch:
    """inotify(7) on one path."""

    def __init__(self, path: Path, events: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.fd, os.fsencode(path), events) >= 0, os.strerror(ctypes.get_errno())

    def events(self) -> list[tuple[int, bytes]]:
        """What happened, and to which name."""
        data, found = os.read(self.fd, 4096), []
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            found.append((mask, data[16 : 16 + length].rstrip(b"\0")))
            data = data[16 + length :]
        return found

    def close(self) -> None:
        os.close(self.fd)


def test_a_walk_keeps_few_inodes_and_another_finds_the_same(mount: FewInodes) -> None:
    place = mount.place()
    found = walk(place)
    assert len(found) == DIRECTORIES * FILES
    mount.crowd()
    assert walk(place) == found


def test_who_uses_a_file_sees_nothing_of_it(mount: FewInodes) -> None:
    top = mount.place()
    directory = top / "d0"
    lower, mapped = os.open(directory / "f0", os.O_RDONLY), os.open(directory / "f1", os.O_RDONLY)
    mapping = mmap.mmap(mapped, 0, prot=mmap.PROT_READ)
    os.close(mapped)
    upper = os.open(directory / "new", os.O_RDWR | os.O_CREAT, 0o600)
    pinned = os.open(directory / "f2", os.O_PATH)
    removed = os.open(directory / "f3", os.O_RDONLY)
    (directory / "f3").unlink()
    inode = os.fstat(upper).st_ino
    os.write(upper, b"before")
    with subprocess.Popen(["sh"], cwd=top / "d1", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        mount.crowd()
        told, _ = shell.communicate("pwd -P; cat f0")
    assert told == f"{top}/d1\n1/0"
    assert os.read(lower, 10) == b"0/0"
    assert mapping[:] == b"0/1"
    assert os.read(removed, 10) == b"0/3"
    os.write(upper, b" and after")
    assert (directory / "new").read_bytes() == b"before and after"
    assert (directory / "new").stat().st_ino == inode
    for fd, name in ((lower, "f0"), (pinned, "f2")):
        assert os.readlink(f"/proc/self/fd/{fd}") == f"{directory}/{name}"
    mapping.close()
    for fd in (lower, upper, pinned, removed):
        os.close(fd)


def test_watches_stay(mount: FewInodes) -> None:
    place = mount.place()
    directory, file = Watch(place / "d0", IN_CREATE), Watch(place / "d2" / "f0", IN_MODIFY)
    mount.crowd()
    (place / "d0" / "new").touch()
    (place / "d2" / "f0").write_bytes(b"changed")
    assert (IN_CREATE, b"new") in directory.events()
    assert IN_MODIFY in [mask for mask, _ in file.events()]
    directory.close()
    file.close()


def test_what_is_mounted_on_a_name_stays(mount: FewInodes, tmp_path: Path) -> None:
    place = mount.place()
    (tmp_path / "f0").write_bytes(b"on top")
    mounted = {place / "d0": tmp_path, place / "d1" / "f0": tmp_path / "f0"} if os.geteuid() == 0 else {}
    try:
        for target, source in mounted.items():
            run("mount", "--bind", source, target)
        mount.crowd()
        for target in mounted:
            assert (target / "f0" if target.is_dir() else target).read_bytes() == b"on top"
    finally:
        for target in mounted:
            run("umount", target)
    assert (place / "d0" / "f0").read_bytes() == b"0/0"
    assert (place / "d1" / "f0").read_bytes() == b"1/0"


def test_changes_meanwhile_are_what_they_should_be(mount: FewInodes) -> None:
    place = mount.place()
    stop = threading.Event()

    def look_at_all() -> None:
        while not stop.is_set():
            for directory, _, names in os.walk(mount.path):
                for name in names:
                    os.path.lexists(f"{directory}/{name}")

    walker = threading.Thread(target=look_at_all)
    walker.start()
    try:
        for number in range(FILES):
            with (place / "d0" / f"f{number}").open("r+b") as file:
                (place / "d0" / f"f{number}").rename(place / "d1" / f"moved{number}")
                (place / "d2" / f"f{number}").unlink()
                file.write(b"!")
        (place / "d1").rename(place / "renamed")
    finally:
        stop.set()
        walker.join()
    mount.crowd()
    found = {path: content for path, (_, content) in walk(place).items()}
    expected = {
        f"{'renamed' if number == 1 else f'd{number}'}/f{file}": f"{number}/{file}".encode()
        for number in (1, 3, 4)
        for file in range(FILES)
    }
    expected |= {f"renamed/moved{file}": b"!" + f"0/{file}".encode()[1:] for file in range(FILES)}
    assert found == expected
