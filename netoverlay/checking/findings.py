"""Everything that can be found in an upper: a table; and what becomes of what was found."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from netoverlay.backend_api import LayerPath


class Severity(enum.Enum):
    """What a finding means for who uses the upper."""

    HARMLESS = "harmless"
    """Nothing is shown otherwise than without it. The repair clears it away."""
    REPAIRABLE = "repairable"
    """The repair loses nothing that could be had still."""
    EXPLAINED = "explained"
    """Only a person can decide, or bring back what is missing. It is named, and left."""


class Row(NamedTuple):
    """What there is to say of one kind of finding."""

    code: str
    """Its name, for programs and for the manual."""
    severity: Severity
    sentence: str
    """What is wrong, said of the path."""
    remedy: str
    """What the repair does, in the past tense; of what is only explained, what to do."""


class Kind(enum.Enum):
    """All kinds of findings."""

    TEMPORARY = Row(
        "temporary", Severity.HARMLESS, "left in the work directory by a change that did not end", "removed"
    )
    OWNER_DEAD = Row("owner-dead", Severity.HARMLESS, "its last owner died without giving the upper back", "given back")
    OWNER_DAMAGED = Row("owner-damaged", Severity.HARMLESS, "it does not say who owns the upper", "written anew")
    LEASE_ASIDE = Row("lease-aside", Severity.HARMLESS, "left by somebody who died while taking the upper", "removed")
    UNREADABLE = Row("unreadable", Severity.EXPLAINED, "it cannot be read", "see to that: what is in it is not checked")
    WHITEOUT_OVER_NOTHING = Row(
        "whiteout-over-nothing", Severity.HARMLESS, "a whiteout of a name that no lower has", "removed"
    )
    WHITEOUT_IN_OPAQUE = Row(
        "whiteout-in-opaque", Severity.HARMLESS, "a whiteout in a directory that hides all below anyway", "removed"
    )
    OPAQUE_FILE = Row("opaque-file", Severity.HARMLESS, "the mark of an opaque directory on what is none", "taken away")
    REDIRECT_FILE = Row("redirect-file", Severity.HARMLESS, "a redirect on a file that has its data here", "taken away")
    REDIRECT_OUT = Row(
        "redirect-out",
        Severity.REPAIRABLE,
        "a redirect that is no path in the lowers, so that the directory cannot be used",
        "replaced by the mark of an opaque directory: what is in the upper shows",
    )
    REDIRECT_NOWHERE = Row(
        "redirect-nowhere",
        Severity.EXPLAINED,
        "a redirect to a directory that no lower has: only what is in the upper shows",
        "bring the lower back as it was, or take the attribute overlay.redirect away",
    )
    DATA_NOWHERE = Row(
        "data-nowhere",
        Severity.EXPLAINED,
        "its data is to be in a lower (overlay.metacopy), and no lower has it: reading it is an error",
        "bring the lower back as it was, or remove the file",
    )
    INODE_TWICE = Row(
        "inode-twice",
        Severity.REPAIRABLE,
        "it has the recorded inode number of another file",
        "given the number of its own file",
    )
    LAZY_MAP_DAMAGED = Row(
        "lazy-map-damaged",
        Severity.EXPLAINED,
        "a lazily copied file of which nobody knows what is here, and what in its base: reading it is an error",
        "restore the map from a backup, or copy the file anew",
    )
    LAZY_BASE_LOST = Row(
        "lazy-base-lost",
        Severity.EXPLAINED,
        "a lazily copied file whose base is gone or changed: reading what is not here is an error",
        "bring the base's file back as it was, and settle the profile; or copy the file anew",
    )
    LAZY_MAP_LONG = Row(
        "lazy-map-long", Severity.REPAIRABLE, "a lazily copied file that is shorter than its map", "cut off the map"
    )
    LAZY_MAP_TORN = Row(
        "lazy-map-torn", Severity.HARMLESS, "the end of the map of a lazily copied file does not count", "cut off"
    )
    LAZY_WHOLE = Row(
        "lazy-whole", Severity.REPAIRABLE, "a file that is called lazily copied, and lacks nothing", "made a plain file"
    )
    LAZY_MAP_UNUSED = Row(
        "lazy-map-unused", Severity.HARMLESS, "the map of a lazily copied file that is not there", "removed"
    )
    INDEX_DAMAGED = Row(
        "index-damaged",
        Severity.REPAIRABLE,
        "its name says nothing in the index of hard links, so that no mount begins; the file has other names",
        "removed",
    )
    INDEX_ONLY_NAME = Row(
        "index-only-name",
        Severity.EXPLAINED,
        "its name says nothing in the index of hard links, so that no mount begins; the file has no other name",
        "move the file to where it belongs",
    )
    INDEX_GONE = Row(
        "index-gone", Severity.HARMLESS, "a file in the index of hard links that has lost all its names", "removed"
    )
    INDEX_COMPLETE = Row(
        "index-complete",
        Severity.HARMLESS,
        "a file in the index of hard links that has all its names in the upper, or more than its count says",
        "taken out of the index",
    )
    TIMES_DAMAGED = Row(
        "times-damaged",
        Severity.REPAIRABLE,
        "the kept times of copied files are damaged, so that no mount begins",
        "removed: these files show when they were copied up as their ctime",
    )
    TIMES_UNUSED = Row("times-unused", Severity.HARMLESS, "kept times of files that are gone", "written anew")
    JOURNAL_FOREIGN = Row(
        "journal-foreign",
        Severity.EXPLAINED,
        "another version of netoverlay has written the journal: nothing else is checked",
        "use that version",
    )
    JOURNAL_DAMAGED = Row(
        "journal-damaged",
        Severity.EXPLAINED,
        "the journal is damaged, and more than a crash can leave is behind that place: nothing else is checked",
        "restore it from a backup, or cut it off there",
    )
    JOURNAL_TORN = Row("journal-torn", Severity.REPAIRABLE, "the end of the journal cannot be read", "cut off")
    JOURNAL_OPEN = Row(
        "journal-open", Severity.HARMLESS, "the last mount did not end in order", "the journal written anew"
    )
    JOURNAL_UNFINISHED = Row(
        "journal-unfinished", Severity.HARMLESS, "a journal that was being written anew", "removed"
    )
    CHANGE_UNFINISHED = Row(
        "change-unfinished", Severity.REPAIRABLE, "a change of names that was begun", "completed or taken back"
    )
    ASIDE = Row("aside", Severity.HARMLESS, "out of the way for a change that did not end", "removed")
    RECORD_MISSING = Row(
        "record-missing",
        Severity.REPAIRABLE,
        "the journal has its name, but not its attributes",
        "recorded as the server tells",
    )
    RECORD_GONE = Row("record-gone", Severity.HARMLESS, "the journal has it, and the server does not", "forgotten")
    RECORD_TYPE = Row(
        "record-type",
        Severity.REPAIRABLE,
        "the journal calls it a special file, and on the server it has content",
        "shown as the file that it is",
    )
    RECORD_NAME = Row(
        "record-name", Severity.REPAIRABLE, "the journal has a name that the server cannot hold", "forgotten"
    )
    WHITEOUT_BESIDE_FILE = Row(
        "whiteout-beside-file", Severity.HARMLESS, "a whiteout beside the file that it would hide", "removed"
    )
    LONG_DIRECTORY_EMPTY = Row(
        "long-directory-empty", Severity.HARMLESS, "a directory for whiteouts of long names without any", "removed"
    )
    CASE_CLASH = Row(
        "case-clash",
        Severity.EXPLAINED,
        "another name in its directory differs in case only, and the server may take the one for the other",
        "rename one of them on the server's own disk",
    )

    @property
    def row(self) -> Row:
        """What there is to say of it."""
        return self.value


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong."""

    kind: Kind
    path: LayerPath
    """From the directory that holds the upper and its work directory."""
    detail: str = ""
    repair: Callable[[], object] | None = field(default=None, compare=False)
    """None where there is none, or where it is what taking the upper does anyway."""


Findings: TypeAlias = Iterator[Finding]


class Outcome(enum.Enum):
    """What became of a finding."""

    CORRECTED = "corrected"
    LEFT = "left"


class ExitCode(enum.IntEnum):
    """Those of fsck(8)."""

    CLEAN = 0
    CORRECTED = 1
    LEFT = 4
    FAILED = 8
    USAGE = 16
    CANCELLED = 32


@dataclass(slots=True)
class Tally:
    """How many findings there were."""

    entries: int = 0
    """Looked at."""
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    unchecked: tuple[str, ...] = ()
    """What could not be looked at, and why, in sentences."""

    @property
    def exit_code(self) -> ExitCode:
        """What the command ends with."""
        if self.outcomes[Outcome.LEFT]:
            return ExitCode.LEFT
        return ExitCode.CORRECTED if self.outcomes[Outcome.CORRECTED] else ExitCode.CLEAN
