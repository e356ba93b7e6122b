"""copy_range(): copies that the layer makes by itself."""

from __future__ import annotations

import errno
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from netoverlay.backend_api import Access, BackendFile
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.layer import Layer, pattern, refused, require

MIB = 1 << 20
COPY_SIZE = 3 * MIB + 11
MUCH = 20 * MIB + 4097
"""More than servers copy in one request (16 MiB), and no multiple of their chunks."""
MODEL_SIZE = 150_000
Copy = tuple[bool, bool, int, int, int]
"""Which file from, which one to, the two offsets and the length."""


def copy_all(target: BackendFile, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
    """What several calls copy, each of which goes on where the one before has stopped; the count."""
    done = 0
    while done < length:
        count = target.copy_range(source, source_offset + done, offset + done, length - done)
        assert 0 <= count <= length - done, "copy_range() counts what it copied, and copies no more than it is told"
        if not count:
            break
        done += count
    return done


class CopySuite(SuiteBase):
    """copy_range() between two files of one layer. That it raises where it is not claimed is proved in claims.py."""

    def test_copy_whole_file(self, layer: Layer) -> None:
        require(layer.claims.server_copy, "server_copy")
        data = pattern(COPY_SIZE)
        with (
            layer.backend.open(layer.file("file", data=data), Access.READ) as source,
            layer.create(layer.path("copy")) as target,
        ):
            done = copy_all(target, source, 0, 0, COPY_SIZE + 1)
            assert done == COPY_SIZE, "copy_range() goes on where it stopped, until it says 0"
            assert target.copy_range(source, COPY_SIZE, 0, 10) == 0, "copy_range() says 0 at the source's end"
        assert layer.read(layer.path("copy")) == data

    def test_copy_part(self, layer: Layer) -> None:
        require(layer.claims.server_copy, "server_copy")
        with (
            layer.backend.open(layer.file("file", data=b"0123456789"), Access.READ) as source,
            layer.backend.open(layer.file("copy", data=b"abcdefghij"), Access.READ_WRITE) as target,
        ):
            assert target.copy_range(source, 2, 5, 3) == 3
            assert target.read_at(0, 99) == b"abcde234ij", "copy_range() writes its range and no more"
            assert target.copy_range(source, 8, 9, 100) == 2, "copy_range() counts what the source has"
            assert target.read_at(0, 99) == b"abcde234i89"

    def test_copy_past_the_end(self, layer: Layer) -> None:
        require(layer.claims.server_copy, "server_copy")
        with (
            layer.backend.open(layer.file("file", data=b"0123"), Access.READ) as source,
            layer.backend.open(layer.file("copy", data=b"ab"), Access.READ_WRITE) as target,
        ):
            assert target.copy_range(source, 4, 0, 10) == 0, "copy_range() says 0 at the source's end"
            assert target.copy_range(source, 5 * MIB, 0, 10) == 0, "copy_range() says 0 past the source's end"
            assert target.copy_range(source, 0, 0, 0) == 0, "copy_range() of nothing copies nothing"
            assert target.stat().size == 2, "copy_range() that copies nothing changes nothing"
            assert target.copy_range(source, 1, MIB, 3) == 3
            assert target.read_at(0, 2 * MIB) == b"ab" + bytes(MIB - 2) + b"123", "a gap before a copy reads as zeros"

    def test_copy_much(self, layer: Layer) -> None:
        require(layer.claims.server_copy, "server_copy")
        data = random.Random(MUCH).randbytes(MUCH)
        with (
            layer.backend.open(layer.file("file", data=data), Access.READ) as source,
            layer.create(layer.path("copy")) as target,
        ):
            assert copy_all(target, source, 1, 3, MUCH) == MUCH - 1, (
                "however much: copy_range() goes on until it says 0"
            )
            assert target.read_at(0, MUCH + 3) == bytes(3) + data[1:]

    def test_copy_within_one_file(self, layer: Layer) -> None:
        require(layer.claims.server_copy, "server_copy")
        path = layer.file("file", data=b"0123456789")
        with layer.backend.open(path, Access.READ_WRITE) as file, layer.backend.open(path, Access.READ) as again:
            assert copy_all(file, file, 0, 5, 5) == 5, "ranges of one file that do not overlap are copied"
            assert copy_all(file, again, 5, 12, 3) == 3
            expected = b"0123401234" + bytes(2) + b"012"
            assert file.read_at(0, 99) == expected
            for source in (file, again):
                for source_offset, offset in ((0, 3), (3, 0), (2, 2)):
                    with refused(errno.EINVAL, advice="copy_range of ranges that overlap in one file"):
                        file.copy_range(source, source_offset, offset, 5)
            assert file.read_at(0, 99) == expected, "a refused copy_range() changes nothing"

    def test_copy_access(self, layer: Layer) -> None:
        require(layer.claims.server_copy, "server_copy")
        with (
            layer.backend.open(layer.file("file", data=b"0123"), Access.READ) as source,
            layer.backend.open(layer.file("copy"), Access.READ) as target,
            refused(errno.EBADF, advice="copy_range into a file that is open for reading"),
        ):
            target.copy_range(source, 0, 0, 4)

    def test_copy_from_another_backend(self, layer: Layer) -> None:
        require(layer.claims.server_copy, "server_copy")
        with MemoryBackend() as other:
            other.connect()
            elsewhere = Layer(other, layer.claims, "")
            with (
                elsewhere.create("file") as source,
                layer.create(layer.path("copy")) as target,
            ):
                source.write_at(0, b"0123")
                with refused(errno.EXDEV, advice="copy_range from a file that the layer cannot reach"):
                    target.copy_range(source, 0, 0, 4)
                assert target.stat().size == 0

    def test_random_copies_follow_model(self, layer: Layer) -> None:
        require(layer.claims.server_copy, "server_copy")
        offsets = st.integers(0, MODEL_SIZE)
        copies = st.lists(st.tuples(st.booleans(), st.booleans(), offsets, offsets, offsets), min_size=1, max_size=8)

        @settings(max_examples=15, deadline=None, database=None)
        @given(copies)
        def follows_model(steps: list[Copy]) -> None:
            paths = [layer.path("left"), layer.path("right")]
            with layer.create(paths[0]) as left, layer.create(paths[1]) as right:
                try:
                    _play(steps, [left, right])
                finally:
                    for path in paths:
                        layer.backend.unlink(path)

        follows_model()


def _play(steps: list[Copy], files: list[BackendFile]) -> None:
    models = [bytearray(pattern(MODEL_SIZE // 2, number)) for number in range(len(files))]
    for file, model in zip(files, models, strict=True):
        file.write_at(0, model)
    for number, (source, target, source_offset, offset, length) in enumerate(steps):
        if source == target and abs(source_offset - offset) < length:
            continue
        data = models[source][source_offset : source_offset + length]
        # What is copied within a file can make it longer: asked again for the rest, there is one.
        asked = len(data) if source == target else length
        count = copy_all(files[target], files[source], source_offset, offset, asked)
        assert count == len(data), f"a wrong count after {steps[: number + 1]}"
        if data:
            models[target].extend(bytes(max(0, offset - len(models[target]))))
            models[target][offset : offset + len(data)] = data
    for file, model in zip(files, models, strict=True):
        assert file.read_at(0, len(model) + 1) == model, f"wrong after {steps}"
