"""What a lazily copied file lacks of its base's data, kept in the work directory over crashes.

A map is a text of JSON lines that only grows. The first line names the base's file, and the ranges of bytes that were
missing when it was written; "have" lines take away from these. The order of writing keeps a crash from showing zeros
for the base's data, or the base's data for what was synced:

- The data is written before its "have" line. If the process dies in between, the line is missing: the old data shows.
- A "have" line counts if its data is known to be on stable storage, which a later "synced" line tells, written when it
  was; or if the machine was not started anew since the line was written, for then no write that was made is lost. So a
  line that reached the disk before its data did does not count after a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from netoverlay.backend_api import Access, Backend, BackendFile, Creation, LayerPath, split_path
from netoverlay.overlay.range_map import RangeMap

FORMAT: Final = "netoverlay-lazy"
VERSION: Final = 1
NEW_SUFFIX: Final = ".new"
"""Of a map that is being written anew."""
LARGE_BYTES: Final = 1 << 20
"""A map that has grown so much since it was written is worth writing anew."""
END: Final = 1 << 63
"""Behind all offsets."""

_PAIR: Final = 2
_NEVER_ENTRIES: Final = frozenset(("", ".", ".."))
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class BaseFile(NamedTuple):
    """The file of a lower whose data is shown where the map says so: which, and what it was at copy-up."""

    layer: str
    """Layer.identity."""
    path: LayerPath
    size: int
    mtime_ns: int
    file_id: int | None


class Position(NamedTuple):
    """How far a map was written at some moment."""

    generation: int
    offset: int


class DamagedMapError(OSError):
    """A map cannot be read as one, or is not there (EIO)."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EIO, f"the map of a lazily copied file: {reason}")


class MapFacts(NamedTuple):
    """What a map says now, as far as it counts."""

    base: BaseFile
    missing: RangeMap[bool]
    """The ranges that are in the base only."""
    uncounted_bytes: int
    """Torn at its end, or in lines that do not count: written away when the map is loaded."""


def read_map(backend: Backend, path: LayerPath, boot: str) -> MapFacts:
    """Look at the map at `path`, and change nothing. DamagedMapError."""
    with _opened(backend, path, Access.READ) as file:
        text = file.read_at(0, file.stat().size)
    read = _Reading(text, boot)
    return MapFacts(read.base, read.missing, len(text) if read.doubtful else len(text) - read.end)


def _opened(backend: Backend, path: LayerPath, access: Access) -> BackendFile:
    try:
        return backend.open(path, access)
    except FileNotFoundError:
        raise DamagedMapError(f"{path} is not there") from None


class LazyMap:
    """The map of one file, open. Not thread-safe, but for `sync_file`."""

    def __init__(self, backend: Backend, path: LayerPath, base: BaseFile, boot: str) -> None:
        """Not for others: create() and load()."""
        self._backend = backend
        self._path = path
        self._boot = boot
        self._file: BackendFile | None = None
        self._end = 0
        self._written_at = 0
        self._generation = 0
        self._synced = 0
        """Up to where what it says is on stable storage."""
        self._last_have = 0
        """Where its last "have" line ends."""
        self._boot_is_noted = False
        self.base = base
        self.missing: RangeMap[bool] = RangeMap()
        """The ranges that are still to come from the base."""

    @classmethod
    def create(cls, backend: Backend, path: LayerPath, base: BaseFile, size: int, boot: str) -> LazyMap:
        """A new map, on stable storage: the first `size` bytes are missing."""
        created = cls(backend, path, base, boot)
        created.missing.set(0, size, True)
        created.rewrite()
        return created

    @classmethod
    def load(cls, backend: Backend, path: LayerPath, boot: str) -> LazyMap:
        """The map at `path`, as of now: what may be lost with a power cut is missing again. DamagedMapError."""
        file = _opened(backend, path, Access.READ_WRITE)
        try:
            text = file.read_at(0, file.stat().size)
            read = _Reading(text, boot)
            loaded = cls(backend, path, read.base, boot)
            loaded._file = file
            loaded.missing = read.missing
            loaded._end = loaded._written_at = read.end
            loaded._boot_is_noted = read.boot == boot
            loaded._synced, loaded._last_have = read.synced, read.last_have
            if read.doubtful:
                loaded.rewrite()  # else a later "synced" line would make the lines count that do not
            elif read.end < len(text):
                file.truncate(read.end)
        except BaseException:
            file.close()
            raise
        return loaded

    def __bool__(self) -> bool:
        """Whether anything is missing."""
        return bool(self.missing)

    @property
    def missing_bytes(self) -> int:
        """How much is missing."""
        return sum(piece.end - piece.start for piece in list(self.missing))

    @property
    def position(self) -> Position:
        """Up to where it is written now."""
        return Position(self._generation, self._end)

    @property
    def is_synced(self) -> bool:
        """Whether all that it says holds after a power cut, too."""
        return self._synced >= self._last_have

    @property
    def is_large(self) -> bool:
        """Whether it is worth a rewrite()."""
        return self._end - self._written_at > LARGE_BYTES

    def lacks(self, start: int, end: int) -> bool:
        """Whether anything between two offsets is missing."""
        return next(self.missing.overlapping(start, end), None) is not None

    def have(self, start: int, end: int) -> None:
        """What is between two offsets has been written to the file."""
        if self.lacks(start, end):
            self._append({"have": [start, end]})
            self._last_have = self._end
            self.missing.set(start, end, None)

    def note_synced(self, position: Position) -> None:
        """What the map said at `position` is on stable storage; so is this line, after the next sync_file()."""
        if position.generation == self._generation and position.offset > self._synced:
            self._append({"synced": position.offset})
            self._synced = position.offset

    def sync_file(self) -> None:
        """Return once the map itself is on stable storage."""
        self._opened().sync(data_only=True)

    def rewrite(self) -> None:
        """Write it anew, with what is missing only. Precondition: the data of all that is not is on stable storage."""
        base = self.base
        header = {
            "format": FORMAT,
            "version": VERSION,
            "layer": base.layer,
            "path": base.path,
            "size": base.size,
            "mtime": base.mtime_ns,
            "file_id": base.file_id,
            "boot": self._boot,
            "missing": [[piece.start, piece.end] for piece in self.missing],
        }
        new = self._path + NEW_SUFFIX
        with contextlib.suppress(FileNotFoundError):
            self._backend.unlink(new)
        file = self._backend.open(new, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=0o600)
        try:
            line = _line(header)
            file.write_at(0, line)
            file.sync()
            self._backend.rename(new, self._path)
            self._backend.sync_directory(split_path(self._path)[0])
        except BaseException:
            with contextlib.suppress(OSError):  # what stays goes with the next search for maps
                self._backend.unlink(new)
            file.close()
            raise
        self.close()
        self._file = file
        self._boot_is_noted = True
        self._end = self._written_at = len(line)
        self._generation += 1
        self._synced, self._last_have = self._end, 0

    def close(self) -> None:
        """Close its file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _append(self, value: dict[str, Any]) -> None:
        lines = _line(value)
        if not self._boot_is_noted:
            lines = _line({"boot": self._boot}) + lines
        self._opened().write_at(self._end, lines)
        # Only now: what could not be written is written over by the next line.
        self._boot_is_noted = True
        self._end += len(lines)

    def _opened(self) -> BackendFile:
        if self._file is None:
            raise OSError(errno.EBADF, "the map of a lazily copied file is closed")
        return self._file


class _Header(msgspec.Struct, frozen=True):
    """The first line."""

    layer: str
    path: LayerPath
    size: int
    mtime: int
    file_id: int | None
    boot: str
    missing: list[tuple[int, int]]


class _Reading:
    """What a map's text says."""

    def __init__(self, text: bytes, boot: str) -> None:
        self._lines = _parsed(text)
        header = next(self._lines, None)
        if header is None or header.value is None:
            raise DamagedMapError("its first line cannot be read")
        self.boot: str = ""
        self.end = header.end
        self.synced = header.end
        self.missing: RangeMap[bool] = RangeMap()
        self._read_header(header.value)
        haves = self._read_lines()
        self.last_have = haves[-1][0] if haves else 0
        self.doubtful = False
        """It has lines that do not count."""
        for end, line_boot, (start, until) in haves:
            if end <= self.synced or line_boot == boot:
                self.missing.set(start, until, None)
            else:
                self.doubtful = True

    def _read_header(self, header: dict[str, Any]) -> None:
        if (header.get("format"), header.get("version")) != (FORMAT, VERSION):
            raise DamagedMapError("it is of another format")
        try:
            told = msgspec.convert(header, _Header)
        except msgspec.ValidationError as error:
            raise DamagedMapError("its first line is not complete") from error
        self.base = BaseFile(told.layer, told.path, told.size, told.mtime, told.file_id)
        self.boot = told.boot
        if "\0" in told.path or not _NEVER_ENTRIES.isdisjoint(told.path.split("/")):
            raise DamagedMapError(f"no file of the base is {told.path!r}")
        for start, end in told.missing:
            if not 0 <= start < end <= END:
                raise DamagedMapError("it misses what no file has")
            self.missing.set(start, end, True)

    def _read_lines(self) -> list[tuple[int, str, tuple[int, int]]]:
        """The "have" lines, each with its end, and with when the machine was started; up to one that is torn."""
        haves = []
        is_torn = False
        for value, end in self._lines:
            synced = 0 if value is None else value.get("synced", 0)
            if is_torn and synced > self.end:
                raise DamagedMapError("a line that was on stable storage cannot be read")
            is_torn = is_torn or value is None
            if value is None or is_torn:
                continue
            self.end = end
            self.boot = value.get("boot", self.boot)
            self.synced = max(self.synced, synced)
            if "have" in value:
                start, until = value["have"]
                haves.append((end, self.boot, (start, until)))
        return haves


class _Parsed(NamedTuple):
    value: dict[str, Any] | None
    """None if it is no line of a map."""
    end: int


def _parsed(text: bytes) -> Iterator[_Parsed]:
    at = 0
    while at < len(text):
        end = text.find(b"\n", at) + 1
        if not end:
            yield _Parsed(None, len(text))
            return
        try:
            value = json.loads(text[at:end])
        except (ValueError, RecursionError):
            value = None
        yield _Parsed(value if isinstance(value, dict) and _is_sound(value) else None, end)
        at = end


def _is_sound(value: dict[str, Any]) -> bool:
    have, synced = value.get("have", [0, 0]), value.get("synced", 0)
    return (
        isinstance(synced, int)
        and isinstance(have, list)
        and len(have) == _PAIR
        and all(isinstance(offset, int) for offset in have)
        and 0 <= have[0] <= have[1] <= END
        and isinstance(value.get("boot", ""), str)
    )


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def boot_id() -> str:
    """Another text after each start of the machine."""
    return _BOOT_ID.read_text().strip()
