"""Who keeps a lock: this mount alone, the layer that holds the file as well, or nobody, and then it is refused.

A lock protects the file that its holder's reads and writes reach. Where nobody outside this mount can use that file,
the mount's own table is exact. Elsewhere the layer must hold the lock, too; where it cannot, the answer is ENOLCK, for
a lock that others do not see is none.
"""

from __future__ import annotations

import enum
from typing import Final, Protocol

from netoverlay.backend_api import Capabilities


class LockMode(enum.Enum):
    """`locks.mode` of a profile."""

    DELEGATE = "delegate"
    """As the module says."""
    LOCAL = "local"
    """Always the table alone."""
    NONE = "none"
    """Every lock is refused."""


class LockedLayer(Protocol):
    """What of a layer decides who keeps the locks on its files."""

    @property
    def has_outsiders(self) -> bool:
        """Others than this mount may lock its files, and write them."""

    @property
    def capabilities(self) -> Capabilities:
        """`locks` counts."""


class Keeping(enum.Enum):
    """Who keeps the locks on the files of a layer."""

    TABLE = "table"
    LAYER = "layer"
    NOWHERE = "nowhere"


def keeping(mode: LockMode, layer: LockedLayer) -> Keeping:
    """Who keeps the locks on the files that are in `layer`."""
    if mode is LockMode.NONE:
        return Keeping.NOWHERE
    if mode is LockMode.LOCAL or not layer.has_outsiders:
        return Keeping.TABLE
    return Keeping.LAYER if layer.capabilities.locks else Keeping.NOWHERE


_WORDS: Final = {
    Keeping.TABLE: "kept by this mount",
    Keeping.LAYER: "held in the layer as well",
    Keeping.NOWHERE: "refused (ENOLCK)",
}


def in_words(mode: LockMode, layer: LockedLayer, *, is_upper: bool) -> str:
    """What locks do in a layer, and why, for who mounts it."""
    kept = keeping(mode, layer)
    if mode is not LockMode.DELEGATE:
        reason = f'locks.mode = "{mode.value}"'
    elif not layer.has_outsiders:
        reason = "private: nobody else uses it" if is_upper else "immutable: nobody writes there"
    elif kept is Keeping.NOWHERE:
        remedy = "if nobody does, set private = true" if is_upper else "if nobody writes there, set immutable = true"
        reason = f"others may use it, and it has no locks; {remedy}"
    elif is_upper:
        reason = "others may use it"
    else:
        reason = "others may write there; exclusive locks copy the file up"
    return f"{_WORDS[kept]} ({reason})" if kept is not Keeping.NOWHERE else f"{_WORDS[kept]}: {reason}"
