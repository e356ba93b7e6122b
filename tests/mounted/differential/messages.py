"""What a worker is asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.mounted.differential.steps import Step, Watch


@dataclass(frozen=True, slots=True)
class Holding:
    """What is there natively; the mount's side does not look for it."""

    types: Mapping[bytes, int]
    """All names, with their types."""
    slots: Mapping[int, tuple[int, int]]
    """What is open: type and flags."""
    maps: Sequence[int]


@dataclass(frozen=True, slots=True)
class Enter:
    """Work in this directory from now on. The answer is Holding."""

    top: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    """Close everything and leave the directory."""


@dataclass(frozen=True, slots=True)
class Do:
    """Make a step, then look. The answer has the outcome, what was seen, and Holding."""

    step: Step
    watch: Watch


@dataclass(frozen=True, slots=True)
class Look:
    """Look at everything."""

    watch: Watch = Watch.EVERYTHING


@dataclass(frozen=True, slots=True)
class DoTogether:
    """Make the steps of several threads at once, each in a directory of its own. The answer has all their outcomes."""

    programs: tuple[tuple[bytes, tuple[Step, ...]], ...]


Message = Enter | Leave | Do | Look | DoTogether
