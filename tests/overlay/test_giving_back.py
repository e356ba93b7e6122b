"""When an upper is given back: once, and when nothing of it will be changed any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from netoverlay.config.load import load_profile
from netoverlay.config.model import Profile
from netoverlay.daemon import _open_overlay
from netoverlay.overlay.lease_file import LeaseFile
from netoverlay.overlay.ownership import HeldLock
from netoverlay.wrappers.guard import GuardedBackend
from tests.mounted.mounting import layer_table, sftp_login
from tests.overlay.trees import ME
from tests.servers.sshd import SshServer

CHANGE, GIVEN_BACK = "change", "given back"


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is asked of the server to be changed in the upper, and the giving back."""
    told: list[str] = []

    def telling(what: str, function):
        def tell(*arguments):
            told.append(what)
            return function(*arguments)

        return tell

    monkeypatch.setattr(GuardedBackend, "_check", telling(CHANGE, GuardedBackend._check))
    monkeypatch.setattr(LeaseFile, "give_back", telling(GIVEN_BACK, LeaseFile.give_back))
    monkeypatch.setattr(HeldLock, "release", telling(GIVEN_BACK, HeldLock.release))
    return told


def profile_of(tmp_path: Path, upper: str) -> Profile:
    (tmp_path / "base").mkdir()
    (tmp_path / "upper").mkdir()
    cache = f'[cache]\ndirectory = "{tmp_path}/cache"\n'
    file = tmp_path / "profile.toml"
    file.write_text(f"{layer_table(str(tmp_path / 'base'))}\n[upper]\n{upper}\n{cache}")
    return load_profile(str(file))


def test_a_lease_is_given_back_when_all_is_written(sshd: SshServer, tmp_path: Path, events: list[str]) -> None:
    url = sshd.url(tmp_path / "upper")
    profile = profile_of(tmp_path, "\n".join([f'url = "{url}"', *sftp_login(sshd)]))
    with ExitStack() as cleanup:
        _, overlay = _open_overlay(profile, "/mnt", cleanup)
        overlay.changes().creator.mkdir(overlay.tree.root, "new", 0o700, ME)
        overlay.close()
        before = len(events)
    assert CHANGE in events[before:], "the journal is closed last"
    assert events[-1] == GIVEN_BACK
    assert events.count(GIVEN_BACK) == 1
    assert not (tmp_path / "upper.work" / "lock").exists()


def test_a_local_upper_is_given_back_once(tmp_path: Path, events: list[str]) -> None:
    profile = profile_of(tmp_path, f'url = "{tmp_path}/upper"')
    with ExitStack() as cleanup:
        _open_overlay(profile, "/mnt", cleanup)
        assert not events
    assert events == [GIVEN_BACK]
