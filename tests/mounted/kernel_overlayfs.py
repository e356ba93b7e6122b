"""The kernel's overlayfs over layers of ours; what a tree shows; and changes of every kind, for either to make."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from netoverlay_local.system_calls import RenameFlag, renameat2
from tests.mounted.mounting import run

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
"""net_raw, permitted and effective."""
LONG = "l" * 255
NOT_UTF8 = os.fsdecode(b"caf\xe9")
SPACED = "two words\nand a line"
BIG_BYTES = 300_000

Facts = dict[str, tuple[object, ...]]
Change = Callable[[str], None]


@contextmanager
def overlayfs(at: Path, lowers: Sequence[Path], upper: Path, work: Path, options: str = "") -> Iterator[str]:
    """Mounted at `at`, and unmounted at the end, come what may."""
    for made in (at, work):
        made.mkdir(exist_ok=True)
    layers = f"lowerdir={':'.join(map(str, lowers))},upperdir={upper},workdir={work}"
    run("mount", "-t", "overlay", "overlay", "-o", f"{layers},{options}".rstrip(","), at)
    try:
        yield str(at)
    except BaseException:
        run("umount", "--lazy", at)
        raise
    run("umount", at)


def access_list(uid: int) -> bytes:
    """A POSIX ACL by which `uid` may read and write."""
    entries = ((1, 6, 0xFFFF_FFFF), (2, 6, uid), (4, 4, 0xFFFF_FFFF), (16, 6, 0xFFFF_FFFF), (32, 4, 0xFFFF_FFFF))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def put(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def add(path: str, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def get(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def move(old: str, new: str) -> None:
    """rename(2), or what mv(1) does where a directory is not to be renamed."""
    try:
        os.rename(old, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        run("mv", "-T", old, new)


def exchange(one: str, other: str) -> None:
    directory = os.open("/", os.O_PATH)
    try:
        renameat2(directory, os.fsencode(one), directory, os.fsencode(other), RenameFlag.EXCHANGE)
    finally:
        os.close(directory)


def plant(top: str) -> None:
    """A small tree with every kind of file."""
    for directory in ("dir/sub/deep", "other/sub", "empty", "acl", "shut", "away/sub"):
        os.makedirs(f"{top}/{directory}")
    for index, name in enumerate(
        ("file", "dir/a", "dir/b", "dir/sub/c", "dir/sub/deep/d", "other/a", "other/sub/e", LONG, NOT_UTF8, SPACED)
    ):
        put(f"{top}/{name}", f"{index} {name}\n".encode(errors="surrogateescape"))
    for name in ("none", "unseen", "dir/unseen", "shut/unseen", "away/in", "away/sub/in"):
        put(f"{top}/{name}", b"")
    put(f"{top}/big", bytes(range(256)) * (BIG_BYTES // 256))
    with open(f"{top}/sparse", "wb") as file:
        file.seek(100_000)
        file.write(b"end")
        file.truncate(200_000)
    os.symlink("dir/a", f"{top}/link")
    os.symlink("nowhere", f"{top}/dangling")
    os.link(f"{top}/dir/a", f"{top}/hard")
    os.link(f"{top}/dir/a", f"{top}/other/hard")
    os.link(f"{top}/dir/b", f"{top}/hard2")
    plant_special(top)
    plant_attributes(top)
    for directory, names, files in os.walk(top, topdown=False):
        for name in [*names, *files, "."]:
            os.utime(f"{directory}/{name}", ns=(10**18 + 1, 10**18 + len(name)), follow_symlinks=False)


def plant_special(top: str) -> None:
    os.mkfifo(f"{top}/fifo", 0o640)
    os.mknod(f"{top}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(f"{top}/block", stat.S_IFBLK | 0o600, os.makedev(250, 70_000))
    os.mknod(f"{top}/socket", stat.S_IFSOCK | 0o700)


def plant_attributes(top: str) -> None:
    for name in ("program", "capable", "listed"):
        put(f"{top}/{name}", name.encode() * 10)
    os.chown(f"{top}/program", 1000, 1001)
    os.chmod(f"{top}/program", 0o6755)
    os.setxattr(f"{top}/capable", "security.capability", CAPABILITY)
    os.setxattr(f"{top}/listed", "system.posix_acl_access", access_list(1234))
    os.setxattr(f"{top}/acl", "system.posix_acl_default", access_list(77))
    os.chmod(f"{top}/dir/sub", 0o2775)
    os.lchown(f"{top}/link", 5, 6)
    for name in ("file", "dir", "program"):
        os.setxattr(f"{top}/{name}", "user.note", f"of {name}".encode())
        os.setxattr(f"{top}/{name}", "trusted.note", b"\0\xff")
    os.setxattr(f"{top}/link", "trusted.note", b"link", follow_symlinks=False)


def plant_second(top: str, moved: str) -> None:
    """A lower to lie above one that `plant` made: merged with it, and with marks of overlayfs in it.

    `moved`: the path of a directory of the lower one, which this one has moved.
    """
    os.makedirs(f"{top}/dir/sub")
    os.makedirs(f"{top}/shut")
    os.makedirs(f"{top}/moved")
    put(f"{top}/file", b"of the second\n")
    put(f"{top}/dir/second", b"second\n")
    put(f"{top}/dir/sub/c", b"other c\n")
    os.link(f"{top}/dir/second", f"{top}/hard3")
    for hidden in ("unseen", "dir/unseen", "away"):
        os.mknod(f"{top}/{hidden}", stat.S_IFCHR, 0)
    os.setxattr(f"{top}/shut", "trusted.overlay.opaque", b"y")
    os.setxattr(f"{top}/dir/sub", "trusted.overlay.origin", b"")
    put(f"{top}/shut/alone", b"alone\n")
    os.setxattr(f"{top}/moved", "trusted.overlay.redirect", os.fsencode(moved))
    os.chmod(f"{top}/dir", 0o711)


def facts(top: str) -> Facts:
    """All that overlayfs and we show alike of the tree at `top`, by path."""
    found: Facts = {}
    firsts: dict[int, str] = {}
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted([*names, *files, *([] if directory != top else ["."])]):
            path = f"{directory}/{name}"
            shown = os.path.relpath(path, top)
            status = os.lstat(path)
            first = shown if stat.S_ISDIR(status.st_mode) else firsts.setdefault(status.st_ino, shown)
            found[shown] = (*_attributes(status), first, _content(path, status), _xattrs(path))
    return found


def _attributes(status: os.stat_result) -> tuple[object, ...]:
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return (oct(status.st_mode), status.st_uid, status.st_gid, size, status.st_rdev, status.st_mtime_ns)


def _content(path: str, status: os.stat_result) -> bytes | str:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    return get(path) if stat.S_ISREG(status.st_mode) else ""


def _xattrs(path: str) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def assert_alike(ours: Facts, theirs: Facts) -> None:
    """Says what differs, briefly."""
    lines = []
    for path in sorted({*ours, *theirs}):
        one, other = ours.get(path), theirs.get(path)
        if one != other:
            shown = [str(value if value is None else [str(part)[:80] for part in value]) for value in (one, other)]
            lines.append(f"{path!r:.80}\n  ours   {shown[0]}\n  theirs {shown[1]}")
    assert not lines, "\n".join(lines[:12])


CHANGES: dict[str, Change] = {}


def change(function: Change) -> Change:
    CHANGES[function.__name__] = function
    return function


def change_all(top: str) -> None:
    """Make every change, each in a part of its own."""
    for name, function in CHANGES.items():
        function(f"{top}/{name}")


@change
def write(top: str) -> None:
    put(f"{top}/new", b"new\n")
    put(f"{top}/dir/sub/new", b"")
    put(f"{top}/file", b"replaced")
    add(f"{top}/dir/sub/deep/d", b"appended\n")
    add(f"{top}/big", b"appended\n")
    os.truncate(f"{top}/{NOT_UTF8}", 3)
    os.truncate(f"{top}/{LONG}", 5000)
    with open(f"{top}/other/a", "r+b") as file:
        file.write(b"X")
    with open(f"{top}/sparse", "r+b") as file:
        file.seek(150_000)
        file.write(b"middle")
    add(f"{top}/capable", b"loses it")


@change
def remove(top: str) -> None:
    for name in ("file", "dir/sub/c", "dir/sub/deep/d", "link", "null", LONG, NOT_UTF8, SPACED):
        os.unlink(f"{top}/{name}")
    os.rmdir(f"{top}/dir/sub/deep")
    os.rmdir(f"{top}/empty")
    shutil.rmtree(f"{top}/other")


@change
def remove_and_make_again(top: str) -> None:
    shutil.rmtree(f"{top}/dir/sub")
    os.mkdir(f"{top}/dir/sub")
    put(f"{top}/dir/sub/new", b"in an opaque one")
    os.rmdir(f"{top}/empty")
    os.mkdir(f"{top}/empty")
    os.unlink(f"{top}/file")
    put(f"{top}/file", b"another")
    os.unlink(f"{top}/link")
    os.symlink("elsewhere", f"{top}/link")
    shutil.rmtree(f"{top}/other")
    os.makedirs(f"{top}/other/sub/new")
    shutil.rmtree(f"{top}/other")


@change
def rename_files(top: str) -> None:
    os.rename(f"{top}/file", f"{top}/file2")
    os.rename(f"{top}/file2", f"{top}/dir/file3")
    os.rename(f"{top}/dir/sub/c", f"{top}/other/a")
    os.rename(f"{top}/{NOT_UTF8}", f"{top}/{LONG}")
    os.rename(f"{top}/link", f"{top}/dangling")
    os.rename(f"{top}/block", f"{top}/dir/block")
    os.rename(f"{top}/big", f"{top}/none")
    put(f"{top}/big", b"in its place")
    os.rename(f"{top}/dir/sub/deep/d", f"{top}/dir/sub/deep/D")


@change
def rename_directories(top: str) -> None:
    move(f"{top}/dir/sub", f"{top}/dir/sub2")
    move(f"{top}/dir", f"{top}/dir2")
    add(f"{top}/dir2/sub2/c", b"more\n")
    os.unlink(f"{top}/dir2/sub2/deep/d")
    os.mkdir(f"{top}/dir")
    put(f"{top}/dir/a", b"not the one that moved")
    move(f"{top}/dir2/sub2", f"{top}/sub")
    move(f"{top}/other", f"{top}/empty")
    move(f"{top}/sub/deep", f"{top}/dir/deep")
    move(f"{top}/empty", f"{top}/dir/other")


@change
def rename_over_a_name_that_was_removed(top: str) -> None:
    shutil.rmtree(f"{top}/other")
    move(f"{top}/dir", f"{top}/other")
    os.unlink(f"{top}/file")
    os.mkdir(f"{top}/made")
    put(f"{top}/made/in", b"in")
    move(f"{top}/made", f"{top}/file")
    os.rename(f"{top}/big", f"{top}/dir")


@change
def exchange_names(top: str) -> None:
    exchange(f"{top}/file", f"{top}/big")
    exchange(f"{top}/dir/sub/c", f"{top}/{SPACED}")
    # Directories only where they may be renamed.
    with contextlib.suppress(OSError):
        exchange(f"{top}/link", f"{top}/empty")
        exchange(f"{top}/dir", f"{top}/other")
    put(f"{top}/dir/after", b"after")
    put(f"{top}/other/after", b"after")


@change
def change_attributes(top: str) -> None:
    for name in ("file", "dir", "dir/sub/deep", "program", "big"):
        os.chmod(f"{top}/{name}", 0o751)
        os.utime(f"{top}/{name}", ns=(5, 1_234_567_891))
    os.chmod(f"{top}/{NOT_UTF8}", 0o4711)
    os.chown(f"{top}/dir/sub", 10, 20)
    os.chown(f"{top}/{SPACED}", 4321, 0)
    os.lchown(f"{top}/dangling", 3, 4)
    os.utime(f"{top}/link", ns=(7, 8), follow_symlinks=False)
    os.chown(f"{top}/null", 9, 9)
    os.chmod(f"{top}/listed", 0o600)
    os.chown(f"{top}/hard2", 9, 10)
    os.chown(top, 8, 8)


@change
def change_xattrs(top: str) -> None:
    for name in ("file", "dir", "dir/sub/c", "acl", LONG):
        os.setxattr(f"{top}/{name}", "user.new", b"new")
        os.setxattr(f"{top}/{name}", "trusted.new", b"")
    os.setxattr(f"{top}/{SPACED}", "security.capability", CAPABILITY)
    os.setxattr(f"{top}/link", "trusted.new", b"of a link", follow_symlinks=False)
    os.setxattr(f"{top}/big", "system.posix_acl_access", access_list(99))
    os.setxattr(f"{top}/dir/sub/deep", "system.posix_acl_default", access_list(98))
    put(f"{top}/dir/sub/deep/inherits", b"")
    os.mkdir(f"{top}/acl/inherits")
    os.removexattr(f"{top}/listed", "system.posix_acl_access")
    os.removexattr(f"{top}/program", "user.note")
    os.chmod(f"{top}/capable", 0o700)


@change
def link_names(top: str) -> None:
    os.link(f"{top}/big", f"{top}/dir/big2")
    os.link(f"{top}/dir/big2", f"{top}/big3")
    add(f"{top}/big", b"to all")
    put(f"{top}/made", b"made")
    os.link(f"{top}/made", f"{top}/other/made")
    os.link(f"{top}/link", f"{top}/link2", follow_symlinks=False)
    os.link(f"{top}/null", f"{top}/dir/null2")
    os.unlink(f"{top}/big")
    os.link(f"{top}/program", f"{top}/none2")
    os.unlink(f"{top}/file")
    os.link(f"{top}/none2", f"{top}/file")


@change
def change_links_of_the_base(top: str) -> None:
    add(f"{top}/hard", b"by one name\n")
    os.unlink(f"{top}/dir/a")
    os.chmod(f"{top}/hard2", 0o604)


@change
def make_special_files(top: str) -> None:
    os.unlink(f"{top}/null")
    os.mknod(f"{top}/null", stat.S_IFBLK | 0o604, os.makedev(7, 9))
    os.mkfifo(f"{top}/dir/fifo2", 0o622)
    os.mknod(f"{top}/dir/device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as bound:
        # Its path is longer than an address may be.
        directory = os.open(f"{top}/other", os.O_PATH)
        try:
            bound.bind(f"/proc/self/fd/{directory}/bound")
        finally:
            os.close(directory)
    os.symlink("x" * 4000, f"{top}/long link")
    os.symlink(NOT_UTF8, f"{top}/other link")
    os.chown(f"{top}/block", 44, 55)
    os.chmod(f"{top}/socket", 0o711)


@change
def change_kinds(top: str) -> None:
    shutil.rmtree(f"{top}/dir")
    put(f"{top}/dir", b"a file now")
    os.unlink(f"{top}/file")
    os.mkdir(f"{top}/file")
    put(f"{top}/file/in", b"in")
    os.unlink(f"{top}/link")
    os.makedirs(f"{top}/link/deep")
    shutil.rmtree(f"{top}/other")
    os.symlink("file", f"{top}/other")
    os.rmdir(f"{top}/empty")
    os.mkfifo(f"{top}/empty")
    os.unlink(f"{top}/socket")
    os.mkdir(f"{top}/socket")


@change
def name_what_had_no_name(top: str) -> None:
    for directory, name in (("dir", "named"), ("", LONG[:-1] + "m"), ("acl", "named")):
        made = os.open(f"{top}/{directory}", os.O_TMPFILE | os.O_RDWR, 0o640)
        try:
            os.write(made, b"named at last")
            os.link(f"/proc/self/fd/{made}", f"{top}/{directory}/{name}", src_dir_fd=made, follow_symlinks=True)
        finally:
            os.close(made)
    put(f"{top}/{NOT_UTF8}2", b"2")
    os.mkdir(f"{top}/d{NOT_UTF8}")
    put(f"{top}/d{NOT_UTF8}/{LONG}", b"long")


@change
def change_nothing(top: str) -> None:
    """What is only read must not differ either."""
    get(f"{top}/file")
    os.listdir(f"{top}/dir/sub")


def _names(path: str) -> list[str]:
    return sorted(os.listdir(path)) if os.path.isdir(path) and not os.path.islink(path) else []


class Disturber:
    """Changes chosen by chance, the same for a seed, of a tree in any state. What cannot be done is not."""

    NAMES = ("file", "dir", "sub", "deep", "a", "c", "other", "big", "hard", "new", "link", NOT_UTF8)

    def __init__(self, top: str, seed: int) -> None:
        self._top = top
        self._random = random.Random(seed)

    def go_on(self, steps: int) -> None:
        actions = [getattr(self, name) for name in sorted(vars(Disturber)) if name.startswith("do_")]
        for _ in range(steps):
            action = self._random.choice(actions)
            try:
                action()
            except OSError as error:
                if error.errno in (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EROFS, errno.ENOSYS):
                    raise

    def _some(self, wanted: Callable[[str], bool]) -> str:
        for _ in range(20):
            path = self._top
            while names := _names(path):
                path = f"{path}/{self._random.choice(names)}"
                if wanted(path) and self._random.random() < 0.4:
                    return path
        raise FileNotFoundError(errno.ENOENT, "there is none")

    def _file(self) -> str:
        return self._some(lambda path: os.path.isfile(path) and not os.path.islink(path))

    def _directory(self) -> str:
        depth = self._top.count("/") + 2
        return self._some(lambda path: path.count("/") > depth and os.path.isdir(path) and not os.path.islink(path))

    def _any(self) -> str:
        """But none of the parts, for then nothing would soon be left."""
        return self._some(lambda path: path.count("/") > self._top.count("/") + 2)

    def _name(self) -> str:
        return f"{self._directory()}/{self._random.choice(self.NAMES)}"

    def _data(self) -> bytes:
        return bytes([self._random.randrange(256)]) * self._random.choice((1, 100, 9000))

    def do_append(self) -> None:
        add(self._file(), self._data())

    def do_overwrite(self) -> None:
        path = self._file()
        with open(path, "r+b") as file:
            file.seek(self._random.randrange(200))
            file.write(self._data())

    def do_truncate(self) -> None:
        os.truncate(self._file(), self._random.choice((0, 1, 5000)))

    def do_create(self) -> None:
        os.close(os.open(self._name(), os.O_CREAT | os.O_EXCL | os.O_WRONLY))

    def do_make_directory(self) -> None:
        os.mkdir(self._name())

    def do_unlink(self) -> None:
        os.unlink(self._any())

    def do_remove_directory(self) -> None:
        path = self._directory()
        if self._random.random() < 0.5:
            shutil.rmtree(path)
        else:
            os.rmdir(path)

    def do_remove_directory_and_make_it_again(self) -> None:
        path = self._directory()
        shutil.rmtree(path)
        os.mkdir(path)

    def do_rename(self) -> None:
        os.rename(self._any(), self._name())

    def do_rename_a_directory(self) -> None:
        os.rename(self._directory(), self._name())

    def do_rename_over(self) -> None:
        os.rename(self._any(), self._any())

    def do_exchange(self) -> None:
        exchange(self._any(), self._any())

    def do_link(self) -> None:
        os.link(self._some(lambda path: not os.path.isdir(path)), self._name(), follow_symlinks=False)

    def do_symlink(self) -> None:
        os.symlink(self._random.choice(self.NAMES), self._name())

    def do_make_fifo(self) -> None:
        os.mkfifo(self._name())

    def do_change_mode(self) -> None:
        os.chmod(self._some(lambda path: not os.path.islink(path)), self._random.choice((0o700, 0o644, 0o4755, 0o7)))

    def do_change_owner(self) -> None:
        os.lchown(self._any(), self._random.randrange(3), self._random.randrange(3))

    def do_set_times(self) -> None:
        os.utime(self._any(), ns=(1, self._random.randrange(10**18)), follow_symlinks=False)

    def do_set_xattr(self) -> None:
        os.setxattr(self._any(), f"trusted.{self._random.randrange(3)}", self._data()[:100], follow_symlinks=False)
