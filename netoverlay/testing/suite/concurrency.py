"""Eight threads at once, and many files open at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from netoverlay.backend_api import Access, FileType, RenameFlags
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.layer import THREADS, Layer, for_each, pattern, require, run_threads

ROUNDS = 12
RACES = 20
SHARED_SIZE = 2 << 20
READS = 60
STRIPE = 10_007
STRIPES = 24


class ThreadSuite(SuiteBase):
    """A backend is called from many threads at once, also on one file."""

    def test_threads_with_own_files(self, layer: Layer) -> None:
        def work(number: int) -> None:
            directory = layer.directory(f"thread-{number}")
            for turn in range(ROUNDS):
                data = pattern(20_000 + 7_001 * number + turn, number * ROUNDS + turn)
                path = layer.file(f"thread-{number}", f"file-{turn}", data=data)
                assert layer.read(path) == data, "threads must not see each other's data"
                assert layer.backend.stat(path).size == len(data)
                layer.backend.rename(path, layer.path(f"thread-{number}", f"moved-{turn}"))
                assert f"moved-{turn}" in layer.names(directory)
                if turn % 2:
                    layer.backend.unlink(layer.path(f"thread-{number}", f"moved-{turn}"))
            expected = sorted(f"moved-{turn}" for turn in range(0, ROUNDS, 2))
            assert layer.names(directory) == expected

        run_threads(work)

    def test_threads_reading_one_open_file(self, layer: Layer) -> None:
        data = pattern(SHARED_SIZE)
        path = layer.file("file", data=data)
        with layer.backend.open(path, Access.READ) as file:

            def work(number: int) -> None:
                choice = random.Random(number)
                for _ in range(READS):
                    offset, size = choice.randrange(SHARED_SIZE), choice.randrange(200_000)
                    assert file.read_at(offset, size) == data[offset : offset + size]

            run_threads(work)

    def test_threads_writing_one_open_file(self, layer: Layer) -> None:
        with layer.create(layer.path("file")) as file:

            def work(number: int) -> None:
                for turn in range(STRIPES):
                    stripe = turn * THREADS + number
                    file.write_at(stripe * STRIPE, pattern(STRIPE, stripe))
                    assert file.read_at(stripe * STRIPE, STRIPE) == pattern(STRIPE, stripe)

            run_threads(work)
        expected = b"".join(pattern(STRIPE, stripe) for stripe in range(STRIPES * THREADS))
        assert layer.read(layer.path("file")) == expected, "writes to different parts of a file must all arrive"

    def test_threads_reading_and_writing(self, layer: Layer) -> None:
        contents = [pattern(300_000, number) for number in range(2)]
        paths = [layer.file(f"file-{number}", data=content) for number, content in enumerate(contents)]

        def work(number: int) -> None:
            for turn in range(ROUNDS):
                if number % 2:
                    assert layer.read(paths[number % 4 // 2]) == contents[number % 4 // 2]
                    layer.backend.list_dir(layer.home)
                else:
                    path = layer.file(f"{number}-{turn}", data=contents[0])
                    assert layer.read(path) == contents[0]

        run_threads(work)

    def test_listing_while_it_changes(self, layer: Layer) -> None:
        stable = [f"stable-{number}" for number in range(50)]
        for_each([layer.path(name) for name in stable], lambda path: layer.create(path).close())
        done = threading.Event()

        def work(number: int) -> None:
            if number < 2:
                while not done.is_set():
                    names = layer.names(layer.home)
                    assert set(stable) <= set(names), "an entry that stays must be in every listing"
                    assert len(names) == len(set(names)), "no entry may be listed twice"
                return
            try:
                for turn in range(ROUNDS * 3):
                    path = layer.file(f"passing-{number}-{turn}")
                    layer.backend.unlink(path)
            finally:
                done.set()

        run_threads(work)


class RaceSuite(SuiteBase):
    """Of several that want the same name exactly one gets it."""

    def test_exclusive_creation_race(self, layer: Layer) -> None:
        self._race(layer, lambda path: layer.create(path).close())

    def test_mkdir_race(self, layer: Layer) -> None:
        self._race(layer, lambda path: layer.backend.mkdir(path, 0o755))

    def test_rename_noreplace_race(self, layer: Layer) -> None:
        require(layer.claims.rename_noreplace, "rename_noreplace")

        def take(path: str) -> None:
            own = layer.file(f"own-{threading.get_ident()}-{path.rpartition('/')[2]}")
            try:
                layer.backend.rename(own, path, RenameFlags.NOREPLACE)
            except FileExistsError:
                layer.backend.unlink(own)
                raise

        self._race(layer, take)

    def test_atomic_replace(self, layer: Layer) -> None:
        require(layer.claims.atomic_replace, "atomic_replace")
        path = layer.file("file", data=b"0")
        done = threading.Event()

        def work(number: int) -> None:
            if number:
                while not done.is_set():
                    told = layer.backend.stat(path)
                    assert told.type is FileType.REGULAR, "a name that is replaced must be there at all times"
                return
            try:
                for turn in range(RACES * 4):
                    layer.backend.rename(layer.file(f"next-{turn}", data=b"1"), path)
            finally:
                done.set()

        run_threads(work, 3)

    @staticmethod
    def _race(layer: Layer, take: Callable[[str], None]) -> None:
        winners: list[int] = []

        def work(_: int) -> None:
            for turn in range(RACES):
                try:
                    take(layer.path(f"prize-{turn}"))
                except FileExistsError:
                    continue
                winners.append(turn)

        run_threads(work)
        assert sorted(winners) == list(range(RACES)), "exactly one of several must get a name, the others EEXIST"


class ManyFilesSuite(SuiteBase):
    """How many files are open must not depend on what a server allows."""

    def test_many_open_files(self, layer: Layer) -> None:
        paths = [layer.path(f"file-{number}") for number in range(self.open_files)]
        files = [layer.create(path) for path in paths]
        try:
            for number, file in enumerate(files):
                file.write_at(0, b"%d" % number)
            for number, file in reversed(list(enumerate(files))):
                assert file.read_at(0, 99) == b"%d" % number, "many files open at once must not be mixed up"
        finally:
            for file in files:
                file.close()
        assert len(layer.backend.list_dir(layer.home)) == self.open_files
