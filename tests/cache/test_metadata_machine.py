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

from netoverlay.backend_api import Access, AttributeChange, Capabilities, Creation, RenameFlags, UnavailableError
from netoverlay.cache.metadata import MetadataCache
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, MemoryBackend
from tests.cache.calls import WatchedBackend

PATHS = ["a", "b", "d", "d/x", "d/y", "d/e", "d/e/x"]
FLAGS = [RenameFlags.NONE, RenameFlags.NOREPLACE, RenameFlags.EXCHANGE, RenameFlags.WHITEOUT]


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
    capabilities: Capabilities = ALL_CAPABILITIES
    files = Bundle("files")

    def __init__(self):
        super().__init__()
        self.truth = MemoryBackend(self.capabilities)
        self.below = LostReply(self.truth)
        self.cache = MetadataCache(self.below, ttl=None, max_entries=25, ahead=0)
        self.cache.connect()
        self.cache.mkdir("d", 0o755)
        self.cache.mkdir("d/e", 0o755)

    def attempt(self, function, *args, lost=False, **kwargs):
        self.below.lose = lost
        try:
            return function(*args, **kwargs)
        except OSError:
            return None
        finally:
            self.below.lose = False

    @rule(path=st.sampled_from(PATHS), lost=st.booleans())
    def mkdir(self, path, lost):
        self.attempt(self.cache.mkdir, path, 0o755, lost=lost)

    @rule(path=st.sampled_from(PATHS), to=st.sampled_from(["t", "u"]), lost=st.booleans())
    def symlink(self, path, to, lost):
        self.attempt(self.cache.symlink, path, to, lost=lost)

    @rule(path=st.sampled_from(PATHS), lost=st.booleans())
    def unlink(self, path, lost):
        self.attempt(self.cache.unlink, path, lost=lost)

    @rule(path=st.sampled_from(PATHS), lost=st.booleans())
    def rmdir(self, path, lost):
        self.attempt(self.cache.rmdir, path, lost=lost)

    @rule(old=st.sampled_from(PATHS), new=st.sampled_from(PATHS), flags=st.sampled_from(FLAGS), lost=st.booleans())
    def rename(self, old, new, flags, lost):
        self.attempt(self.cache.rename, old, new, flags, lost=lost)

    @rule(old=st.sampled_from(PATHS), new=st.sampled_from(PATHS), lost=st.booleans())
    def link(self, old, new, lost):
        self.attempt(self.cache.link, old, new, lost=lost)

    @rule(path=st.sampled_from(PATHS), mode=st.sampled_from([0o600, 0o640]), lost=st.booleans())
    def chmod(self, path, mode, lost):
        self.attempt(self.cache.set_attributes, path, AttributeChange(mode=mode), lost=lost)

    @rule(
        target=files,
        path=st.sampled_from(PATHS),
        access=st.sampled_from(Access),
        create=st.sampled_from(Creation),
        truncate=st.booleans(),
        lost=st.booleans(),
    )
    def open(self, path, access, create, truncate, lost):
        file = self.attempt(self.cache.open, path, access, create=create, truncate=truncate, lost=lost)
        return multiple(file) if file else multiple()

    @rule(file=files, size=st.integers(1, 50))
    def write(self, file, size):
        self.attempt(file.write_at, 0, b"x" * size)

    @rule(file=files, mode=st.sampled_from([0o604, 0o606]), lost=st.booleans())
    def fchmod(self, file, mode, lost):
        self.attempt(file.set_attributes, AttributeChange(mode=mode), lost=lost)

    @rule(file=consumes(files), lost=st.booleans())
    def close(self, file, lost):
        self.attempt(file.close, lost=lost)

    @rule(path=st.sampled_from(PATHS))
    def stat_one(self, path):
        assert self.outcome(self.cache, "stat", path) == self.outcome(self.truth, "stat", path)

    def outcome(self, backend, name, path):
        try:
            answer = getattr(backend, name)(path)
        except OSError as error:
            return error.errno
        return sorted(answer) if isinstance(answer, list) else answer

    @invariant()
    def same_answers(self):
        for name in ("stat", "readlink", "list_dir"):  # listing refreshes what the others must know without it
            for path in ["", *PATHS]:
                assert self.outcome(self.cache, name, path) == self.outcome(self.truth, name, path), (name, path)


class WithoutLinkCounts(CacheMachine):
    capabilities = dataclasses.replace(ALL_CAPABILITIES, link_counts=False, file_ids=False)


class SeldomLooking(CacheMachine):
    """Looks at one path at a time, so that more of the cache's states are met."""

    @invariant()
    def same_answers(self):
        pass

    @rule(path=st.sampled_from(["", *PATHS]))
    def list_one(self, path):
        assert self.outcome(self.cache, "list_dir", path) == self.outcome(self.truth, "list_dir", path)

    @rule(path=st.sampled_from(PATHS))
    def read_one_link(self, path):
        assert self.outcome(self.cache, "readlink", path) == self.outcome(self.truth, "readlink", path)

    def teardown(self):
        CacheMachine.same_answers(self)


class SeldomLookingWithoutLinkCounts(SeldomLooking):
    capabilities = WithoutLinkCounts.capabilities


@pytest.mark.parametrize("machine", [CacheMachine, WithoutLinkCounts, SeldomLooking, SeldomLookingWithoutLinkCounts])
def test_any_sequence_of_calls(machine):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=80, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
