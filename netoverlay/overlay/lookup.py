"""From names to inodes: lookup of one, and listing of a directory."""

from __future__ import annotations

import errno
from typing import NamedTuple

from netoverlay.backend_api import FileStat, FileType, join_path, os_error, split_path
from netoverlay.overlay.copy_up import CopyUp
from netoverlay.overlay.inodes import DirectoryInode, FileInode, FileKey, Inode
from netoverlay.overlay.kernel_index import KernelIndex
from netoverlay.overlay.layers import FOR_EVER_NS, UPPER_NUMBER, LowerPlace
from netoverlay.overlay.merge import Found, Listed
from netoverlay.overlay.tree import Tree, has_links

_SEVERAL = 2
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE})


class Entry(NamedTuple):
    """An inode that a name leads to, with a lookup counted, and its attributes."""

    inode: Inode
    stat: FileStat


class Lookup:
    """Finds the inodes of one tree by name."""

    def __init__(self, tree: Tree, copy_up: CopyUp | None) -> None:
        """`copy_up` is None if the mount has no upper."""
        self._tree = tree
        self._inodes = tree.inodes
        self._copy_up = copy_up
        self._kernel_index = None if tree.links is None else KernelIndex(tree.links)

    def lookup(self, directory: DirectoryInode, name: str) -> Entry | None:
        """What `name` leads to, None if nothing. The caller owes a forget()."""
        with directory.directory_lock:
            return self.lookup_locked(directory, name)

    def lookup_locked(self, directory: DirectoryInode, name: str) -> Entry | None:
        """As lookup(). Precondition: DIRECTORY of `directory` is held."""
        inode = self._inodes.known(directory, name)
        if inode is not None:
            try:
                stat = self._known_stat(directory, name, inode)
                if stat is not None and stat.type is inode.type:
                    return Entry(inode, stat)
            except OSError as error:
                if error.errno not in _GONE:
                    self._inodes.forget(inode.nodeid)
                    raise
            # Others changed the lower: the name stands for something else now, or for nothing.
            self._inodes.remove_name(inode, directory, name)
            self._inodes.forget(inode.nodeid)
        found = self._tree.find_locked(directory, name)
        return None if found is None else self.enter_locked(directory, name, found)

    def others_change(self, directory: DirectoryInode) -> bool:
        """Whether others make and remove names of the directory in the upper."""
        upper = self._tree.stack.upper
        return upper is not None and upper.ttl_ns != FOR_EVER_NS and directory.in_upper

    def _known_stat(self, directory: DirectoryInode, name: str, inode: Inode) -> FileStat | None:
        """As Tree.named_stat(), of this one of its names: in layers that others change the other ones do not tell."""
        if not isinstance(inode, FileInode) or not self._is_doubtful(directory, inode):
            return self._tree.named_stat(inode)
        found = self._tree.find_locked(directory, name)
        if found is not None and found.in_upper is not inode.in_upper:
            with inode.copy_up_lock:  # it may just be coming to the upper
                found = self._tree.find_locked(directory, name)
        if found is None or found.in_upper is not inode.in_upper:
            return None
        if found.in_upper:
            return self._upper_stat(inode, found.stat)
        if found.stat.file_id != inode.lower_id:
            return None
        inode.stand_in(_parent(directory, found.lowers[0]), name)
        return self._tree.shown(inode, found.stat)

    def _is_doubtful(self, directory: DirectoryInode, inode: FileInode) -> bool:
        """Whether a name of the file may have come to stand for another one, behind us and unseen."""
        if inode.in_upper or self.others_change(directory):
            return self.others_change(directory)
        return len(inode.names) >= _SEVERAL and inode.lower_layer().ttl_ns != FOR_EVER_NS

    def _upper_stat(self, inode: FileInode, stat: FileStat) -> FileStat | None:
        """Of a file of the upper, as which a name of it has `stat` now; None if that is another file's."""
        opened = self._tree.open_stat(inode)
        if opened is not None and opened.file_id != stat.file_id:
            return None
        return self._tree.shown(inode, opened if opened is not None and inode.writable else stat)

    def require_locked(self, directory: DirectoryInode, name: str) -> Entry:
        """As lookup_locked(), but ENOENT if there is nothing."""
        entry = self.lookup_locked(directory, name)
        if entry is None:
            raise os_error(errno.ENOENT, name)
        return entry

    def enter_locked(self, directory: DirectoryInode, name: str, found: Found) -> Entry:
        """The inode for what was found under `name`: one that is known, or a new one. The caller owes a forget().

        Precondition: DIRECTORY of `directory` is held.
        """
        nodeid = self._inodes.next_nodeid()
        stat = found.stat
        if stat.type is FileType.DIRECTORY:
            entered = self._inodes.enter(
                DirectoryInode(nodeid, found.ino, found.lowers, in_upper=found.in_upper), directory, name
            )
            return self._entry(entered, stat)
        lower = None if found.in_upper else found.lowers[0]
        key = None
        # Only what is known to have other names: an id alone may be that of a file which has been renamed meanwhile.
        if stat.file_id is not None and (found.in_upper or has_links(stat)):
            key = FileKey(UPPER_NUMBER if lower is None else lower.layer.number, stat.file_id)
            # Also for the last name of what had several: who has it open by one that went holds the same inode.
            twin = self._inodes.find(key)
            if twin is None and has_links(stat):
                twin = self._indexed(directory, name, found, key)
            if twin is not None:
                return self._enter_twin(directory, name, found, twin)
            if not has_links(stat):
                key = None
        file = FileInode(nodeid, found.ino, stat.type, key, in_upper=found.in_upper)
        if lower is not None:
            file.stand_in(_parent(directory, lower), name)
        file.links = found.links
        file.lower_id = None if found.in_upper else stat.file_id
        known = directory.children.get(name)
        if isinstance(known, FileInode) and not known.in_upper and known.lower_id not in (None, file.lower_id):
            # Others have put another file in its place.
            self._inodes.remove_name(known, directory, name)
        entered = self._inodes.enter(file, directory, name)
        if isinstance(entered, FileInode) and directory.children.get(name) is not entered:
            return self._enter_twin(directory, name, found, entered)
        return self._entry(entered, stat)

    def _entry(self, inode: Inode, stat: FileStat) -> Entry:
        """Of an inode with a lookup counted, as which its layer tells `stat`."""
        try:
            return Entry(inode, self._tree.shown(inode, stat))
        except BaseException:
            self._inodes.forget(inode.nodeid)
            raise

    def list_locked(self, directory: DirectoryInode) -> list[Listed]:
        """All names of a directory. Precondition: DIRECTORY of `directory` is held."""
        if directory.removed_stat is not None:
            return []
        seen: dict[str, Listed | None] = {}
        if directory.in_upper:
            self._list_upper(directory, seen)
        self._tree.merge.list_below(directory.lowers, seen)
        return [listed for listed in seen.values() if listed is not None]

    def _list_upper(self, directory: DirectoryInode, seen: dict[str, Listed | None]) -> None:
        upper = self._tree.stack.writable_upper()
        with self._tree.paths.shared():
            path = self._tree.upper_path(directory)
            entries = upper.backend.list_dir(path)
            hidden = upper.marks.hidden_in(path, entries)
            for entry in entries:
                if entry.name in hidden:
                    seen[entry.name] = None
                    continue
                known = directory.children.get(entry.name)
                if known is not None:
                    ino = known.ino
                else:
                    child = join_path(path, entry.name)
                    ino = upper.marks.recorded_inode_number(child) or upper.inode_number(child, entry.stat)
                is_whole = entry.stat.type is not FileType.DIRECTORY
                seen[entry.name] = Listed(entry.stat, ino, in_upper=True, lowers=(), name=entry.name, is_whole=is_whole)

    def _enter_twin(self, directory: DirectoryInode, name: str, found: Found, twin: FileInode) -> Entry:
        """Another name of a known file, which has a lookup counted. Where that was copied up, the name follows it."""
        try:
            with twin.copy_up_lock:
                follows = twin.in_upper and not found.in_upper
                if follows and not self._is_still(twin, found.stat):
                    # All names of that one are in the upper, or gone: its id stands for another file by now.
                    self._inodes.drop_keys(twin, found.lowers[0].layer.number)
                    return self.enter_locked(directory, name, found)
                if not follows:
                    if not twin.in_upper:
                        # The name by which it was known may have gone, or stand for another file.
                        twin.stand_in(_parent(directory, found.lowers[0]), name)
                        twin.lower_id = found.stat.file_id
                    self._inodes.enter(twin, directory, name)
            if follows and self._copy_up is not None:
                self._copy_up.adopt_name(twin, directory, name)
                self._inodes.enter(twin, directory, name)
            stat = self._tree.stat(twin)
        finally:
            self._inodes.forget(twin.nodeid)
        return Entry(twin, stat)

    def _is_still(self, twin: FileInode, stat: FileStat) -> bool:
        """Whether a lower's file is the one that was copied up to `twin`. Precondition: COPY_UP of it is held."""
        links = None if self._tree.links is None else self._tree.links.current(twin.links)
        return links is not None and (links.is_kernels or links.is_of(stat))

    def _indexed(self, directory: DirectoryInode, name: str, found: Found, key: FileKey) -> FileInode | None:
        """The file of the upper to which what was found in a lower was copied up, under another name of it."""
        links = self._tree.links
        if links is None or found.in_upper:
            return None
        place = found.lowers[0]
        count = links.find(place.layer, found.stat)
        if count is None and self._kernel_index is not None:
            count = self._kernel_index.find(place, found.stat)
        if count is None:
            return None
        upper = self._tree.stack.writable_upper()
        stat = upper.backend.stat(links.path(count))
        ino = upper.marks.recorded_inode_number(links.path(count)) or found.ino
        file = FileInode(self._inodes.next_nodeid(), ino, stat.type, key, in_upper=True)
        file.stand_in(_parent(directory, place), name)
        if stat.file_id is not None:
            file.keys = (key, FileKey(UPPER_NUMBER, stat.file_id))
        file.links = count
        return self._inodes.enter_unnamed(file)


def _parent(directory: DirectoryInode, place: LowerPlace) -> LowerPlace:
    """What holds `place`: the one that is merged into `directory`, and not another object for each file."""
    for merged in directory.lowers:
        if merged.layer is place.layer:
            return merged
    return LowerPlace(place.layer, split_path(place.path)[0])
