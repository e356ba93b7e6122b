"""The journal on the server: lines are kept until somebody needs them to be there, and then go together.

It is one file that only grows. What a crash leaves half-written at its end is ignored. When most of it is history, all
that still counts is written to a new file, which then takes its name. So is it after a crash, for the server may still
carry out what the process that died has sent: that goes to the old file then, and not over new lines.
"""

from __future__ import annotations

import contextlib
import logging
import threading

from netoverlay.backend_api import (
    Access,
    Backend,
    BackendFile,
    Creation,
    LayerPath,
    NotSupportedError,
    StaleHandleError,
    UnavailableError,
    join_path,
)
from netoverlay.backend_api.waiting import about_to_wait, as_one_request
from netoverlay.wrappers.sidecar import records
from netoverlay.wrappers.sidecar.intents import Intent
from netoverlay.wrappers.sidecar.nodes import Directory, Node, Tree
from netoverlay.wrappers.sidecar.reading import PIECE_BYTES, read_journal

NAME = "attributes.jsonl"
NEW_NAME = "attributes.jsonl.new"
COMPACT_BYTES = 4 << 20
"""A journal that is smaller than this is not written anew while it is in use."""
_UNSYNCED_BYTES = 1 << 20
COMPACT_GROWTH = 2
"""It is, once it is this many times as large as what counted of it when it was last written."""
_COMPACT_BYTES_AT_START = 64 << 10
"""As COMPACT_BYTES, when connecting."""
_SYNC_ATTEMPTS = 5
"""Connections can be lost one after the other, each with what was written through it."""
_TAKE_OVER_ATTEMPTS = 50
_TAKE_OVER_PAUSE = 0.1
"""In seconds. Some servers replace no file that another connection has open, though its process is dead."""

logger = logging.getLogger(__name__)


class Journal:
    """The journal of one tree. Thread-safe; the order of its lines is that in which the tree's lock was taken."""

    def __init__(self, backend: Backend, directory: LayerPath, delay: float) -> None:
        """Nothing is kept back for longer than about `delay` seconds, once start() was called."""
        self._backend = backend
        self._path = join_path(directory, NAME)
        self._new_path = join_path(directory, NEW_NAME)
        self._delay = delay
        self.tree = Tree()
        self.position = 0
        """Counts what was to be written. Guarded by the tree's lock, as are the next three."""
        self._lines: list[bytes] = []
        self._dirty: dict[Node, None] = {}
        self._open_intents: dict[int, Intent] = {}
        self.acknowledged = 0
        """What of it the server has."""
        self._writing = threading.Lock()
        """Guards what follows. Taken before the tree's lock."""
        self._file: BackendFile | None = None
        self._offset = 0
        self._unwritten = b""
        """Was taken from the lines, and is not known to be on the server."""
        self._unsynced: list[bytes] = []
        """The end of the file, which the server may lose yet."""
        self._worth = 0
        """About how much of the file counts, in bytes."""
        self._taken_over = False
        """From a mount that did not end in order."""
        self._replacing: tuple[int, int] | None = None
        """While the new file is about to take the old one's name: what `_offset` and `_worth` are in it."""
        self._since: list[bytes] | None = None
        """While the journal is written anew: what was written to the old one meanwhile."""
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._loaded = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def load(self) -> dict[int, Intent]:
        """Read the journal, or make one, into `tree`: the intents whose outcome is not known. LayerSetupError."""
        with contextlib.suppress(FileNotFoundError):
            self._backend.unlink(self._new_path)
        with contextlib.suppress(FileExistsError):
            self._backend.open(self._path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=0o600).close()
        self._file = self._backend.open(self._path, Access.READ_WRITE)
        data = self._file.read_at(0, self._file.stat().size)
        loader, end = read_journal(data, self._path)
        self.tree = loader.tree
        if loader.ended:  # as long as this mount lasts it is not true
            end = data.rfind(b"\n", 0, end - 1) + 1
        self._offset = end
        if end < len(data):
            self._file.truncate(end)
        if end == 0:
            self._write(records.header_line(self.tree))
        self._taken_over = end > 0 and not loader.ended
        counting = 2 * sum(1 for _ in self.tree.live())
        self._worth = end if loader.lines <= counting else end * counting // loader.lines
        self._open_intents = dict(loader.intents)
        self._loaded = True
        return loader.intents

    def start(self) -> None:
        """From now on write what waits, also if nobody needs it to be written. All intents of load() are settled."""
        if self._taken_over:
            self._take_over()
        elif self._offset > max(_COMPACT_BYTES_AT_START, COMPACT_GROWTH * self._worth):
            self.compact()
        self._thread = threading.Thread(target=self._run, name="sidecar-journal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, as far as that can be done, and let go of the file."""
        self._closing.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        if not self._loaded:
            return
        try:
            self.sync()
        except OSError as error:
            logger.warning(
                "owners, modes and other attributes that were set last may be lost; `netoverlay fsck` tells which: %s",
                error,
            )
        else:
            self._note_end()
        with self._writing:
            self._closed = True
            self._close_file()

    # Under the tree's lock, or taking it.

    def add_name(self, directory: Directory, name: str, node: Node) -> None:
        """Let a name lead to a node, in the tree and, some time, in the journal."""
        with self.tree.lock:
            self.tree.enter(directory, name, node)
            node.named_at = self._add(records.name_line(directory, name, node))
            self._dirty[node] = None

    def changed(self, node: Node) -> None:
        """The attributes of a node are to be written, some time."""
        with self.tree.lock:
            self._dirty[node] = None
            self._add(b"")

    def begin(self, intent: Intent) -> None:
        """Note an intent. The server has it when flush() has returned."""
        with self.tree.lock:
            self._open_intents[intent.number] = intent
            if intent.node is not None:
                self._add(records.node_line(intent.node))
            self._add(records.intent_line(intent))

    def step(self, intent: Intent) -> None:
        """Note that an exchange is about to make its last step."""
        with self.tree.lock:
            intent.stepped = True
            self._add(records.step_line(intent))

    def end(self, intent: Intent, *, done: bool) -> None:
        """Note what became of an intent, and let the tree follow."""
        with self.tree.lock:
            self._open_intents.pop(intent.number, None)
            if done:
                intent.apply(self.tree)
            position = self._add(records.outcome_line(intent, done=done))
            for directory, name in intent.places:
                if len(directory.unsettled) > 256:
                    directory.unsettled = {
                        name: at for name, at in directory.unsettled.items() if at > self.acknowledged
                    }
                directory.unsettled[name] = position

    def settle(self, directory: Directory, name: str) -> None:
        """Return when the server knows what became of earlier changes of the name, which a new one would hide."""
        if directory.unsettled.get(name, 0) > self.acknowledged:
            self.flush()

    def _add(self, line: bytes) -> int:
        if line:
            self._lines.append(line)
        self.position += 1
        self._wanted.set()
        return self.position

    # On the server.

    def flush(self) -> None:
        """Return when the server has everything that was noted so far."""
        target = self.position
        if self.acknowledged >= target or self._closed:
            return
        about_to_wait()
        with self._writing:
            if self.acknowledged < target and not self._closed:
                self._send(self._collect())

    def sync(self) -> None:
        """As flush(), and then it is on stable storage, as far as the transport can tell."""
        self.flush()
        with self._writing:
            if not self._unsynced:
                return
            for left in reversed(range(_SYNC_ATTEMPTS)):
                try:
                    self._sync_file()
                    break
                except (UnavailableError, StaleHandleError):
                    raise
                except OSError as error:
                    if not left:
                        raise
                    # The server may have lost what it had not synced, but it is here still.
                    logger.info("the end of the journal is written once more: %s", error)
                    end = b"".join(self._unsynced)
                    _write_pieces(self._opened(), self._offset - len(end), end)
            self._unsynced.clear()

    def _sync_file(self) -> None:
        with contextlib.suppress(NotSupportedError):
            self._opened().sync(data_only=True)

    def compact(self) -> None:
        """Write what counts to a new file, and let that take the journal's place."""
        with self._writing:
            with self.tree.lock:
                position = self._collect()
                snapshot = self._snapshot()
            self._send(position)
            self._since = []
        try:
            with contextlib.suppress(FileNotFoundError):
                self._backend.unlink(self._new_path)
            file = self._backend.open(self._new_path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=0o600)
            with file:
                _write_pieces(file, 0, snapshot)
                with self._writing:
                    self._replace(file, snapshot)
        finally:
            with self._writing:
                self._since = None

    def _take_over(self) -> None:
        """Leave the file of a mount that did not end in order to what may still come from there."""
        for left in reversed(range(_TAKE_OVER_ATTEMPTS)):
            try:
                self.compact()
            except OSError as error:
                if not left or isinstance(error, UnavailableError):
                    raise
                self._closing.wait(_TAKE_OVER_PAUSE)
            else:
                return

    def _note_end(self) -> None:
        """The mount ends in order, if it came as far as to begin. All else is on the server."""
        if self._thread is None:
            return
        with self.tree.lock:
            self._add(records.end_line())
        try:
            self.sync()
        except OSError as error:
            logger.info("the next mount writes the journal anew: %s", error)

    def _replace(self, file: BackendFile, snapshot: bytes) -> None:
        """Precondition: `_writing` is held."""
        more = b"".join(self._since or ())
        _write_pieces(file, len(snapshot), more)
        with contextlib.suppress(NotSupportedError):
            file.sync()
        file.close()
        self._close_file()  # closed before: some servers do not replace what is open in one step
        self._replacing = (len(snapshot) + len(more), len(snapshot))
        self._backend.rename(self._new_path, self._path)
        self._replaced()

    def _collect(self) -> int:
        """Take over what waits, and tell which position that is. Precondition: `_writing` is held."""
        with self.tree.lock:
            # A node's attributes before its name: what a crash cuts off at the end shows no name without them.
            lines = [records.node_line(node) for node in self._dirty if node.links]
            self._unwritten += b"".join(lines + self._lines)
            self._dirty.clear()
            self._lines.clear()
            return self.position

    def _send(self, position: int) -> None:
        """Write what was taken over. Precondition: `_writing` is held."""
        if self._unwritten:
            self._write(self._unwritten)
            if self._since is not None:
                self._since.append(self._unwritten)
            self._unwritten = b""
        self.acknowledged = position

    def _write(self, data: bytes) -> None:
        """To be repeated after a failure: the same bytes at the same place do no harm if they were there already."""
        try:
            _write_pieces(self._opened(), self._offset, data)
        except (UnavailableError, StaleHandleError):
            if self._file is None:  # opening it has been repeated for as long as a call may take
                raise
            self._close_file()
            _write_pieces(self._opened(), self._offset, data)
        self._offset += len(data)
        self._unsynced.append(data)

    def _replaced(self) -> None:
        if self._replacing is not None:
            self._offset, self._worth = self._replacing
            self._replacing = None
            self._unsynced.clear()

    def _opened(self) -> BackendFile:
        if self._file is None:
            if self._replacing is not None:  # the reply was lost
                try:
                    self._backend.stat(self._new_path)
                    self._replacing = None
                except FileNotFoundError:
                    self._replaced()
            self._file = self._backend.open(self._path, Access.READ_WRITE)
        return self._file

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _snapshot(self) -> bytes:
        """Precondition: the tree's lock is held, and nothing waits to be written."""
        tree = self.tree
        lines = [records.header_line(tree), records.node_line(tree.root)]
        told: set[Node] = set()
        for directory, name, node in tree.live():
            if node not in told:
                told.add(node)
                lines.append(records.node_line(node))
            lines.append(records.name_line(directory, name, node))
        for intent in self._open_intents.values():
            if intent.node is not None and intent.node not in told:
                lines.append(records.node_line(intent.node))
            lines.append(records.intent_line(intent))
            if intent.stepped:
                lines.append(records.step_line(intent))
        return b"".join(lines)

    def _run(self) -> None:
        warned = False
        while not self._closing.is_set():
            self._wanted.wait()
            self._wanted.clear()
            if self._closing.wait(self._delay):
                return
            try:
                with as_one_request():  # changes wait for it
                    self.flush()
                if self._offset > max(COMPACT_BYTES, COMPACT_GROWTH * self._worth):
                    self.compact()
                elif sum(map(len, self._unsynced)) > _UNSYNCED_BYTES:
                    self.sync()
                warned = False
            except OSError as error:
                self._wanted.set()
                if not warned:
                    logger.warning("attributes are not written yet, which is tried again: %s", error)
                warned = True


def _write_pieces(file: BackendFile, offset: int, data: bytes) -> None:
    for start in range(0, len(data), PIECE_BYTES):
        file.write_at(offset + start, data[start : start + PIECE_BYTES])
