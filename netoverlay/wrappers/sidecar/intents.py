"""Changes of names that the journal knows of before the server does.

Each is made by one decisive step on the server. Whether that was done can be seen there afterwards (recovery.py), and
only then does the tree in memory, or the one that is loaded from the journal, follow.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from netoverlay.wrappers.sidecar.nodes import Directory, Node, Tree

Key = tuple[Directory, str]


class Kind(enum.Enum):
    """What an intent changes; the values are in the journal."""

    REMOVE = "remove"
    """The name goes. Done once the server has it no more."""
    RENAME = "rename"
    """The first name goes, and the second is what it was. Done once the server has the first no more."""
    ENTER = "enter"
    """The name, which was free, leads to `node`. Done once the server has it."""
    EXCHANGE = "exchange"
    """The two names change places, the first by way of `aside`: see recovery.py."""


@dataclass(eq=False, slots=True)
class Intent:
    """One change of one or two names."""

    number: int
    kind: Kind
    places: tuple[Key, ...]
    node: Node | None = None
    aside: str | None = None
    """A name in the work directory."""
    stepped: bool = False
    """Of an exchange: nothing is left to be done but the last of its three renames."""

    def apply(self, tree: Tree) -> None:
        """Let the tree follow."""
        with tree.lock:
            if self.kind is Kind.REMOVE:
                tree.leave(*self.places[0])
            elif self.kind is Kind.RENAME:
                tree.move(*self.places)
            elif self.kind is Kind.EXCHANGE:
                tree.swap(*self.places)
            elif self.node is not None:
                tree.enter(*self.places[0], self.node)
