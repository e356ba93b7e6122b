"""What a mount may show after its daemon was killed: the allowed states, and the comparison with what it does show.

A worker's calls come one after the other, so of its part of the tree all is known but for the call in flight.

Names: those after all calls that returned, or those after the call in flight as well; nothing in between.
Content: all of what was there at the last *durable* moment, with all that was written since or a part of it: each byte
is of one of the versions since then, at the same place; behind the end of an older version it may be zero. The size
is that of one of the versions, or, for a write that made the file longer, between the two. A file that nobody has
written to is what it was, also while it is copied up.
Hard links: a name that went in the call in flight may still be counted.
Attributes (mode, owner, IDENTITY, mtime): those of one moment since the last durable one.

Durable is, on a local upper, each call that returned, for only a process dies. On a server: names, each call that
returned; content, after fsync(2) or close(2); attributes, after any later fsync(2) of the same worker, of a directory
or a file. Before that a file that was just made may have those that the server gave it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from tests.chaos.observe import Attributes, Kind, Seen
from tests.chaos.steps import Call, Step, bytes_of

_BLOCK_BYTES = 512


@dataclass(eq=False, slots=True)
class Node:
    """A file, directory or symbolic link; its lists hold the durable state, and then those since."""

    kind: Kind
    attributes: list[Attributes]
    contents: list[bytes] = field(default_factory=list)
    growths: list[tuple[int, int]] = field(default_factory=list)
    """Sizes between which a write that is not durable makes the file grow."""
    target: str = ""
    ino: int | None = None
    """None while it is not known, or may yet change."""
    is_fresh: bool = False
    """It was made, and may have attributes of the server's choice."""
    counts_links: bool = True
    """False where the base tells that there are other names, but not which."""
    uncounted: int = 0
    """How many names it lost when the daemon died: st_nlink may still count those (overlay/copy_up.py)."""
    in_base_only: bool = False
    is_changed: bool = False
    """Since it was compared."""

    def settle_content(self) -> None:
        self.contents = self.contents[-1:]
        self.growths.clear()

    def settle_attributes(self) -> None:
        self.attributes = self.attributes[-1:]
        self.is_fresh = False


Names = dict[str, Node]


class Region:
    """The part of the tree in which one worker works."""

    def __init__(self, names: Names, *, is_local: bool) -> None:
        self.names = names
        self._alternative: Names | None = None
        self._is_local = is_local
        self._slots: dict[int, Node] = {}

    def begin(self, step: Step) -> None:
        """The call is in flight."""
        if step.call in _NAME_CHANGES:
            self._alternative = dict(self.names)
            _NAME_CHANGES[step.call](self._alternative, step)
            self._touch(step.path, step.other)
            for node in self._losing():
                node.uncounted += 1
        elif step.call is Call.CREATE:
            self._alternative = {**self.names, step.path: _new_node(Kind.FILE, step)}
        elif step.call is Call.EMPTY:
            self._add_content(self._node(step), b"")
        elif step.call is Call.TRUNCATE:
            old = self._node(step).contents[-1]
            self._add_content(self._node(step), old[: step.number].ljust(step.number, b"\0"))
        elif step.call is Call.WRITE:
            self._begin_write(step)
        elif step.call in _ATTRIBUTES:
            node = self._node(step)
            node.attributes.append(_ATTRIBUTES[step.call](node.attributes[-1], step))
            node.is_changed = True
            node.in_base_only = False

    def end(self, step: Step) -> None:
        """The call has returned, without an error."""
        if self._alternative is not None:
            for node in self._losing():
                node.uncounted -= 1
            self.names, self._alternative = self._alternative, None
        if step.call in (Call.CREATE, Call.OPEN, Call.EMPTY):
            self._slots[step.slot] = self.names[step.path]
        if step.call in (Call.SYNC, Call.CLOSE):
            self._slots[step.slot].settle_content()
        if step.call in (Call.SYNC, Call.SYNC_DIRECTORY):
            self._settle_attributes()
        if self._is_local:
            for node in self._concerned(step):
                node.settle_content()
                node.settle_attributes()

    def changed_paths(self) -> set[str]:
        """Whose content is to be read, whichever of the states is there."""
        states = [self.names, self._alternative or {}]
        return {path for state in states for path, node in state.items() if node.is_changed}

    def differences(self, shown: Mapping[str, Seen]) -> list[str]:
        """What of the region is not as it may be. The region is then what is shown."""
        candidates = [self.names] if self._alternative is None else [self.names, self._alternative]
        found = [list(_compare(candidate, shown)) for candidate in candidates]
        best = min(range(len(candidates)), key=lambda number: len(found[number]))
        self.names, self._alternative = candidates[best], None
        self._slots.clear()
        for path in list(self.names):
            if path in shown:
                self._adopt(self.names[path], shown[path])
            else:
                del self.names[path]
        return found[best]

    def _adopt(self, node: Node, seen: Seen) -> None:
        node.attributes = [seen.attributes]
        node.ino = seen.ino if node.ino is not None or self._is_local else None
        if seen.content is not None:
            node.contents = [seen.content]
        node.growths.clear()
        node.is_fresh = node.is_changed = False

    def _settle_attributes(self) -> None:
        for node in self.names.values():
            node.settle_attributes()

    def _concerned(self, step: Step) -> Iterator[Node]:
        for path in (step.path, step.other):
            if path in self.names:
                yield self.names[path]
        if step.slot in self._slots:
            yield self._slots[step.slot]

    def _losing(self) -> list[Node]:
        """Each once for every name that the call in flight takes from it."""
        after = Counter(map(id, (self._alternative or {}).values()))
        lost = []
        for node in self.names.values():
            after[id(node)] -= 1
            if after[id(node)] < 0:
                lost.append(node)
        return lost

    def _touch(self, *paths: str) -> None:
        for path in paths:
            if path in self.names:
                self.names[path].is_changed = True
                self.names[path].in_base_only = False

    def _node(self, step: Step) -> Node:
        return self.names[step.path] if step.path else self._slots[step.slot]

    def _begin_write(self, step: Step) -> None:
        node = self._node(step)
        old = node.contents[-1]
        end = step.offset + step.number
        data = old[: step.offset].ljust(step.offset, b"\0") + bytes_of(step.seed, step.number) + old[end:]
        node.growths.append((len(old), len(data)))
        self._add_content(node, data)

    def _add_content(self, node: Node, data: bytes) -> None:
        node.contents.append(data)
        node.attributes.append(replace(node.attributes[-1], mtime_ns=None))
        node.is_changed = True
        node.in_base_only = False


def _new_node(kind: Kind, step: Step) -> Node:
    attributes = Attributes(step.number if kind is not Kind.SYMLINK else 0o777, 0, b"", None)
    return Node(kind, [attributes], contents=[b""], target=step.other, is_fresh=True, is_changed=True)


def _move(names: Names, step: Step) -> None:
    moved = {path: names.pop(path) for path in below(names, step.path)}
    for path, node in moved.items():
        names[step.other + path[len(step.path) :]] = node


def _exchange(names: Names, step: Step) -> None:
    there = {path: names.pop(path) for path in below(names, step.path)}
    here = {path: names.pop(path) for path in below(names, step.other)}
    names.update({step.other + path[len(step.path) :]: node for path, node in there.items()})
    names.update({step.path + path[len(step.other) :]: node for path, node in here.items()})


def below(names: Mapping[str, object], top: str) -> list[str]:
    """`top`, and what is in it."""
    return [path for path in names if path == top or path.startswith(f"{top}/")]


def _remove(names: Names, step: Step) -> None:
    del names[step.path]


def _make(kind: Kind) -> Callable[[Names, Step], None]:
    def make(names: Names, step: Step) -> None:
        names[step.path] = _new_node(kind, step)

    return make


def _link(names: Names, step: Step) -> None:
    names[step.other] = names[step.path]


_NAME_CHANGES: dict[Call, Callable[[Names, Step], None]] = {
    Call.RENAME: _move,
    Call.EXCHANGE: _exchange,
    Call.UNLINK: _remove,
    Call.RMDIR: _remove,
    Call.MKDIR: _make(Kind.DIRECTORY),
    Call.SYMLINK: _make(Kind.SYMLINK),
    Call.LINK: _link,
}
_ATTRIBUTES: dict[Call, Callable[[Attributes, Step], Attributes]] = {
    Call.CHMOD: lambda old, step: replace(old, mode=step.number),
    Call.CHOWN: lambda old, step: replace(old, uid=step.number),
    Call.SET_XATTR: lambda old, step: replace(old, identity=step.other.encode()),
    Call.UTIME: lambda old, step: replace(old, mtime_ns=step.number),
}


def _compare(names: Names, shown: Mapping[str, Seen]) -> Iterator[str]:
    for path in sorted(names.keys() - shown.keys()):
        yield f"{path}: lost"
    for path in sorted(shown.keys() - names.keys()):
        yield f"{path}: is there, and should not be"
    links = Counter(map(id, names.values()))
    for path in sorted(names.keys() & shown.keys()):
        seen, node = shown[path], names[path]
        if seen.kind is not node.kind:
            yield f"{path}: a {seen.kind}, and should be a {node.kind}"
            continue
        yield from (f"{path}: {text}" for text in _compare_node(node, seen))
        most = links[id(node)] + node.uncounted
        if node.kind is Kind.FILE and node.counts_links and not links[id(node)] <= seen.links <= most:
            yield f"{path}: {seen.links} links, and should be {links[id(node)]}"


def _compare_node(node: Node, seen: Seen) -> Iterator[str]:
    if node.ino is not None and seen.ino != node.ino:
        yield f"inode number {seen.ino}, was {node.ino}"
    if not node.is_fresh and not any(_same(allowed, seen.attributes, node.kind) for allowed in node.attributes):
        yield f"attributes {seen.attributes}, allowed {node.attributes}"
    if node.kind is Kind.SYMLINK and seen.target != node.target:
        yield f"target {seen.target}, should be {node.target}"
    if node.kind is Kind.FILE:
        told = content_difference(node, seen)
        if told:
            yield told


def _same(allowed: Attributes, seen: Attributes, kind: Kind) -> bool:
    if allowed.mtime_ns is None or kind is not Kind.FILE:
        seen = replace(seen, mtime_ns=allowed.mtime_ns)
    return allowed == seen


def content_difference(node: Node, seen: Seen) -> str:
    """Empty if the content is one that is allowed."""
    versions = node.contents
    spans = [*node.growths, *((len(version), len(version)) for version in versions)]
    if not any(low <= seen.size <= high for low, high in spans):
        return f"{seen.size} bytes, allowed are {spans}"
    if seen.content is None or seen.content in versions:
        return ""
    for start in range(0, len(seen.content), _BLOCK_BYTES):
        bad = _bad_byte(versions, seen.content[start : start + _BLOCK_BYTES], start)
        if bad is not None:
            return f"torn: byte {bad} of {seen.size} is of none of {len(versions)} versions"
    return ""


def _bad_byte(versions: list[bytes], block: bytes, start: int) -> int | None:
    parts = [version[start : start + len(block)] for version in versions]
    if block in parts:
        return None
    parts = [part.ljust(len(block), b"\0") for part in parts] if len(versions) > 1 else parts
    for offset, found in enumerate(block):
        if not any(found == part[offset] for part in parts if offset < len(part)):
            return start + offset
    return None


def first_state(shown: Mapping[str, Seen]) -> Names:
    """The nodes of a tree that nobody has changed; names with one inode number are links of one file."""
    nodes: dict[int, Node] = {}
    names: Names = {}
    for path, seen in shown.items():
        if seen.kind is not Kind.FILE or seen.ino not in nodes:
            content = [] if seen.content is None else [seen.content]
            nodes[seen.ino] = Node(
                seen.kind, [seen.attributes], content, target=seen.target, ino=seen.ino, in_base_only=True
            )
        names[path] = nodes[seen.ino]
    for path, node in names.items():
        node.counts_links = shown[path].links == sum(other is node for other in names.values())
    return names
