"""The daemon is killed at random moments of copy-ups and renames; `scripts/chaos kills` does it as often as wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.kills import Kills
from tests.chaos.sites import KINDS, LocalSite, SftpSite, SmbSite

KILLS = 5
FILES = 60
SEED = 5


@pytest.mark.parametrize("kind", KINDS)
def test_each_file_is_old_or_new(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "local":
        site = LocalSite()
    elif kind == "sftp":
        site = SftpSite(request.getfixturevalue("sshd"))
    else:
        site = SmbSite(request.getfixturevalue("smbd"))
    summary = Kills(site, tmp_path, SEED, FILES).run(KILLS)
    assert summary.differences == ()
    assert summary.daemons_killed >= KILLS
