"""The memory of the metadata cache: directory listings, and the fetches of them that are under way.

A listing answers for every name of its directory, those that are not there included. What a change makes doubtful is
forgotten name by name, so that creating a file does not cost a new listing: a forgotten name is known to need asking.
A fetch that is under way while something changes keeps note of it, and its result is stored without what it may have
seen too early.
"""

from __future__ import annotations

import enum
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from netoverlay.backend_api.errors import EndlessListingError
from netoverlay.backend_api.types import DirEntry, FileStat, FileType, LayerPath, NamedEntry, join_path, split_path
from netoverlay.cache.asked_singly import AskedSingly
from netoverlay.cache.kept_listing import Extras
from netoverlay.cache.linked_names import LinkedNames
from netoverlay.cache.listing import Listing
from netoverlay.cache.listing_fetch import Fetch, Mark
from netoverlay.cache.listing_memory import ListingMemory
from netoverlay.cache.name_use import NameUse
from netoverlay.cache.open_files import OpenFiles


class Answer(enum.Enum):
    """What is known of a name when it is not its attributes."""

    ABSENT = "absent"
    """Its directory is listed, and the name is not there."""
    ASK = "ask"
    """Its directory is listed, but this name must be asked for."""
    UNLISTED = "unlisted"
    """Its directory is not listed."""


def _is_shared(stat: FileStat) -> bool:
    """Whether the file has other names, through which it may change."""
    return stat.nlink is not None and stat.nlink > 1 and stat.type is not FileType.DIRECTORY


class Listings:
    """All listings, at most `max_entries` names; thread-safe. Its lock is a leaf: nothing is called under it."""

    def __init__(
        self, ttl: float | None, max_entries: int, files: OpenFiles, keeps_expired: Callable[[], bool] = lambda: False
    ) -> None:
        """`ttl`: seconds that a listing counts; None for ever. `keeps_expired()`: what is too old counts, too; called
        with the lock."""
        self._files = files
        self.on_first_use: Callable[[], None] = lambda: None
        """Called, without the lock, when a listing that was fetched ahead is used for the first time."""
        self._lock = threading.Lock()
        self._memory = ListingMemory(ttl, max_entries, keeps_expired)
        self._root = Listing({"": None}, -math.inf, 0)
        """Holds the attributes of the root itself, which no listing does."""
        self._fetches: dict[LayerPath, Fetch] = {}
        self._use = NameUse()
        self._changes = 0
        self._linked = LinkedNames()
        self._asked_singly = AskedSingly()
        self.exact_names = True
        """False if one file answers to several spellings of its name."""

    def lookup(self, path: LayerPath) -> FileStat | Answer:
        """What is known of `path`."""
        directory, name = split_path(path)
        first_use = False
        with self._lock:
            listing = self._root if not path else self._memory.fresh(directory)
            if listing is None:
                return Answer.UNLISTED
            if listing.ahead:
                listing.ahead, first_use = False, True
            self._use.looked_for(listing, name)
            answer = self._entry(listing, directory, name)
        if first_use:
            self.on_first_use()
        return answer

    def entries(
        self, path: LayerPath, listing: Listing | None = None, *, for_program: bool = True
    ) -> list[DirEntry] | None:
        """The whole directory as `listing` has it, by default the one that is kept; None if it must be listed.

        `for_program`: it counts as used.
        """
        with self._lock:
            listing = listing or self._memory.fresh(path)
            if listing is None:
                return None
            found = self._whole(listing, path)
            first_use = found is not None and listing.ahead and for_program
            if first_use:
                listing.ahead = False
        if first_use:
            self.on_first_use()
        return found

    def answer_from(self, listing: Listing, path: LayerPath) -> FileStat | Answer:
        """What `listing`, of the directory of `path`, which need not be stored, says of `path`."""
        directory, name = split_path(path)
        with self._lock:
            self._use.looked_for(listing, name)
            return self._entry(listing, directory, name)

    def subdirectories(self, path: LayerPath, *, whole: bool) -> list[LayerPath]:
        """The directories in a listed directory that are neither listed nor being listed.

        `whole`: one that was fetched without attributes does not count as listed.
        """
        with self._lock:
            listing = self._memory.fresh(path)
            if listing is None:
                return []
            entries = self._memory.opened(listing)
            names = [name for name, stat in entries.items() if stat and stat.type is FileType.DIRECTORY]
            names += [name for name in listing.untold_directories or () if entries.get(name, Answer.ABSENT) is None]
            return [child for name in names if not self._is_listed(child := join_path(path, name), whole=whole)]

    def begin(self, path: LayerPath, *, whole: bool = False, ahead: bool = False) -> tuple[Fetch, bool]:
        """The fetch of `path` under way, and whether the caller must do it, and end it by store() or fail().

        If the directory has become listed (`whole`: with no name that must be asked for) the fetch has ended already.
        """
        with self._lock:
            listing = self._memory.fresh(path)
            if listing is not None and (not whole or self._is_whole(listing, path, ahead=ahead)):
                fetch = Fetch(path, self._changes, ahead=False)
                fetch.result.set_result(listing)
                return fetch, False
            known = self._fetches.get(path)
            if known is None:
                fetch = self._fetches[path] = Fetch(path, self._changes, ahead=ahead)
                return fetch, True
            first_use = known.ahead and not ahead
            if first_use:
                known.ahead = False
        if first_use:
            self.on_first_use()
        return known, False

    def wants_whole(self, path: LayerPath) -> bool:
        """Called when `path` has to be asked for: whether its directory should rather be fetched again, whole.

        It was fetched without attributes, and some were asked for one by one already.
        """
        with self._lock:
            listing = self._memory.fresh(split_path(path)[0])
            return listing is not None and self._use.wants_whole(listing)

    def has_names_only(self, path: LayerPath) -> bool:
        """Whether the directory `path` was fetched without the attributes of some."""
        with self._lock:
            listing = self._memory.fresh(path)
            return listing is not None and listing.has_names_only

    def are_many_wanted(self) -> bool:
        """Whether the next directory that somebody looks into may well be wanted whole."""
        with self._lock:
            return self._use.are_many_wanted()

    def is_asked_singly(self, path: LayerPath) -> bool:
        """Whether a listing of `path` is not worth while for the sake of one name."""
        with self._lock:
            return path in self._asked_singly

    def store(
        self,
        fetch: Fetch,
        entries: Iterable[DirEntry],
        unsettled: Iterable[str],
        extras: Extras | None = None,
    ) -> Listing:
        """End a fetch with what it brought; the attributes of the names in `unsettled` are not kept.

        `extras`: what was brought beside it.
        """
        listing = Listing(dict(entries), fetch.began + self._memory.ttl, fetch.born)
        if extras is not None:
            listing.extras = extras
        return self._store(fetch, listing, unsettled)

    def store_names(
        self,
        fetch: Fetch,
        entries: Iterable[NamedEntry],
        unsettled: Iterable[str],
        extras: Extras | None = None,
    ) -> Listing:
        """As store(), of entries some of which lack their attributes. `extras`: they come from disk, with these."""
        listing = Listing({name: stat for name, _, stat in entries}, fetch.began + self._memory.ttl, fetch.born)
        if extras is not None:
            listing.extras, listing.is_kept = extras, True
        listing.untold_directories = tuple(
            name for name, kind, stat in entries if stat is None and kind is FileType.DIRECTORY
        )
        return self._store(fetch, listing, unsettled)

    def unkept_names(self) -> Iterator[tuple[LayerPath, list[NamedEntry]]]:
        """The directories that were fetched without all attributes, with those that were asked for since.

        Of a layer that nobody changes. Those of which disk has the same are left out.
        """
        with self._lock:
            known = self._memory.names_only()
        for path, listing in known:
            if listing.asked or not listing.is_kept:
                with self._lock:
                    entries = listing.named_entries()
                yield path, entries

    def fail(self, fetch: Fetch, error: BaseException) -> None:
        """End a fetch without a result."""
        with self._lock:
            self._end(fetch)
            if isinstance(error, EndlessListingError):
                self._asked_singly.endless(fetch.path)
        fetch.result.set_exception(error)

    def mark(self, path: LayerPath) -> Mark | None:
        """To be taken before `path` alone is asked for, and given to learn(); None if there is no place for it."""
        with self._lock:
            listing = self._root if not path else self._memory.fresh(split_path(path)[0])
            return None if listing is None else Mark(listing)

    def learn(self, path: LayerPath, mark: Mark | None, stat: FileStat | None) -> None:
        """Keep the attributes of `path`, or None for its absence, unless something changed since the mark."""
        with self._lock:
            if mark is None or mark.version != mark.listing.version:
                return
            name = split_path(path)[1]
            if stat is None:
                self._memory.opened(mark.listing).pop(name, None)
            elif not _is_shared(stat) and path not in self._linked:
                self._memory.opened(mark.listing)[name] = stat
                if not path:
                    mark.listing.expires = time.monotonic() + self._memory.ttl

    def target(self, path: LayerPath) -> str | None:
        """The target of a symbolic link that was read before."""
        directory, name = split_path(path)
        with self._lock:
            listing = self._memory.fresh(directory)
            return None if listing is None else listing.extras.targets.get(name)

    def xattrs(self, path: LayerPath) -> Mapping[str, bytes | None] | None:
        """All extended attributes of `path`, if they were read before; None for a value that was not."""
        directory, name = split_path(path)
        with self._lock:
            listing = self._memory.fresh(directory)
            return None if listing is None else listing.extras.xattrs.get(name)

    def learn_target(self, path: LayerPath, mark: Mark | None, target: str) -> None:
        """As learn(), for the target of a symbolic link."""
        with self._lock:
            if mark is not None and mark.version == mark.listing.version:
                mark.listing.extras.targets[split_path(path)[1]] = target

    def learn_xattrs(self, path: LayerPath, found: dict[str, bytes | None]) -> None:
        """Keep all extended attributes of `path`, of a layer that nobody changes."""
        directory, name = split_path(path)
        with self._lock:
            listing = self._memory.fresh(directory)
            if listing is not None:
                listing.extras.xattrs[name] = found

    def forget(self, path: LayerPath) -> None:
        """`path` may have been created, removed or changed."""
        with self._lock:
            self._changes += 1
            if not self.exact_names:
                self._forget_all()
                return
            directory, name = split_path(path)
            listing = self._root if not path else self._memory.get(directory)
            if listing is not None:
                listing.version += 1
                listing.extras.forget(name)
                entries = self._memory.opened(listing)
                grows = name not in entries
                entries[name] = None
                if grows:
                    self._memory.keep(directory, listing)
            fetch = self._fetches.get(directory)
            if fetch is not None and path:
                fetch.forgotten.add(name)

    def forget_tree(self, path: LayerPath) -> None:
        """What stood at `path` and below may be elsewhere or gone."""
        prefix = f"{path}/"
        with self._lock:
            self._changes += 1
            self._memory.drop_tree(path)
            for known in [known for known in self._fetches if known == path or known.startswith(prefix)]:
                self._fetches.pop(known).stale = True

    def expire(self, path: LayerPath) -> None:
        """Others may have changed the names in the directory `path`."""
        with self._lock:
            self._changes += 1
            self._asked_singly.changed(path)
            self._memory.drop(path)
            fetch = self._fetches.pop(path, None)
            if fetch is not None:
                fetch.stale = True

    def forget_all(self) -> None:
        """Everything may have changed."""
        with self._lock:
            self._changes += 1
            self._forget_all()

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        """The two may be one file from now on, and its transport may not tell."""
        with self._lock:
            self._linked.add(existing, new)

    def unlink(self, *paths: LayerPath) -> None:
        """These names are gone."""
        with self._lock:
            self._linked.remove(*paths)

    def rename(self, old: LayerPath, new: LayerPath, *, exchange: bool) -> list[LayerPath]:
        """What was linked at `old` or below may be at `new`; for an exchange also the other way round.

        The old names that are gone once it is known to be done: not those whose new one was linked before, for a rename
        of a file to its own other name changes nothing.
        """
        with self._lock:
            return self._linked.rename(old, new, exchange=exchange)

    def is_linked(self, path: LayerPath) -> bool:
        """Whether link() was told of `path`."""
        with self._lock:
            return path in self._linked

    def _store(self, fetch: Fetch, listing: Listing, unsettled: Iterable[str]) -> Listing:
        found = listing.entries()
        with self._lock:
            for name in (*fetch.forgotten, *unsettled):
                found[name] = None
                listing.extras.forget(name)
            listing.ahead = fetch.ahead
            self._end(fetch)
            self._asked_singly.listed(fetch.path, listing.size)
            if not fetch.stale:
                self._memory.keep(fetch.path, listing)
        fetch.result.set_result(listing)
        return listing

    def _is_whole(self, listing: Listing, path: LayerPath, *, ahead: bool) -> bool:
        """`ahead`: nobody waits for it, so that a name that was forgotten since is not worth a fetch."""
        return not listing.has_names_only if ahead else self._whole(listing, path) is not None

    def _whole(self, listing: Listing, path: LayerPath) -> list[DirEntry] | None:
        found = []
        for name, stat in self._memory.opened(listing).items():
            if stat is None or self._is_doubtful(listing, path, name, stat):
                return None
            found.append(DirEntry(name, stat))
        return found

    def _entry(self, listing: Listing, directory: LayerPath, name: str) -> FileStat | Answer:
        stat = self._memory.opened(listing).get(name, Answer.ABSENT)
        if isinstance(stat, FileStat):
            if self._is_doubtful(listing, directory, name, stat):
                return Answer.ASK
            if listing is self._root and self._memory.is_expired(listing):
                return Answer.ASK
            return stat
        # Also where the layer would find the file by another spelling: a name is what is listed, as on Linux.
        return Answer.ABSENT if stat is Answer.ABSENT else Answer.ASK

    def _is_doubtful(self, listing: Listing, directory: LayerPath, name: str, stat: FileStat) -> bool:
        """Whether the file may have changed through another of its names since it was listed."""
        if not _is_shared(stat) and (not self._linked or join_path(directory, name) not in self._linked):
            return False
        return self._files.shared_files_change or listing.born != self._changes

    def _is_listed(self, path: LayerPath, *, whole: bool) -> bool:
        if path in self._fetches:
            return True
        listing = self._memory.fresh(path)
        return listing is not None and not (whole and listing.has_names_only)

    def _end(self, fetch: Fetch) -> None:
        if self._fetches.get(fetch.path) is fetch:
            del self._fetches[fetch.path]

    def _forget_all(self) -> None:
        self._memory.clear()
        self._root.version += 1
        self._root.entries()[""] = None
        for fetch in self._fetches.values():
            fetch.stale = True
        self._fetches.clear()
