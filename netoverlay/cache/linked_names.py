"""Names that may be links to one file, of a transport that does not tell.

The lock of all listings (listings.py) is held for everything here.
"""

from __future__ import annotations

from netoverlay.backend_api.types import LayerPath


class LinkedNames:
    """Those that links were made of, as far as it was done here."""

    def __init__(self) -> None:
        self._paths: set[LayerPath] = set()

    def __bool__(self) -> bool:
        return bool(self._paths)

    def __contains__(self, path: LayerPath) -> bool:
        return path in self._paths

    def add(self, *paths: LayerPath) -> None:
        """They may be one file from now on."""
        self._paths.update(paths)

    def remove(self, *paths: LayerPath) -> None:
        """These names are gone."""
        self._paths.difference_update(paths)

    def rename(self, old: LayerPath, new: LayerPath, *, exchange: bool) -> list[LayerPath]:
        """As Listings.rename()."""
        moves = {path: new + path[len(old) :] for path in self._below(old)}
        gone = [] if exchange else [path for path, target in moves.items() if target not in self._paths]
        if exchange:
            moves |= {path: old + path[len(new) :] for path in self._below(new)}
        self._paths.update(moves.values())
        return gone

    def _below(self, top: LayerPath) -> set[LayerPath]:
        prefix = f"{top}/"
        return {path for path in self._paths if path == top or path.startswith(prefix)}
