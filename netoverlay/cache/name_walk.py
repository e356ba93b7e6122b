"""A walk by name: files that are called the same, in many directories side by side, opened one after the other."""

from __future__ import annotations

import os
from typing import NamedTuple

from netoverlay.backend_api.types import LayerPath, split_path

SAME_NAME = 3
"""Files of one name, in as many directories and none of another name in between, from which on it is a walk."""


class SameName(NamedTuple):
    """The files called `name` that are `depth` directories below the directory `path`."""

    path: LayerPath
    depth: int
    name: str


class NameWalk:
    """What was opened last. Whoever uses it holds a lock of his own."""

    def __init__(self) -> None:
        self._directory: LayerPath = ""
        self._name = ""
        self._count = 0
        self._common: LayerPath = ""
        """What the last two directories are below."""
        self._told: LayerPath | None = None

    @property
    def goes_on(self) -> bool:
        """Whether there is such a walk."""
        return self._count >= SAME_NAME

    def opened(self, path: LayerPath) -> None:
        """The file `path` is opened."""
        directory, name = split_path(path)
        if name != self._name or directory.count("/") != self._directory.count("/"):
            self._name, self._count, self._told = name, 1, None
        elif directory != self._directory:
            self._count += 1
            self._common = os.path.commonpath((f"/{self._directory}", f"/{directory}")).strip("/")
        self._directory = directory

    def files(self) -> SameName | None:
        """Those that are likely to be opened; None if they have been told already."""
        told = self._told
        if told is not None and (not told or f"{self._common}/".startswith(f"{told}/")):
            return None
        self._told = self._common
        above = self._common.count("/") + 1 if self._common else 0
        return SameName(self._common, self._directory.count("/") + 1 - above, self._name)
