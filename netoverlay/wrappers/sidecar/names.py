"""Changes of names. Each is one decisive step on the server, or is completed or taken back as if it were one.

What is lost by a crash must be known before: the journal has the intent when the server is asked. What is only gained
(a new file, with the attributes that it was made with) is noted some time after.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import stat
from collections.abc import Callable, Iterator

from netoverlay.backend_api import Access, BackendFile, Creation, FileType, LayerPath, RenameFlags, os_error, split_path
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS
from netoverlay.wrappers.sidecar import markers
from netoverlay.wrappers.sidecar.attributes import WHITEOUT, server_mode
from netoverlay.wrappers.sidecar.context import Context, Found
from netoverlay.wrappers.sidecar.intents import Intent, Key, Kind
from netoverlay.wrappers.sidecar.marks import make_empty
from netoverlay.wrappers.sidecar.nodes import Node, Place

_NO_SUCH_LINK = frozenset({errno.ENAMETOOLONG, errno.EOPNOTSUPP})
"""What a server says of a symbolic link that it cannot hold."""
_MAX_TARGET_BYTES = 4095
"""As on Linux (PATH_MAX, without the NUL)."""

logger = logging.getLogger(__name__)


class NameChanges:
    """What makes, moves and removes names. Paths are those of the seam."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._inner = context.inner
        self._tree = context.tree
        self._journal = context.journal
        self._marks = context.marks
        self._recovery = context.recovery
        self._attributes = context.attributes

    def create(self, path: LayerPath, access: Access, mode: int) -> tuple[BackendFile, Node]:
        """A regular file, open. EEXIST."""
        with self._making(path) as place:
            bits, group = server_mode(mode, directory=False), self._group_at(place)
            file = self._inner.open(path, access, create=Creation.EXCLUSIVE, mode=bits)
            return file, self._made(place, self._context.new_node(), mode, group)

    def mkdir(self, path: LayerPath, mode: int) -> None:
        """A directory. EEXIST."""
        if not path:
            raise os_error(errno.EEXIST, path)
        with self._making(path) as place:
            group = self._group_at(place)
            self._inner.mkdir(path, server_mode(mode, directory=True))
            inherited = mode if group is None else mode | stat.S_ISGID
            node = self._made(place, self._context.new_node(directory=True), inherited, group)
            self._marks.start_empty(node)

    def symlink(self, path: LayerPath, target: str) -> None:
        """A symbolic link. EEXIST."""
        with self._making(path) as place:
            group = self._group_at(place)
            try:
                self._inner.symlink(path, target)
            except OSError as error:
                if error.errno not in _NO_SUCH_LINK:
                    raise
                self._make_special(place, FileType.SYMLINK, None, target=_checked(target))
            else:
                self._made(place, self._context.new_node(), None, group)

    def mknod(self, path: LayerPath, type: FileType, mode: int, rdev: int) -> None:
        """A FIFO, socket or device: an empty file on the server. The device 0:0: a whiteout. EEXIST."""
        with self._making(path) as place:
            if self._context.found(place).stat is not None:
                raise os_error(errno.EEXIST, path)
            if type is WHITEOUT.type and rdev == WHITEOUT.rdev:
                self._marks.make(place)
                self._attributes.note_names(place.directory)
                return
            self._make_special(place, type, mode, rdev=rdev)

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        """A further name. EEXIST; EPERM for a directory or a whiteout."""
        self._context.check_path(existing)
        self._context.check_new(new)
        with self._context.holding(existing, new) as (source, place):
            found = self._context.found(source)
            if found.stat is None:
                raise os_error(errno.ENOENT, existing)
            if found.node is None or found.is_directory:
                raise os_error(errno.EPERM, existing)
            if self._context.found(place).stat is not None:
                raise os_error(errno.EEXIST, new)
            self._carry_out(Kind.ENTER, [place], lambda _: self._inner.link(existing, new), node=found.node)
            self._attributes.note_change(found.node)
            self._attributes.note_names(place.directory)

    def unlink(self, path: LayerPath) -> None:
        """Remove a name that is no directory's, or a whiteout. ENOENT, EISDIR."""
        self._context.check_path(path)
        if not path:
            raise os_error(errno.EISDIR, path)
        with self._context.holding(path) as (place,):
            found = self._context.found(place)
            if found.stat is None:
                raise os_error(errno.ENOENT, path)
            if found.is_directory:
                raise os_error(errno.EISDIR, path)
            self._marks.remove(place)
            if found.node is not None:
                self._carry_out(Kind.REMOVE, [place], lambda _: self._inner.unlink(path), node_lost=found.node)
                self._attributes.note_change(found.node)
            self._attributes.note_names(place.directory)

    def rmdir(self, path: LayerPath) -> None:
        """Remove a directory that shows nothing. ENOTEMPTY, ENOTDIR, ENOENT."""
        self._context.check_path(path)
        if not path:
            raise os_error(errno.EBUSY, path)
        with self._context.holding(path) as (place,):
            found = self._context.found(place)
            if found.stat is None:
                raise os_error(errno.ENOENT, path)
            if not found.is_directory:
                raise os_error(errno.ENOTDIR, path)
            aside = self._holds_marks_only(path)
            self._marks.remove(place)

            def remove(intent: Intent) -> None:
                if aside:
                    # In one step, for without its mark it would show what is below it.
                    self._inner.rename(path, self._recovery.aside(intent))
                else:
                    self._inner.rmdir(path)

            self._carry_out(Kind.REMOVE, [place], remove, aside=aside)
            self._attributes.note_names(place.directory)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags) -> None:
        """renameat2(2), with all flags."""
        exchange = RenameFlags.EXCHANGE in flags
        if exchange and flags is not RenameFlags.EXCHANGE:
            raise os_error(errno.EINVAL, old)
        if not old or not new:
            raise os_error(errno.EBUSY, old)
        self._context.check_path(old)
        self._context.check_new(new)
        with self._context.holding(old, new) as places:
            found = [self._context.found(place) for place in places]
            if _needs_nothing(old, new, found[0], found[1], flags):
                return
            if exchange:
                self._exchange(places, found)
            elif found[0].is_whiteout:
                self._move_whiteout(places, found[1], stays=RenameFlags.WHITEOUT in flags)
            else:
                self._move(places, found[1], leaves_whiteout=RenameFlags.WHITEOUT in flags)
            for place, was in zip(places, found, strict=True):
                self._attributes.note_names(place.directory)
                if was.node is not None:
                    self._attributes.note_change(was.node)

    def _exchange(self, places: list[Place], found: list[Found]) -> None:
        one, other = places
        if found[0].is_whiteout:
            self._move([other, one], found[0], leaves_whiteout=True)
        elif found[1].is_whiteout:
            self._move(places, found[1], leaves_whiteout=True)
        else:

            def exchange(intent: Intent) -> None:
                aside = self._recovery.aside(intent)
                self._inner.rename(one.path, aside)
                self._inner.rename(other.path, one.path)
                self._journal.step(intent)
                self._journal.flush()
                self._inner.rename(aside, other.path)

            self._carry_out(Kind.EXCHANGE, places, exchange, aside=True)

    def _move(self, places: list[Place], target: Found, *, leaves_whiteout: bool) -> None:
        """Rename what is no whiteout, over whatever may be replaced."""
        old, new = places
        aside = target.is_directory and self._holds_marks_only(new.path)

        def move(intent: Intent) -> None:
            if leaves_whiteout:
                self._marks.make(old)
            else:
                self._marks.remove(old)
            if aside:
                self._inner.rename(new.path, self._recovery.aside(intent))
            self._inner.rename(old.path, new.path)

        self._carry_out(Kind.RENAME, places, move, aside=aside)
        self._remove_useless(new)

    def _move_whiteout(self, places: list[Place], target: Found, *, stays: bool) -> None:
        """Rename a whiteout: over a file, it is the whiteout file that comes first, and the file then goes."""
        old, new = places
        if stays:
            self._marks.make(new)
        else:
            self._marks.move(old, new)
        if target.node is None:
            return
        try:
            self._carry_out(Kind.REMOVE, [new], lambda _: self._inner.unlink(new.path))
        except OSError:
            with contextlib.suppress(OSError):
                if stays:
                    self._marks.remove(new)
                else:
                    self._marks.move(new, old)
            raise

    def _make_special(
        self, place: Place, type: FileType, mode: int | None, *, rdev: int | None = None, target: str | None = None
    ) -> None:
        """What is an empty file on the server. EEXIST."""
        if self._context.found(place).stat is not None:
            raise os_error(errno.EEXIST, place.path)
        node = self._context.new_node()
        self._attributes.fresh(node, mode, self._group_at(place))
        if type is not FileType.REGULAR:
            node.type, node.rdev, node.target = type, rdev, target
        bits = server_mode(mode or 0, directory=False)

        def make(_: Intent) -> None:
            make_empty(self._inner, place.path, bits)

        self._carry_out(Kind.ENTER, [place], make, node=node)
        self._attributes.note_names(place.directory)

    @contextlib.contextmanager
    def _making(self, path: LayerPath) -> Iterator[Place]:
        """Hold a name at which something is to be made. EEXIST if that can be told without the server."""
        self._context.check_new(path)
        with self._context.holding(path) as (place,):
            if self._marks.hides(place) and self._context.found(place).is_whiteout:
                raise os_error(errno.EEXIST, path)
            self._journal.settle(place.directory, place.name)
            yield place

    def _group_at(self, place: Place) -> int | None:
        """Of what is made there, if the directory decides that."""
        return self._attributes.group_in(place.directory, lambda: self._inner.stat(split_path(place.path)[0]))

    def _made(self, place: Place, node: Node, mode: int | None, group: int | None) -> Node:
        self._attributes.fresh(node, mode, group)
        self._journal.add_name(place.directory, place.name, node)
        self._attributes.note_names(place.directory)
        return node

    def _holds_marks_only(self, path: LayerPath) -> bool:
        """Whether a directory that shows nothing holds anything. ENOTEMPTY if it shows something."""
        listing = self._inner.list_dir(path)
        is_empty = all(entry.name.startswith(markers.RESERVED_PREFIX) for entry in listing)
        if not is_empty or self._marks.read(path, listing).hidden:
            raise os_error(errno.ENOTEMPTY, path)
        return bool(listing)

    def _remove_useless(self, place: Place) -> None:
        """Remove a whiteout file that says nothing any more: if that fails, it does no harm."""
        try:
            self._marks.remove(place)
        except OSError as error:
            logger.warning("a whiteout that hides nothing stays, and does no harm: %s: %s", place.path, error)

    def _carry_out(
        self,
        kind: Kind,
        places: list[Place],
        steps: Callable[[Intent], object],
        *,
        node: Node | None = None,
        node_lost: Node | None = None,
        aside: bool = False,
    ) -> None:
        """Note the intent, do it, note that it is done. `node_lost`: the file that may lose its last name.

        An error of `steps` is raised if the server tells that it was not done, or does not tell.
        """
        number = self._tree.number()
        keys: tuple[Key, ...] = tuple((place.directory, place.name) for place in places)
        intent = Intent(number, kind, keys, node, f"{markers.ASIDE_PREFIX}{number}" if aside else None)
        self._journal.begin(intent)
        try:
            # Of what the journal has not told the server yet, nothing is lost but what might have been anyway.
            if node_lost is None or node_lost.named_at <= self._journal.acknowledged:
                self._journal.flush()
        except BaseException:
            self._journal.end(intent, done=False)
            raise
        try:
            steps(intent)
        except OSError as error:
            if not self._was_done(intent):
                raise
            logger.info("done, although it looked as if it failed: %s of %s: %s", kind.value, places[0].path, error)
        else:
            self._journal.end(intent, done=True)
        if aside and kind is not Kind.EXCHANGE:
            self._recovery.discard(self._recovery.aside(intent))

    def _was_done(self, intent: Intent) -> bool:
        try:
            return self._recovery.conclude(intent)
        except OSError:
            self._recovery.doubt(intent)
            return False


def _checked(target: str) -> str:
    """The target of a symbolic link that Linux would make. ENOENT, ENAMETOOLONG, EINVAL."""
    if not target:
        raise os_error(errno.ENOENT)
    if len(target.encode(NAME_ENCODING, NAME_ERRORS)) > _MAX_TARGET_BYTES:
        raise os_error(errno.ENAMETOOLONG)
    if "\0" in target:
        raise os_error(errno.EINVAL)
    return target


def _needs_nothing(old: LayerPath, new: LayerPath, source: Found, target: Found, flags: RenameFlags) -> bool:
    """Whether a rename is done already. What refuses one is raised, as rename(2) has it."""
    exchange = RenameFlags.EXCHANGE in flags
    if source.stat is None:
        raise os_error(errno.ENOENT, old)
    if target.stat is None:
        if exchange:
            raise os_error(errno.ENOENT, new)
    elif RenameFlags.NOREPLACE in flags:
        raise os_error(errno.EEXIST, new)
    if source.is_directory and new.startswith(f"{old}/"):
        raise os_error(errno.EINVAL, new)
    if target.is_directory and old.startswith(f"{new}/"):
        raise os_error(errno.EINVAL if exchange else errno.ENOTEMPTY, new)
    if old == new or (source.node is not None and source.node is target.node):
        return True
    if exchange:
        return source.is_whiteout and target.is_whiteout
    if target.stat is not None and source.is_directory != target.is_directory:
        raise os_error(errno.EISDIR if target.is_directory else errno.ENOTDIR, new)
    return False
