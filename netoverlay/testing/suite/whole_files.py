"""Small files, read whole and many at once."""

from __future__ import annotations

import errno

import pytest

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    FileContent,
    FileType,
    LayerPath,
    WantedFile,
)
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.layer import Layer, pattern, run_threads

COUNT = 150
SIZES = (0, 1, 1067, 4096, 65_535, 65_536, 65_537, 200_000, 300_000)


class WholeFilesSuite(SuiteBase):
    """read_files(): what open(), reading and stat() tell, one file at a time."""

    @pytest.mark.parametrize("unchanging", [False, True])
    def test_read_files(self, layer: Layer, unchanging: bool) -> None:
        contents = {layer.path(f"file{number}"): pattern(size) for number, size in enumerate(SIZES)}
        contents |= {layer.path(f"small{number:03}"): b"%d" % number for number in range(COUNT)}
        for path, content in contents.items():
            layer.file(path.rpartition("/")[2], data=content)
        wanted = [WantedFile(path, len(content)) for path, content in contents.items()]
        found = layer.backend.read_files(wanted, unchanging=unchanging)
        for each, one in zip(wanted, found, strict=True):
            assert isinstance(one, FileContent), f"reading {each.path} must not fail: {one!r}"
            assert one.data == contents[each.path], f"the content of {each.path}"
            assert unchanging or one.version == layer.backend.stat(each.path).version, "the version that was read"
        assert layer.backend.read_files([], unchanging=unchanging) == []

    def test_read_files_of_another_size(self, layer: Layer) -> None:
        path = layer.file("file", data=b"0123456789")
        for size, data in ((4, b"0123"), (10, b"0123456789"), (11, b"0123456789"), (70_000, b"0123456789")):
            (one,) = layer.backend.read_files([WantedFile(path, size)], unchanging=False)
            assert isinstance(one, FileContent)
            assert one.data == data, f"{size} bytes of a file of 10"
            assert one.version is not None
            assert one.version.size == 10, "the version tells of the whole file"

    def test_read_files_refusals(self, layer: Layer) -> None:
        good = layer.file("good", data=b"good")
        refused = {layer.path("missing"): errno.ENOENT, layer.path("good", "below"): errno.ENOTDIR}
        refused[layer.directory("directory")] = errno.EISDIR
        if layer.claims.symlinks:
            layer.backend.symlink(layer.path("link"), "good")
            refused[layer.path("link")] = errno.ELOOP
        if layer.claims.special_files:
            layer.backend.mknod(layer.path("fifo"), FileType.FIFO, 0o644)
            refused[layer.path("fifo")] = errno.ENXIO
        paths = [good, *refused, good]
        found = layer.backend.read_files([WantedFile(path, 4) for path in paths], unchanging=False)
        for path, one in zip(paths, found, strict=True):
            if path == good:
                assert isinstance(one, FileContent), "one that fails must not take others with it"
                assert one.data == b"good"
            else:
                assert isinstance(one, OSError), f"reading {path} must fail"
                assert one.errno == refused[path], f"the error of {path}, as of open(): {one!r}"

    def test_read_files_sees_changes(self, layer: Layer) -> None:
        path = layer.file("file", data=b"before")
        before = self._version(layer, path)
        with layer.backend.open(path, Access.WRITE) as file:
            file.write_at(0, b"after, and longer")
        layer.backend.set_attributes(path, AttributeChange(mtime_ns=1_000_000_000 * 10**9))
        (one,) = layer.backend.read_files([WantedFile(path, 17)], unchanging=False)
        assert isinstance(one, FileContent)
        assert one.data == b"after, and longer"
        assert one.version != before, "another content has another version"

    def test_read_files_of_many_threads(self, layer: Layer) -> None:
        paths = [layer.file(f"file{number}", data=pattern(3000 + number)) for number in range(40)]
        wrong: list[str] = []

        def work(number: int) -> None:
            wanted = [WantedFile(path, 3000 + at) for at, path in enumerate(paths)][number % 3 :]
            for _ in range(5):
                for each, one in zip(
                    wanted, layer.backend.read_files(wanted, unchanging=bool(number % 2)), strict=True
                ):
                    if not isinstance(one, FileContent) or one.data != pattern(each.size):
                        wrong.append(each.path)

        run_threads(work)
        assert not wrong

    @staticmethod
    def _version(layer: Layer, path: LayerPath) -> object:
        (one,) = layer.backend.read_files([WantedFile(path, 6)], unchanging=False)
        assert isinstance(one, FileContent)
        return one.version
