"""One number for what are two in the protocol: pyfuse3 tells the kernel a file's nodeid also as its inode number.

So the kernel is given st_ino for a nodeid, which stays the same over remounts, and where two files are shown with one
st_ino while the kernel knows both, the later one gets a number that no file is shown with.
"""

from __future__ import annotations

from typing import Final

ROOT: Final = 1
"""Fixed by the protocol."""
_OURS: Final = 1 << 63
"""Marks a number that is not the st_ino of its file; the nodeid is below it."""


class KernelNumbers:
    """Which number the kernel has for which nodeid. Used on the thread of the event loop; number_of() on any."""

    def __init__(self) -> None:
        self._nodeids: dict[int, int] = {ROOT: ROOT}
        """By number."""
        self._numbers: dict[int, int] = {ROOT: ROOT}
        """By nodeid."""
        self._lookups: dict[int, int] = {}
        """By number: how often the kernel was told it, less how often it has forgotten it."""

    def nodeid_of(self, number: int) -> int | None:
        """The nodeid for which the kernel was told `number`; None for one that it should have forgotten."""
        return self._nodeids.get(number)

    def number_of(self, nodeid: int) -> int:
        """What the kernel knows `nodeid` by; 0, which is no number, if it does not know it."""
        return self._numbers.get(nodeid, 0)

    def told(self, nodeid: int, ino: int) -> int:
        """The number to tell the kernel for a nodeid that is shown with the inode number `ino`. Counts one lookup."""
        number = self._numbers.get(nodeid)
        if number is None:
            number = ino if ino and ino not in self._nodeids else _OURS | nodeid
            self._numbers[nodeid] = number
            self._nodeids[number] = nodeid
        self._lookups[number] = self._lookups.get(number, 0) + 1
        return number

    def forget(self, number: int, count: int) -> int | None:
        """The kernel takes back `count` lookups of a number. Returns its nodeid, None if it is not known."""
        nodeid = self._nodeids.get(number)
        if nodeid is None or number == ROOT:
            return nodeid
        self._lookups[number] -= count
        if self._lookups[number] <= 0:
            del self._lookups[number], self._nodeids[number], self._numbers[nodeid]
        return nodeid
