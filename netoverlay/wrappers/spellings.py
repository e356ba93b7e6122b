"""The names of one directory on a server that takes names which differ in case only for one.

The first of such names is stored as it is. A further one is stored with one more character at its end, a mark out of
Unicode's private use area, which is taken away again when the directory is listed. So is a name that ends in a mark
itself, so that every name comes back as it was.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator

from netoverlay.backend_api.errors import os_error

MARKS = tuple(map(chr, range(0xF200, 0xF300)))
"""Characters that no file system gives a meaning to (docs/smb.md has those of SMB)."""
_FIRST, _LAST = MARKS[0], MARKS[-1]
_DOTTED_SMALL_I = "i\u0307"


def fold(name: str) -> str:
    """The same for names that a server may take for one; for others it may be the same, too, which does no harm."""
    if name.isascii():
        return name.lower()
    return name.upper().casefold().replace(_DOTTED_SMALL_I, "i")


def is_marked(stored: str) -> bool:
    """Whether the last character is a mark."""
    return _FIRST <= stored[-1:] <= _LAST


class Spellings:
    """Which name is stored under which. Changes are the caller's to serialise; reading needs no lock."""

    def __init__(self, stored: Collection[str]) -> None:
        """`stored` are the names that the server lists."""
        self._stored: dict[str, str] = {}
        self._unmarked: dict[str, str] = {}
        """What is shown for those stored names that end in a mark."""
        self._folded: dict[str, int] = {}
        """How many stored names there are for each value of fold()."""
        marked = []
        for name in stored:
            if is_marked(name):
                marked.append(name)
            else:
                self.enter(name, name)
        for name in sorted(marked):
            shown = name[:-1] or name
            while shown in self._stored:  # what others have made may look like ours
                shown = name if len(shown) < len(name) else shown + _FIRST
            self.enter(shown, name)

    def stored(self, shown: str) -> str | None:
        """The stored name; None if there is no such name."""
        return self._stored.get(shown)

    def shown(self, stored: str) -> str:
        """The name that is shown for one that the server lists."""
        return self._unmarked.get(stored, stored[:-1] or stored) if is_marked(stored) else stored

    def is_taken(self, name: str) -> bool:
        """Whether the server may find one of the stored names under this one."""
        return fold(name) in self._folded

    def allot(self, shown: str, *, without: Collection[str], leaving: str | None) -> str:
        """Enter a new name, and return how to store it. EEXIST if there is no way left.

        `without`: values of fold() that are not to be used. `leaving`: the stored name that becomes the new one, which
        may only change its case if neither has a mark.
        """
        for stored in _ways(shown):
            folded = fold(stored)
            taken = self._folded.get(folded, 0)
            if stored == shown and leaving is not None and fold(leaving) == folded:
                taken -= 1
            if not taken and folded not in without:
                self.enter(shown, stored)
                return stored
        raise os_error(errno.EEXIST, shown)

    def enter(self, shown: str, stored: str) -> None:
        """There is such a name now."""
        self._stored[shown] = stored
        if is_marked(stored):
            self._unmarked[stored] = shown
        folded = fold(stored)
        self._folded[folded] = self._folded.get(folded, 0) + 1

    def leave(self, shown: str) -> None:
        """There is no such name any more, if there was one."""
        stored = self._stored.pop(shown, None)
        if stored is None:
            return
        self._unmarked.pop(stored, None)
        folded = fold(stored)
        self._folded[folded] -= 1
        if not self._folded[folded]:
            del self._folded[folded]


def _ways(shown: str) -> Iterator[str]:
    if not is_marked(shown):
        yield shown
    for mark in MARKS:
        yield shown + mark
