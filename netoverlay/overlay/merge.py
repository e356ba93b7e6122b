"""What a name, or a directory, of the overlay shows, from what the layers hold.

Top-most wins: what is no directory hides all below; directories of the same name are merged, down to the first that is
opaque; a whiteout hides its name in all layers below. A redirect continues the merge elsewhere below. The rules are
those of the kernel's overlayfs.rst.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

import msgspec

from netoverlay.backend_api import DirEntry, FileStat, FileType, LayerPath, join_path, split_path
from netoverlay.overlay.layers import Layer, LayerStack, LowerPlace, UpperLayer
from netoverlay.overlay.links import LinkCount
from netoverlay.overlay.whiteouts import LayerFormat

FOLLOW_LIMIT = 40
"""Redirects that lead to redirects: as many as the kernel follows symbolic links."""


class Found(msgspec.Struct, frozen=True):
    """What a name shows. A struct, which is made in a third of the time: a walk makes one for each name."""

    stat: FileStat
    """Of the top-most."""
    ino: int
    in_upper: bool
    lowers: tuple[LowerPlace, ...]
    """Of a directory: all that are merged into it, top-most first. Of a file of a lower: where it stands."""
    links: LinkCount | None = None
    """Of a file of the upper that has names in a lower."""


class Above(NamedTuple):
    """What the upper holds under a name."""

    stat: FileStat
    ino: int
    whiteout: bool = False
    opaque: bool = False
    redirect: str | None = None


class Listed(Found, frozen=True, kw_only=True):
    """One name of a merged directory, and what it shows."""

    name: str
    is_whole: bool
    """False for a directory of which the listing does not tell all that are merged into it: `lowers` are not so."""


class Merge:
    """The rules, over the layers of one mount. Without state, so any thread may call it."""

    def __init__(self, stack: LayerStack) -> None:
        self._lowers = stack.lowers
        self._last = stack.lowers[-1] if stack.lowers else None

    def root(self) -> tuple[LowerPlace, ...]:
        """The lower directories that make up the root."""
        return _roots(self._lowers)

    def above(self, upper: UpperLayer, path: LayerPath) -> Above | None:
        """What the upper holds at `path`. Precondition: PATHS is held, if other threads may rename."""
        stat = upper.stat_or_none(path)
        if stat is None:
            return None
        marks = upper.marks
        if marks.hides(path, stat):
            return Above(stat, 0, whiteout=True)
        ino = marks.recorded_inode_number(path) or upper.inode_number(path, stat)
        if stat.type is not FileType.DIRECTORY:
            return Above(stat, ino)
        return Above(stat, ino, opaque=marks.is_opaque(path), redirect=marks.redirect(path))

    def below_upper(self, above: Above, lowers: tuple[LowerPlace, ...], name: str) -> tuple[LowerPlace, ...]:
        """The lower directories merged into a directory of the upper, whose parent has `lowers`."""
        if above.opaque:
            return ()
        if above.redirect is not None:
            return self._redirected(above.redirect, lowers, self._lowers, FOLLOW_LIMIT)
        return self._directories(lowers, name, FOLLOW_LIMIT)

    def below_directory(
        self, format: LayerFormat, path: LayerPath, lowers: tuple[LowerPlace, ...]
    ) -> tuple[LowerPlace, ...]:
        """The lower directories merged into the one at `path` of a layer above, whose parent has `lowers`."""
        if format.is_opaque(path):
            return ()
        redirect = format.redirect(path)
        if redirect is not None:
            return self._redirected(redirect, lowers, self._lowers, FOLLOW_LIMIT)
        return self._directories(lowers, split_path(path)[1], FOLLOW_LIMIT)

    def data(self, redirect: str | None, lowers: tuple[LowerPlace, ...], name: str) -> LowerPlace | None:
        """Where the data is of a file `name` of a layer above that has none; its directory has `lowers`."""
        if redirect is not None:
            *directories, name = _components(redirect)
            if redirect.startswith("/"):
                lowers = self.redirected(f"/{'/'.join(directories)}") if directories else self.root()
        found = self.below(lowers, name)
        return found.lowers[0] if found is not None and found.stat.type is FileType.REGULAR else None

    def redirected(self, redirect: str) -> tuple[LowerPlace, ...]:
        """Where an absolute redirect of a directory of the upper leads."""
        return self._redirected(redirect, (), self._lowers, FOLLOW_LIMIT)

    def below(self, lowers: tuple[LowerPlace, ...], name: str) -> Found | None:
        """What the lower directories `lowers`, merged, show under `name`; None if nothing."""
        return self._below(lowers, name, FOLLOW_LIMIT)

    def list_below(self, lowers: tuple[LowerPlace, ...], seen: dict[str, Listed | None]) -> None:
        """Add the names of the merged lower directories to `seen`, which holds those above; None: hidden."""
        for layer, path in lowers:
            entries = _entries(layer, path)
            hidden = layer.format.hidden_in(path, entries)
            is_last = layer is self._last
            for name, stat in entries:
                if name in seen:
                    continue
                if name in hidden:
                    seen[name] = None
                    continue
                place = LowerPlace(layer, join_path(path, name))
                ino = layer.inode_number(place.path, stat)
                is_whole = is_last or stat.type is not FileType.DIRECTORY
                seen[name] = Listed(stat, ino, False, (place,), name=name, is_whole=is_whole)

    def _below(self, lowers: tuple[LowerPlace, ...], name: str, follows: int) -> Found | None:
        top: Found | None = None
        merged: list[LowerPlace] = []
        for index, (layer, directory) in enumerate(lowers):
            path = join_path(directory, name)
            stat = layer.stat_or_none(path)
            if stat is None:
                continue
            if layer.format.hides(path, stat):
                break
            place = LowerPlace(layer, path)
            if top is None:
                top = Found(stat, layer.inode_number(path, stat), in_upper=False, lowers=(place,))
            if stat.type is not FileType.DIRECTORY:
                break
            merged.append(place)
            if layer is self._last or layer.format.is_opaque(path):
                break
            redirect = layer.format.redirect(path)
            if redirect is not None:
                below = self._lowers[self._lowers.index(layer) + 1 :]
                merged.extend(self._redirected(redirect, lowers[index + 1 :], below, follows - 1))
                break
        if top is None or top.stat.type is not FileType.DIRECTORY:
            return top
        return msgspec.structs.replace(top, lowers=tuple(merged))

    def _directories(self, lowers: tuple[LowerPlace, ...], name: str, follows: int) -> tuple[LowerPlace, ...]:
        found = self._below(lowers, name, follows)
        return found.lowers if found is not None and found.stat.type is FileType.DIRECTORY else ()

    def _redirected(
        self, redirect: str, lowers: tuple[LowerPlace, ...], below: tuple[Layer, ...], follows: int
    ) -> tuple[LowerPlace, ...]:
        """Where a redirect leads: a path from the roots of the layers `below`, or another name in `lowers`."""
        components = _components(redirect)
        if follows <= 0:
            raise _leads_nowhere(redirect)
        places = _roots(below) if redirect.startswith("/") else lowers
        for part in components:
            places = self._directories(places, part, follows - 1)
        return places


def is_sound_redirect(redirect: str) -> bool:
    """Whether it is the path of something in the lowers, or another name, whether that is there or not."""
    return not any(part in ("", ".", "..") or "/" in part or "\0" in part for part in _parts(redirect))


def _parts(redirect: str) -> list[str]:
    return redirect[1:].split("/") if redirect.startswith("/") else [redirect]


def _components(redirect: str) -> list[str]:
    """The names in a redirect: of a path, or the only one."""
    if not is_sound_redirect(redirect):
        raise _leads_nowhere(redirect)
    return _parts(redirect)


def _leads_nowhere(redirect: str) -> OSError:
    return OSError(errno.EIO, f"overlay.redirect leads nowhere: {redirect!r}")


def _roots(layers: tuple[Layer, ...]) -> tuple[LowerPlace, ...]:
    return tuple(LowerPlace(layer, layer.root) for layer in layers)


def _entries(layer: Layer, path: LayerPath) -> list[DirEntry]:
    """A lower directory's entries; none if it is gone, as a lower that others change may do at any time."""
    try:
        return layer.backend.list_dir(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise
