"""The lines of the journal (docs/upper.md): written from nodes and intents, and read back into a tree.

A line is one JSON object in ASCII. A byte of a name that is not UTF-8 is a lone surrogate (PEP 383), which JSON carries
as an escape; the values of extended attributes are in base64.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from netoverlay.backend_api import FileType
from netoverlay.wrappers.sidecar.intents import Intent, Kind
from netoverlay.wrappers.sidecar.nodes import ROOT_NUMBER, Directory, Node, Tree

FORMAT = "netoverlay-sidecar"
VERSION = 1

_TYPE_NAMES = {
    FileType.FIFO: "fifo",
    FileType.SOCKET: "socket",
    FileType.CHARACTER_DEVICE: "character-device",
    FileType.BLOCK_DEVICE: "block-device",
    FileType.SYMLINK: "symlink",
}
_TYPES = {name: kind for kind, name in _TYPE_NAMES.items()}
_NUMBERS = {
    "rdev": "rdev",
    "mode": "mode",
    "uid": "uid",
    "gid": "gid",
    "mtime": "mtime_ns",
    "atime": "atime_ns",
    "ctime": "ctime_ns",
}
"""The keys of a node's line whose values are numbers, and the attributes of Node that hold them."""
_TIMES = frozenset({"mtime", "atime", "ctime"})
_END = 1 << 63
_PLACES = {Kind.REMOVE: 1, Kind.RENAME: 2, Kind.ENTER: 1, Kind.EXCHANGE: 2}
"""How many names an intent is about."""
_NEVER_ENTRIES = frozenset(("", ".", ".."))
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What a line raises that is not one of ours."""


class UnknownVersionError(ValueError):
    """The journal is one that this program does not know how to read."""


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def header_line(tree: Tree) -> bytes:
    """The first line."""
    return _line({"format": FORMAT, "version": VERSION, "next": tree.next_number})


def node_line(node: Node) -> bytes:
    """All that is known of a node itself."""
    record: dict[str, Any] = {"node": node.number}
    if isinstance(node, Directory):
        record["directory"] = True
    if node.type is not None:
        record["type"] = _TYPE_NAMES[node.type]
    if node.target is not None:
        record["target"] = node.target
    for key, attribute in _NUMBERS.items():
        value = getattr(node, attribute)
        if value is not None and (node.settled or key not in _TIMES):
            record[key] = value
    if node.xattrs:
        record["xattrs"] = {name: base64.b64encode(value).decode("ascii") for name, value in node.xattrs.items()}
    return _line(record)


def name_line(directory: Directory, name: str, node: Node) -> bytes:
    """Which node a name leads to."""
    record: dict[str, Any] = {"name": name, "in": directory.number, "node": node.number}
    if isinstance(node, Directory):
        record["directory"] = True
    return _line(record)


def intent_line(intent: Intent) -> bytes:
    """What is about to be done."""
    names = [[directory.number, name] for directory, name in intent.places]
    record: dict[str, Any] = {"intent": intent.number, intent.kind.value: names}
    if intent.node is not None:
        record["node"] = intent.node.number
    if intent.aside is not None:
        record["aside"] = intent.aside
    return _line(record)


def step_line(intent: Intent) -> bytes:
    """An exchange is about to make its last rename."""
    return _line({"step": intent.number})


def outcome_line(intent: Intent, *, done: bool) -> bytes:
    """What became of an intent."""
    return _line({"done" if done else "undone": intent.number})


def end_line() -> bytes:
    """The mount was ended in order: nothing that it has sent is still on its way."""
    return _line({"end": True})


class Loader:
    """Reads lines into a fresh tree."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.intents: dict[int, Intent] = {}
        """Those of which it is not known what became of them, the oldest first."""
        self.lines = 0
        self.ended = False
        """The last line says that the mount was ended in order."""
        self.told: set[int] = set()
        """The numbers of the nodes that have a line of their own."""
        self._nodes: dict[int, Node] = {ROOT_NUMBER: self.tree.root}

    def header(self, line: bytes) -> None:
        """The first line. UnknownVersionError; UNREADABLE for what is none."""
        record = _parsed(line)
        if record["format"] != FORMAT or record["version"] != VERSION:
            raise UnknownVersionError(f"it has version {record['version']} of the format {record['format']}")
        self._seen(record["next"] - 1)

    def line(self, line: bytes) -> None:
        """Any other line. UNREADABLE for what is none."""
        record = _parsed(line)
        self.ended = "end" in record
        if self.ended:
            return
        if "name" in record:
            directory, node = self._directory(record["in"]), self._node(record)
            self.tree.enter(directory, _entry(record["name"]), node)
        elif "intent" in record:
            self._intent(record)
        elif "step" in record:
            self.intents[record["step"]].stepped = True
        elif "done" in record or "undone" in record:
            intent = self.intents.pop(record["done" if "done" in record else "undone"], None)
            if intent is not None and "done" in record:
                intent.apply(self.tree)
        else:
            self._attributes(record)
        self.lines += 1

    def _intent(self, record: dict[str, Any]) -> None:
        number = self._seen(record["intent"])
        kind = next((kind for kind in Kind if kind.value in record), None)
        if kind is None:
            raise ValueError("an intent of nothing that is known")
        places = tuple((self._directory(directory), _entry(name)) for directory, name in record[kind.value])
        if len(places) != _PLACES[kind]:
            raise ValueError(f"{len(places)} names to {kind.value}")
        node = self._node(record) if "node" in record else None
        aside = _entry(record["aside"]) if "aside" in record or kind is Kind.EXCHANGE else None
        self.intents[number] = Intent(number, kind, places, node, aside)

    def _attributes(self, record: dict[str, Any]) -> None:
        node = self._node(record)
        self.told.add(node.number)
        node.type = _TYPES[record["type"]] if "type" in record else None
        node.target = str(record["target"]) if "target" in record else None
        for key, attribute in _NUMBERS.items():
            value = record.get(key)
            setattr(node, attribute, None if value is None else _within(int(value), *_range(key)))
        node.xattrs = {
            name: base64.b64decode(value, validate=True) for name, value in record.get("xattrs", {}).items()
        } or None

    def _node(self, record: dict[str, Any]) -> Node:
        if record.get("directory"):
            return self._directory(record["node"])
        number = self._seen(record["node"])
        return self._nodes.setdefault(number, Node(number))

    def _directory(self, number: int) -> Directory:
        known = self._nodes.get(self._seen(number))
        if not isinstance(known, Directory):
            known = self._nodes[number] = Directory(number)
        return known

    def _seen(self, number: int) -> int:
        seen = _within(number, 0, _END - 1)
        self.tree.next_number = max(self.tree.next_number, seen + 1)
        return seen


def _range(key: str) -> tuple[int, int]:
    """What the kernel can be told of such a number: from, and up to."""
    return (-_END, _END) if key in _TIMES else (0, 1 << 32)


def _within(number: object, start: int, end: int) -> int:
    if not isinstance(number, int) or not start <= number < end:
        raise ValueError(f"{number!r} is no such number")
    return number


def _entry(name: str) -> str:
    """The name of an entry of a directory, and nothing that leads elsewhere. ValueError, TypeError."""
    if name in _NEVER_ENTRIES or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name")
    return str(name)


def _parsed(line: bytes) -> dict[str, Any]:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise TypeError("a line of the journal must be an object")
    return record
