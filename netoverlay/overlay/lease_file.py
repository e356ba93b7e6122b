"""The file `lock` in the work directory of an upper on a server, and the steps that change who stands in it.

What servers do in one step is little: create a name that is free, and rename. So:

- A lease is written under another name ("#owner-NONCE") and gets its own in one step, which fails if there is one: so
  it is never without its owner, and one whose owner was killed over the taking is known to be a dead one's. Where the
  server has no such step the lease is created exclusively, and is empty for a moment.
- Then whoever did looks at it.
- Its owner writes into the file that it has opened and read, never to a name. Such a write cannot reach the lease of
  another, who came meanwhile: the old file has been renamed away by then.
- Nobody removes the name `lock`. Whoever takes a lease away renames it to a name of his own ("lock-NONCE"), looks at
  what he got, and puts it back if that is not what he meant: somebody was faster, and has a lease of his own by now.
- As a lease can so be away for a moment while it is held, who has created one looks at all "lock-*" before he believes
  in it.
- One at a time takes leases away ("#taking"). That is only so that they do not get in each other's way: who dies over
  it is ignored, at once if that can be seen, else after a while, and what is above holds then, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

from netoverlay.backend_api import (
    Access,
    Backend,
    BackendFile,
    Creation,
    LayerPath,
    NotSupportedError,
    RenameFlags,
    UnavailableError,
    join_path,
)
from netoverlay.overlay.owner import Owner, is_dead_here, parse_owner, this_process

LOCK_NAME = "lock"
_ASIDE = f"{LOCK_NAME}-"
_NOW = "#now-"
_MADE = "#owner-"
_TAKING = "#taking"
"""Swept, as all that starts so (workspace.py)."""
_MODE = 0o600
_MAX_BYTES = 16384
_PUT_BACK_SECONDS = 3.0
_PAUSE_SECONDS = 0.02
_ATTEMPTS = 5


class SupersededError(Exception):
    """The lease is another owner's."""


class Seen(NamedTuple):
    """A lease as it was read."""

    text: bytes
    mtime_ns: int
    """By the server's clock."""
    file_id: int | None

    @property
    def owner(self) -> Owner | None:
        """None if it could not be understood: it is being written, or its writer died over it."""
        return parse_owner(self.text)


def read_lease(file: BackendFile) -> Seen:
    """What stands in an open lease."""
    stat = file.stat()
    return Seen(file.read_at(0, _MAX_BYTES), stat.mtime_ns, stat.file_id)


class LeaseFile:
    """The lease of the work directory `work`, for one contender, whose `nonce` is in the names that he makes.

    `backend` must ask the server each time: no cache may be in it. Everything raises what it raises.
    """

    def __init__(self, backend: Backend, work: LayerPath, nonce: str) -> None:
        self.path = join_path(work, LOCK_NAME)
        self.nonce = nonce
        self._backend = backend
        self._work = work
        self._aside = join_path(work, f"{_ASIDE}{nonce}")
        self._taking = join_path(work, _TAKING)

    def where(self) -> str:
        """The file, for a person."""
        try:
            return f"{self._backend.identity()}/{self.path}"
        except NotSupportedError:
            return self.path

    def create(self, owner: Owner) -> bool:
        """Make the lease that of `owner`; False if there is one."""
        return self._make(self.path, owner)

    def look(self) -> Seen | None:
        """What stands in the lease; None if there is none."""
        return self._look(self.path)

    def overwrite(self, owner: Owner) -> None:
        """Write `owner` into the lease. SupersededError if that is not of the same nonce; then it stays as it is.

        What was in the lease is known for the file that is written to; that this is still the lease afterwards is not.
        """
        with self._backend.open(self.path, Access.READ_WRITE) as file:
            check_nonce(read_lease(file), owner.nonce)
            file.write_at(0, owner.pack())

    def take_away(self, expected: Seen) -> bool:
        """Remove the lease if it is still the one that was seen; whether it was."""
        if self.look() != expected:
            return False
        try:
            self._backend.rename(self.path, self._aside)
        except FileNotFoundError:
            return False
        taken = self._look(self._aside)
        if taken is not None and taken != expected:
            self._put_back()
            return False
        self.forget(self._aside)
        return True

    def give_back(self, owner: Owner) -> None:
        """Make the lease of `owner` nobody's, and remove it. SupersededError, FileNotFoundError if it is not his.

        Released first, so that it protects nobody from the moment on in which it is renamed.
        """
        self.overwrite(dataclasses.replace(owner, released=True))
        seen = self.look()
        check_nonce(seen, owner.nonce)
        if seen is not None:
            self.take_away(seen)

    def withdraw(self, owner: Owner) -> None:
        """Remove the lease of `owner` wherever it is."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError, SupersededError):
                self.give_back(owner)
                return
            aside = [path for path, seen in self.set_aside() if seen.owner and seen.owner.nonce == owner.nonce]
            if not aside:
                return
            for path in aside:
                self.forget(path)  # it may just have been put back: look again

    @contextlib.contextmanager
    def taking(self) -> Iterator[bool]:
        """Be the only one who takes leases away; False if another is."""
        if not self._make(self._taking, this_process("")):
            yield False
            return
        try:
            yield True
        finally:
            self.forget(self._taking)

    def forget_taker(self, patience: float) -> None:
        """Ignore from now on who is dead, or has been taking a lease away for more than `patience` seconds."""
        seen = self._look(self._taking)
        if seen is None:
            return
        is_dead = seen.owner is not None and is_dead_here(seen.owner)
        if is_dead or self.server_now() - seen.mtime_ns > patience * 1e9:
            self.forget(self._taking)

    def set_aside(self) -> list[tuple[LayerPath, Seen]]:
        """The leases that are away from their name at the moment, or were when a contender died."""
        found = []
        for entry in self._backend.list_dir(self._work):
            path = join_path(self._work, entry.name)
            if entry.name.startswith(_ASIDE) and (seen := self._look(path)) is not None:
                found.append((path, seen))
        return found

    def forget(self, path: LayerPath) -> None:
        """Remove a lease that was set aside, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._backend.unlink(path)

    def server_now(self) -> int:
        """Nanoseconds since 1970 by the clock that a lease's mtime is from."""
        path = join_path(self._work, f"{_NOW}{self.nonce}")
        with self._backend.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=_MODE) as file:
            now = file.stat().mtime_ns
        self.forget(path)
        return now

    def _look(self, path: LayerPath) -> Seen | None:
        try:
            with self._backend.open(path, Access.READ) as file:
                return read_lease(file)
        except FileNotFoundError:
            return None

    def _make(self, path: LayerPath, owner: Owner) -> bool:
        """Make a file in which `owner` stands; False if there is one at `path`."""
        made = join_path(self._work, f"{_MADE}{self.nonce}")
        self._write(made, owner)
        try:
            self._rename_if_free(made, path)
        except FileNotFoundError:
            return False  # swept, by another who owns the upper
        except NotSupportedError:
            self.forget(made)
            return self._make_in_place(path, owner)
        except OSError as error:
            if not is_taken(error):
                raise
            self.forget(made)
            return False
        return True

    def _make_in_place(self, path: LayerPath, owner: Owner) -> bool:
        """As _make(); it is empty for a moment."""
        try:
            self._write(path, owner)
        except OSError as error:
            if not is_taken(error):
                raise
            return False
        return True

    def _write(self, path: LayerPath, owner: Owner) -> None:
        """Make a file in which `owner` stands. is_taken() if there is one."""
        file = self._backend.open(path, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=_MODE)
        try:
            with file:
                file.write_at(0, owner.pack())
        except UnavailableError:
            raise  # it may be long ago by now; an empty lease expires
        except OSError:
            self.forget(path)  # the server is full, for example; ours, for nobody takes away what is so young
            raise

    def _put_back(self) -> None:
        """Undo a renaming. Who has come meanwhile sees what is aside, and gives way; if not, it stays there."""
        give_up_at = time.monotonic() + _PUT_BACK_SECONDS
        while True:
            try:
                self._rename_back()
            except FileNotFoundError:
                return  # its owner has withdrawn it
            except OSError as error:
                if not is_taken(error):
                    raise
                if time.monotonic() > give_up_at:
                    return
                time.sleep(_PAUSE_SECONDS)
            else:
                return

    def _rename_back(self) -> None:
        """FileExistsError if there is a lease."""
        try:
            self._rename_if_free(self._aside, self.path)
        except NotSupportedError:
            if self.look() is not None:  # not one step, but there is none on such a server
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.path) from None
            self._backend.rename(self._aside, self.path)

    def _rename_if_free(self, old: LayerPath, new: LayerPath) -> None:
        """In one step. is_taken() if `new` is there; NotSupportedError where there is no such step."""
        try:
            self._backend.rename(old, new, RenameFlags.NOREPLACE)
        except NotSupportedError:
            self._backend.link(old, new)
            self.forget(old)


def is_taken(error: OSError) -> bool:
    """Whether a name could not be made because it is there, as far as one can tell.

    SFTP says only that it failed; if the name is gone when the backend looks why, that is EIO.
    """
    return error.errno in (errno.EEXIST, errno.EIO) and not isinstance(error, UnavailableError)


def check_nonce(seen: Seen | None, nonce: str) -> None:
    """SupersededError if a lease is another's; FileNotFoundError if there is none; OSError if nobody can tell."""
    if seen is None:
        raise FileNotFoundError("it was removed")
    owner = seen.owner
    if owner is None:
        raise OSError("what stands in it is no lease")
    if owner.nonce != nonce:
        raise SupersededError(f"it is held by {owner}")
