"""The metadata cache: a directory is fetched whole, with attributes, and answers for all its names.

Lookups, attributes and "no such name" come from the listing of the parent; the directories of a walk are listed ahead
(ahead.py). Changes go through and are forgotten name by name, after they were made and also when they failed, for a
failed change may have been made. An error is never kept: that a layer cannot be reached says nothing about a file.

What is kept is right as long as nobody else changes the layer, and at most `ttl` seconds old otherwise. Of a layer that
nobody changes it is found again by later mounts (kept_layer.py), until it is changed through this cache. Two things are
known later than that: access times, and changes through a name that a transport without link counts does not tell to be
a link of a file (links made through this cache are known).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from netoverlay.backend_api.backend import Backend, BackendFile
from netoverlay.backend_api.delegate import DelegatingBackend
from netoverlay.backend_api.errors import NotSupportedError, UnavailableError, os_error
from netoverlay.backend_api.types import (
    NAME_ENCODING,
    NAME_ERRORS,
    Access,
    AttributeChange,
    Capabilities,
    Creation,
    DirEntry,
    FileStat,
    FileType,
    LayerPath,
    RenameFlags,
    SpaceUsage,
    XattrMode,
    join_path,
    split_path,
)
from netoverlay.backend_api.whole_files import FileContent, WantedFile
from netoverlay.cache.fetcher import ListingFetcher
from netoverlay.cache.kept_layer import KeptLayer
from netoverlay.cache.kept_xattrs import KeptXattrs
from netoverlay.cache.listings import Answer, Listings
from netoverlay.cache.open_files import OpenFiles, Place, TrackedFile
from netoverlay.cache.purpose import Purpose, purpose

DEFAULT_MAX_ENTRIES = 400_000
DEFAULT_AHEAD = 64
_SPACE_USAGE_SECONDS = 1.0
_USER = "user."


class MetadataCache(DelegatingBackend):
    """Answers from kept listings what it can.

    `ttl`: seconds after which a listing is fetched again; None if nobody else changes the layer. `max_entries`: names
    kept at most, the least recently used directories go first. `ahead`: listings ahead of a walk at once, in threads of
    its own; 0 for none. `one_spelling`: whoever uses it calls a file by one name, also where the layer knows others.
    `kept`: what is on disk of a layer that nobody changes. `is_down()`: the layer cannot be reached, and what is known
    of it counts however old it is.
    """

    def __init__(
        self,
        inner: Backend,
        *,
        ttl: float | None,
        max_entries: int = DEFAULT_MAX_ENTRIES,
        ahead: int = DEFAULT_AHEAD,
        one_spelling: bool = False,
        kept: KeptLayer | None = None,
        is_down: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(inner)
        self._one_spelling = one_spelling
        self._expires = ttl is not None
        self._capabilities = Capabilities()
        self._files = OpenFiles()
        self._listings = Listings(ttl, max_entries, self._files, is_down)
        self._fetcher = ListingFetcher(inner, self._listings, self._files, ahead=ahead, kept=kept)
        self._is_down = is_down
        self._space: tuple[float, SpaceUsage] | None = None

    def connect(self) -> Capabilities:
        kept = self._fetcher.kept
        if kept is not None:
            kept.on_other_edition = self._listings.forget_all
        self._capabilities = self.inner.connect()
        self._listings.exact_names = self._exact_names
        self._fetcher.names_first = self._capabilities.names_first
        mark = self._listings.mark("")
        if kept is not None and kept.facts is not None:
            self._listings.learn("", mark, kept.facts.root)
        self._fetcher.start()
        return self._capabilities

    def close(self) -> None:
        self._fetcher.stop()
        self.inner.close()
        self._fetcher.join()

    def stat(self, path: LayerPath) -> FileStat:
        try:
            return self._stat(path)
        except UnavailableError:
            known = self.known(path) if self._is_down() else None
            if known is None:
                raise
            return known

    def known(self, path: LayerPath) -> FileStat | None:
        """As stat(), without asking the layer; None if that would be needed."""
        known = self._listings.lookup(path)
        return known if isinstance(known, FileStat) else None

    def known_entries(self, path: LayerPath) -> Sequence[DirEntry] | None:
        """As list_dir(), without asking the layer; None if that would be needed."""
        return self._listings.entries(path, for_program=False)

    def list_ahead(self, paths: Sequence[LayerPath]) -> None:
        """Have the listings of these directories, in one call. UnavailableError."""
        self._fetcher.list_ahead(paths)

    def known_subdirectories(self, path: LayerPath) -> list[LayerPath]:
        """The directories of known_entries()."""
        entries = self.known_entries(path) or ()
        return [join_path(path, name) for name, stat in entries if stat.type is FileType.DIRECTORY]

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        try:
            return self._list_dir(path)
        except UnavailableError:
            known = self._listings.entries(path) if self._is_down() else None
            if known is None:
                raise
            return known

    def readlink(self, path: LayerPath) -> str:
        target = self._listings.target(path)
        if target is None:
            mark = self._listings.mark(path)
            target = self.inner.readlink(path)
            self._listings.learn_target(path, mark, target)
            if self._fetcher.kept is not None:
                self._fetcher.kept.keep_target(path, target)
        return target

    def space_usage(self) -> SpaceUsage:
        if self._space is None or self._space[0] < time.monotonic():
            self._space = (time.monotonic() + _SPACE_USAGE_SECONDS, self.inner.space_usage())
        return self._space[1]

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        changed = [path] if access.writes or truncate else []
        if create is not Creation.NEVER:
            changed = [path, split_path(path)[0]]
        linked = create is Creation.NEVER and self._may_be_linked(path)
        place = self._files.add(path, writes=access.writes, linked=linked)
        try:
            with self._changing(*changed):
                inner = self.inner.open(path, access, create=create, truncate=truncate, mode=mode)
        except BaseException:
            self._files.remove(place)
            raise
        return TrackedFile(inner, self, place)

    def read_files(self, wanted: Sequence[WantedFile], *, unchanging: bool) -> list[FileContent | OSError]:
        return self.inner.read_files(wanted, unchanging=unchanging)

    def mkdir(self, path: LayerPath, mode: int) -> None:
        with self._changing(path, split_path(path)[0]):
            self.inner.mkdir(path, mode)

    def unlink(self, path: LayerPath) -> None:
        with self._changing(path, split_path(path)[0]), self._losing_names(path):
            self.inner.unlink(path)
            self._listings.unlink(path)
            self._files.gone(path)

    def rmdir(self, path: LayerPath) -> None:
        with self._changing(path, split_path(path)[0], trees=(path,)):
            self.inner.rmdir(path)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        changed = (old, new, split_path(old)[0], split_path(new)[0])
        exchange = RenameFlags.EXCHANGE in flags
        gone = self._listings.rename(old, new, exchange=exchange)
        with self._changing(*changed, trees=(old, new)), self._losing_names(old, new):
            self.inner.rename(old, new, flags)
            self._listings.unlink(*gone)
            if not exchange and old != new:
                self._files.gone(new)
            self._files.moved(old, new, exchange=exchange)

    def symlink(self, path: LayerPath, target: str) -> None:
        with self._changing(path, split_path(path)[0]):
            self.inner.symlink(path, target)

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        self._files.linked(existing)
        with self._changing(existing, new, split_path(new)[0]):
            if not self._capabilities.link_counts:
                self._listings.link(existing, new)
            self.inner.link(existing, new)

    def mknod(self, path: LayerPath, type: FileType, mode: int, rdev: int = 0) -> None:
        with self._changing(path, split_path(path)[0]):
            self.inner.mknod(path, type, mode, rdev)

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        with self._changing(path):
            self.inner.set_attributes(path, change)

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        self._need_xattrs("get_xattr")
        if not self._capabilities.privileged_xattrs and not name.startswith(_USER):
            raise os_error(errno.ENODATA, path)
        if self._has_no_xattrs(path):
            raise os_error(errno.ENODATA, path)
        kept = self._fetcher.kept
        return (self.inner if kept is None else KeptXattrs(self.inner, self._listings, kept)).get_xattr(path, name)

    def list_xattrs(self, path: LayerPath) -> list[str]:
        self._need_xattrs("list_xattrs")
        if self._has_no_xattrs(path):
            return []
        kept = self._fetcher.kept
        return (self.inner if kept is None else KeptXattrs(self.inner, self._listings, kept)).list_xattrs(path)

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self._need_xattrs("set_xattr")
        with self._changing(path):
            self.inner.set_xattr(path, name, value, mode)

    def remove_xattr(self, path: LayerPath, name: str) -> None:
        self._need_xattrs("remove_xattr")
        with self._changing(path):
            self.inner.remove_xattr(path, name)

    def file_changed(self, place: Place) -> None:
        """A file was changed through its descriptor, so under whatever names it has."""
        path = place.path
        if path is not None:
            self._listings.forget(path)
        elif place.is_adrift:
            self._listings.forget_all()

    def file_revalidated(self, place: Place) -> None:
        """Others may have changed the file, and its directory."""
        self.file_changed(place)
        path = place.path
        if path is not None and self._expires:
            self._listings.expire(split_path(path)[0])

    def file_closed(self, place: Place) -> None:
        """A file is closed: from now on its attributes can be kept, and not those seen before."""
        if place.writes:
            self.file_changed(place)
        self._files.remove(place)

    def _stat(self, path: LayerPath) -> FileStat:
        answer = self._listings.lookup(path)
        if answer is Answer.UNLISTED:
            answer = self._list_parent(path)
        if answer is Answer.ASK and self._listings.wants_whole(path):
            answer = self._list_parent(path, whole=True)
        if isinstance(answer, FileStat):
            return answer
        if answer is Answer.ABSENT and self._is_possible(path):
            raise os_error(errno.ENOENT, path)
        try:
            return self._ask(path)
        except (UnavailableError, FileNotFoundError, InterruptedError):
            raise
        except OSError:
            # A listing shows also what may not be looked at.
            if self._listings.has_names_only(split_path(path)[0]):
                told = self._list_parent(path, whole=True)
                if isinstance(told, FileStat):
                    return told
            raise

    def _list_dir(self, path: LayerPath) -> list[DirEntry]:
        self._fetcher.note_listed(path)
        entries = self._listings.entries(path, for_program=purpose() is not Purpose.AHEAD)
        if entries is None and self._is_absent(path):
            raise os_error(errno.ENOENT, path)
        return self._fetcher.entries(path) if entries is None else entries

    def _is_possible(self, path: LayerPath) -> bool:
        """Whether the last name of `path` is one that could be there; for others the backend has its errors."""
        name = split_path(path)[1]
        size = len(name.encode(NAME_ENCODING, NAME_ERRORS))
        return name not in ("", ".", "..") and "\0" not in name and size <= self._capabilities.max_name_bytes

    def _has_no_xattrs(self, path: LayerPath) -> bool:
        """Whether the listing of its directory has told so."""
        answer = self._listings.lookup(path)
        return isinstance(answer, FileStat) and answer.has_xattrs is False

    def _need_xattrs(self, operation: str) -> None:
        if not self._capabilities.xattrs:
            raise NotSupportedError(operation)

    @contextmanager
    def _changing(self, *paths: LayerPath, trees: Iterable[LayerPath] = ()) -> Iterator[None]:
        """Forget `paths`, and what is in and below `trees`, when the change was made or may have been."""
        if paths:
            self._fetcher.kept = None
        try:
            yield
        finally:
            for path in trees:
                self._listings.forget_tree(path)
            for path in paths:
                self._listings.forget(path)

    @contextmanager
    def _losing_names(self, *paths: LayerPath) -> Iterator[None]:
        """If it stays unknown whether names were removed, nothing is known of the open files that had them."""
        try:
            yield
        except UnavailableError:
            self._files.lost(*paths)
            raise

    def _may_be_linked(self, path: LayerPath) -> bool:
        """Whether the file may have other names."""
        known = self._listings.lookup(path)
        if isinstance(known, FileStat) and known.nlink is not None:
            return known.nlink > 1
        return self._capabilities.link_counts or self._listings.is_linked(path)

    def _list_parent(self, path: LayerPath, *, whole: bool = False) -> FileStat | Answer:
        """What the listing of its parent, fetched now, says of `path`; ASK if it cannot be told from a listing.

        `whole`: with the attributes of all that is in it.
        """
        parent = split_path(path)[0]
        if self._is_absent(parent):
            return Answer.ABSENT
        known = self._listings.lookup(parent)
        is_file = isinstance(known, FileStat) and known.type is not FileType.DIRECTORY
        if is_file or (not whole and self._listings.is_asked_singly(parent)):
            return Answer.ASK
        try:
            return self._listings.answer_from(self._fetcher.listing(parent, whole=whole), path)
        except (UnavailableError, FileNotFoundError, InterruptedError):
            raise
        except OSError:
            return Answer.ASK  # a directory that may not be read may still be searched; else this gives the error

    def _is_absent(self, path: LayerPath) -> bool:
        """Whether it is known that `path`, or a directory on the way to it, is not there."""
        answer = self._listings.lookup(path)
        while answer is Answer.UNLISTED:
            path = split_path(path)[0]
            answer = self._listings.lookup(path)
        return answer is Answer.ABSENT

    def _ask(self, path: LayerPath) -> FileStat:
        """Ask for one name, and keep the answer."""
        mark = self._listings.mark(path)
        try:
            stat = self.inner.stat(path)
        except FileNotFoundError:
            self._listings.learn(path, mark, None)
            raise
        if not self._is_changing(path):
            self._listings.learn(path, mark, stat)
        return stat

    def _is_changing(self, path: LayerPath) -> bool:
        if self._exact_names:
            return self._files.names_unknown or self._files.is_written(path)
        return self._files.names_unknown or self._files.any_written()

    @property
    def _exact_names(self) -> bool:
        return self._one_spelling or self._capabilities.case_sensitive
