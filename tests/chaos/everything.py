"""A program that does all that programs do with files, below a directory of its own, and knows what must come of it.

Each step is some calls; whatever they read or show is compared with the model. Nothing fails on a mount that is well,
so a failure is a difference, and the end.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import stat as stat_bits
from collections import deque
from collections.abc import Callable

from tests.chaos.soak_base import COMMON, base_files, common_files
from tests.chaos.soak_model import Directory, File
from tests.chaos.soak_program import Program
from tests.mounted.lockers import FLOCK

_MOST_BYTES = 96 << 10
"""Of a file that is written to; one of the base may be longer."""
_FEWEST_FILES, _MOST_FILES = 24, 64
_MOST_DIRECTORIES = 10
_MOST_SYMLINKS = 8
_MOST_LINKS = 4
_MOST_ORPHANS = 4
_ATTRIBUTES = ("user.one", "user.two", "user.three")


class Everything(Program):
    """One such program, in the directory where its process is."""

    def __init__(self, number: int, files: int, rng: random.Random) -> None:
        """`files`: how many of the base are there for it."""
        super().__init__(rng)
        self._orphans: list[File] = []
        """Open, and without a name."""
        self._symlinks: dict[str, str] = {}
        self._common = [(f"../{COMMON}/{file.name}", file.content()) for file in common_files()]
        self._base = deque(base_files(number, files))
        self._base_directories = {file.directory: Directory(file.directory) for file in self._base}
        for file in self._base:
            self._base_directories[file.directory].entries.add(file.name)
        self._root.entries.update(self._base_directories)
        chances = self._steps()
        self._chances = [chance for chance, _ in chances]
        self._calls = [step for _, step in chances]

    def step(self) -> None:
        """Some calls."""
        self._rng.choices(self._calls, self._chances)[0]()

    def read_the_base(self) -> None:
        """Each file once: what the daemon keeps of it is there from now on."""
        for file in self._base:
            self._read_whole(f"{file.directory}/{file.name}", file.content())

    def finish(self) -> dict[str, bytes]:
        """Close everything, and compare it; all files that there are, with what each must hold."""
        for file in [*self._orphans, *self._files]:
            self._close(file)
        self._orphans.clear()
        self._list_all()
        for file in self._files:
            self._read_whole(file.path, file.content)
            self._compare_attributes(file)
        found = {file.path: bytes(file.content) for file in self._files}
        return found | {f"{file.directory}/{file.name}": file.content() for file in self._base}

    def _steps(self) -> list[tuple[float, Callable[[], None]]]:
        return [
            (10, self._create),
            (10, self._write),
            (10, self._append),
            (14, self._read),
            (8, self._reread),
            (4, self._truncate),
            (14, self._look),
            (6, self._list),
            (0.2, self._list_all),
            (8, self._unlink),
            (6, self._rename),
            (3, self._rename_over),
            (2, self._rename_directory),
            (4, self._link),
            (4, self._symlink),
            (3, self._make_directory),
            (3, self._remove_directory),
            (5, self._set_attribute),
            (5, self._look_at_attributes),
            (3, self._change_mode),
            (3, self._map),
            (4, self._lock),
            (4, self._flock),
            (8, self._look_for_what_is_absent),
            (5, self._use_an_orphan),
            (4, self._close_one),
            (5, self._read_common),
            (2.2, self._change_base_file),
            (1, self._read_base_file),
            (0.5, self._sync),
        ]

    # Content.

    def _create(self) -> None:
        if len(self._files) >= _MOST_FILES:
            self._unlink()
        self._make_file()

    def _write(self) -> None:
        file = self._a_file()
        offset = self._rng.randint(0, min(len(file.content) + 2_000, _MOST_BYTES))
        self._put(file, self._opened(file), offset, self._some_bytes())

    def _append(self) -> None:
        file = self._a_file()
        if len(file.content) < _MOST_BYTES:
            data = self._some_bytes()
            descriptor = self._call(os.open, file.path, os.O_WRONLY | os.O_APPEND)
            self._same("appended", self._call(os.write, descriptor, data), len(data))
            self._call(os.close, descriptor)
            file.content += data

    def _read(self) -> None:
        file = self._a_file()
        descriptor = self._opened(file)
        if self._rng.random() < 0.5:
            self._call(os.posix_fadvise, descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        offset = self._rng.randint(0, len(file.content))
        length = self._rng.randint(1, 10_000)
        found = self._call(os.pread, descriptor, length, offset)
        self._same_bytes(file.path, found, file.content[offset : offset + length])

    def _reread(self) -> None:
        file = self._a_file()
        self._read_whole(file.path, file.content, forget=self._rng.random() < 0.3)

    def _read_common(self) -> None:
        path, content = self._rng.choice(self._common)
        self._read_whole(path, content, forget=self._rng.random() < 0.5)

    def _truncate(self) -> None:
        file = self._a_file()
        size = self._rng.choice((0, len(file.content) // 2, min(len(file.content) + 500, _MOST_BYTES)))
        file.content[size:] = bytes(max(0, size - len(file.content)))
        if self._rng.random() < 0.5:
            self._call(os.ftruncate, self._opened(file), size)
        else:
            self._call(os.truncate, file.path, size)

    def _close_one(self) -> None:
        self._close(self._a_file())

    def _sync(self) -> None:
        self._call(os.fsync, self._opened(self._a_file()))

    def _map(self) -> None:
        file = self._a_file()
        descriptor = self._opened(file)
        if not file.content:
            return
        length = len(file.content)
        offset = self._rng.randrange(length)
        data = self._some_bytes()[: length - offset]
        with self._call(mmap.mmap, descriptor, length) as mapped:
            self._same_bytes("mapped", mapped[:], file.content)
            mapped[offset : offset + len(data)] = data
            if self._rng.random() < 0.3:
                self._call(mapped.flush)
        file.content[offset : offset + len(data)] = data
        self._same_bytes("read of what was mapped", self._call(os.pread, descriptor, length, 0), file.content)

    # Names.

    def _unlink(self) -> None:
        if len(self._files) <= _FEWEST_FILES:
            return
        file = self._a_file()
        self._call(os.unlink, file.path)
        directory, name = file.names.pop(0)
        directory.entries.discard(name)
        self._lost_a_name(file)

    def _lost_a_name(self, file: File) -> None:
        """A file without one stays if it is open, for a while."""
        if file.names:
            return
        self._files.remove(file)
        if file.descriptor is not None:
            self._orphans.append(file)
        if len(self._orphans) > _MOST_ORPHANS:
            self._close(self._orphans.pop(0))

    def _use_an_orphan(self) -> None:
        if not self._orphans:
            return
        file = self._rng.choice(self._orphans)
        if file.descriptor is None:
            raise RuntimeError("it is open")
        self._put(file, file.descriptor, self._rng.randint(0, len(file.content)), self._some_bytes()[:4_000])
        found = self._call(os.pread, file.descriptor, len(file.content) + 1, 0)
        self._same_bytes("a file without a name", found, file.content)
        self._same("its links", self._call(os.fstat, file.descriptor).st_nlink, 0)

    def _rename(self) -> None:
        file = self._a_file()
        old, name = file.names[0]
        directory, new = self._a_directory(), self._fresh_name()
        self._call(os.rename, file.path, directory.path(new))
        old.entries.discard(name)
        directory.entries.add(new)
        file.names[0] = (directory, new)

    def _rename_over(self) -> None:
        file, other = self._a_file(), self._a_file()
        if file is other or len(self._files) <= _FEWEST_FILES:
            return
        self._call(os.rename, file.path, other.path)
        old, name = file.names[0]
        old.entries.discard(name)
        file.names[0] = other.names.pop(0)
        self._lost_a_name(other)

    def _link(self) -> None:
        file = self._a_file()
        if len(file.names) < _MOST_LINKS:
            directory, name = self._a_directory(), self._fresh_name()
            self._call(os.link, file.path, directory.path(name))
            directory.entries.add(name)
            file.names.append((directory, name))

    def _symlink(self) -> None:
        """One more, or one less."""
        if len(self._symlinks) < _MOST_SYMLINKS:
            name, target = self._fresh_name(), self._a_file().path
            self._call(os.symlink, target, name)
            self._symlinks[name] = target
            self._root.entries.add(name)
            return
        name = self._rng.choice(list(self._symlinks))
        self._same("target", self._call(os.readlink, name), self._symlinks.pop(name))
        self._call(os.unlink, name)
        self._root.entries.discard(name)

    def _make_directory(self) -> None:
        if len(self._directories) < _MOST_DIRECTORIES:
            directory = Directory(self._fresh_name())
            self._call(os.mkdir, directory.name)
            self._directories.append(directory)
            self._root.entries.add(directory.name)

    def _remove_directory(self) -> None:
        if not self._directories:
            return
        directory = self._rng.choice(self._directories)
        if directory.entries:
            self._refused(errno.ENOTEMPTY, os.rmdir, directory.name)
        else:
            self._call(os.rmdir, directory.name)
            self._directories.remove(directory)
            self._root.entries.discard(directory.name)

    def _rename_directory(self) -> None:
        if self._directories:
            directory, new = self._rng.choice(self._directories), self._fresh_name()
            self._call(os.rename, directory.name, new)
            self._root.entries.discard(directory.name)
            self._root.entries.add(new)
            directory.name = new

    # What is shown.

    def _look(self) -> None:
        file = self._a_file()
        found = self._call(os.lstat, file.path)
        self._same("kind", stat_bits.S_ISREG(found.st_mode), wanted=True)
        self._same("mode", stat_bits.S_IMODE(found.st_mode), file.mode)
        self._same(f"size of {file.path}", found.st_size, len(file.content))
        self._same(f"links of {file.path}", found.st_nlink, len(file.names))

    def _list(self) -> None:
        self._list_one(self._rng.choice(self._directories) if self._directories else self._root)

    def _list_one(self, directory: Directory) -> None:
        found = set(self._call(os.listdir, directory.name or "."))
        self._same(f"names in {directory.name} that differ", found ^ directory.entries, set())

    def _list_all(self) -> None:
        for directory in (self._root, *self._directories):
            self._list_one(directory)

    def _look_for_what_is_absent(self) -> None:
        name = self._a_directory().path(f"absent{self._rng.randrange(1_000_000)}")
        self._refused(errno.ENOENT, os.lstat, name)
        self._refused(errno.ENOENT, os.open, name, os.O_RDONLY)

    def _change_mode(self) -> None:
        file = self._a_file()
        file.mode = self._rng.choice((0o600, 0o640, 0o644, 0o755))
        self._call(os.chmod, file.path, file.mode)

    def _set_attribute(self) -> None:
        file, name = self._a_file(), self._rng.choice(_ATTRIBUTES)
        if name in file.attributes and self._rng.random() < 0.4:
            self._call(os.removexattr, file.path, name)
            del file.attributes[name]
        else:
            file.attributes[name] = self._some_bytes()[:100]
            self._call(os.setxattr, file.path, name, file.attributes[name])

    def _look_at_attributes(self) -> None:
        self._compare_attributes(self._a_file())

    def _compare_attributes(self, file: File) -> None:
        found = self._call(os.listxattr, file.path)
        self._same(f"attributes of {file.path}", {name for name in found if name in _ATTRIBUTES}, set(file.attributes))
        for name, value in file.attributes.items():
            self._same(f"{name} of {file.path}", self._call(os.getxattr, file.path, name), value)

    # Locks.

    def _lock(self) -> None:
        """Of a range: other descriptions are refused it until it is given up."""
        file = self._a_file()
        descriptor = self._opened(file)
        other = self._call(os.open, file.path, os.O_RDWR)
        start = self._rng.randrange(1_000)
        self._call(_lock_range, descriptor, fcntl.F_WRLCK, start, 100)
        self._refused(errno.EAGAIN, _lock_range, other, fcntl.F_RDLCK, start + 50, 1)
        self._call(_lock_range, other, fcntl.F_RDLCK, start + 100, 1)
        self._call(_lock_range, descriptor, fcntl.F_UNLCK, start, 100)
        self._call(os.close, other)

    def _flock(self) -> None:
        path = self._a_file().path
        one, other = self._call(os.open, path, os.O_RDONLY), self._call(os.open, path, os.O_RDONLY)
        self._call(fcntl.flock, one, fcntl.LOCK_EX)
        self._refused(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._call(os.close, one)
        self._call(fcntl.flock, other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self._call(os.close, other)

    # The base.

    def _read_base_file(self) -> None:
        if self._base:
            file = self._rng.choice(self._base)
            self._read_whole(f"{file.directory}/{file.name}", file.content(), forget=True)

    def _change_base_file(self) -> None:
        """The next one: from then on it is a file as all others are."""
        if not self._base:
            return
        base = self._base.popleft()
        directory = self._base_directories[base.directory]
        file = File(bytearray(base.content()), [(directory, base.name)], 0o644)
        self._files.append(file)
        change = self._rng.choice((self._rename_this, self._append_to_this, self._write_to_this, self._empty_this))
        change(file)
        if not self._base or self._base[0].directory != directory.name:
            self._leave(directory)

    def _rename_this(self, file: File) -> None:
        old, name = file.names[0]
        new = self._fresh_name()
        self._call(os.rename, file.path, new)
        old.entries.discard(name)
        self._root.entries.add(new)
        file.names[0] = (self._root, new)

    def _append_to_this(self, file: File) -> None:
        self._put(file, self._opened(file), len(file.content), self._some_bytes())

    def _write_to_this(self, file: File) -> None:
        self._put(file, self._opened(file), len(file.content) // 2, self._some_bytes())

    def _empty_this(self, file: File) -> None:
        self._call(os.truncate, file.path, 0)
        file.content.clear()

    def _leave(self, directory: Directory) -> None:
        """All of its files were changed: what has its name there yet goes elsewhere, and it is removed."""
        for file in self._files:
            for at, (where, name) in enumerate(file.names):
                if where is directory:
                    new = self._fresh_name()
                    self._call(os.rename, where.path(name), new)
                    self._root.entries.add(new)
                    file.names[at] = (self._root, new)
        self._call(os.rmdir, directory.name)
        self._root.entries.discard(directory.name)
        del self._base_directories[directory.name]


def _lock_range(descriptor: int, kind: int, start: int, length: int) -> None:
    """Of the open file description, at once or not at all. OSError: EAGAIN if another has it."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(kind, os.SEEK_SET, start, length, 0))
