"""Making and removing names that are no files: directories, links, special files."""

from __future__ import annotations

import errno
import os

from netoverlay.backend_api import Access, AttributeChange, FileType
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.layer import Layer, refused, require

TARGETS = (
    "file",
    "../up/and/../down",
    "/absolute/and/dangling",
    "trailing/",
    "two words\nand a line",
    "latin-1 caf\udce9",
    "t" * 1000,
)
DEVICE = os.makedev(1, 3)
"""The null device (linux/Documentation/admin-guide/devices.txt)."""
OLD_TIME_NS = 1_000_000_000 * 10**9


class DirectorySuite(SuiteBase):
    """mkdir, rmdir and unlink."""

    def test_mkdir(self, layer: Layer) -> None:
        path = layer.directory("directory")
        assert layer.backend.stat(path).type is FileType.DIRECTORY
        assert layer.backend.list_dir(path) == []

    def test_mkdir_refusals(self, layer: Layer) -> None:
        layer.file("file")
        layer.directory("directory")
        names = ["directory", "file"]
        if layer.claims.symlinks:
            layer.backend.symlink(layer.path("link"), "nowhere")
            names.append("link")
        for name in names:
            with refused(errno.EEXIST, advice=f"mkdir where there is a {name}"):
                layer.backend.mkdir(layer.path(name), 0o755)
        with refused(errno.ENOENT, advice="mkdir in a missing directory"):
            layer.backend.mkdir(layer.path("missing", "below"), 0o755)
        with refused(errno.ENOTDIR, advice="mkdir beneath a file"):
            layer.backend.mkdir(layer.path("file", "below"), 0o755)
        assert layer.names(layer.home) == names

    def test_rmdir(self, layer: Layer) -> None:
        path = layer.directory("directory")
        below = layer.file("directory", "file")
        with refused(errno.ENOTEMPTY, advice="rmdir of a directory that is not empty"):
            layer.backend.rmdir(path)
        layer.backend.unlink(below)
        layer.backend.rmdir(path)
        with refused(errno.ENOENT, advice="rmdir of a missing directory"):
            layer.backend.rmdir(path)
        with refused(errno.ENOTDIR, advice="rmdir of a file"):
            layer.backend.rmdir(layer.file("file"))
        assert layer.names(layer.home) == ["file"]

    def test_unlink(self, layer: Layer) -> None:
        path = layer.file("file")
        with refused(errno.ENOTDIR, advice="unlink beneath a file"):
            layer.backend.unlink(layer.path("file", "below"))
        layer.backend.unlink(path)
        with refused(errno.ENOENT, advice="unlink of a missing file"):
            layer.backend.unlink(path)
        with refused(errno.EISDIR, advice="unlink of a directory"):
            layer.backend.unlink(layer.directory("directory"))
        assert layer.names(layer.home) == ["directory"]

    def test_stat_refusals(self, layer: Layer) -> None:
        layer.file("file")
        with refused(errno.ENOENT, advice="stat of a missing name"):
            layer.backend.stat(layer.path("missing"))
        with refused(errno.ENOENT, advice="stat beneath a missing directory"):
            layer.backend.stat(layer.path("missing", "below"))
        with refused(errno.ENOTDIR, advice="stat beneath a file"):
            layer.backend.stat(layer.path("file", "below"))


class SymlinkSuite(SuiteBase):
    """Symbolic links are stored and told, and never followed."""

    def test_symlink_targets(self, layer: Layer) -> None:
        require(layer.claims.symlinks, "symlinks")
        for number, target in enumerate(TARGETS):
            path = layer.path(f"link-{number}")
            layer.backend.symlink(path, target)
            assert layer.backend.readlink(path) == target, "readlink() gives the target byte for byte"
            assert layer.backend.stat(path).type is FileType.SYMLINK, "stat() tells of the link itself"
        assert {entry.stat.type for entry in layer.backend.list_dir(layer.home)} == {FileType.SYMLINK}

    def test_symlink_refusals(self, layer: Layer) -> None:
        require(layer.claims.symlinks, "symlinks")
        path = layer.file("file")
        layer.directory("directory")
        layer.backend.symlink(layer.path("link"), "file")
        for name in ("file", "directory", "link"):
            with refused(errno.EEXIST, advice=f"symlink where there is a {name}"):
                layer.backend.symlink(layer.path(name), "target")
        with refused(errno.ENOENT, advice="symlink in a missing directory"):
            layer.backend.symlink(layer.path("missing", "below"), "target")
        for name in ("file", "directory"):
            with refused(errno.EINVAL, advice=f"readlink of a {name}"):
                layer.backend.readlink(layer.path(name))
        with refused(errno.ENOENT, advice="readlink of a missing name"):
            layer.backend.readlink(layer.path("missing"))
        with refused(errno.ENOTDIR, errno.ELOOP, advice="list_dir of a symlink"):
            layer.backend.list_dir(layer.path("link"))
        with refused(errno.ENOTDIR, advice="rmdir of a symlink"):
            layer.backend.rmdir(layer.path("link"))
        assert layer.read(path) == b""

    def test_symlink_is_not_followed(self, layer: Layer) -> None:
        require(layer.claims.symlinks, "symlinks")
        path = layer.file("file", data=b"content")
        link = layer.path("link")
        layer.backend.symlink(link, "file")
        before = layer.backend.stat(path)
        layer.backend.set_attributes(link, AttributeChange(mtime_ns=OLD_TIME_NS))
        assert layer.backend.stat(path).mtime_ns == before.mtime_ns, "set_attributes() must not follow a symlink"
        assert layer.backend.stat(link).mtime_ns == OLD_TIME_NS, "set_attributes() sets the times of the link itself"
        layer.backend.rename(link, layer.path("moved"))
        assert layer.backend.readlink(layer.path("moved")) == "file", "rename() moves the link itself"
        layer.backend.unlink(layer.path("moved"))
        assert layer.read(path) == b"content", "unlink() removes the link and not its target"

    def test_symlink_in_the_middle_of_a_path(self, layer: Layer) -> None:
        require(layer.claims.symlinks, "symlinks")
        require(self.resolves_beneath, "resolves_beneath of the suite")
        layer.directory("directory")
        layer.file("directory", "file", data=b"content")
        layer.backend.symlink(layer.path("link"), "directory")
        through = layer.path("link", "file")
        never = "a path through a symlink, which is never followed"
        loops = (errno.ELOOP, errno.ENOTDIR)
        with refused(*loops, advice=never):
            layer.backend.stat(through)
        with refused(*loops, advice=never):
            layer.backend.open(through, Access.READ)
        with refused(*loops, advice=never):
            layer.create(layer.path("link", "created"))
        with refused(*loops, advice=never):
            layer.backend.unlink(through)
        with refused(*loops, advice=never):
            layer.backend.rename(layer.path("directory", "file"), layer.path("link", "moved"))
        assert layer.names(layer.path("directory")) == ["file"]


class HardLinkSuite(SuiteBase):
    """Several names of one file."""

    def test_link(self, layer: Layer) -> None:
        require(layer.claims.hard_links, "hard_links")
        path, other = layer.file("file", data=b"old"), layer.path("other")
        layer.backend.link(path, other)
        with layer.backend.open(other, Access.WRITE) as file:
            file.write_at(0, b"new")
        assert layer.read(path) == b"new", "both names lead to one file"
        told, also = layer.backend.stat(path), layer.backend.stat(other)
        if layer.claims.link_counts:
            assert (told.nlink, also.nlink) == (2, 2)
        if layer.claims.file_ids:
            assert told.file_id == also.file_id, "file_ids is claimed: two names of a file have one id"
        layer.backend.unlink(path)
        assert layer.read(other) == b"new"
        if layer.claims.link_counts:
            assert layer.backend.stat(other).nlink == 1

    def test_link_refusals(self, layer: Layer) -> None:
        require(layer.claims.hard_links, "hard_links")
        path = layer.file("file", data=b"one")
        other = layer.file("other", data=b"two")
        with refused(errno.EEXIST, advice="link to a name that is taken"):
            layer.backend.link(path, other)
        with refused(errno.ENOENT, advice="link of a missing file"):
            layer.backend.link(layer.path("missing"), layer.path("new"))
        with refused(errno.ENOENT, advice="link into a missing directory"):
            layer.backend.link(path, layer.path("missing", "new"))
        with refused(errno.EPERM, advice="link of a directory"):
            layer.backend.link(layer.directory("directory"), layer.path("new"))
        assert layer.read(other) == b"two"
        assert layer.names(layer.home) == ["directory", "file", "other"]

    def test_link_of_symlink(self, layer: Layer) -> None:
        require(layer.claims.hard_links and layer.claims.symlinks, "hard_links")
        layer.file("file")
        layer.backend.symlink(layer.path("link"), "file")
        layer.backend.link(layer.path("link"), layer.path("other"))
        assert layer.backend.readlink(layer.path("other")) == "file", "link() of a symlink links the symlink itself"

    def test_rename_over_own_link(self, layer: Layer) -> None:
        require(layer.claims.hard_links, "hard_links")
        path, other = layer.file("file", data=b"kept"), layer.path("other")
        layer.backend.link(path, other)
        layer.backend.rename(path, other)
        assert layer.names(layer.home) == ["file", "other"], "rename() between two names of one file does nothing"
        assert layer.read(other) == b"kept"


class SpecialFileSuite(SuiteBase):
    """mknod()."""

    def test_fifo_and_socket(self, layer: Layer) -> None:
        require(layer.claims.special_files, "special_files")
        for kind in (FileType.FIFO, FileType.SOCKET):
            path = layer.path(kind.name)
            layer.backend.mknod(path, kind, 0o640)
            told = layer.backend.stat(path)
            assert told.type is kind
            if layer.claims.modes:
                assert told.mode == 0o640
            with refused(errno.EEXIST, advice="mknod of a name that is taken"):
                layer.backend.mknod(path, kind, 0o640)
            layer.backend.unlink(path)
        assert layer.backend.list_dir(layer.home) == []

    def test_device(self, layer: Layer) -> None:
        require(layer.claims.devices, "devices")
        for kind in (FileType.CHARACTER_DEVICE, FileType.BLOCK_DEVICE):
            path = layer.path(kind.name)
            layer.backend.mknod(path, kind, 0o600, DEVICE)
            told = layer.backend.stat(path)
            assert (told.type, told.rdev) == (kind, DEVICE), "rdev is the device number"

    def test_whiteout_device(self, layer: Layer) -> None:
        require(layer.claims.whiteout_devices, "whiteout_devices")
        layer.backend.mknod(layer.path("whiteout"), FileType.CHARACTER_DEVICE, 0, os.makedev(0, 0))
        assert_whiteout(layer, "whiteout")


def assert_whiteout(layer: Layer, name: str) -> None:
    """`name` must be a character device 0:0, in a listing too."""
    listed = {entry.name: entry.stat for entry in layer.backend.list_dir(layer.home)}
    for told in (layer.backend.stat(layer.path(name)), listed[name]):
        assert (told.type, told.rdev) == (FileType.CHARACTER_DEVICE, 0), "a whiteout is a character device 0:0"
