"""Which user and group ids are shown for those of a layer whose owners mean nothing here, and the way back."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass

from netoverlay.backend_api.errors import os_error

ROOT_ID = 0
OVERFLOW_ID = 65534
"""What the kernel shows for an id that has no place in a map (/proc/sys/kernel/overflowuid as it is set everywhere)."""
MAX_ID = (1 << 32) - 2
"""The largest id: the one after it means "none" to chown(2)."""


class Squash(enum.Enum):
    """Whose id is replaced by the map's own one."""

    NONE = "none"
    ROOT = "root"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class IdRange:
    """`count` ids of a layer from `first` on are shown as as many ids from `shown` on."""

    first: int
    shown: int
    count: int


@dataclass(frozen=True, slots=True)
class IdMap:
    """What is shown for each id of a layer: of its users, or of its groups. By default every id as it is.

    It has `ranges` or squashes, not both.
    """

    own: int | None = None
    """Shown for an id that is squashed, and for one that the layer does not tell; None: OVERFLOW_ID for the former, and
    the latter stays untold."""
    squash: Squash = Squash.NONE
    ranges: tuple[IdRange, ...] = ()
    """Without overlaps, on either side. If there are any, an id in none of them is shown as OVERFLOW_ID."""

    def shown(self, layer_id: int) -> int:
        """What is shown for an id of the layer."""
        if self.squash is Squash.ALL or (self.squash is Squash.ROOT and layer_id == ROOT_ID):
            return OVERFLOW_ID if self.own is None else self.own
        if not self.ranges:
            return layer_id
        for mapped in self.ranges:
            if 0 <= layer_id - mapped.first < mapped.count:
                return mapped.shown + layer_id - mapped.first
        return OVERFLOW_ID

    def origin(self, shown: int) -> int:
        """The id of the layer that is shown as `shown`. OSError (EOVERFLOW) if it is not exactly one."""
        if self.squash is Squash.ALL or (self.squash is Squash.ROOT and shown in (ROOT_ID, self.own)):
            raise os_error(errno.EOVERFLOW)
        if not self.ranges:
            return shown
        for mapped in self.ranges:
            if 0 <= shown - mapped.shown < mapped.count:
                return mapped.first + shown - mapped.shown
        raise os_error(errno.EOVERFLOW)


@dataclass(frozen=True, slots=True)
class OwnerMap:
    """The maps for the users and for the groups of a layer."""

    users: IdMap
    groups: IdMap

    @property
    def squashes(self) -> bool:
        """Whether owners of the layer are shown as one, so that nothing leads back to them."""
        return self.users.squash is not Squash.NONE or self.groups.squash is not Squash.NONE
