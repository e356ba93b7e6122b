"""Connections are cut, and servers restarted, under programs; `scripts/chaos` does it for as long as wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.cuts import Faulty
from tests.chaos.faults import CUTS, RESTARTS, Fault
from tests.chaos.sites import REMOTE_KINDS, started_behind_proxy
from tests.chaos.told import DEADLINE

SEED = 7
FILES = 4
FEW = {CUTS: 3, RESTARTS: 1}


@pytest.mark.parametrize("faults", FEW, ids=["cuts", "restarts"])
@pytest.mark.parametrize("kind", REMOTE_KINDS)
def test_nothing_is_lost_and_no_call_is_late(tmp_path: Path, kind: str, faults: tuple[Fault, ...]) -> None:
    with started_behind_proxy(kind, tmp_path, DEADLINE) as site:
        summary = Faulty(site, tmp_path, SEED, faults, with_programs=False, files=FILES).run(FEW[faults])
    assert summary.differences == ()
    assert summary.connections_cut or summary.servers_killed
    assert summary.bytes_compared
