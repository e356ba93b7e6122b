"""The same system calls, made in the directory given, each in a fresh part of it; prints what each one gave, as JSON.

Run on the mount and on a native copy, by a process of its own: python calls.py call DIRECTORY. Every part is a copy of
the tree that `plant` makes, so what one call did does not matter to the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import shutil
import stat
import struct
import sys
from collections.abc import Callable

Call = Callable[[], object]
CALLS: dict[str, Call] = {}
COUNTED = "--uncounted" not in sys.argv
"""The base counts the sub-directories of directories."""


def call(function: Call) -> Call:
    CALLS[function.__name__] = function
    return function


def plant(top: str, *, links: bool, special: bool) -> None:
    """One part: small, but with every kind of file. Without `links` two names of one file are two files; without
    `special` there are no FIFOs and set-id bits."""
    os.makedirs(f"{top}/dir/sub")
    for name, data in (("file", b"content\n"), ("other", b"other\n"), ("dir/a", b"a"), ("dir/sub/b", b"b")):
        with open(f"{top}/{name}", "wb") as file:
            file.write(data)
    os.mkdir(f"{top}/empty")
    os.symlink("file", f"{top}/link")
    os.symlink("nowhere", f"{top}/dangling")
    (os.link if links else shutil.copy)(f"{top}/file", f"{top}/hard")
    if special:
        os.mkfifo(f"{top}/fifo")
    os.chmod(f"{top}/other", 0o6755 if special else 0o755)
    for directory, names, files in os.walk(top, topdown=False):
        for name in [*names, *files, "."]:
            os.utime(f"{directory}/{name}", (1_500_000_000, 1_500_000_000), follow_symlinks=False)


def tree(top: str = ".") -> list[object]:
    found: list[object] = []
    for directory, names, files in sorted(os.walk(top)):
        for name in sorted([*names, *files]):
            path = f"{directory}/{name}"
            status = os.lstat(path)
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            data = ""
            if stat.S_ISREG(status.st_mode) and size < 10_000:
                with open(path, "rb") as file:
                    data = file.read().hex()
            found.append([path, oct(status.st_mode), size, data])
    return found


def changed(path: str) -> bool:
    """Whether its modification time is not the planted one."""
    return os.lstat(path).st_mtime_ns != 1_500_000_000 * 10**9


@call
def nothing() -> object:
    return tree()


@call
def append() -> object:
    with open("file", "ab") as one, open("file", "ab") as other:
        for index in range(3):
            one.write(b"1%d" % index)
            one.flush()
            other.write(b"2%d" % index)
            other.flush()
    return changed("file")


@call
def truncate_on_open() -> object:
    with open("file", "wb") as file:
        return os.fstat(file.fileno()).st_size


@call
def exclusive_create() -> object:
    return os.open("file", os.O_CREAT | os.O_EXCL | os.O_RDWR)


@call
def create_through_a_dangling_link() -> object:
    with open("dangling", "w") as file:
        file.write("made")
    return os.readlink("dangling")


@call
def open_a_directory_for_writing() -> object:
    return os.open("dir", os.O_RDWR)


@call
def open_no_follow() -> object:
    return os.open("link", os.O_RDONLY | os.O_NOFOLLOW)


@call
def a_reader_sees_later_writes() -> object:
    with open("file", "rb") as reader, open("file", "r+b") as writer:
        before = reader.read()
        writer.write(b"CONTENT")
        writer.flush()
        reader.seek(0)
        return [before.hex(), reader.read().hex()]


@call
def a_mapping_sees_later_writes() -> object:
    with open("file", "rb") as reader, mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        before = bytes(mapped)
        with open("file", "r+b") as writer:
            writer.write(b"CONTENT")
        return [before.hex(), bytes(mapped).hex()]


@call
def write_through_a_mapping() -> object:
    with open("file", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:4] = b"MMAP"
        mapped.flush()
    with open("file", "rb") as file:
        return file.read().hex()


@call
def same_inode_after_copy_up() -> object:
    before = os.stat("file").st_ino, os.stat("dir").st_ino
    os.chmod("file", 0o600)
    os.chmod("dir", 0o700)
    with open("file", "ab") as file:
        file.write(b"x")
        inside = os.fstat(file.fileno()).st_ino
    listed = {entry.name: entry.inode() for entry in os.scandir(".")}
    after = os.stat("file").st_ino, os.stat("dir").st_ino
    return [before == after, inside == after[0], listed["file"] == after[0], listed["dir"] == after[1]]


@call
def chmod_keeps_times() -> object:
    os.chmod("file", 0o4711)
    return [oct(os.stat("file").st_mode), changed("file")]


@call
def write_takes_set_ids() -> object:
    if os.geteuid() == 0:
        os.chown("other", 12345, 12345)
        os.chmod("other", 0o6777)
        child = os.fork()
        if child == 0:
            try:
                os.setresgid(23456, 23456, 23456)
                os.setresuid(23456, 23456, 23456)
                with open("other", "ab") as file:
                    file.write(b"x")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    return oct(os.stat("other").st_mode)


@call
def chown_takes_set_ids() -> object:
    os.chown("other", os.getuid(), os.getgid())
    return oct(os.stat("other").st_mode)


@call
def utimens() -> object:
    os.utime("file", ns=(1_111_111_111_123_456_789, 1_222_222_222_987_654_321))
    os.utime("link", ns=(1, -5_000_000_000), follow_symlinks=False)
    file, link = os.stat("file"), os.lstat("link")
    return [file.st_atime_ns, file.st_mtime_ns, link.st_mtime_ns]


@call
def times_of_directories() -> object:
    os.unlink("dir/a")
    with open("dir/sub/new", "w"):
        pass
    with open("file", "ab") as file:
        file.write(b"x")
    return [changed("dir"), changed("dir/sub"), changed("file")]


@call
def links() -> object:
    os.link("file", "dir/third")
    with open("dir/third", "ab") as file:
        file.write(b"more")
    same = len({os.stat(name).st_ino for name in ("file", "hard", "dir/third")})
    os.unlink("file")
    with open("hard", "rb") as file:
        return [same, file.read().hex()]


@call
def link_of_a_symlink() -> object:
    os.link("link", "link2", follow_symlinks=False)
    return os.readlink("link2")


@call
def unlink_while_open() -> object:
    with open("other", "r+b") as file:
        os.unlink("other")
        file.write(b"after")
        file.flush()
        file.seek(0)
        os.fchmod(file.fileno(), 0o640)
        status = os.fstat(file.fileno())
        return [file.read().hex(), status.st_nlink, oct(status.st_mode), os.path.exists("other")]


@call
def rename_while_open() -> object:
    with open("other", "r+b") as file:
        os.rename("other", "dir/moved")
        file.write(b"after")
        file.flush()
        with open("dir/moved", "rb") as moved:
            return moved.read().hex()


@call
def rename_over_an_open_file() -> object:
    with open("other", "rb") as file:
        os.rename("file", "other")
        return [file.read().hex(), os.fstat(file.fileno()).st_nlink]


@call
def rename_a_directory() -> object:
    os.rename("dir", "empty/dir")
    os.rename("empty/dir/sub", "sub")
    os.mkdir("dir")


@call
def rename_a_directory_over_a_full_one() -> object:
    os.rename("empty", "dir")


@call
def rename_into_itself() -> object:
    os.rename("dir", "dir/sub/dir")


@call
def rename_to_another_name_of_the_same_file() -> object:
    os.rename("file", "hard")
    return sorted(os.listdir("."))


@call
def remove_what_is_not_empty() -> object:
    os.rmdir("dir")


@call
def remove_and_make_again() -> object:
    os.unlink("dir/sub/b")
    os.rmdir("dir/sub")
    os.unlink("dir/a")
    os.rmdir("dir")
    os.mkdir("dir")
    return os.listdir("dir")


@call
def removed_working_directory() -> object:
    home = os.open(".", os.O_RDONLY)
    os.chdir("empty")
    os.rmdir("../empty")
    try:
        listed = os.listdir(".")
        with contextlib.suppress(FileNotFoundError), open("x", "w"):
            return "made a file in a removed directory"
        return [listed, os.stat(".").st_nlink]
    finally:
        os.fchdir(home)
        os.close(home)


@call
def a_listing_while_it_is_emptied() -> object:
    os.mkdir("many")
    for index in range(300):
        with open(f"many/{index}", "w"):
            pass
    count = 0
    for entry in os.scandir("many"):
        os.unlink(entry.path)
        count += 1
    return [count, os.listdir("many")]


@call
def long_names() -> object:
    with open("x" * 255, "w"):
        pass
    with open("x" * 256, "w"):
        pass


@call
def names_of_bytes() -> object:
    with open(b"\xff\xfe\n\\ *", "w"):
        pass
    return sorted(name.hex() for name in os.listdir(b"."))


@call
def symlinks() -> object:
    os.symlink("x" * 4000, "long")
    os.symlink("", "empty-target")


@call
def extended_attributes() -> object:
    os.setxattr("file", "user.one", b"1")
    os.setxattr("file", "user.one", b"2", os.XATTR_REPLACE)
    os.setxattr("dir", "user.bytes", b"\0\xff")
    result: list[object] = [os.getxattr("hard", "user.one").hex(), os.listxattr("file"), os.listxattr("dir")]
    os.removexattr("file", "user.one")
    return [*result, os.listxattr("file")]


@call
def an_absent_attribute() -> object:
    os.getxattr("file", "user.none")


@call
def an_attribute_that_is_there() -> object:
    os.setxattr("file", "user.one", b"1")
    os.setxattr("file", "user.one", b"1", os.XATTR_CREATE)


@call
def holes() -> object:
    with open("file", "r+b") as file:
        file.seek(1 << 20)
        file.write(b"end")
        file.flush()
        hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
        data = os.lseek(file.fileno(), hole, os.SEEK_DATA)
        return [hole, data, os.fstat(file.fileno()).st_blocks < 100]


@call
def allocate() -> object:
    with open("file", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
        return os.fstat(file.fileno()).st_size


@call
def copy_range() -> object:
    with open("file", "rb") as source, open("other", "r+b") as target:
        return os.copy_file_range(source.fileno(), target.fileno(), 8, 0, 3)


@call
def truncate_up_and_down() -> object:
    os.truncate("file", 3)
    os.truncate("file", 10)
    os.truncate("hard", 100_000)
    return os.stat("file").st_size


@call
def a_fifo_is_no_file() -> object:
    status = os.stat("fifo")
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open("fifo", os.O_WRONLY | os.O_NONBLOCK)
    os.write(writer, b"through")
    return [stat.S_ISFIFO(status.st_mode), os.read(reader, 100).hex()]


@call
def locks_exclude() -> object:
    with open("file", "r+b") as one, open("file", "r+b") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@call
def direct_io() -> object:
    descriptor = os.open("file", os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4096)
    count = os.readv(descriptor, [buffer])
    buffer[0:8] = b"DIRECT!\n"
    os.pwritev(descriptor, [buffer], 0)
    return [count, os.fstat(descriptor).st_size]


@call
def sync() -> object:
    with open("file", "r+b") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    directory = os.open("dir", os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


@call
def links_are_counted() -> object:
    counts = [os.stat("hard").st_nlink]
    with open("file", "ab") as file:
        file.write(b"x")
    counts.append(os.stat("hard").st_nlink)
    os.unlink("file")
    return [*counts, os.stat("hard").st_nlink]


@call
def directories_count_their_subdirectories() -> object:
    counts = [os.stat("dir").st_nlink]
    for change in (
        lambda: os.chmod("dir", 0o700),
        lambda: os.mkdir("dir/new"),
        lambda: os.rename("dir/sub", "sub"),
        lambda: os.rmdir("dir/new"),
    ):
        change()
        counts.append(os.stat("dir").st_nlink)
    return counts if COUNTED else "not counted"


def give_name(descriptor: int, path: str) -> None:
    """With a directory's descriptor, without which link(2) is called, and links the link in /proc."""
    here = os.open(".", os.O_PATH)
    os.link(f"/proc/self/fd/{descriptor}", path, dst_dir_fd=here, follow_symlinks=True)
    os.close(here)


@call
def a_file_without_a_name() -> object:
    descriptor = os.open("dir", os.O_TMPFILE | os.O_RDWR, 0o666)
    os.write(descriptor, b"content")
    counts = [os.fstat(descriptor).st_nlink, len(os.listdir("dir"))]
    give_name(descriptor, "dir/named")
    counts.append(os.fstat(descriptor).st_nlink)
    os.close(descriptor)
    return [counts, oct(os.stat("dir/named").st_mode)]


@call
def a_file_without_a_name_is_gone_when_closed() -> object:
    descriptor = os.open("dir", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    give_name(descriptor, "dir/named")


@call
def change_a_removed_directory() -> object:
    descriptor = os.open("empty", os.O_RDONLY)
    os.rmdir("empty")
    os.fchmod(descriptor, 0o711)
    os.utime(descriptor, ns=(5, 6))
    status = os.fstat(descriptor)
    return [oct(status.st_mode), status.st_mtime_ns, status.st_nlink]


@call
def paths_of_any_length() -> object:
    name = "n" * 250
    home = os.open(".", os.O_RDONLY)
    for _ in range(20):
        os.mkdir(name)
        os.chdir(name)
    with open("file", "w") as file:
        file.write("deep")
    os.mkdir("dir")
    os.rename("file", "dir/file")
    found = os.listdir("dir")
    os.unlink("dir/file")
    os.rmdir("dir")
    os.fchdir(home)
    shutil.rmtree(name)
    return found


@call
def access_lists() -> object:
    """A user who is not the owner is let in by the list, and what is made in a directory inherits its default."""

    def listed(*entries: tuple[int, int, int]) -> bytes:
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)

    none = 0xFFFF_FFFF
    both = listed((1, 7, none), (2, 7, 23456), (4, 5, none), (16, 7, none), (32, 0, none))
    os.setxattr("dir", "system.posix_acl_access", both)
    os.setxattr("dir", "system.posix_acl_default", both)
    os.chmod("dir/a", 0o600)
    os.setxattr("dir/a", "system.posix_acl_access", both)
    os.mkdir("dir/made", 0o777)
    os.unlink("dir/sub/b")
    os.rename("dir/sub", "dir/made/sub")
    with open("dir/made/file", "w"):
        pass
    found = {}
    for path in ("dir", "dir/a", "dir/made", "dir/made/file", "dir/made/sub"):
        lists = [name for name in os.listxattr(path) if name.startswith("system.")]
        found[path] = [oct(os.stat(path).st_mode), *(os.getxattr(path, name).hex() for name in sorted(lists))]
    return [found, (os.geteuid() and "not root") or as_another_user("dir/a")]


def as_another_user(path: str) -> int:
    """The errno, or 0, of that user's opening the file for writing."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setresgid(23456, 23456, 23456)
            os.setresuid(23456, 23456, 23456)
            os.close(os.open(path, os.O_RDWR))
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@call
def run_what_was_written() -> object:
    with open("program", "w") as file:
        file.write("#!/bin/sh\necho it runs > ran\n")
    os.chmod("program", 0o755)
    return os.spawnv(os.P_WAIT, "./program", ["program"])


def outcome(function: Call) -> object:
    try:
        return ["value", function()]
    except OSError as error:
        return ["error", error.errno]


def main(top: str) -> None:
    results = {}
    for name, function in CALLS.items():
        if f"--without={name}" in sys.argv:
            continue
        os.chdir(f"{top}/{name}")
        given = outcome(function)
        os.chdir(f"{top}/{name}")
        results[name] = [given, tree()]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    os.umask(0o022)
    command, directory = sys.argv[1:3]
    if command == "call":
        main(directory)
    for part in CALLS if command == "plant" else ():
        plant(
            f"{directory}/{part}",
            links="--without-links" not in sys.argv,
            special="--without-special" not in sys.argv,
        )
