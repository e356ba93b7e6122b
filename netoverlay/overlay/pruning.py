"""Letting go of inodes, so that a mount of millions of files stays small.

The kernel counts a lookup on each file that it was told of, and forgets none while it has memory to spare; meanwhile
its inode has to stay here. So when there are too many, the kernel is asked to forget those that were not used for
longest. It forgets what nobody has open, works in, watches or has mounted something on, and nothing else, whatever is
asked.

Which ones: a clock goes round the table, in the order in which the inodes came. One that was opened since it last
passed stays for another round. A directory goes after all that is in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from netoverlay.overlay.inode_table import InodeTable
from netoverlay.overlay.inodes import DirectoryInode, Inode

LetGo: TypeAlias = Callable[[Sequence[int]], object]
"""Asks the kernel to forget the inodes of some nodeids, as far as they are unused."""

_SPARED_PART: Final = 8
"""When there are too many, so many fewer than the limit (one in 8) are kept, lest it is reached again at once."""
FIRST_PAUSE_SECONDS: Final = 0.05
"""Between rounds: for what the kernel has let go of to be forgotten here. Longer if that is little."""
LONGEST_PAUSE_SECONDS: Final = 5.0


class Pruner:
    """Keeps the number of inodes of one mount below `inodes.most`, on a thread of its own."""

    def __init__(self, inodes: InodeTable) -> None:
        self._inodes = inodes
        self._hand: Iterator[int] = iter(())
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, let_go: LetGo) -> None:
        """`let_go` is called on a thread that serves no request, and with no lock held."""
        self._thread = threading.Thread(target=self._run, args=(let_go,), name="prune", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when nothing is asked any more. Harmless if it was never started."""
        self._stopped.set()
        self._inodes.crowded.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, let_go: LetGo) -> None:
        while not self._stopped.is_set():
            self._inodes.crowded.wait()
            if not self._stopped.is_set():
                self._go_round(let_go)

    def _go_round(self, let_go: LetGo) -> None:
        victims = self.victims(len(self._inodes) - self._inodes.most + self._inodes.most // _SPARED_PART)
        let_go(victims)
        self._stopped.wait(self._pause_seconds)
        still_there = sum(nodeid in self._inodes for nodeid in victims)
        if still_there * 2 < len(victims):
            self._pause_seconds = FIRST_PAUSE_SECONDS
        else:
            self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        if len(self._inodes) <= self._inodes.most:
            self._inodes.crowded.clear()

    def victims(self, count: int) -> list[int]:
        """The nodeids of up to `count` inodes that were not used for longest."""
        found: list[int] = []
        # Twice round at most: the first time takes from each inode that it was used.
        to_consider = 2 * len(self._inodes)
        while len(found) < count and to_consider > 0:
            to_consider -= 1
            nodeid = next(self._hand, None)
            if nodeid is None:
                self._hand = iter(self._inodes.nodeids())
                continue
            inode = self._inodes.find_nodeid(nodeid)
            if inode is not None and self._may_go(inode):
                found.append(nodeid)
        return found

    def _may_go(self, inode: Inode) -> bool:
        if inode.used:
            inode.used = False
            return False
        # Handles say nothing: the kernel may have opened it by itself, or have closed what is still open here.
        return not (isinstance(inode, DirectoryInode) and inode.children)
