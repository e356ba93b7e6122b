"""Names that differ in case only, on a server that does not tell them apart: each is a file of its own, for good."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, Backend, Capabilities, Creation, RenameFlags, join_path, os_error
from netoverlay.backend_api.delegate import DelegatingBackend
from netoverlay.cache.metadata import MetadataCache
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.testing.memory_tree import MemoryTree
from netoverlay.testing.suite.layer import refused, run_threads
from netoverlay.wrappers.letter_case import LetterCaseBackend
from netoverlay.wrappers.spellings import MARKS, Spellings, fold
from tests.backends.smb_layer import smb_backend
from tests.servers.smbd import SmbServer
from tests.wrappers.sidecars import make, read

MARK = MARKS[0]
NAMES = [
    "name",
    "Name",
    "NAME",
    "Stra\u00dfe",
    "STRASSE",
    "\u00e9T\u00c9.",
    "\u00c9T\u00c9.",
    f"name{MARK}",
    f"NAME{MARK}",
    "other",
]


@contextmanager
def on_smb(server: SmbServer, root: Path) -> Iterator[Backend]:
    with LetterCaseBackend(MetadataCache(smb_backend(server, root), ttl=None, one_spelling=True)) as backend:
        assert backend.connect().case_sensitive
        yield backend


def shown(backend: Backend, directory: str = "") -> dict[str, bytes]:
    return {entry.name: read(backend, join_path(directory, entry.name)) for entry in backend.list_dir(directory)}


def change(backend: Backend, model: dict[str, bytes], draw: random.Random) -> None:
    """One random change of both, which must agree on whether it can be made."""
    one, other = draw.choice(NAMES), draw.choice(NAMES)
    what = draw.choice(["create", "create", "unlink", "rename", "rename", "no replace"])
    if what == "create" and one not in model:
        model[one] = b"%d" % draw.randrange(10**6)
        make(backend, one, model[one])
    elif what == "create":
        with refused(errno.EEXIST, advice=f"{one!r} is there"):
            make(backend, one)
    elif one not in model:
        with refused(errno.ENOENT, advice=f"{one!r} is not there"):
            backend.unlink(one)
    elif what == "unlink":
        backend.unlink(one)
        del model[one]
    elif what == "rename" or other not in model:
        backend.rename(one, other, RenameFlags.NONE if what == "rename" else RenameFlags.NOREPLACE)
        model[other] = model.pop(one)
    else:
        with refused(errno.EEXIST, advice=f"{other!r} is there"):
            backend.rename(one, other, RenameFlags.NOREPLACE)


@pytest.mark.parametrize("seed", range(3))
def test_names_are_as_on_a_file_system_that_tells_cases_apart(smbd: SmbServer, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    model: dict[str, bytes] = {}
    for _ in range(3):
        with on_smb(smbd, tmp_path) as backend:
            assert shown(backend) == model, "as it was before it was connected anew"
            for turn in range(60):
                change(backend, model, draw)
                if turn % 10 == 0:
                    assert shown(backend) == model


def test_directories_move_with_what_is_in_them(smbd: SmbServer, tmp_path: Path) -> None:
    with on_smb(smbd, tmp_path) as backend:
        for directory in ("Dir", "dir"):
            backend.mkdir(directory, 0o755)
            for name in ("a", "A"):
                make(backend, f"{directory}/{name}", f"{directory}/{name}".encode())
        for old, new in (("Dir", "moved"), ("dir", "DIR"), ("DIR", "Dir"), ("moved", "dir")):
            backend.rename(old, new)
            with refused(errno.ENOENT, advice="it is not there any more"):
                backend.stat(f"{old}/A")
        assert shown(backend, "Dir") == {"a": b"dir/a", "A": b"dir/A"}
        assert shown(backend, "dir") == {"a": b"Dir/a", "A": b"Dir/A"}
        with refused(errno.ENOTEMPTY, advice="it is the other one's place, too"):
            backend.rename("Dir", "dir")
        for name in ("a", "A"):
            backend.unlink(f"dir/{name}")
        backend.rename("Dir", "dir")
        assert [entry.name for entry in backend.list_dir("")] == ["dir"]
        assert shown(backend, "dir") == {"a": b"dir/a", "A": b"dir/A"}


def test_a_plain_client_sees_ordinary_files(smbd: SmbServer, tmp_path: Path) -> None:
    (tmp_path / "readme").write_text("of another")
    with on_smb(smbd, tmp_path) as backend:
        make(backend, "README", b"ours")
        assert shown(backend) == {"README": b"ours", "readme": b"of another"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"README{MARK}", "readme"]
    assert (tmp_path / f"README{MARK}").read_text() == "ours"


def test_an_open_file_follows_none_of_the_others(smbd: SmbServer, tmp_path: Path) -> None:
    with on_smb(smbd, tmp_path) as backend:
        make(backend, "a", b"lower")
        with backend.open("a", Access.READ_WRITE) as file:
            make(backend, "A", b"upper")
            backend.rename("A", "a")
            file.write_at(0, b"LOWER")
            assert file.read_at(0, 9) == b"LOWER"
        assert shown(backend) == {"a": b"upper"}


class Careless(DelegatingBackend):
    """A server that takes more names for one than fold() does: those with the same vowels in any order, say."""

    def open(self, path, access, *, create=Creation.NEVER, truncate=False, mode=0o600):
        if create is Creation.EXCLUSIVE:
            self._refuse(path, path)
        return self.inner.open(path, access, create=create, truncate=truncate, mode=mode)

    def rename(self, old, new, flags=RenameFlags.NONE):
        if flags is RenameFlags.NOREPLACE:
            self._refuse(new, old)
        else:
            assert any(entry.name == new for entry in self.inner.list_dir("")), "it would replace another file"
        self.inner.rename(old, new)

    def _refuse(self, path, but):
        taken = [sorted(entry.name) for entry in self.inner.list_dir("") if entry.name != but]
        if sorted(path) in taken:
            raise os_error(errno.EEXIST, path)


@contextmanager
def on_memory() -> Iterator[Backend]:
    claims = Capabilities(writable=True, atomic_replace=True, rename_noreplace=True, case_sensitive=True)
    inner = MemoryBackend(claims, MemoryTree(1))

    class Told(Careless):
        def connect(self):
            self.inner.connect()
            return Capabilities(writable=True, rename_noreplace=True, case_sensitive=False)

    with LetterCaseBackend(Told(inner)) as backend:
        backend.connect()
        yield backend


def test_what_the_server_alone_takes_for_one_name_is_told_apart_too() -> None:
    with on_memory() as backend:
        make(backend, "abc", b"first")
        make(backend, "cab", b"second")
        make(backend, "new", b"third")
        backend.rename("new", "bca")
        assert shown(backend) == {"abc": b"first", "cab": b"second", "bca": b"third"}
        with refused(errno.EEXIST, advice="it is there"):
            make(backend, "cab")
        backend.rename("abc", "cab")
        assert shown(backend) == {"cab": b"first", "bca": b"third"}


def test_many_threads_make_one_name_in_every_case(smbd: SmbServer, tmp_path: Path) -> None:
    with on_smb(smbd, tmp_path) as backend:
        backend.mkdir("dir", 0o755)

        def work(number: int) -> None:
            spelled = "".join(c.upper() if number >> bit & 1 else c for bit, c in enumerate("name"))
            for turn in range(5):
                make(backend, f"dir/{spelled}{turn}", spelled.encode())
                backend.rename(f"dir/{spelled}{turn}", f"dir/x{spelled}{turn}")

        run_threads(work)
        found = shown(backend, "dir")
        assert all(name[1:-1].encode() == content for name, content in found.items())
    with on_smb(smbd, tmp_path) as again:
        assert shown(again, "dir") == found


class TestSpellings:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("a", "A"),
            ("\u00e9", "\u00c9"),
            ("\u212a", "k"),
            ("\u0130", "i"),
            ("\u03c3", "\u03c2"),
            ("\u01c6", "\u01c5"),
        ],
    )
    def test_what_servers_take_for_one_folds_to_one(self, one: str, other: str) -> None:
        assert fold(one) == fold(other)

    def test_no_two_names_are_shown_as_one(self) -> None:
        stored = ["a", f"a{MARK}", f"b{MARK}", f"b{MARKS[1]}", MARK, f"{MARK}{MARK}"]
        spellings = Spellings(stored)
        shown = {name: spellings.shown(name) for name in stored}
        assert len(set(shown.values())) == len(stored)
        assert all(spellings.stored(name) == there for there, name in shown.items())
        assert shown[f"b{MARK}"] == "b"

    def test_ways_end(self) -> None:
        spellings = Spellings([])
        for name in ("n", *(f"N{number}" for number in range(3))):
            spellings.allot(name, without=(), leaving=None)
        with pytest.raises(FileExistsError):
            spellings.allot("x", without={"x", *(f"x{mark}" for mark in MARKS)}, leaving=None)
