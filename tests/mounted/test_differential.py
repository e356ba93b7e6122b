"""Random sequences of calls, on the mount and in a native directory: all that a program can see is the same.

`NETOVERLAY_DIFFERENTIAL_EXAMPLES=1000 pytest -n 0 tests/mounted/test_differential.py -k sequences` runs longer, with
other sequences each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest

from tests.mounted.channels import carried_over, over_both
from tests.mounted.differential.bench import Bench
from tests.mounted.differential.machine import EXAMPLES_VARIABLE, Benches, run_sequences
from tests.mounted.differential.planting import CARRIED
from tests.mounted.differential.together import run_together
from tests.mounted.test_parity import as_smb_has_links

EXAMPLES: Final = {("own", "local"): 3, ("own", "sftp"): 2, ("own", "smb"): 2, ("pyfuse3", "local"): 1}
TREES: Final = {("own", "local"): 30, ("own", "sftp"): 10, ("own", "smb"): 8, ("pyfuse3", "local"): 8}

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users"),
    pytest.mark.timeout(240 if EXAMPLES_VARIABLE not in os.environ else 0),
]


def _prepare_for_smb(base: Path) -> None:
    """Make links what they are on a server, without a trace in the directories."""
    times = {path: path.stat() for path in (base, *base.rglob("*")) if path.is_dir() and not path.is_symlink()}
    as_smb_has_links(base)
    for path, status in times.items():
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def benches(tmp_path: Path, lower: Callable[[Path], str], channel: str, transport: str) -> Iterator[Benches]:
    def make(name: str) -> Bench:
        prepare = _prepare_for_smb if transport == "smb" else None
        private = transport != "sftp"
        carried = carried_over(channel, CARRIED[transport])
        return Bench(tmp_path / name, lower, carried, trees=TREES[channel, transport], prepare=prepare, private=private)

    made = Benches(make)
    yield made
    made.close(AssertionError())  # if there was none, it is closed already, with all checks


@over_both
def test_random_sequences_give_what_they_give_natively(benches: Benches, channel: str, transport: str) -> None:
    run_sequences(benches, EXAMPLES[channel, transport], acls=carried_over(channel, CARRIED["local"]).acls)


@over_both
def test_threads_do_not_disturb_each_other(benches: Benches, channel: str, transport: str) -> None:
    acls = carried_over(channel, CARRIED["local"]).acls
    differences = run_together(benches.bench(), Random(0), acls=acls)
    assert not differences, "\n".join(differences[:12])
    benches.close()
