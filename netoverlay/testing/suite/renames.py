"""rename(), over all that can stand in its way, and its flags."""

from __future__ import annotations

import errno

from netoverlay.backend_api import FileType, RenameFlags
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.directories import assert_whiteout
from netoverlay.testing.suite.layer import Layer, refused, require


class RenameSuite(SuiteBase):
    """rename() without flags."""

    def test_rename_file(self, layer: Layer) -> None:
        path = layer.file("file", data=b"content")
        layer.directory("directory")
        before = layer.backend.stat(path)
        layer.backend.rename(path, layer.path("directory", "moved"))
        after = layer.backend.stat(layer.path("directory", "moved"))
        assert layer.names(layer.home) == ["directory"]
        assert layer.read(layer.path("directory", "moved")) == b"content"
        assert (after.mtime_ns, after.mode, after.file_id) == (before.mtime_ns, before.mode, before.file_id)

    def test_rename_over_a_file(self, layer: Layer) -> None:
        path = layer.file("file", data=b"new")
        target = layer.file("target", data=b"old")
        layer.backend.rename(path, target)
        assert layer.names(layer.home) == ["target"]
        assert layer.read(target) == b"new", "rename() replaces a file"

    def test_rename_onto_itself(self, layer: Layer) -> None:
        path = layer.file("file", data=b"kept")
        layer.backend.rename(path, path)
        assert layer.read(path) == b"kept", "rename() of a name to itself does nothing"

    def test_rename_directory(self, layer: Layer) -> None:
        layer.directory("directory")
        layer.file("directory", "file", data=b"content")
        layer.backend.rename(layer.path("directory"), layer.path("moved"))
        assert layer.names(layer.home) == ["moved"]
        assert layer.read(layer.path("moved", "file")) == b"content", "what is in a directory moves with it"

    def test_rename_over_an_empty_directory(self, layer: Layer) -> None:
        layer.directory("directory")
        layer.file("directory", "file")
        layer.backend.rename(layer.path("directory"), layer.directory("empty"))
        assert layer.names(layer.home) == ["empty"]
        assert layer.names(layer.path("empty")) == ["file"], "rename() replaces an empty directory by a directory"

    def test_rename_refusals(self, layer: Layer) -> None:
        path = layer.file("file", data=b"content")
        directory, full = layer.directory("directory"), layer.directory("full")
        layer.file("full", "file")
        rename = layer.backend.rename
        with refused(errno.ENOTEMPTY, advice="rename of a directory over one that is not empty"):
            rename(directory, full)
        with refused(errno.EISDIR, advice="rename of a file over a directory"):
            rename(path, directory)
        with refused(errno.ENOTDIR, advice="rename of a directory over a file"):
            rename(directory, path)
        with refused(errno.EINVAL, advice="rename of a directory into itself"):
            rename(directory, layer.path("directory", "below"))
        with refused(errno.ENOENT, advice="rename of a missing name"):
            rename(layer.path("missing"), layer.path("new"))
        with refused(errno.ENOENT, advice="rename of a missing name over a file"):
            rename(layer.path("missing"), path)
        with refused(errno.ENOENT, advice="rename into a missing directory"):
            rename(path, layer.path("missing", "new"))
        with refused(errno.ENOTDIR, advice="rename to beneath a file"):
            rename(directory, layer.path("file", "below"))
        assert layer.names(layer.home) == ["directory", "file", "full"], "a refused rename must change nothing"
        assert layer.read(path) == b"content"
        assert layer.names(full) == ["file"]


class RenameFlagSuite(SuiteBase):
    """The flags of renameat2(2), where they are claimed."""

    def test_rename_noreplace(self, layer: Layer) -> None:
        require(layer.claims.rename_noreplace, "rename_noreplace")
        path, taken = layer.file("file", data=b"one"), layer.file("taken", data=b"two")
        with refused(errno.EEXIST, advice="rename(NOREPLACE) to a name that is taken"):
            layer.backend.rename(path, taken, RenameFlags.NOREPLACE)
        assert (layer.read(path), layer.read(taken)) == (b"one", b"two")
        layer.backend.rename(path, layer.path("free"), RenameFlags.NOREPLACE)
        assert layer.names(layer.home) == ["free", "taken"]

    def test_rename_noreplace_of_a_directory(self, layer: Layer) -> None:
        require(layer.claims.rename_noreplace, "rename_noreplace")
        path, taken = layer.directory("directory"), layer.directory("taken")
        with refused(errno.EEXIST, advice="rename(NOREPLACE) of a directory to an empty directory's name"):
            layer.backend.rename(path, taken, RenameFlags.NOREPLACE)
        layer.backend.rename(path, layer.path("free"), RenameFlags.NOREPLACE)
        assert layer.names(layer.home) == ["free", "taken"]

    def test_rename_exchange(self, layer: Layer) -> None:
        require(layer.claims.rename_exchange, "rename_exchange")
        path, directory = layer.file("file", data=b"content"), layer.directory("directory")
        layer.file("directory", "below")
        layer.backend.rename(path, directory, RenameFlags.EXCHANGE)
        assert layer.read(directory) == b"content", "rename(EXCHANGE) swaps what stands at two names"
        assert layer.names(path) == ["below"]
        with refused(errno.ENOENT, advice="rename(EXCHANGE) with a missing name"):
            layer.backend.rename(path, layer.path("missing"), RenameFlags.EXCHANGE)
        with refused(errno.EINVAL, advice="rename(EXCHANGE) of a directory with what is in it"):
            layer.backend.rename(path, layer.path("file", "below"), RenameFlags.EXCHANGE)
        assert layer.names(layer.home) == ["directory", "file"]

    def test_rename_exclusive_flags(self, layer: Layer) -> None:
        require(layer.claims.rename_exchange and layer.claims.rename_noreplace, "rename_exchange")
        path, other = layer.file("file"), layer.file("other")
        with refused(errno.EINVAL, advice="rename(EXCHANGE | NOREPLACE)"):
            layer.backend.rename(path, other, RenameFlags.EXCHANGE | RenameFlags.NOREPLACE)

    def test_rename_whiteout(self, layer: Layer) -> None:
        require(layer.claims.rename_whiteout, "rename_whiteout")
        layer.backend.rename(layer.file("file", data=b"content"), layer.path("moved"), RenameFlags.WHITEOUT)
        assert layer.read(layer.path("moved")) == b"content"
        assert_whiteout(layer, "file")
        layer.backend.rename(layer.directory("directory"), layer.path("moved too"), RenameFlags.WHITEOUT)
        assert layer.backend.stat(layer.path("moved too")).type is FileType.DIRECTORY
        assert_whiteout(layer, "directory")
