"""Modes, owners, times, identities and extended attributes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from netoverlay.backend_api import Access, AttributeChange, BackendFile, FileStat, FileType, LayerPath, XattrMode
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.layer import Layer, refused, require

MODES = (0o000, 0o400, 0o600, 0o644, 0o666, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o7777)
SINGLE_BITS = tuple(1 << bit for bit in range(12))
HARSH_UMASK = 0o077
SECOND_NS = 1_000_000_000
TIMES_NS = (0, 1_600_000_000 * SECOND_NS + 123_456_789, 4_102_444_800 * SECOND_NS + 999_999_999)
ATTRIBUTE = "user.netoverlay.test"
VALUES = (b"value", b"", bytes(range(256)), b"\0ends in NUL\0", b"v" * 1000)
TOO_LARGE = b"v" * (1 << 20)


class ModeSuite(SuiteBase):
    """Modes are exact: no umask, and no bit lost."""

    def test_created_mode(self, layer: Layer) -> None:
        require(layer.claims.modes, "modes")
        umask = os.umask(HARSH_UMASK)
        try:
            for mode in MODES:
                layer.create(layer.path(f"file-{mode:o}"), mode).close()
                layer.backend.mkdir(layer.path(f"directory-{mode:o}"), mode)
        finally:
            assert os.umask(umask) == HARSH_UMASK, "a backend must leave the umask of the process alone"
        for mode in MODES:
            for kind in ("file", "directory"):
                told = layer.backend.stat(layer.path(f"{kind}-{mode:o}"))
                assert told.mode == mode, f"a {kind} must be created with exactly the mode {mode:#o}"
        for mode in MODES:
            layer.backend.set_attributes(layer.path(f"directory-{mode:o}"), AttributeChange(mode=0o700))

    def test_changed_mode(self, layer: Layer) -> None:
        require(layer.claims.modes, "modes")
        file, directory = layer.file("file"), layer.directory("directory")
        for mode in (*MODES, *SINGLE_BITS):
            for path in (file, directory):
                layer.backend.set_attributes(path, AttributeChange(mode=mode))
                assert layer.backend.stat(path).mode == mode, f"set_attributes() must set exactly the mode {mode:#o}"
        layer.backend.set_attributes(directory, AttributeChange(mode=0o700))

    def test_mode_does_not_bind_open_file(self, layer: Layer) -> None:
        require(layer.claims.modes, "modes")
        with layer.create(layer.path("file"), 0o000) as file:
            file.write_at(0, b"content")
            assert file.read_at(0, 99) == b"content", "the mode of a file made now does not bind its maker's open"
            file.set_attributes(AttributeChange(mode=0o640))
            assert file.stat().mode == 0o640

    def test_owner_and_mode_together(self, layer: Layer) -> None:
        require(layer.claims.modes and layer.claims.owners, "owners")
        path = layer.file("file")
        told = layer.backend.stat(path)
        layer.backend.set_attributes(path, AttributeChange(mode=0o6755, uid=told.uid, gid=told.gid))
        assert layer.backend.stat(path).mode == 0o6755, "set the owner before the mode: it clears the set-id bits"


class OwnerSuite(SuiteBase):
    """Owners, as far as this user may change them."""

    def test_change_owner(self, layer: Layer) -> None:
        require(layer.claims.owners, "owners")
        path = layer.file("file")
        told = layer.backend.stat(path)
        assert told.uid is not None, "owners is claimed: FileStat.uid must be told"
        assert told.gid is not None, "owners is claimed: FileStat.gid must be told"
        wanted = (told.uid + 1, told.gid + 1)
        try:
            layer.backend.set_attributes(path, AttributeChange(uid=wanted[0], gid=wanted[1]))
        except PermissionError:
            assert _owner(layer.backend.stat(path)) == (told.uid, told.gid), "a refused change must change nothing"
            return
        assert _owner(layer.backend.stat(path)) == wanted
        layer.backend.set_attributes(path, AttributeChange(gid=told.gid))
        assert _owner(layer.backend.stat(path)) == (wanted[0], told.gid), "None leaves the owner as it is"
        layer.backend.set_attributes(path, AttributeChange(uid=told.uid))
        assert _owner(layer.backend.stat(path)) == (told.uid, told.gid), "None leaves the group as it is"


class TimeSuite(SuiteBase):
    """Times are set exactly, rounded down to the granularity that is claimed."""

    def test_times(self, layer: Layer) -> None:
        for path in (layer.file("file"), layer.directory("directory")):
            for time_ns in TIMES_NS:
                layer.backend.set_attributes(path, AttributeChange(atime_ns=time_ns, mtime_ns=time_ns))
                told = layer.backend.stat(path)
                assert told.mtime_ns == self._stored(layer, time_ns), "mtime, rounded down to time_granularity_ns"
                assert told.atime_ns in (None, self._stored(layer, time_ns)), "atime, or None if it is not kept"

    def test_one_time_of_two(self, layer: Layer) -> None:
        path = layer.file("file")
        first, second = TIMES_NS[1], TIMES_NS[2]
        layer.backend.set_attributes(path, AttributeChange(atime_ns=first, mtime_ns=first))
        layer.backend.set_attributes(path, AttributeChange(mtime_ns=second))
        told = layer.backend.stat(path)
        assert told.mtime_ns == self._stored(layer, second)
        assert told.atime_ns in (None, self._stored(layer, first)), "None leaves atime as it is"
        layer.backend.set_attributes(path, AttributeChange(atime_ns=second))
        layer.backend.set_attributes(path, AttributeChange(mtime_ns=first))
        told = layer.backend.stat(path)
        assert told.mtime_ns == self._stored(layer, first)
        assert told.atime_ns in (None, self._stored(layer, second)), "None leaves atime as it is"

    def test_times_of_open_file(self, layer: Layer) -> None:
        path = layer.path("file")
        with layer.create(path) as file:
            file.set_attributes(AttributeChange(mtime_ns=TIMES_NS[1]))
            assert file.stat().mtime_ns == self._stored(layer, TIMES_NS[1])
            layer.backend.unlink(path)
            file.set_attributes(AttributeChange(mtime_ns=TIMES_NS[2]))
            assert file.stat().mtime_ns == self._stored(layer, TIMES_NS[2]), "also when it has no name any more"

    def test_empty_change(self, layer: Layer) -> None:
        path = layer.file("file")
        before = layer.backend.stat(path)
        layer.backend.set_attributes(path, AttributeChange())
        assert layer.backend.stat(path).mtime_ns == before.mtime_ns, "an empty AttributeChange changes nothing"

    def test_set_attributes_refusals(self, layer: Layer) -> None:
        layer.file("file")
        change = AttributeChange(mtime_ns=0)
        with refused(errno.ENOENT, advice="set_attributes of a missing file"):
            layer.backend.set_attributes(layer.path("missing"), change)
        with refused(errno.ENOTDIR, advice="set_attributes beneath a file"):
            layer.backend.set_attributes(layer.path("file", "below"), change)

    @staticmethod
    def _stored(layer: Layer, time_ns: int) -> int:
        return time_ns - time_ns % layer.claims.time_granularity_ns


class IdentitySuite(SuiteBase):
    """What a FileStat says of a file."""

    def test_types_and_sizes(self, layer: Layer) -> None:
        told = layer.backend.stat(layer.file("file", data=b"12345"))
        assert (told.type, told.size) == (FileType.REGULAR, 5)
        assert layer.backend.stat(layer.directory("directory")).type is FileType.DIRECTORY

    def test_file_ids(self, layer: Layer) -> None:
        require(layer.claims.file_ids, "file_ids")
        paths = [layer.file(f"file-{number}") for number in range(20)]
        ids = [layer.backend.stat(path).file_id for path in paths]
        assert None not in ids, "file_ids is claimed: tell FileStat.file_id"
        assert len(set(ids)) == len(ids), "each file has an id of its own"
        listed = {entry.name: entry.stat.file_id for entry in layer.backend.list_dir(layer.home)}
        assert listed == {f"file-{number}": file_id for number, file_id in enumerate(ids)}
        with layer.backend.open(paths[0], Access.READ_WRITE) as file:
            file.write_at(0, b"changed")
            layer.backend.rename(paths[0], layer.path("moved"))
            assert file.stat().file_id == ids[0]
        assert layer.backend.stat(layer.path("moved")).file_id == ids[0], "the id survives writing and renaming"

    def test_link_counts(self, layer: Layer) -> None:
        require(layer.claims.link_counts, "link_counts")
        assert layer.backend.stat(layer.file("file")).nlink == 1
        assert (layer.backend.stat(layer.directory("directory")).nlink or 0) >= 1


class XattrSuite(SuiteBase):
    """Extended attributes of files and directories, by name and on open files."""

    def test_xattr_values(self, layer: Layer) -> None:
        require(layer.claims.xattrs, "xattrs")
        for path in (layer.file("file"), layer.directory("directory")):
            for value in VALUES:
                layer.backend.set_xattr(path, ATTRIBUTE, value)
                assert layer.backend.get_xattr(path, ATTRIBUTE) == value, "values are bytes, kept as they are"
            assert ATTRIBUTE in layer.backend.list_xattrs(path)
            assert layer.backend.stat(path).has_xattrs in (True, None)
            assert layer.listed(path).has_xattrs in (True, None)
            layer.backend.remove_xattr(path, ATTRIBUTE)
            assert ATTRIBUTE not in layer.backend.list_xattrs(path)

    def test_xattrs_of_open_file(self, layer: Layer) -> None:
        require(layer.claims.xattrs, "xattrs")
        path = layer.path("file")
        with layer.create(path) as file:
            file.set_xattr(ATTRIBUTE, b"by the file")
            assert layer.backend.get_xattr(path, ATTRIBUTE) == b"by the file"
            layer.backend.unlink(path)
            assert file.get_xattr(ATTRIBUTE) == b"by the file", "an unlinked open file keeps its attributes"
            file.set_xattr(ATTRIBUTE, b"again", XattrMode.REPLACE)
            assert ATTRIBUTE in file.list_xattrs()
            file.remove_xattr(ATTRIBUTE)
            assert ATTRIBUTE not in file.list_xattrs()

    def test_xattr_modes(self, layer: Layer) -> None:
        require(layer.claims.xattrs, "xattrs")
        path = layer.file("file")
        with layer.backend.open(path, Access.READ_WRITE) as file:
            targets: tuple[_ByPath | BackendFile, ...] = (_ByPath(layer, path), file)
            for target in targets:
                with refused(errno.ENODATA, advice="set_xattr(REPLACE) of an attribute that is not there"):
                    target.set_xattr(ATTRIBUTE, b"value", XattrMode.REPLACE)
                with refused(errno.ENODATA, advice="get_xattr of an attribute that is not there"):
                    target.get_xattr(ATTRIBUTE)
                with refused(errno.ENODATA, advice="remove_xattr of an attribute that is not there"):
                    target.remove_xattr(ATTRIBUTE)
                target.set_xattr(ATTRIBUTE, b"value", XattrMode.CREATE)
                with refused(errno.EEXIST, advice="set_xattr(CREATE) of an attribute that is there"):
                    target.set_xattr(ATTRIBUTE, b"other", XattrMode.CREATE)
                target.set_xattr(ATTRIBUTE, b"replaced", XattrMode.REPLACE)
                assert target.get_xattr(ATTRIBUTE) == b"replaced"
                target.remove_xattr(ATTRIBUTE)

    def test_xattr_refusals(self, layer: Layer) -> None:
        require(layer.claims.xattrs, "xattrs")
        path, missing = layer.file("file"), layer.path("missing")
        calls: tuple[Callable[[], object], ...] = (
            lambda: layer.backend.get_xattr(missing, ATTRIBUTE),
            lambda: layer.backend.list_xattrs(missing),
            lambda: layer.backend.set_xattr(missing, ATTRIBUTE, b"value"),
            lambda: layer.backend.remove_xattr(missing, ATTRIBUTE),
        )
        for call in calls:
            with refused(errno.ENOENT, advice="an extended attribute of a missing file"):
                call()
        with refused(errno.E2BIG, errno.ENOSPC, errno.ERANGE, advice="set_xattr of a value of 1 MiB"):
            layer.backend.set_xattr(path, ATTRIBUTE, TOO_LARGE)
        assert ATTRIBUTE not in layer.backend.list_xattrs(path)

    def test_privileged_xattrs(self, layer: Layer) -> None:
        require(layer.claims.privileged_xattrs, "privileged_xattrs")
        path = layer.file("file")
        layer.backend.set_xattr(path, "trusted.netoverlay.test", b"value")
        assert layer.backend.get_xattr(path, "trusted.netoverlay.test") == b"value"
        assert "trusted.netoverlay.test" in layer.backend.list_xattrs(path)


def _owner(told: FileStat) -> tuple[int | None, int | None]:
    return told.uid, told.gid


class _ByPath:
    """The calls for extended attributes of a backend, in the form that an open file has them."""

    def __init__(self, layer: Layer, path: LayerPath) -> None:
        self._backend = layer.backend
        self._path = path

    def get_xattr(self, name: str) -> bytes:
        return self._backend.get_xattr(self._path, name)

    def set_xattr(self, name: str, value: bytes, mode: XattrMode) -> None:
        self._backend.set_xattr(self._path, name, value, mode)

    def remove_xattr(self, name: str) -> None:
        self._backend.remove_xattr(self._path, name)
