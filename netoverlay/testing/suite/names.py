"""Names, paths, listings and the root."""

from __future__ import annotations

import errno
from collections.abc import Callable

from netoverlay.backend_api import Access, Backend, DirEntry, FileStat, FileType, join_path
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.layer import Layer, for_each, refused

AWKWARD_NAMES = (
    "two words",
    " leading",
    "trailing ",
    "trailing.",
    "new\nline",
    "tab\tstop",
    "\x01\x7f",
    "'single' \"double\"",
    "back\\slash",
    "~",
    "~root",
    "*?[a-z]{1,2}",
    "-rf",
    "$HOME `id` ;&|<>",
    "%41%2f",
    "#hash:colon",
    ".hidden",
    "...",
    "con",
    "\u00fcn\u00efcode",
    "u\u0308 decomposed",
    "\u00fc decomposed",
    "\U0001f40c",
    "latin-1 caf\udce9",
    "\udcff\udcfe\udc80",
)
DEPTH = 30
DEEP_NAME = "d" * 60
VOLATILE_FIELDS = {"atime_ns"}
"""What reading may change between two looks at one file."""


class NamesSuite(SuiteBase):
    """A layer stores any name that Linux can have, byte for byte."""

    def test_awkward_names_of_files(self, layer: Layer) -> None:
        for name in AWKWARD_NAMES:
            layer.file(name, data=name.encode("utf-8", "surrogateescape"))
        assert layer.names(layer.home) == sorted(AWKWARD_NAMES), "list every name exactly as it was created"
        for name in AWKWARD_NAMES:
            data = layer.read(layer.path(name))
            assert data == name.encode("utf-8", "surrogateescape"), f"{name!r} must lead to its own file"
            layer.backend.unlink(layer.path(name))
        assert layer.names(layer.home) == []

    def test_awkward_names_of_directories(self, layer: Layer) -> None:
        for name in AWKWARD_NAMES:
            layer.directory(name)
            layer.file(name, name)
            assert layer.names(layer.path(name)) == [name], f"a directory named {name!r} must be listed"
            layer.backend.rename(layer.path(name), layer.path(f"moved {name}"))
        assert layer.names(layer.home) == sorted(f"moved {name}" for name in AWKWARD_NAMES)

    def test_longest_name(self, layer: Layer) -> None:
        longest = layer.claims.max_name_bytes
        names = ["n" * longest, "\u00fc" * ((longest - 1) // 2) + "n" * (1 + (longest - 1) % 2)]
        for name in names:
            layer.file(name, data=b"long")
            assert layer.read(layer.path(name)) == b"long"
        assert layer.names(layer.home) == sorted(names)

    def test_too_long_name(self, layer: Layer) -> None:
        path = layer.path("n" * (layer.claims.max_name_bytes + 1))
        with refused(errno.ENAMETOOLONG, advice="stat of a name longer than max_name_bytes"):
            layer.backend.stat(path)
        with refused(errno.ENAMETOOLONG, advice="creating a name longer than max_name_bytes"):
            layer.create(path)
        with refused(errno.ENAMETOOLONG, advice="mkdir of a name longer than max_name_bytes"):
            layer.backend.mkdir(path, 0o755)

    def test_case(self, layer: Layer) -> None:
        layer.file("Name", data=b"upper")
        if layer.claims.case_sensitive:
            layer.file("name", data=b"lower")
            assert layer.read(layer.path("Name")) == b"upper"
            assert layer.read(layer.path("name")) == b"lower"
        else:
            with refused(errno.EEXIST, advice="case_sensitive is not claimed: creating a name in another case"):
                layer.create(layer.path("name"))
            assert layer.read(layer.path("NAME")) == b"upper", "case_sensitive is not claimed: find it in any case"

    def test_deep_path(self, layer: Layer) -> None:
        path = layer.home
        for _ in range(DEPTH):
            path = join_path(path, DEEP_NAME)
            layer.backend.mkdir(path, 0o755)
        with layer.create(join_path(path, "file")) as file:
            file.write_at(0, b"deep")
        assert layer.read(join_path(path, "file")) == b"deep"
        assert layer.names(path) == ["file"]


class ListingSuite(SuiteBase):
    """list_dir() tells all that stat() tells, of everything and of nothing else."""

    def test_listing_has_attributes_of_stat(self, layer: Layer) -> None:
        layer.file("file", data=b"12345")
        layer.directory("directory")
        layer.file("directory", "below")
        if layer.claims.symlinks:
            layer.backend.symlink(layer.path("link"), "file")
        if layer.claims.special_files:
            layer.backend.mknod(layer.path("fifo"), FileType.FIFO, 0o640)
        entries = layer.backend.list_dir(layer.home)
        assert entries
        for entry in entries:
            assert isinstance(entry, DirEntry), "list_dir() returns DirEntry tuples"
            assert isinstance(entry.stat.type, FileType), "FileStat.type is a FileType"
            assert_same_file(entry.stat, layer.backend.stat(layer.path(entry.name)))

    def test_listing_of_empty_directory(self, layer: Layer) -> None:
        assert layer.backend.list_dir(layer.home) == [], 'leave "." and ".." out of listings'

    def test_listing_follows_changes(self, layer: Layer) -> None:
        layer.file("one")
        assert layer.names(layer.home) == ["one"]
        layer.file("two")
        assert layer.names(layer.home) == ["one", "two"]
        layer.backend.rename(layer.path("one"), layer.path("three"))
        assert layer.names(layer.home) == ["three", "two"]
        layer.backend.unlink(layer.path("two"))
        assert layer.names(layer.home) == ["three"]

    def test_listing_shows_what_was_written(self, layer: Layer) -> None:
        path = layer.file("file")
        assert layer.backend.list_dir(layer.home)[0].stat.size == 0
        with layer.backend.open(path, Access.WRITE) as file:
            file.write_at(0, b"12345")
        assert layer.backend.list_dir(layer.home)[0].stat.size == 5, "a listing after close() shows the new size"

    def test_listing_refusals(self, layer: Layer) -> None:
        path = layer.file("file")
        with refused(errno.ENOTDIR, advice="list_dir of a file"):
            layer.backend.list_dir(path)
        with refused(errno.ENOENT, advice="list_dir of a missing name"):
            layer.backend.list_dir(layer.path("missing"))
        with refused(errno.ENOENT, advice="list_dir beneath a missing directory"):
            layer.backend.list_dir(layer.path("missing", "below"))
        with refused(errno.ENOTDIR, advice="list_dir beneath a file"):
            layer.backend.list_dir(layer.path("file", "below"))

    def test_list_dirs(self, layer: Layer) -> None:
        """list_dirs() tells what list_dir() does of each, errors included, in the order asked for."""
        paths = [layer.directory(f"directory {number}") for number in range(10)]
        counts = [110, *range(9)]
        files = [join_path(path, f"file {file}") for path, n in zip(paths, counts, strict=True) for file in range(n)]
        for_each([*files, layer.path("file")], lambda path: layer.create(path).close())
        told = layer.backend.list_dirs([*paths, layer.path("file"), layer.path("missing"), paths[1], layer.home])
        *listed, of_file, of_missing, again, of_home = told
        for path, entries in [*zip(paths, listed, strict=True), (paths[1], again), (layer.home, of_home)]:
            assert isinstance(entries, list)
            alone = dict(layer.backend.list_dir(path))
            assert sorted(alone) == sorted(entry.name for entry in entries)
            for name, stat in entries:
                assert_same_file(stat, alone[name])
        assert isinstance(of_file, NotADirectoryError), "list_dirs of a file: ENOTDIR for it alone"
        assert isinstance(of_missing, FileNotFoundError), "list_dirs of a missing name: ENOENT for it alone"
        assert layer.backend.list_dirs([]) == []

    def test_list_names(self, layer: Layer) -> None:
        """list_names() tells the names and types that list_dir() does, and such attributes as stat() does."""
        full, empty = layer.directory("full"), layer.directory("empty")
        names = [f"file {number}" for number in range(40)]
        for_each([join_path(full, name) for name in names], lambda path: layer.create(path).close())
        layer.directory("full", "directory")
        if layer.claims.symlinks:
            layer.backend.symlink(join_path(full, "link"), "file 1")
        told = layer.backend.list_names([full, empty, join_path(full, "file 1"), layer.path("missing")])
        of_full, of_empty, of_file, of_missing = told
        assert isinstance(of_full, list)
        alone = dict(layer.backend.list_dir(full))
        assert {entry.name: entry.type for entry in of_full} == {name: stat.type for name, stat in alone.items()}
        for name, _, stat in of_full:
            told_alone = layer.backend.stat(join_path(full, name))
            assert_same_file(told_alone if stat is None else stat, alone[name])
        assert of_empty == []
        assert isinstance(of_file, NotADirectoryError), "list_names of a file: ENOTDIR for it alone"
        assert isinstance(of_missing, FileNotFoundError), "list_names of a missing name: ENOENT for it alone"

    def test_big_directory(self, layer: Layer) -> None:
        # Long, so that even of a few thousand no server tells in a single answer.
        names = [f"entry-{number:05}-{'n' * 180}" for number in range(self.big_directory)]
        for_each([layer.path(name) for name in names], lambda path: layer.create(path).close())
        entries = layer.backend.list_dir(layer.home)
        assert len(entries) == len(names), "list every entry of a large directory exactly once"
        assert sorted(entry.name for entry in entries) == names
        assert {entry.stat.type for entry in entries} == {FileType.REGULAR}


class RootSuite(SuiteBase):
    """The root is a directory that is named "" and cannot be removed."""

    def test_root(self, layer: Layer) -> None:
        root = layer.backend.stat("")
        assert root.type is FileType.DIRECTORY, 'stat("") tells of the root'
        assert layer.home in layer.names(""), 'list_dir("") lists the root'

    def test_root_stays(self, layer: Layer) -> None:
        busy = (errno.EBUSY, errno.EISDIR, errno.EPERM, errno.EINVAL, errno.ENOTEMPTY, errno.EACCES)
        with refused(errno.EEXIST, advice="mkdir of the root"):
            layer.backend.mkdir("", 0o755)
        with refused(*busy, advice="rmdir of the root"):
            layer.backend.rmdir("")
        with refused(*busy, advice="unlink of the root"):
            layer.backend.unlink("")
        with refused(*busy, advice="rename of the root"):
            layer.backend.rename("", layer.path("root"))
        with refused(errno.EISDIR, advice="open of the root"):
            layer.backend.open("", Access.READ)

    def test_closing_the_backend(self, new_backend: Callable[[], Backend], layer: Layer) -> None:
        path = layer.file("file", data=b"kept")
        other = new_backend()
        other.connect()
        file = other.open(path, Access.READ)
        other.close()
        other.close()
        file.close()
        with refused(errno.EBADF, errno.EIO, errno.ENOTCONN, advice="reading a file after its backend was closed"):
            file.read_at(0, 1)
        assert layer.read(path) == b"kept", "closing one backend must leave others alone"

    def test_identity(self, new_backend: Callable[[], Backend], layer: Layer) -> None:
        with new_backend() as other:
            other.connect()
            assert other.identity() == layer.backend.identity(), "identity() is the same for the same root"
        assert layer.backend.identity().strip(), "identity() names what is mounted"


def assert_same_file(listed: FileStat, told: FileStat) -> None:
    """What a listing and stat() both know of a file must be the same."""
    for field, of_listing, of_stat in zip(FileStat._fields, listed, told, strict=True):
        if field not in VOLATILE_FIELDS and None not in (of_listing, of_stat):
            assert of_listing == of_stat, f"FileStat.{field} differs between list_dir() and stat()"
