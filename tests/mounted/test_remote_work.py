"""Programs on an upper on a server: git, sqlite and rsync, and random calls, leave there what they leave on a disk.

`NETOVERLAY_DIFFERENTIAL_EXAMPLES=1000 pytest -n 0 tests/mounted/test_remote_work.py -k sequences` runs longer, with
other sequences each time.
"""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.mounted.differential.bench import Bench
from tests.mounted.differential.machine import EXAMPLES_VARIABLE, Benches, run_sequences
from tests.mounted.differential.planting import ACLS_ARE_KEPT, CARRIED
from tests.mounted.differential.steps import ACCESS_ACLS
from tests.mounted.differential.system_calls import KEEP_SIZE, PUNCH_HOLE
from tests.mounted.mounting import OverlayMount, layer_table, run
from tests.mounted.test_work import GIT

UpperKeys = Callable[[Path], list[str]]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, and be several users"),
    pytest.mark.timeout(240 if EXAMPLES_VARIABLE not in os.environ else 0),
]

DATED = {**GIT, "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z"}
"""With these commits have the same hashes everywhere."""
JOURNAL_MODES: Final = ("delete", "truncate", "persist", "memory", "off", "wal")


def overlay(tmp_path: Path, lowers: str, upper_keys: UpperKeys, *keys: str) -> OverlayMount:
    """With its upper apart from the mountpoint: a server looks at all that is beside the upper."""
    upper = tmp_path / "served" / "upper"
    tables = "[mount]\nallow_other = true\n"
    return OverlayMount(tmp_path / "m", lowers, upper=upper, upper_keys=[*upper_keys(upper), *keys], tables=tables)


# -- git


def git(directory: Path, *arguments: str | Path) -> str:
    return run("git", "-c", "safe.directory=*", "-c", "advice.detachedHead=false", *arguments, cwd=directory, **DATED)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A bare repository with 60 files, an executable and a symbolic link."""
    made, top = tmp_path / "made", tmp_path / "bare.git"
    rng = random.Random(5)
    for number in range(60):
        path = made / f"d{number % 12}" / f"file{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{rng.random()}\n" for _ in range(rng.randint(1, 30))))
    (made / "d0" / "run").write_text("#!/bin/sh\n")
    (made / "d0" / "run").chmod(0o755)
    (made / "link").symlink_to("d0/run")
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "the beginning"]):
        git(made, *arguments)
    git(tmp_path, "clone", "-q", "--bare", made, top)
    return top


def work_with_git(directory: Path, bare: Path) -> list[str]:
    """What git says of a clone that is worked in."""
    git(directory, "clone", "-q", bare, "clone")
    top = directory / "clone"
    git(top, "checkout", "-q", "-b", "work")
    with (top / "d1" / "file1.txt").open("a") as file:
        file.write("edited\n")
    (top / "d2" / "file2.txt").unlink()
    (top / "new name \u00fc").write_text("new\n")
    (top / "d0" / "run").chmod(0o644)
    git(top, "mv", "d3", "moved")
    said = [git(top, "status", "--short")]
    git(top, "add", "-A")
    git(top, "commit", "-qm", "the work")
    git(top, "checkout", "-q", "main")
    (top / "d4" / "file4.txt").write_text("on the other branch\n")
    git(top, "commit", "-qam", "other work")
    git(top, "merge", "-q", "-m", "both", "work")
    git(top, "stash", "list")
    git(top, "gc", "-q", "--prune=now")
    git(top, "push", "-q", "origin", "HEAD:refs/heads/from-here")
    return [*said, *look_at_clone(top)]


def look_at_clone(top: Path) -> list[str]:
    """What git says of a clone that nothing changes in meanwhile."""
    return [
        git(top, "status", "--short", "--branch"),
        git(top, "log", "--stat", "--format=%H %s", "--all"),
        git(top, "fsck", "--strict", "--full"),
        git(top, "ls-files", "--stage"),
        git(top, "count-objects", "--verbose"),
    ]


@pytest.mark.parametrize(("kind", "transport"), [("sftp", "smb"), ("smb", "sftp")])
def test_git_works_as_on_a_disk(
    tmp_path: Path, bare: Path, lower: Callable[[Path], str], upper_keys: UpperKeys
) -> None:
    base, native = tmp_path / "base", tmp_path / "native"
    for top in (base, native):
        top.mkdir()
    with overlay(tmp_path, lower(base), upper_keys) as mount:
        given = work_with_git(mount.path, bare)
        git(bare, "branch", "-D", "from-here")
        expected = work_with_git(native, bare)
        assert given == expected
        mount.remount()
        assert look_at_clone(mount.path / "clone") == look_at_clone(native / "clone") == expected[1:]
        (mount.path / "clone" / "d5" / "file5.txt").write_text("later\n")
        assert git(mount.path / "clone", "status", "--short") == " M d5/file5.txt\n"


# -- sqlite

INTERRUPTED = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 10")  # so that what is changed goes to the file before it is committed
connection.execute("BEGIN")
connection.execute("UPDATE t SET text = 'lost'")
connection.execute("INSERT INTO t SELECT id + 100000, text FROM t")
os._exit(0)
"""


def fill_database(path: Path, mode: str) -> list[object]:
    """What sqlite says while a database is made."""
    rng = random.Random(3)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        said: list[object] = [connection.execute(f"PRAGMA journal_mode = {mode}").fetchall()]
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("CREATE INDEX of_text ON t (text)")
        for _ in range(3):
            connection.execute("BEGIN")
            rows = [(rng.random().hex() * rng.randint(1, 30),) for _ in range(150)]
            connection.executemany("INSERT INTO t (text) VALUES (?)", rows)
            connection.execute("COMMIT")
        if mode != "off":  # without a journal there is nothing to roll back with
            connection.execute("BEGIN")
            connection.execute("DELETE FROM t WHERE id % 2")
            connection.execute("ROLLBACK")
        connection.execute("DELETE FROM t WHERE id % 7 = 0")
        connection.execute("VACUUM")
        with closing(sqlite3.connect(path)) as other:
            said += look_at_database(other)
    return said


def look_at_database(connection: sqlite3.Connection) -> list[object]:
    check = connection.execute("PRAGMA integrity_check").fetchall()
    return [check, list(connection.iterdump())]


def reopened(path: Path) -> list[object]:
    with closing(sqlite3.connect(path)) as connection:
        return [connection.execute("PRAGMA journal_mode").fetchall(), *look_at_database(connection)]


def test_sqlite_works_as_on_a_disk_in_each_journal_mode(tmp_path: Path, kind: str, upper_keys: UpperKeys) -> None:
    base, native = tmp_path / "base", tmp_path / "native"
    for top in (base, native):
        top.mkdir()
    # SFTP has no locks that others would see, so there a database needs an upper that nobody else uses.
    keys = ["private = true"] if kind == "sftp" else []
    with overlay(tmp_path, layer_table(str(base)), upper_keys, *keys) as mount:
        for mode in JOURNAL_MODES:
            expected = fill_database(native / mode, mode)
            assert fill_database(mount.path / mode, mode) == expected
            assert expected[:2] == [[(mode,)], [("ok",)]]
            if mode not in ("off", "memory"):  # these promise nothing to a program that ends in the middle
                run(sys.executable, "-c", INTERRUPTED, mount.path / mode)
                run(sys.executable, "-c", INTERRUPTED, native / mode)
                assert reopened(mount.path / mode)[1:] == expected[1:]
        mount.remount()
        for mode in JOURNAL_MODES:
            assert reopened(mount.path / mode) == reopened(native / mode)
        assert sorted(os.listdir(mount.path)) == sorted(os.listdir(native))


# -- rsync

ODD_NAMES: Final = (
    "-dash",
    "new\nline",
    " blanks ",
    "trailing.",
    'colon:*?<>|"\\',
    "con",
    "aux.c",
    "\udcff\udcfe",
    "\u00fc",
)
RSYNC: Final = ("rsync", "-aHAX", "--numeric-ids", "--checksum")


def plant(top: Path) -> None:
    """All kinds of files with all that rsync can carry."""
    rng = random.Random(17)
    for number in range(40):
        path = top / f"d{number % 5}" / f"e{number % 3}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 300, 5000, 70_000])))
        os.chown(path, rng.choice([0, 1000, 65534]), rng.choice([0, 100]))
        path.chmod(rng.choice([0o644, 0o600, 0o4755, 0o2711, 0o444, 0]))
    for name in ODD_NAMES:
        (top / "odd" / name).mkdir(parents=True)
        (top / "odd" / name / name).write_bytes(os.fsencode(name))
    with (top / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"in the middle")
        file.truncate(6 << 20)
    for target, name in (("d1", "link"), ("/nowhere/at/all", "dangling"), ("x" * 900, "d2/long")):
        (top / name).symlink_to(target)
    os.lchown(top / "link", 1000, 100)
    os.mkfifo(top / "fifo", 0o620)
    os.mknod(top / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    for number, names in enumerate((["d1/one", "d2/two", "d2/three"], ["odd/a", "odd/b"])):
        (top / names[0]).write_bytes(b"linked %d" % number)
        for name in names[1:]:
            os.link(top / names[0], top / name)
    os.link(top / "fifo", top / "d3" / "fifo too")
    set_attributes(top)
    for number, path in enumerate([*sorted(top.rglob("*"), reverse=True), top]):
        os.utime(path, ns=(10**18 + number, 1_500_000_000_123_456_789 + number * 1_000_001), follow_symlinks=False)


def set_attributes(top: Path) -> None:
    """Extended attributes and POSIX ACLs."""
    file, directory = top / "d1" / "one", top / "d3"
    for path, name, value in (
        (file, "user.text", b"value"),
        (file, "user.empty", b""),
        (file, "user.bytes", bytes(range(256)) * 8),
        (directory, "user.of a directory", b"\0"),
        (file, "system.posix_acl_access", ACCESS_ACLS[0]),
        (directory, "system.posix_acl_access", ACCESS_ACLS[1]),
        (directory, "system.posix_acl_default", ACCESS_ACLS[0]),
    ):
        os.setxattr(path, name, value)


def everything(top: Path) -> dict[str, tuple[object, ...]]:
    """Of all below `top`: types, modes, owners, times, links, devices, extended attributes, ACLs and content."""
    names: dict[int, list[str]] = {}
    found: dict[str, tuple[object, ...]] = {}
    paths = [top, *sorted(top.rglob("*"))]
    for path in paths:
        names.setdefault(path.lstat().st_ino, []).append(str(path.relative_to(top)))
    for path in paths:
        status = path.lstat()
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        }
        linked = () if stat.S_ISDIR(status.st_mode) else (status.st_nlink, *names[status.st_ino])
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        owner = (status.st_uid, status.st_gid, status.st_rdev)
        about = (stat.filemode(status.st_mode), size, *owner, status.st_mtime_ns, linked, attributes)
        found[str(path.relative_to(top))] = (*about, content(path, status.st_mode))
    return found


def content(path: Path, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""


def different(given: dict[str, tuple[object, ...]], expected: dict[str, tuple[object, ...]]) -> dict[str, object]:
    names = sorted(given.keys() | expected.keys())
    return {name: (given.get(name), expected.get(name)) for name in names if given.get(name) != expected.get(name)}


def test_rsync_carries_everything_there_and_back(tmp_path: Path, upper_keys: UpperKeys) -> None:
    source, base, back = tmp_path / "source", tmp_path / "base", tmp_path / "back"
    for top in (source, base):
        top.mkdir()
    plant(source)
    expected = everything(source)
    # An older state of it, which rsync replaces, completes and removes from.
    (base / "copy" / "d1").mkdir(parents=True)
    for name in ("sparse", "d1/one", "d1/gone", "link", "d4"):
        (base / "copy" / name).write_bytes(b"old")
    with overlay(tmp_path, layer_table(str(base)), upper_keys) as mount:
        copy = mount.path / "copy"
        run(*RSYNC, "--delete", f"{source}/", copy)
        assert not different(everything(copy), expected)
        mount.remount()
        assert not different(everything(copy), expected)
        assert run(*RSYNC, "--dry-run", "--itemize-changes", "--delete", f"{source}/", copy) == ""
        run(*RSYNC, f"{copy}/", back)
        assert not different(everything(back), expected)


# -- random calls

SEQUENCES: Final = 1
TREES: Final = 4
ALLOCATE: Final = {"sftp": (), "smb": (PUNCH_HOLE | KEEP_SIZE,)}
"""The modes of fallocate(2) that the servers have."""


@pytest.fixture
def benches(tmp_path: Path, kind: str, upper_keys: UpperKeys) -> Iterator[Benches]:
    carried = replace(CARRIED["local"], allocate=ALLOCATE[kind])

    def make(name: str) -> Bench:
        return Bench(tmp_path / name, lambda base: layer_table(str(base)), carried, trees=TREES, upper_keys=upper_keys)

    made = Benches(make)
    yield made
    made.close(AssertionError())  # if there was none, it is closed already, with all checks


def test_random_sequences_give_what_they_give_natively(benches: Benches) -> None:
    run_sequences(benches, SEQUENCES, acls=ACLS_ARE_KEPT)
