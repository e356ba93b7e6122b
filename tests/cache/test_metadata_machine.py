"""Whatever is done through the metadata cache, it answers as the layer does."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Capabilities,
    Creation,
    FileType,
    RenameFlags,
    UnavailableError,
)
from netoverlay.cache.listing import Unpacked
from netoverlay.cache.metadata import MetadataCache
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, MemoryBackend
from tests.cache.calls import WatchedBackend, write_file
from tests.searching import attempts

PATHS = ["a", "b", "c", "d", "d/x", "d/y", "d/e", "d/e/x", "d/e/y"]
FLAGS = [RenameFlags.NONE] * 3 + [RenameFlags.NOREPLACE, RenameFlags.EXCHANGE, RenameFlags.WHITEOUT]

any_path = st.sampled_from(["", *PATHS])
any_number = st.integers(0, 100)
"""Chooses among what there is, or is not, when the rule runs."""
seldom = st.integers(0, 7).map(lambda number: number == 7)


class LostReply(WatchedBackend):
    """Raises UnavailableError after the call that `lose` says, which was carried out."""

    lose = False

    def around(self, operation, function, *args, **kwargs):
        result = super().around(operation, function, *args, **kwargs)
        if self.lose:
            self.lose = False
            raise UnavailableError("the reply was lost")
        return result


class CacheMachine(RuleBasedStateMachine):
    """Looks at everything after each step."""

    capabilities: Capabilities = ALL_CAPABILITIES
    files = Bundle("files")

    def __init__(self):
        super().__init__()
        self.truth = MemoryBackend(self.capabilities)
        self.below = LostReply(self.truth)
        self.cache = MetadataCache(self.below, ttl=None, max_entries=25, ahead=0)
        self.cache._listings._memory.unpacked = Unpacked(6)
        self.cache.connect()
        for path in ("d", "d/e"):
            self.truth.mkdir(path, 0o755)
        for path in ("a", "b", "d/x"):
            write_file(self.truth, path, b"data")

    def attempt(self, lost, function, *args, **kwargs):
        self.below.lose = lost
        try:
            return function(*args, **kwargs)
        except OSError:
            return None
        finally:
            self.below.lose = False

    def type_of(self, path):
        try:
            return self.truth.stat(path).type
        except OSError:
            return None

    def choose(self, number, *types):
        """One of the paths where there is one of `types`; None in them stands for what is not there."""
        paths = [path for path in PATHS if self.type_of(path) in types] or PATHS
        return paths[number % len(paths)]

    def something(self, number):
        return self.choose(number, *FileType)

    def nothing(self, number):
        return self.choose(number, None)

    @rule(number=any_number, lost=seldom)
    def mkdir(self, number, lost):
        self.attempt(lost, self.cache.mkdir, self.nothing(number), 0o755)

    @rule(number=any_number, to=st.sampled_from("tu"), lost=seldom)
    def symlink(self, number, to, lost):
        self.attempt(lost, self.cache.symlink, self.nothing(number), to)

    @rule(number=any_number, lost=seldom)
    def unlink(self, number, lost):
        self.attempt(lost, self.cache.unlink, self.choose(number, FileType.REGULAR, FileType.SYMLINK))

    @rule(number=any_number, to=st.sampled_from("tu"))
    def another_symlink_in_its_place(self, number, to):
        path = self.choose(number, FileType.SYMLINK)
        self.attempt(False, self.cache.unlink, path)
        self.attempt(False, self.cache.symlink, path, to)

    @rule(number=any_number, lost=seldom)
    def rmdir(self, number, lost):
        self.attempt(lost, self.cache.rmdir, self.choose(number, FileType.DIRECTORY))

    @rule(number=any_number, new=st.sampled_from(PATHS), flags=st.sampled_from(FLAGS), lost=seldom)
    def rename(self, number, new, flags, lost):
        self.attempt(lost, self.cache.rename, self.something(number), new, flags)

    @rule(old=any_number, new=any_number, lost=seldom)
    def link(self, old, new, lost):
        self.attempt(lost, self.cache.link, self.choose(old, FileType.REGULAR), self.nothing(new))

    @rule(number=any_number, mode=st.sampled_from([0o600, 0o640]), lost=seldom)
    def chmod(self, number, mode, lost):
        self.attempt(lost, self.cache.set_attributes, self.something(number), AttributeChange(mode=mode))

    @rule(target=files, number=any_number, access=st.sampled_from(Access), truncate=seldom, lost=seldom)
    def open(self, number, access, truncate, lost):
        path = self.choose(number, FileType.REGULAR)
        file = self.attempt(lost, self.cache.open, path, access, truncate=truncate)
        return multiple(file) if file else multiple()

    @rule(target=files, number=any_number, lost=seldom)
    def create(self, number, lost):
        path = self.nothing(number)
        file = self.attempt(lost, self.cache.open, path, Access.READ_WRITE, create=Creation.EXCLUSIVE)
        return multiple(file) if file else multiple()

    @rule(file=files, size=st.integers(1, 50))
    def write(self, file, size):
        self.attempt(False, file.write_at, 0, b"x" * size)

    @rule(file=files, mode=st.sampled_from([0o604, 0o606]), lost=seldom)
    def fchmod(self, file, mode, lost):
        self.attempt(lost, file.set_attributes, AttributeChange(mode=mode))

    @rule(file=consumes(files), lost=seldom)
    def close(self, file, lost):
        self.attempt(lost, file.close)

    @rule(name=st.sampled_from(["stat", "readlink", "list_dir"]), path=any_path)
    def look(self, name, path):
        assert self.outcome(self.cache, name, path) == self.outcome(self.truth, name, path), (name, path)

    def outcome(self, backend, name, path):
        try:
            answer = getattr(backend, name)(path)
        except OSError as error:
            return error.errno
        return sorted(answer) if isinstance(answer, list) else answer

    @invariant()
    def same_answers(self):
        for name in ("stat", "readlink", "list_dir"):  # the last refreshes what the others must know without it
            for path in ["", *PATHS]:
                CacheMachine.look(self, name, path)


class WithoutLinkCounts(CacheMachine):
    """On a transport that does not tell what is linked."""

    capabilities = dataclasses.replace(ALL_CAPABILITIES, link_counts=False, file_ids=False)


class SeldomLooking(CacheMachine):
    """Looks at one path at a time, so that more states of the cache are met."""

    @invariant()
    def same_answers(self):
        pass

    def teardown(self):
        CacheMachine.same_answers(self)


class SeldomLookingWithoutLinkCounts(SeldomLooking):
    """Both."""

    capabilities = WithoutLinkCounts.capabilities


class NamesFirst(SeldomLooking):
    """Where a lookup brings names without attributes."""

    capabilities = dataclasses.replace(ALL_CAPABILITIES, names_first=True)


@pytest.mark.parametrize(
    "machine", [CacheMachine, WithoutLinkCounts, SeldomLooking, SeldomLookingWithoutLinkCounts, NamesFirst]
)
def test_any_sequence_of_calls(machine):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=attempts(40), stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
