"""Fetch listings for the metadata cache: each by one caller for all who wait for it, those of a walk ahead of it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from netoverlay.backend_api.backend import Backend
from netoverlay.backend_api.types import DirEntry, LayerPath, split_path
from netoverlay.cache.ahead import Ahead
from netoverlay.cache.kept_layer import KeptLayer
from netoverlay.cache.listing import Listing
from netoverlay.cache.listings import Fetch, Listings
from netoverlay.cache.open_files import OpenFiles
from netoverlay.cache.single_flight import outcome

_NAME = itemgetter(0)


class ListingFetcher:
    """Brings what is not in `listings`, from `kept` or from `layer`.

    `ahead`: listings ahead of a walk at once; 0 for none. `kept`: what is on disk of a layer that nobody changes.
    """

    def __init__(
        self, layer: Backend, listings: Listings, files: OpenFiles, *, ahead: int, kept: KeptLayer | None
    ) -> None:
        self.kept = kept
        """None from when the layer is changed."""
        self._layer = layer
        self._listings = listings
        self._files = files
        self._ahead = Ahead(ahead, self._list_ahead) if ahead else None
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

    def listing(self, path: LayerPath) -> Listing:
        """The listing of `path`, fetched by whoever came first."""
        while True:
            fetch, is_ours = self._listings.begin(path)
            if is_ours:
                return self._fetch(fetch, listed=False)[1]
            listing = outcome(fetch.result)
            if listing:
                return listing

    def note_listed(self, path: LayerPath) -> None:
        """A program lists the directory `path`."""
        if self._ahead:
            self._ahead.listed(path)

    def _fetch(self, fetch: Fetch, *, listed: bool) -> tuple[list[DirEntry], Listing]:
        """List a directory for all who wait for it. `listed`: for a program that lists it."""
        try:
            known = self._kept_listing(fetch)
            if known is not None:
                return known
            is_walk = self._missed(fetch.path, listed=listed)
            entries = self._layer.list_dir(fetch.path)
        except BaseException as error:
            self._failed(fetch, error)
            raise
        listing = self._store(fetch, entries)
        if is_walk:
            self._descend(fetch.path)
        return entries, listing

    def _kept_listing(self, fetch: Fetch) -> tuple[list[DirEntry], Listing] | None:
        kept = self.kept
        found = None if kept is None else kept.listing(fetch.path)
        return None if found is None else (found.entries, self._listings.store(fetch, found.entries, (), found.extras))

    def _store(self, fetch: Fetch, entries: list[DirEntry]) -> Listing:
        # Programs walk a tree as it is listed, or in the order of names: what is fetched ahead can then suit both.
        entries.sort(key=_NAME)
        kept = self.kept
        if kept is not None:
            kept.keep_listing(fetch.path, entries)
        return self._listings.store(fetch, entries, self._unsettled(fetch.path, entries))

    def _failed(self, fetch: Fetch, error: BaseException) -> None:
        self._listings.fail(fetch, error)
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            self._listings.forget(fetch.path)

    def _unsettled(self, path: LayerPath, entries: list[DirEntry]) -> list[str]:
        """The names whose attributes may be changing now."""
        if self._files.names_unknown or (not self._listings.exact_names and self._files.any_written()):
            return [entry.name for entry in entries]
        return self._files.written_in(path)

    def _missed(self, path: LayerPath, *, listed: bool) -> bool:
        """Whether there is a walk, which is likely to go on in `path`."""
        parent = split_path(path)[0]
        ahead = self._ahead
        return ahead is not None and ahead.missed(
            path, listed=listed, beside=lambda: self._listings.subdirectories(parent)
        )

    def _descend(self, path: LayerPath) -> None:
        if self._ahead:
            self._ahead.found(self._listings.subdirectories(path))

    def _list_ahead(self, paths: Sequence[LayerPath]) -> list[LayerPath]:
        """List those of `paths` that nobody is at; what is below all that are listed now."""
        begun = [self._listings.begin(path, ahead=True) for path in paths]
        fetches = [fetch for fetch, is_ours in begun if is_ours]
        try:
            asked = [fetch for fetch in fetches if self._kept_listing(fetch) is None]
            found = self._layer.list_dirs([fetch.path for fetch in asked]) if asked else []
        except BaseException as error:
            for fetch in fetches:
                if not fetch.result.done():
                    self._failed(fetch, error)
            raise
        for fetch, entries in zip(asked, found, strict=True):
            if isinstance(entries, OSError):
                self._failed(fetch, entries)
            else:
                self._store(fetch, entries)
        return [below for fetch in fetches for below in self._listings.subdirectories(fetch.path)]
