"""What a program of a long load knows of its files and directories, and what it tells of its work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self


@dataclass(eq=False, slots=True)
class Directory:
    """A directory right below the program's own, or that one, which is called ""."""

    name: str
    entries: set[str] = field(default_factory=set)

    def path(self, name: str) -> str:
        """From the program's directory."""
        return f"{self.name}/{name}" if self.name else name


@dataclass(eq=False, slots=True)
class File:
    """What a regular file must be."""

    content: bytearray
    names: list[tuple[Directory, str]]
    mode: int
    attributes: dict[str, bytes] = field(default_factory=dict)
    descriptor: int | None = None

    @property
    def path(self) -> str:
        """By one of its names."""
        directory, name = self.names[0]
        return directory.path(name)


@dataclass(slots=True)
class Progress:
    """What a program has done since it last told."""

    operations: int = 0
    bytes_compared: int = 0
    differences: list[str] = field(default_factory=list)

    def __iadd__(self, other: Self) -> Progress:
        return Progress(
            self.operations + other.operations,
            self.bytes_compared + other.bytes_compared,
            self.differences + other.differences,
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """A program has ended."""

    files: dict[str, bytes]
    """What its files hold, by path from the root of the mount."""
