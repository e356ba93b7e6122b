"""Reading and writing files."""

from __future__ import annotations

import errno
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from netoverlay.backend_api import Access, AttributeChange, BackendFile, Creation, FileType
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.layer import Layer, pattern, refused, require

LARGE_SIZE = 5 * (1 << 20) + 17
FAR = 1 << 40
MODEL_SIZE = 200_000
OLD_TIME_NS = 1_000_000_000 * 10**9
Step = tuple[str, int, int]


class OpenSuite(SuiteBase):
    """open() and its refusals."""

    def test_open_missing(self, layer: Layer) -> None:
        layer.file("file")
        for access in Access:
            with refused(errno.ENOENT, advice=f"open({access.name}) of a missing file"):
                layer.backend.open(layer.path("missing"), access)
            with refused(errno.ENOENT, advice=f"open({access.name}) in a missing directory"):
                layer.backend.open(layer.path("missing", "file"), access)
            with refused(errno.ENOTDIR, advice=f"open({access.name}) beneath a file"):
                layer.backend.open(layer.path("file", "below"), access)
        with refused(errno.ENOENT, advice="open(truncate=True) of a missing file"):
            layer.backend.open(layer.path("missing"), Access.WRITE, truncate=True)
        with refused(errno.ENOENT, advice="creating a file in a missing directory"):
            layer.create(layer.path("missing", "file"))
        with refused(errno.ENOTDIR, advice="creating a file beneath a file"):
            layer.create(layer.path("file", "below"))
        assert layer.names(layer.home) == ["file"], "a refused open must create nothing"

    def test_open_directory(self, layer: Layer) -> None:
        path = layer.directory("directory")
        for access in Access:
            with refused(errno.EISDIR, advice=f"open({access.name}) of a directory"):
                layer.backend.open(path, access)

    def test_open_symlink(self, layer: Layer) -> None:
        require(layer.claims.symlinks, "symlinks")
        layer.file("file", data=b"content")
        for name, target in (("link", "file"), ("dangling", "missing")):
            layer.backend.symlink(layer.path(name), target)
            for access in Access:
                with refused(errno.ELOOP, advice=f"open({access.name}) of a symlink, which is never followed"):
                    layer.backend.open(layer.path(name), access)
        with refused(errno.ELOOP, advice="open(truncate=True) of a symlink"):
            layer.backend.open(layer.path("link"), Access.WRITE, truncate=True)
        assert layer.read(layer.path("file")) == b"content"

    def test_open_special_file(self, layer: Layer) -> None:
        require(layer.claims.special_files, "special_files")
        layer.backend.mknod(layer.path("fifo"), FileType.FIFO, 0o644)
        for access in Access:
            with refused(errno.ENXIO, advice=f"open({access.name}) of a FIFO, without waiting for its other end"):
                layer.backend.open(layer.path("fifo"), access)

    def test_exclusive_creation_refusals(self, layer: Layer) -> None:
        layer.file("file", data=b"content")
        layer.directory("directory")
        names = ["file", "directory"]
        if layer.claims.symlinks:
            layer.backend.symlink(layer.path("dangling"), "nowhere")
            names.append("dangling")
        for name in names:
            with refused(errno.EEXIST, advice=f"exclusive creation where there is a {name}"):
                layer.backend.open(layer.path(name), Access.WRITE, create=Creation.EXCLUSIVE)
        assert layer.read(layer.path("file")) == b"content"
        assert layer.names(layer.home) == sorted(names)

    def test_open_truncate(self, layer: Layer) -> None:
        path = layer.file("file", data=b"content")
        with layer.backend.open(path, Access.READ_WRITE, truncate=True) as file:
            assert file.stat().size == 0, "open(truncate=True) empties the file"
            file.write_at(0, b"new")
        assert layer.read(path) == b"new"

    def test_open_access(self, layer: Layer) -> None:
        path = layer.file("file", data=b"content")
        with layer.backend.open(path, Access.READ) as file:
            with refused(errno.EBADF, advice="write_at on a file that is open for reading"):
                file.write_at(0, b"x")
            with refused(errno.EBADF, advice="truncate on a file that is open for reading"):
                file.truncate(0)
        with (
            layer.backend.open(path, Access.WRITE) as file,
            refused(errno.EBADF, advice="read_at on a file that is open for writing"),
        ):
            file.read_at(0, 1)
        assert layer.read(path) == b"content"

    def test_use_after_close(self, layer: Layer) -> None:
        file = layer.create(layer.path("file"))
        file.close()
        file.close()
        with refused(errno.EBADF, advice="read_at after close()"):
            file.read_at(0, 1)
        with refused(errno.EBADF, advice="write_at after close()"):
            file.write_at(0, b"x")
        with refused(errno.EBADF, advice="stat after close()"):
            file.stat()

    def test_fileno(self, layer: Layer) -> None:
        with layer.backend.open(layer.file("file", data=b"12345"), Access.READ) as file:
            descriptor = file.fileno()
            if layer.claims.local:
                assert descriptor is not None, "Capabilities.local is claimed: give the descriptor"
                assert os.fstat(descriptor).st_size == 5
            elif descriptor is not None:
                assert os.pread(descriptor, 10, 0) == b"12345", "a descriptor must hold what the file holds"


class ContentSuite(SuiteBase):
    """What was written is read, and nothing else."""

    def test_read_at_the_end(self, layer: Layer) -> None:
        with layer.create(layer.path("file")) as file:
            assert file.read_at(0, 10) == b"", "an empty file reads as nothing"
            file.write_at(0, b"0123456789")
            assert file.read_at(0, 10) == b"0123456789"
            assert file.read_at(8, 10) == b"89", "a read over the end gives what is there"
            assert file.read_at(10, 10) == b"", "a read at the end gives nothing"
            assert file.read_at(FAR, 10) == b"", "a read past the end gives nothing"
            assert file.read_at(3, 0) == b""

    def test_read_into(self, layer: Layer) -> None:
        with layer.create(layer.path("file")) as file:
            file.write_at(0, b"0123456789")
            buffer = bytearray(b"." * 8)
            assert file.read_into(2, memoryview(buffer)[2:6]) == 4
            assert bytes(buffer) == b"..2345..", "fill the given memory and nothing around it"
            buffer = bytearray(b"." * 8)
            assert file.read_into(7, buffer) == 3, "the count ends at the end of the file"
            assert bytes(buffer) == b"789.....", "leave what lies behind the count alone"
            assert file.read_into(0, bytearray()) == 0

    def test_write(self, layer: Layer) -> None:
        path = layer.path("file")
        with layer.create(path) as file:
            file.write_at(0, bytearray(b"0123456789"))
            file.write_at(3, memoryview(b"abc"))
            file.write_at(9, b"xyz")
            assert file.read_at(0, 99) == b"012abc678xyz"
            file.write_at(100, b"")
            assert file.stat().size == 12, "writing nothing changes nothing"
        assert layer.read(path) == b"012abc678xyz"
        assert layer.backend.stat(path).size == 12

    def test_write_after_gap(self, layer: Layer) -> None:
        with layer.create(layer.path("file")) as file:
            file.write_at(5, b"end")
            assert file.read_at(0, 99) == bytes(5) + b"end", "a gap reads as zeros"
            file.write_at(100_000, b"end")
            assert file.read_at(8, 200_000) == bytes(100_000 - 8) + b"end"

    def test_truncate(self, layer: Layer) -> None:
        path = layer.path("file")
        with layer.create(path) as file:
            file.write_at(0, b"0123456789")
            file.truncate(4)
            assert file.read_at(0, 99) == b"0123"
            file.truncate(8)
            assert file.read_at(0, 99) == b"0123" + bytes(4), "what truncate adds reads as zeros"
            file.truncate(0)
            assert file.stat().size == 0
            file.truncate(LARGE_SIZE)
            assert file.stat().size == LARGE_SIZE
            assert file.read_at(LARGE_SIZE - 3, 99) == bytes(3)
        assert layer.backend.stat(path).size == LARGE_SIZE

    def test_large_content(self, layer: Layer) -> None:
        data = pattern(LARGE_SIZE)
        with layer.create(layer.path("file")) as file:
            file.write_at(0, data)
            assert file.read_at(0, LARGE_SIZE + 1) == data, "one read of several MiB gives all of it"
            assert file.read_at(1_000_003, 2_000_001) == data[1_000_003:3_000_004]
        with layer.backend.open(layer.path("file"), Access.READ) as file:
            pieces = [file.read_at(offset, 300_007) for offset in range(0, LARGE_SIZE, 300_007)]
        assert b"".join(pieces) == data

    def test_beyond_4_gib(self, layer: Layer) -> None:
        path = layer.path("file")
        with layer.create(path) as file:
            file.write_at(self.sparse_offset, b"far away")
            assert file.stat().size == self.sparse_offset + 8
            assert file.read_at(self.sparse_offset - 4, 99) == bytes(4) + b"far away"
            assert file.read_at((1 << 32) - 2, 4) == bytes(4), "offsets have 64 bits"
            assert file.read_at(0, 8) == bytes(8), "an offset must not wrap at 4 GiB"
        assert layer.backend.stat(path).size == self.sparse_offset + 8
        with layer.backend.open(path, Access.WRITE) as file:
            file.truncate((1 << 32) + 1)
        assert layer.backend.stat(path).size == (1 << 32) + 1

    def test_random_steps_follow_model(self, layer: Layer) -> None:
        offsets = st.integers(0, MODEL_SIZE)
        step = st.tuples(st.sampled_from(("write", "truncate", "read")), offsets, st.integers(0, 70_000))

        @settings(max_examples=15, deadline=None, database=None)
        @given(st.lists(step, min_size=1, max_size=12))
        def follows_model(steps: list[Step]) -> None:
            with layer.create(layer.path("model")) as file:
                try:
                    _play(steps, file)
                finally:
                    layer.backend.unlink(layer.path("model"))

        follows_model()


class OpenFileSuite(SuiteBase):
    """An open file stays the file that was opened, and all see its changes."""

    def test_two_opens(self, layer: Layer) -> None:
        path = layer.path("file")
        with layer.create(path) as writer, layer.backend.open(path, Access.READ) as reader:
            writer.write_at(0, b"first")
            assert reader.read_at(0, 99) == b"first", "a write is seen by other opens at once"
            assert reader.stat().size == 5
            assert layer.backend.stat(path).size == 5, "stat() of an open file tells its size now"
            writer.truncate(2)
            assert reader.read_at(0, 99) == b"fi"

    def test_unlinked_while_open(self, layer: Layer) -> None:
        path = layer.file("file", data=b"old")
        with layer.backend.open(path, Access.READ_WRITE) as file:
            layer.backend.unlink(path)
            assert not layer.exists(path)
            layer.file("file", data=b"another")
            assert file.read_at(0, 99) == b"old", "an unlinked file stays readable while it is open"
            file.write_at(3, b" more")
            assert file.read_at(0, 99) == b"old more"
            assert file.stat().size == 8
            if layer.claims.link_counts:
                assert file.stat().nlink in (0, None)
        assert layer.read(path) == b"another", "a write to an unlinked file must not reach its successor"

    def test_renamed_while_open(self, layer: Layer) -> None:
        path = layer.file("file", data=b"old")
        with layer.backend.open(path, Access.READ_WRITE) as file:
            layer.backend.rename(path, layer.path("moved"))
            layer.file("file", data=b"another")
            file.write_at(3, b" more")
            assert file.read_at(0, 99) == b"old more", "a renamed file stays open"
        assert layer.read(layer.path("moved")) == b"old more"
        assert layer.read(path) == b"another"

    def test_parent_renamed_while_open(self, layer: Layer) -> None:
        layer.directory("directory")
        path = layer.file("directory", "file", data=b"old")
        with layer.backend.open(path, Access.READ_WRITE) as file:
            layer.backend.rename(layer.path("directory"), layer.path("moved"))
            file.write_at(3, b" more")
            assert file.read_at(0, 99) == b"old more", "a file stays open when a directory above it is renamed"
        assert layer.read(layer.path("moved", "file")) == b"old more"

    def test_replaced_while_open(self, layer: Layer) -> None:
        path = layer.file("file", data=b"old")
        with layer.backend.open(path, Access.READ) as file:
            layer.backend.rename(layer.file("other", data=b"new"), path)
            assert file.read_at(0, 99) == b"old", "a replaced file stays readable while it is open"
        assert layer.read(path) == b"new"

    def test_writing_changes_the_time(self, layer: Layer) -> None:
        path = layer.file("file", data=b"old")
        layer.backend.set_attributes(path, AttributeChange(mtime_ns=OLD_TIME_NS))
        with layer.backend.open(path, Access.WRITE) as file:
            file.write_at(0, b"new")
        assert layer.backend.stat(path).mtime_ns > OLD_TIME_NS, "a write sets the modification time"

    def test_sync(self, layer: Layer) -> None:
        path = layer.path("file")
        with layer.create(path) as file:
            file.write_at(0, b"kept")
            file.sync()
            file.sync(data_only=True)
        layer.backend.sync_directory(layer.home)
        layer.backend.sync_directory("")
        layer.backend.sync()
        assert layer.read(path) == b"kept"


def _play(steps: list[Step], file: BackendFile) -> None:
    model = bytearray()
    for number, (action, offset, length) in enumerate(steps):
        if action == "write" and length:
            model.extend(bytes(max(0, offset + length - len(model))))
            model[offset : offset + length] = pattern(length, number)
            file.write_at(offset, pattern(length, number))
        elif action == "truncate":
            model.extend(bytes(max(0, offset - len(model))))
            del model[offset:]
            file.truncate(offset)
        assert file.read_at(offset, length) == model[offset : offset + length], f"wrong after {steps[: number + 1]}"
    assert file.read_at(0, len(model) + 1) == model
