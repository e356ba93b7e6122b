"""What fcntl(2) and flock(2) say: every byte has its lock of every owner. Shares nothing with the product.

Bytes 0 to BYTES - 1 are told apart; index BYTES stands for all that follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

BYTES: Final = 24
END: Final = BYTES + 1
Owner: TypeAlias = "tuple[str, int]"
"""("process", number), ("file", number of the open file), or ("flock", number of the open file)."""


@dataclass(eq=False)
class OpenFile:
    """An open file description."""

    number: int
    name: str
    descriptors: set[tuple[int, int]] = field(default_factory=set)
    """(process, descriptor)."""


class Wanted(NamedTuple):
    """A lock that is asked for: bytes from `start` up to `end`. `kind`: r, w, or u for none."""

    name: str
    owner: Owner
    kind: str
    start: int
    end: int


class Found(NamedTuple):
    """What F_GETLK may answer."""

    kind: str
    start: int
    end: int
    owner: Owner


def conflict(one: str, other: str) -> bool:
    return "u" not in (one, other) and "w" in (one, other)


class LockModel:
    """The locks on some files, and who waits for one."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, Owner], list[str]] = {}
        self.waiting: dict[int, Wanted] = {}
        """By process, in the order in which they came."""

    def in_the_way(self, wanted: Wanted) -> set[Owner]:
        """Who holds what keeps a lock from being granted."""
        owners = set()
        for (name, owner), kinds in self._held.items():
            if name != wanted.name or owner == wanted.owner or (owner[0] == "flock") != (wanted.owner[0] == "flock"):
                continue
            if any(conflict(wanted.kind, kind) for kind in kinds[wanted.start : wanted.end]):
                owners.add(owner)
        return owners

    def found(self, wanted: Wanted) -> list[Found]:
        """The locks that F_GETLK may tell of; none if there is none in the way."""
        return [
            piece
            for owner in self.in_the_way(wanted)
            for piece in self._pieces(wanted.name, owner)
            if conflict(wanted.kind, piece.kind) and piece.start < wanted.end and wanted.start < piece.end
        ]

    def _pieces(self, name: str, owner: Owner) -> Iterator[Found]:
        kinds = self._held[name, owner]
        start = 0
        for at in range(1, END + 1):
            if at == END or kinds[at] != kinds[start]:
                if kinds[start] != "u":
                    yield Found(kinds[start], start, at, owner)
                start = at

    def ask(self, process: int, wanted: Wanted, *, waits: bool) -> str:
        """Lock or unlock: ok, EAGAIN, EDEADLK, or "waits". Then call granted()."""
        if wanted.owner[0] == "flock":
            held = self._held.get((wanted.name, wanted.owner))
            if held is not None and held[0] != wanted.kind:
                # A conversion is no upgrade: what was held is given up first.
                del self._held[wanted.name, wanted.owner]
        if not self.in_the_way(wanted):
            self._enter(wanted)
            return "ok"
        if not waits:
            return "EAGAIN"
        if wanted.owner[0] != "flock" and self.would_never_end(wanted):
            return "EDEADLK"
        self.waiting[process] = wanted
        return "waits"

    def would_never_end(self, wanted: Wanted) -> bool:
        """Whether those in the way wait, however indirectly, for the owner."""
        seen: set[Owner] = set()
        more = self.in_the_way(wanted)
        while more - seen:
            seen |= more
            waits = [waited for waited in self.waiting.values() if waited.owner in seen]
            more = {owner for waited in waits for owner in self.in_the_way(waited)}
        return wanted.owner in seen

    def grantable(self) -> list[int]:
        """The processes whose waiting could end now."""
        return [process for process, wanted in self.waiting.items() if not self.in_the_way(wanted)]

    def grant(self, process: int) -> None:
        """What a process waited for, it has now."""
        self._enter(self.waiting.pop(process))

    def granted(self) -> list[int]:
        """The processes whose waiting ends now, first come, first served."""
        done = []
        while now := self.grantable():
            self.grant(now[0])
            done.append(now[0])
        return done

    def drop(self, name: str, owner: Owner) -> None:
        """All that an owner has of a file goes."""
        self._held.pop((name, owner), None)

    def _enter(self, wanted: Wanted) -> None:
        kinds = self._held.setdefault((wanted.name, wanted.owner), ["u"] * END)
        kinds[wanted.start : wanted.end] = wanted.kind * (wanted.end - wanted.start)
        if set(kinds) == {"u"}:
            del self._held[wanted.name, wanted.owner]
