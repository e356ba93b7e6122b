"""What is read from disk, or from a control socket, and others may have written.

The head is one byte, which says what the records are (_KINDS).
"""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from netoverlay.backend_api import Access, Capabilities, Creation, DirEntry, FileStat, FileType, LayerPath
from netoverlay.cache.disk_store import DiskStore, _path
from netoverlay.cache.kept_layer import _HEADER as LISTING_HEADER
from netoverlay.cache.kept_layer import Facts, KeptLayer, _digest
from netoverlay.cache.kept_listing import FORMAT, Extras, encode_extras, encode_listing
from netoverlay.cache.keys import layer_key
from netoverlay.cache.packs import Packs
from netoverlay.cache.records import header
from netoverlay.config import load
from netoverlay.config.errors import ConfigError
from netoverlay.overlay.inodes import KeptTime
from netoverlay.overlay.kept_times import FILE_NAME, read_kept_times
from netoverlay.overlay.lazy_map import LazyMap, read_map
from netoverlay.overlay.lease_file import read_lease
from netoverlay.overlay.owner import Owner
from netoverlay.status.control_client import DaemonError, _ask
from netoverlay.status.control_server import MAX_REQUEST_BYTES, ControlServer
from netoverlay.status.snapshot import StatusSnapshot, to_json
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.wrappers.sidecar import SidecarBackend
from tests.fuzz import files_seeds
from tests.fuzz.checks import (
    GuardedTree,
    Replaced,
    no_defects,
    require_entries,
    require_inside,
    require_stat,
)
from tests.fuzz.marks import MARKS, read_marks
from tests.fuzz.target import Target, joined, split
from tests.status.examples import make_snapshot
from tests.wrappers.sidecars import LIKE_SFTP

_IDENTITY: Final = "sftp://host/base"
_BOOT: Final = "boot"
_STAT: Final = FileStat(FileType.REGULAR, 10, 0o644, 1000, 100, 10**18, 10**18, file_id=7)
_ANSWER_BYTES: Final = 60_000
"""Of a control socket: what fits into it while nobody reads."""


class _Place:
    """Where the files lie, for all inputs of a process."""

    def __init__(self) -> None:
        self.root = tempfile.mkdtemp(prefix="netoverlay-fuzz.")
        atexit.register(shutil.rmtree, self.root)
        self.profile = os.path.join(self.root, "profile.toml")
        self.store = DiskStore(os.path.join(self.root, "cache"))
        self.kept = KeptLayer(self.store, _IDENTITY, "")
        self.kept.connected(Capabilities(), _STAT._replace(type=FileType.DIRECTORY), asked_user=False)
        self.server = ControlServer("/mnt", make_snapshot)

    def write_entry(self, key: str, data: bytes) -> None:
        """Make `data` the file of an entry of the store, whatever it is."""
        self.write(os.path.join(self.root, "cache", "content-2", _path(key)), data)

    @staticmethod
    def write(path: str, data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data)


@functools.cache
def _place() -> _Place:
    return _Place()


_NUMBERS: Final = itertools.count()
# All distributions are searched for each plugin, which is most of what a profile costs.
_QUICK: Final = Replaced(load, "load_plugin", functools.cache(load.load_plugin))


def _profile(data: bytes) -> None:
    _place().write(_place().profile, data)
    with suppress(ConfigError):
        load.load_profile(_place().profile)


def _facts(data: bytes) -> None:
    key = layer_key("other", "facts", FORMAT, "")
    _place().store.put(key, data)
    kept = KeptLayer(_place().store, "other", "")
    if kept.facts is not None:
        require_stat(kept.facts.root)
        kept.listing("d")
    kept.connected(Capabilities(), _STAT, asked_user=False)


def _key(kind: str) -> str:
    key = _place().kept._key(kind, "d")
    assert key is not None
    return key


def _listing(data: bytes) -> None:
    """With the right digest."""
    _raw_listing(LISTING_HEADER.pack(1, len(data), _digest(data)) + data)


def _raw_listing(data: bytes) -> None:
    _place().store.put(_key("listing"), data)
    found = _place().kept.listing("d")
    if found is not None:
        require_entries(found.entries)


def _extras(data: bytes) -> None:
    _place().store.put(_key("extras"), data)
    _place().kept.xattrs("d/a")
    _place().kept.listing("d")


def _entry(data: bytes) -> None:
    key = layer_key(_IDENTITY, "content", next(_NUMBERS))  # what was found to be sound once is not looked at again
    _place().write_entry(key, data)
    content = _place().store.read(key)
    descriptor = _place().store.open(key)
    if descriptor is not None:
        os.close(descriptor)
    assert content is None or header(b"", content) + content == data
    _place().store.drop(key)


def _pack(data: bytes) -> None:
    key = layer_key(_IDENTITY, "pack", "d", 0)
    _place().write_entry(key, data)
    packs = Packs(_place().store, _IDENTITY)
    for member, content in packs.look("d"):
        assert packs.get("d", member) in (content, None)
    _place().store.drop(key)


class _Layer(MemoryBackend):
    """A layer with one file."""

    def __init__(self, path: LayerPath, data: bytes, capabilities: Capabilities | None = None) -> None:
        super().__init__(*([] if capabilities is None else [capabilities]), tree=GuardedTree())
        self.connect()
        for directory in ("up", "work"):
            self.mkdir(directory, 0o755)
        with self.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
            file.write_at(0, data)


def _journal(data: bytes) -> None:
    layer = _Layer("work/attributes.jsonl", data, LIKE_SFTP)
    layer.mkdir("up/d", 0o755)
    with suppress(OSError), SidecarBackend(layer, "work", flush_seconds=3600.0) as backend:
        backend.connect()
        entries = backend.list_dir("up")
        require_entries(entries)
        for name, _ in entries:
            require_stat(backend.stat(f"up/{name}"))
        with suppress(OSError):
            require_entries(backend.list_dir("up/d"))


def _map(data: bytes) -> None:
    layer = _Layer("work/map", data)
    with suppress(OSError):
        facts = read_map(layer, "work/map", _BOOT)
        require_inside(facts.base.path)
        assert isinstance(facts.base.layer, str)
        for piece in facts.missing:
            assert 0 <= piece.start < piece.end
    with suppress(OSError):
        loaded = LazyMap.load(layer, "work/map", _BOOT)
        loaded.have(0, 10)
        loaded.note_synced(loaded.position)
        loaded.rewrite()
        loaded.close()


def _times(data: bytes) -> None:
    with suppress(OSError):
        for ino, kept in read_kept_times(_Layer(f"work/{FILE_NAME}", data), "work").items():
            assert all(isinstance(number, int) for number in (ino, *kept))


def _lease(data: bytes) -> None:
    with _Layer("work/lock", data).open("work/lock", Access.READ) as file:
        owner = read_lease(file).owner
    if owner is not None:
        str(owner)
        owner.pack()


def _asked(data: bytes) -> None:
    """The daemon's end of a control socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data[: MAX_REQUEST_BYTES + 10])
        ours.shutdown(socket.SHUT_WR)
        assert _place().server._slots.acquire(blocking=False)
        _place().server._serve(theirs)
        answer = b""
        with suppress(ConnectionResetError):  # what was too long stays unread
            while more := ours.recv(1 << 16):
                answer += more
    if answer:
        assert isinstance(json.loads(answer), dict)
        assert answer.endswith(b"\n")


def _answered(data: bytes) -> None:
    """The client's end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data[:_ANSWER_BYTES])
        ours.shutdown(socket.SHUT_WR)
        with suppress(DaemonError):
            answer = _ask(theirs, os.getuid())
            assert isinstance(answer.snapshot, StatusSnapshot)
            to_json(answer.snapshot)


class _Kind(NamedTuple):
    read: Callable[[bytes], None]
    well_formed: Sequence[bytes]


_FACTS: Final = Facts(edition=bytes(16), capabilities=Capabilities(), root=_STAT, asked_user=False)
_ENTRIES: Final = [DirEntry(name, _STAT) for name in ("a", "b\udcff", "c.d")]
_EXTRAS: Final = Extras({"a": "../b"}, {"a": {"user.a": b"v", "user.b": None}})
_KINDS: Final = (
    _Kind(_profile, files_seeds.PROFILES),
    _Kind(_facts, [files_seeds.packed(_FACTS)]),
    _Kind(_listing, [encode_listing(_ENTRIES), encode_listing([])]),
    _Kind(_raw_listing, [LISTING_HEADER.pack(1, 5, bytes(16)) + b"12345"]),
    _Kind(_extras, [encode_extras(_EXTRAS)]),
    _Kind(_entry, [header(b"", b"content") + b"content"]),
    _Kind(_pack, [header(b"a\0b", b"content") + b"content" + header(b"c", b"") + b""]),
    _Kind(_journal, files_seeds.JOURNALS),
    _Kind(_map, files_seeds.MAPS),
    _Kind(read_marks, MARKS),
    _Kind(_times, [json.dumps({5: KeptTime(1, 2), 6: KeptTime(-1, 10**18)}).encode()]),
    _Kind(_lease, [Owner(host="h", pid=1, nonce="n").pack()]),
    _Kind(_asked, [b'{"command": "status"}\n', b'{"command": "settle"}\n']),
    _Kind(_answered, [b'{"status": ' + to_json(make_snapshot()).encode() + b"}\n", b'{"error": "no"}\n']),
)


def run(data: bytes) -> int:
    """Read the files of one input."""
    kind = _KINDS[data[0] % len(_KINDS)] if data else _KINDS[0]
    records = split(data[1:])
    with no_defects(_QUICK):
        for record in records:
            kind.read(record)
    return len(records)


def _seeds() -> Sequence[bytes]:
    plain = [bytes([number]) + joined([content]) for number, kind in enumerate(_KINDS) for content in kind.well_formed]
    odd = [
        bytes([number]) + joined([content, line, content + line])
        for number, kind in enumerate(_KINDS)
        if kind.read in (_journal, _map, _times)
        for content in kind.well_formed[:1]
        for line in files_seeds.ODD_LINES
    ]
    nested = [bytes([number]) + joined(files_seeds.NESTED) for number in range(len(_KINDS))]
    return [*plain, *odd, *nested]


def _templates() -> Sequence[bytes]:
    texts = [*files_seeds.JOURNALS, *files_seeds.MAPS]
    lines = [line + b"\n" for text in texts for line in text.split(b"\n")]
    well_formed = [content for kind in _KINDS for content in kind.well_formed]
    return [*well_formed, *lines, *files_seeds.NESTED, *files_seeds.ODD_LINES]


TARGET: Final = Target("files", 1, 16384, run, _seeds, _templates)
