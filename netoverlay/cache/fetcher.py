"""Fetch listings for the metadata cache: each by one caller for all who wait for it, those of a walk ahead of it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import TypeAlias, TypeVar

from netoverlay.backend_api.backend import Backend
from netoverlay.backend_api.errors import UnavailableError
from netoverlay.backend_api.types import DirEntry, LayerPath, NamedEntry, split_path
from netoverlay.cache.ahead import Ahead
from netoverlay.cache.kept_layer import KeptLayer
from netoverlay.cache.listing import Listing
from netoverlay.cache.listing_fetch import Fetch
from netoverlay.cache.listings import Listings
from netoverlay.cache.open_files import OpenFiles
from netoverlay.cache.purpose import Purpose, purpose
from netoverlay.cache.single_flight import outcome

_NAME = itemgetter(0)
E = TypeVar("E")
_Unkept: TypeAlias = list[tuple[LayerPath, list[DirEntry]]]
"""Listings that are in memory, and not on disk yet."""


class ListingFetcher:
    """Brings what is not in `listings`, from `kept` or from `layer`.

    `ahead`: listings ahead of a walk at once; 0 for none. `kept`: what is on disk of a layer that nobody changes.
    """

    def __init__(
        self, layer: Backend, listings: Listings, files: OpenFiles, *, ahead: int, kept: KeptLayer | None
    ) -> None:
        self.kept = kept
        """None from when the layer is changed."""
        self.names_first = False
        """Whether names alone cost less than a whole listing."""
        self._whole_ahead = True
        """Whether who walks now wants all attributes."""
        self._layer = layer
        self._listings = listings
        self._files = files
        self._ahead = Ahead(ahead, self.list_ahead) if ahead else None
        if self._ahead:
            listings.on_first_use = self._ahead.used

    def start(self) -> None:
        """The layer is connected, and will be used: whatever is looked for in it, its root is looked at first."""
        if self._ahead:
            self._ahead.expect("")

    def stop(self) -> None:
        """Fetch nothing ahead any more."""
        if self._ahead:
            self._ahead.stop()

    def join(self) -> None:
        """After stop(): wait for what is under way, and have it on disk."""
        if self._ahead:
            self._ahead.join()
        if self.kept is not None:
            self.kept.flush()
            self.kept.keep_names(self._listings.unkept_names())

    def entries(self, path: LayerPath) -> list[DirEntry]:
        """What a program is told that lists the directory `path`."""
        entries = None
        while entries is None:
            fetch, is_ours = self._listings.begin(path, whole=True)
            if is_ours:
                return self._fetch(fetch, listed=True)[0]
            is_walk = not fetch.result.done() and self._missed(path, listed=True)
            listing = outcome(fetch.result)
            entries = self._listings.entries(path, listing) if listing else None
            if is_walk:
                self._descend(path)
        return entries

    def listing(self, path: LayerPath, *, whole: bool = False) -> Listing:
        """The listing of `path`, fetched by whoever came first; maybe without attributes, unless it has to be `whole`.

        For who looks for a name in it.
        """
        while True:
            fetch, is_ours = self._listings.begin(path, whole=whole)
            if is_ours:
                if not whole and self.names_first:
                    return self._kept_names(fetch) or self._fetch_names(fetch)
                return self._fetch(fetch, listed=False)[1]
            known = outcome(fetch.result)
            if known and not (whole and known.has_names_only):
                return known

    def note_listed(self, path: LayerPath) -> None:
        """A program lists the directory `path`."""
        if self._ahead:
            self._ahead.listed(path)

    def _fetch(self, fetch: Fetch, *, listed: bool) -> tuple[list[DirEntry], Listing]:
        """List a directory for all who wait for it. `listed`: for a program that lists it."""
        with self._failing(fetch):
            known = self._kept_listing(fetch)
            if known is not None:
                return known
            is_walk = self._missed(fetch.path, listed=listed)
            entries = self._layer.list_dir(fetch.path)
        unkept: _Unkept = []
        listing = self._store(fetch, entries, unkept)
        if is_walk:
            self._descend(fetch.path)
        self._keep(unkept)
        return entries, listing

    def _fetch_names(self, fetch: Fetch) -> Listing:
        """As _fetch(), for who looks for a name, and need not wait for the attributes of the others."""
        if self._listings.are_many_wanted():
            return self._fetch(fetch, listed=False)[1]
        with self._failing(fetch):
            known = self._kept_listing(fetch)
            if known is not None:
                return known[1]
            is_walk = self._missed(fetch.path, listed=False)
            (entries,) = self._layer.list_names([fetch.path])
            if isinstance(entries, OSError):
                raise entries
        unkept: _Unkept = []
        listing = self._store_names(fetch, entries, unkept)
        if is_walk:
            self._descend(fetch.path)
        self._keep(unkept)
        return listing

    def _kept_listing(self, fetch: Fetch) -> tuple[list[DirEntry], Listing] | None:
        kept = self.kept
        found = None if kept is None else kept.listing(fetch.path)
        return None if found is None else (found.entries, self._listings.store(fetch, found.entries, (), found.extras))

    def _kept_names(self, fetch: Fetch) -> Listing | None:
        """What is on disk of a directory that is not there whole."""
        with self._failing(fetch):
            kept = self.kept
            if kept is None or (known := kept.names(fetch.path)) is None or kept.listing(fetch.path) is not None:
                return None
        return self._listings.store_names(fetch, known.entries, (), known.extras)

    def _store(self, fetch: Fetch, entries: list[DirEntry], unkept: _Unkept) -> Listing:
        # Programs walk a tree as it is listed, or in the order of names: what is fetched ahead can then suit both.
        entries.sort(key=_NAME)
        unkept.append((fetch.path, entries))
        return self._listings.store(fetch, entries, self._unsettled(fetch.path, entries))

    def _keep(self, unkept: _Unkept) -> None:
        """Have on disk what was stored, for which nobody waits any more."""
        if self.kept is not None:
            self.kept.keep_listings(unkept)

    def _store_names(self, fetch: Fetch, entries: list[NamedEntry], unkept: _Unkept) -> Listing:
        told = [DirEntry(name, stat) for name, _, stat in entries if stat is not None]
        if len(told) == len(entries):
            return self._store(fetch, told, unkept)
        entries.sort(key=_NAME)
        return self._listings.store_names(fetch, entries, self._unsettled(fetch.path, entries))

    @contextmanager
    def _failing(self, fetch: Fetch) -> Iterator[None]:
        """Around what brings it: an error is for all who wait."""
        try:
            yield
        except BaseException as error:
            self._failed(fetch, error)
            raise

    def _failed(self, fetch: Fetch, error: BaseException) -> None:
        self._listings.fail(fetch, error)
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            self._listings.forget(fetch.path)

    def _failed_ahead(self, fetch: Fetch, error: BaseException) -> None:
        """Who has waited for it since asks by himself, if there was no answer: there may be one by now."""
        is_unanswered = isinstance(error, UnavailableError)
        self._failed(fetch, InterruptedError(errno.EINTR, str(error)) if is_unanswered else error)

    def _unsettled(self, path: LayerPath, entries: Sequence[DirEntry | NamedEntry]) -> list[str]:
        """The names whose attributes may be changing now."""
        if self._files.names_unknown or (not self._listings.exact_names and self._files.any_written()):
            return [entry.name for entry in entries]
        return self._files.written_in(path)

    def _missed(self, path: LayerPath, *, listed: bool) -> bool:
        """Whether there is a walk, which is likely to go on in `path`."""
        parent = split_path(path)[0]
        ahead = self._ahead
        if ahead is None:
            return False
        whole = self._whole_ahead = (listed and purpose() is not Purpose.ONE_NAME) or self._listings.are_many_wanted()
        return ahead.missed(
            path,
            listed=listed,
            again=self._listings.has_names_only(path),
            beside=lambda: self._listings.subdirectories(parent, whole=whole),
        )

    def _descend(self, path: LayerPath) -> None:
        if self._ahead:
            self._ahead.found(self._listings.subdirectories(path, whole=self._whole_ahead))

    def list_ahead(self, paths: Sequence[LayerPath]) -> list[LayerPath]:
        """List those of `paths` that nobody is at; what is below all that are listed now. OSError."""
        whole = self._whole_ahead or not self.names_first
        begun = [self._listings.begin(path, whole=whole, ahead=True) for path in paths]
        fetches = [fetch for fetch, is_ours in begun if is_ours]
        try:
            asked = [fetch for fetch in fetches if self._kept_listing(fetch) is None]
            if not whole:
                asked = [fetch for fetch in asked if self._kept_names(fetch) is None]
            self._bring_ahead(asked, whole=whole)
        except BaseException as error:
            for fetch in fetches:
                if not fetch.result.done():
                    self._failed_ahead(fetch, error)
            raise
        return [below for fetch in fetches for below in self._listings.subdirectories(fetch.path, whole=whole)]

    def _bring_ahead(self, fetches: Sequence[Fetch], *, whole: bool) -> None:
        """What is raised is about all that are not ended then."""
        paths = [fetch.path for fetch in fetches]
        if not paths:
            return
        unkept: _Unkept = []
        if whole:
            for fetch, entries in zip(fetches, self._layer.list_dirs(paths), strict=True):
                self._end(fetch, entries, self._store, unkept)
        else:
            for fetch, named in zip(fetches, self._layer.list_names(paths), strict=True):
                self._end(fetch, named, self._store_names, unkept)
        self._keep(unkept)

    def _end(
        self, fetch: Fetch, found: E | OSError, store: Callable[[Fetch, E, _Unkept], Listing], unkept: _Unkept
    ) -> None:
        if isinstance(found, OSError):
            self._failed_ahead(fetch, found)
        else:
            store(fetch, found, unkept)
