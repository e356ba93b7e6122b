"""Programs do everything that programs do, for a short time; `scripts/chaos soak` does it for a long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.sites import LocalSite, SftpSite
from tests.chaos.soak import Soak

OPERATIONS = 3_000
PROGRAMS = 2
SEED = 26


@pytest.mark.parametrize("kind", ["local", "sftp"])
def test_every_byte_is_what_was_written(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    site = LocalSite() if kind == "local" else SftpSite(request.getfixturevalue("sshd"))
    summary = Soak(site, tmp_path, SEED, PROGRAMS).run(OPERATIONS)
    assert summary.differences == ()
    assert summary.details["operations"] >= OPERATIONS
    assert summary.bytes_compared
