"""Show other owners than a layer has: of a base whose users and groups mean nothing on this machine.

Placed outside the caches, which hold what the layer tells and may be shared by mounts that show it differently.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache

from netoverlay.backend_api.backend import Backend, BackendFile
from netoverlay.backend_api.delegate import DelegatingBackend, DelegatingFile
from netoverlay.backend_api.errors import NotSupportedError
from netoverlay.backend_api.types import (
    Access,
    AttributeChange,
    Capabilities,
    Creation,
    DirEntry,
    FileStat,
    LayerPath,
    XattrMode,
)
from netoverlay.wrappers.id_map import OwnerMap
from netoverlay.wrappers.id_xattrs import ATTRIBUTES_WITH_IDS

_KNOWN_OWNERS = 4096
"""How many owners are remembered; a base has fewer, but for one that means harm."""
_UID = FileStat._fields.index("uid")
_AFTER_GID = FileStat._fields.index("gid") + 1


class OwnersBackend(DelegatingBackend):
    """Shows the owners of `inner` as `owners` maps them, also those in access control lists and file capabilities.

    Changes take the way back: EOVERFLOW for an owner to which no id of the layer, or more than one, leads. Where
    owners are squashed they cannot be changed, and are not claimed.
    """

    def __init__(self, inner: Backend, owners: OwnerMap) -> None:
        super().__init__(inner)
        self._owners = owners
        self._shown_owner = lru_cache(_KNOWN_OWNERS)(self._map_owner)
        self._can_change = False

    def connect(self) -> Capabilities:
        capabilities = self.inner.connect()
        self._can_change = capabilities.owners and not self._owners.squashes
        return dataclasses.replace(capabilities, owners=self._can_change)

    def stat(self, path: LayerPath) -> FileStat:
        return self.shown(self.inner.stat(path))

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        entries = []
        for entry in self.inner.list_dir(path):
            shown = self.shown(entry.stat)
            entries.append(entry if shown is entry.stat else DirEntry(entry.name, shown))
        return entries

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        return _OwnersFile(self.inner.open(path, access, create=create, truncate=truncate, mode=mode), self)

    def at_hand(self, path: LayerPath, most: int) -> bytes | None:
        return self.inner.at_hand(path, most)

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        self.inner.set_attributes(path, self.in_layer(change))

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        return self.shown_xattr(name, self.inner.get_xattr(path, name))

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self.inner.set_xattr(path, name, self.xattr_in_layer(name, value), mode)

    def shown(self, stat: FileStat) -> FileStat:
        """The attributes of the layer with the owner to show."""
        owner = self._shown_owner(stat.uid, stat.gid)
        # In half the time of _replace(): a listing has tens of thousands of these.
        return stat if owner is None else FileStat._make(stat[:_UID] + owner + stat[_AFTER_GID:])

    def in_layer(self, change: AttributeChange) -> AttributeChange:
        """The change of what is shown as one of the layer."""
        if change.uid is None and change.gid is None:
            return change
        if not self._can_change:
            raise NotSupportedError("set_attributes(owner)")
        return dataclasses.replace(
            change,
            uid=None if change.uid is None else self._owners.users.origin(change.uid),
            gid=None if change.gid is None else self._owners.groups.origin(change.gid),
        )

    def shown_xattr(self, name: str, value: bytes) -> bytes:
        """The value of the layer's attribute with the ids to show."""
        change = ATTRIBUTES_WITH_IDS.get(name)
        if change is None:
            return value
        users, groups = self._owners.users, self._owners.groups
        return change(value, users.shown, groups.shown)

    def xattr_in_layer(self, name: str, value: bytes) -> bytes:
        """The value as it is shown with the ids of the layer."""
        change = ATTRIBUTES_WITH_IDS.get(name)
        return value if change is None else change(value, self._owners.users.origin, self._owners.groups.origin)

    def _map_owner(self, uid: int | None, gid: int | None) -> tuple[int | None, int | None] | None:
        """The owner and group to show, None if they are the same."""
        users, groups = self._owners.users, self._owners.groups
        shown = (
            users.own if uid is None else users.shown(uid),
            groups.own if gid is None else groups.shown(gid),
        )
        return None if shown == (uid, gid) else shown


class _OwnersFile(DelegatingFile):
    """An open file of an OwnersBackend."""

    def __init__(self, inner: BackendFile, backend: OwnersBackend) -> None:
        super().__init__(inner)
        self._backend = backend

    def stat(self) -> FileStat:
        return self._backend.shown(self.inner.stat())

    def set_attributes(self, change: AttributeChange) -> None:
        self.inner.set_attributes(self._backend.in_layer(change))

    def get_xattr(self, name: str) -> bytes:
        return self._backend.shown_xattr(name, self.inner.get_xattr(name))

    def set_xattr(self, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self.inner.set_xattr(name, self._backend.xattr_in_layer(name, value), mode)
