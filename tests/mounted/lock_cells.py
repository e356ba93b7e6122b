"""What each lock call does, by where its file is: the table of docs/locks.md, which test_lock_cells.py proves.

`python -m tests.mounted.lock_cells` writes it into the document.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "locks.md"
BEGIN: Final = "<!-- The tables are written by `python -m tests.mounted.lock_cells`. -->\n"
END: Final = "<!-- End of the tables. -->\n"


class Transport(enum.Enum):
    """By which a layer is reached."""

    LOCAL = "local"
    SMB = "SMB"
    SFTP = "SFTP"


class Where(enum.Enum):
    """In which kind of layer a file is when its lock is asked for."""

    IMMUTABLE = "immutable lower"
    CHANGING = "changing lower"
    UPPER = "the upper"


class Call(enum.Enum):
    """A lock call."""

    FCNTL_SHARED = "fcntl, shared"
    FCNTL_EXCLUSIVE = "fcntl, exclusive"
    OFD_SHARED = "OFD, shared"
    OFD_EXCLUSIVE = "OFD, exclusive"
    FLOCK_SHARED = "flock, shared"
    FLOCK_EXCLUSIVE = "flock, exclusive"
    FIND = "F_GETLK"

    @property
    def is_exclusive(self) -> bool:
        """Whether it needs the file for itself alone."""
        return self in (Call.FCNTL_EXCLUSIVE, Call.OFD_EXCLUSIVE, Call.FLOCK_EXCLUSIVE)

    @property
    def is_flock(self) -> bool:
        """By flock(2)."""
        return self in (Call.FLOCK_SHARED, Call.FLOCK_EXCLUSIVE)


class Answer(enum.Enum):
    """What comes of a call that no other program is in the way of."""

    MOUNT = "mount"
    LOWER = "lower"
    LOWER_CLIENTS = "lower, clients"
    UPPER = "upper"
    COPIED = "copied, mount"
    COPIED_UPPER = "copied, upper"
    ENOLCK = "ENOLCK"
    EBADF = "EBADF"


MEANINGS: Final = {
    Answer.MOUNT: "Kept by this mount. Programs on the mount see it; those outside do not, nor are theirs in the way.",
    Answer.LOWER: "Held in the lower as well: who uses the base's own file sees it, and theirs are in the way.",
    Answer.LOWER_CLIENTS: "As `lower` for other SMB clients. To a program on the server's disk it is a"
    " shared one, for that is all that Samba can have of a file that is open for reading.",
    Answer.UPPER: "Held in the upper as well: the same, of the upper's file.",
    Answer.COPIED: "The file is copied up first; then as `mount`.",
    Answer.COPIED_UPPER: "The file is copied up first; then as `upper`.",
    Answer.ENOLCK: 'Refused: "No locks available".',
    Answer.EBADF: "Refused by the kernel: the file would have to be open for writing, and without an upper none is.",
}


@dataclass(frozen=True)
class Upper:
    """The upper of a mount."""

    transport: Transport
    private: bool

    def __str__(self) -> str:
        return f"{'private' if self.private else 'shared'} {self.transport.value}"


@dataclass(frozen=True)
class Cell:
    """One call on a file in one place."""

    upper: Upper | None
    where: Where
    transport: Transport
    call: Call
    answer: Answer

    @property
    def name(self) -> str:
        """Of the file on which it is tried."""
        return f"{self.where.name}-{self.transport.name}-{self.call.name}".lower()


@dataclass(frozen=True)
class Row:
    """All calls on a file in one place. `found_by` is who is asked by F_GETLK."""

    where: Where
    transport: Transport
    shared: Answer
    exclusive: Answer
    found_by: Answer
    flock_exclusive: Answer | None = None
    """If that is another one."""

    def answer(self, call: Call) -> Answer:
        """To one of them."""
        if call is Call.FIND:
            return self.found_by
        if call is Call.FLOCK_EXCLUSIVE and self.flock_exclusive is not None:
            return self.flock_exclusive
        return self.exclusive if call.is_exclusive else self.shared


_M, _L, _LC, _U, _C, _CU, _NO, _RO = Answer


def _lowers(local: Answer, smb: Answer, sftp: Answer, exclusive: Answer) -> tuple[Row, ...]:
    """Those of a mount with an upper that keeps locks: `local` and so on are a shared lock's on a changing lower."""
    return (
        *(Row(Where.IMMUTABLE, transport, _M, _M, _M) for transport in Transport),
        Row(Where.CHANGING, Transport.LOCAL, local, exclusive, local),
        Row(Where.CHANGING, Transport.SMB, smb, exclusive, smb),
        Row(Where.CHANGING, Transport.SFTP, sftp, exclusive, sftp),
    )


TABLES: Final[dict[Upper | None, tuple[Row, ...]]] = {
    Upper(Transport.LOCAL, private=True): (
        *_lowers(_L, _L, _NO, _C),
        Row(Where.UPPER, Transport.LOCAL, _M, _M, _M),
    ),
    Upper(Transport.LOCAL, private=False): (
        *_lowers(_L, _L, _NO, _CU),
        Row(Where.UPPER, Transport.LOCAL, _U, _U, _U),
    ),
    Upper(Transport.SMB, private=True): (
        *_lowers(_L, _L, _NO, _C),
        Row(Where.UPPER, Transport.SMB, _M, _M, _M),
    ),
    Upper(Transport.SMB, private=False): (
        *_lowers(_L, _L, _NO, _CU),
        Row(Where.UPPER, Transport.SMB, _U, _U, _U),
    ),
    Upper(Transport.SFTP, private=True): (
        *_lowers(_L, _L, _NO, _C),
        Row(Where.UPPER, Transport.SFTP, _M, _M, _M),
    ),
    Upper(Transport.SFTP, private=False): (
        *(Row(Where.IMMUTABLE, transport, _NO, _NO, _NO) for transport in Transport),
        *(Row(Where.CHANGING, transport, _NO, _NO, _NO) for transport in Transport),
        Row(Where.UPPER, Transport.SFTP, _NO, _NO, _NO),
    ),
    None: (
        *(Row(Where.IMMUTABLE, transport, _M, _RO, _M, flock_exclusive=_M) for transport in Transport),
        Row(Where.CHANGING, Transport.LOCAL, _L, _RO, _L, flock_exclusive=_L),
        Row(Where.CHANGING, Transport.SMB, _L, _RO, _L, flock_exclusive=_LC),
        Row(Where.CHANGING, Transport.SFTP, _NO, _RO, _NO, flock_exclusive=_NO),
    ),
}


def cells(upper: Upper | None) -> list[Cell]:
    """All of the mount with this upper."""
    return [Cell(upper, row.where, row.transport, call, row.answer(call)) for row in TABLES[upper] for call in Call]


def in_document() -> str:
    """The tables as docs/locks.md has them."""
    meanings = [f"| `{answer.value}` | {meaning} |" for answer, meaning in MEANINGS.items()]
    parts = ["\n".join(["| Answer | Meaning |", "|---|---|", *meanings])]
    for rows, uppers in _grouped().items():
        lines = [
            f"### {_heading(uppers)}\n",
            f"| The file is in | {' | '.join(call.value for call in Call)} |",
            "|---" * (len(Call) + 1) + "|",
        ]
        for row in rows:
            answers = " | ".join(f"`{row.answer(call).value}`" for call in Call)
            lines.append(f"| {row.where.value}, {row.transport.value} | {answers} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _grouped() -> dict[tuple[Row, ...], list[Upper]]:
    """The uppers that make no difference to the lowers are told of together."""
    groups: dict[tuple[Row, ...], list[Upper]] = {}
    for upper, rows in TABLES.items():
        lowers = tuple(row for row in rows if row.where is not Where.UPPER)
        groups.setdefault(lowers, [])
        if upper is not None:
            groups[lowers].append(upper)
    return {
        (*lowers, *(row for upper in uppers for row in TABLES[upper] if row.where is Where.UPPER)): uppers
        for lowers, uppers in groups.items()
    }


def _heading(uppers: list[Upper]) -> str:
    if not uppers:
        return "Without an upper (`read_only = true`)"
    kind = "private" if uppers[0].private else "shared"
    return f"With a {kind} upper: {', '.join(upper.transport.value for upper in uppers)}"


def written_anew(text: str) -> str:
    """The document with the tables as they are here."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{in_document()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(written_anew(DOCUMENT.read_text("utf-8")), "utf-8")
