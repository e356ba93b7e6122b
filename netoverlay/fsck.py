"""`netoverlay fsck`: look at the upper of a profile that is not mounted, tell what is wrong, and repair what can be.

The upper is taken as by a mount, through the same backends and wrappers; where nothing may be changed it is only seen
that nobody has it, and what a mount would put in order is put in order in memory (wrappers/scratch.py).
"""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Callable
from contextlib import ExitStack

from netoverlay.backend_api import Backend, Capabilities, LayerPath
from netoverlay.cache.disk_store import DiskStore
from netoverlay.checking.check import check_upper
from netoverlay.checking.findings import Finding, Outcome, Severity, Tally
from netoverlay.checking.journal import UncheckableError, check_journal
from netoverlay.checking.owner import check_owner, clear_owner
from netoverlay.checking.subject import Subject
from netoverlay.config.errors import ConfigError
from netoverlay.config.model import Profile, UpperSettings
from netoverlay.connecting import ConnectedLayer, connect_lower, connect_upper_as, layer_stack
from netoverlay.connecting_upper import UpperPlaces, as_it_is, owning_for
from netoverlay.overlay.lease import Timing
from netoverlay.overlay.owner import UpperHeldError
from netoverlay.overlay.ownership import Held, require_free
from netoverlay.wrappers.guard import GuardedBackend
from netoverlay.wrappers.scratch import ScratchBackend
from netoverlay.wrappers.sidecar.backend import SidecarBackend


class Repairs(enum.Enum):
    """Which findings are repaired."""

    NONE = "none"
    ALL = "all"
    ASKED = "asked"


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """Where the findings go, and who decides."""

    repairs: Repairs
    tell: Callable[[str], object]
    """A line about a finding, and what became of it."""
    ask: Callable[[str], bool]
    """Whether what the line tells is to be repaired."""
    tally: Tally

    def take(self, finding: Finding) -> None:
        """Repair a finding, or not, and tell of it."""
        row = finding.kind.row
        line = f"{finding.path}: {row.sentence}" + (f" ({finding.detail})" if finding.detail else "")
        if row.severity is Severity.EXPLAINED:
            self._note(Outcome.LEFT, f"{line}: left as it is; {row.remedy}")
        elif self.repairs is Repairs.NONE:
            self._note(Outcome.LEFT, f"{line}: would be {row.remedy}")
        elif finding.repair is None or self.repairs is Repairs.ALL or self.ask(f"{line}: have it {row.remedy}?"):
            if finding.repair is not None:
                finding.repair()
            self._note(Outcome.CORRECTED, f"{line}: {row.remedy}")
        else:
            self._note(Outcome.LEFT, f"{line}: left as it is")

    def _note(self, outcome: Outcome, line: str) -> None:
        self.tally.outcomes[outcome] += 1
        self.tell(line)


def fsck(profile: Profile, repairs: Repairs, tell: Callable[[str], object], ask: Callable[[str], bool]) -> Tally | None:
    """Check the upper of `profile`: how many findings there were. None if it has no upper, or none yet.

    ConfigError if the upper cannot be reached, or a mount has it; OSError if it is lost in the middle.
    """
    settings = profile.upper
    if settings is None or not _is_there(settings):
        return None
    report = Report(repairs, tell, ask, Tally())
    with ExitStack() as cleanup:
        taking = _Taking(profile, settings, repairs)
        try:
            upper = taking.connect(cleanup)
        except UncheckableError as error:
            for finding in (*taking.found, *error.findings):
                report.take(finding)
            return report.tally
        for finding in taking.found:
            report.take(finding)
        subject = _subject(profile, upper, taking.unrecorded, report.tally, cleanup)
        for finding in check_upper(subject, taking.server):
            report.take(finding)
        if subject.sidecar is not None and subject.has_forgotten:
            subject.sidecar.journal.compact()
        report.tally.entries = subject.entries
    return report.tally


def summary(name: str, tally: Tally | None) -> list[str]:
    """The last lines for a person: what was not checked, and how many findings there were."""
    if tally is None:
        return [f"{name}: nothing to check: there is no upper"]
    corrected, left = tally.outcomes[Outcome.CORRECTED], tally.outcomes[Outcome.LEFT]
    found = f"{corrected} corrected, {left} left" if corrected or left else "clean"
    return [f"{name}: {line}" for line in tally.unchecked] + [f"{name}: {found}, {tally.entries} entries looked at"]


def _is_there(settings: UpperSettings) -> bool:
    """False for the one that a mount would make."""
    return not settings.is_default or os.path.isdir(settings.url.path)


class _Taking:
    """Takes the upper, or sees that it could be taken; and what there is to find before that."""

    def __init__(self, profile: Profile, settings: UpperSettings, repairs: Repairs) -> None:
        self._profile = profile
        self._settings = settings
        self._changes = repairs is not Repairs.NONE
        self.found: list[Finding] = []
        """What taking it has put in order, or would."""
        self.server: Backend | None = None
        """What reaches a server that does not tell cases apart, without wrappers that do."""
        self.unrecorded: frozenset[int] = frozenset()
        """As Subject.unrecorded."""

    def connect(self, cleanup: ExitStack) -> ConnectedLayer:
        """The upper, which is given back by `cleanup`. ConfigError, UncheckableError."""
        around = as_it_is if self._changes else _only_in_memory
        upper = connect_upper_as(self._profile, self._settings, self._own, around)
        cleanup.callback(upper.backend.close)
        if upper.held is None:
            try:
                held = self._own(upper.meter, upper.capabilities, UpperPlaces(self._settings).work, Timing())
            except UpperHeldError as error:
                raise ConfigError(self._profile.file, "upper.url", str(error.strerror)) from None
            cleanup.callback(held.release)
        return upper

    def _own(self, backend: Backend, capabilities: Capabilities, work: LayerPath, timing: Timing) -> Held:
        """As connecting_upper.Own. The journal is looked at here: its loading comes next."""
        self.found += check_owner(backend, work)
        if self._changes:
            held = owning_for(f"netoverlay fsck {self._profile.name}")(backend, capabilities, work, timing)
        else:
            held = require_free(backend, capabilities, work, timing)
        try:
            if self._changes:
                clear_owner(backend, work)
            if not capabilities.local:
                self.server = None if capabilities.case_sensitive else backend
                journal = check_journal(backend, work)
                self.found += journal.findings
                self.unrecorded = journal.unrecorded
        except BaseException:
            held.release()
            raise
        return held


def _only_in_memory(backend: Backend) -> Backend:
    return ScratchBackend(GuardedBackend(backend, lost=lambda: True))


def _subject(
    profile: Profile, upper: ConnectedLayer, unrecorded: frozenset[int], tally: Tally, cleanup: ExitStack
) -> Subject:
    """The upper with all lowers, or with none if one of them cannot be reached, or they hold nothing."""
    alone = layer_stack(profile, upper, [])
    try:
        stack = layer_stack(profile, upper, _lowers(profile, cleanup))
    except ConfigError as error:
        tally.unchecked += (f"without the lowers less is checked: {error}",)
        stack = alone
    else:
        if not any(lower.backend.list_dir(lower.root) for lower in stack.lowers):
            # As where nothing is mounted at the moment: the whiteouts in the upper may be wanted again.
            tally.unchecked += ("the lowers are empty: what the upper says of them is not checked",)
            stack = alone
    sidecar = upper.backend.connected() if isinstance(upper.backend, SidecarBackend) else None
    return Subject(stack, sidecar, unrecorded)


def _lowers(profile: Profile, cleanup: ExitStack) -> list[ConnectedLayer]:
    store = DiskStore(str(profile.cache.directory))
    cleanup.callback(store.close)
    lowers = []
    for settings in profile.lowers:
        lower = connect_lower(profile, settings, store, at_once=True)
        cleanup.callback(lower.backend.close)
        lowers.append(lower)
    return lowers
