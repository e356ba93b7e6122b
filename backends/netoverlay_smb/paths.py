"""Between the paths of the seam and those of the share, with the names that a server calls otherwise than we do."""

from __future__ import annotations

import logging
import threading

from netoverlay.backend_api import LayerPath, join_path
from netoverlay_smb import names

SEPARATOR = names.encode_utf16("\\")
MAX_ALIASES = 200_000

_log = logging.getLogger(__name__)


def join(directory: bytes, name: str) -> bytes:
    """The path on the share (UTF-16) of what the server calls `name` in a directory."""
    last = names.encode_utf16(name)
    return directory + SEPARATOR + last if directory else last


class PathMap:
    """Paths on the share, in UTF-16.

    Samba lists files whose names Windows could not have under short names that it makes up, and knows them by no other.
    What a listing found out about these is kept here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._aliases: dict[LayerPath, str] = {}
        self._warned = False

    def warn_of_short_name(self, directory: LayerPath, listed: str) -> None:
        """The server lists a name that leads nowhere; the first one is logged."""
        with self._lock:
            warned, self._warned = self._warned, True
        if not warned:
            _log.warning(
                "%r: the server lists %r, and knows nothing of that name: such entries are left out; "
                "on Samba the share's setting `mangled names = no` helps",
                directory,
                listed,
            )

    def note_alias(self, path: LayerPath, listed: str) -> None:
        """What is at `path` is called `listed` by the server, in its directory. Under many of them the first go."""
        with self._lock:
            while len(self._aliases) >= MAX_ALIASES:
                del self._aliases[next(iter(self._aliases))]
            self._aliases[path] = listed

    def removed(self, path: LayerPath) -> None:
        """What was at `path` is there no longer: what will be made there has the name that is asked for."""
        if self._aliases:
            with self._lock:
                self._aliases.pop(path, None)

    def renamed(self, old: LayerPath, new: LayerPath) -> None:
        """What was at `old`, with all below, is now at `new`; the server calls it there as it did what it replaced."""
        if not self._aliases:
            return
        self.removed(old)
        below = join_path(old, "")
        with self._lock:
            for path in [path for path in self._aliases if path.startswith(below)]:
                self._aliases[join_path(new, path.removeprefix(below))] = self._aliases.pop(path)

    def on_server(self, root: str, path: LayerPath) -> bytes:
        """The path on the share whose directory `root` is the layer's. EINVAL, ENAMETOOLONG (names.server_path())."""
        found = names.server_path(root, path)
        if self._aliases:
            found = self._with_aliases(root, path)
        return names.encode_utf16(found)

    def _with_aliases(self, root: str, path: LayerPath) -> str:
        walked: LayerPath = ""
        found = root
        for part in path.split("/") if path else ():
            walked = join_path(walked, part)
            with self._lock:
                alias = self._aliases.get(walked)
            found = f"{found}\\{alias or names.to_server(part)}" if found else alias or names.to_server(part)
        return found
