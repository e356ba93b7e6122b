"""SQLite on an upper that others use as well: programs on the mount and beside it lose nothing.

In rollback-journal mode, which needs all that locks on an upper promise: fcntl(2) locks of ranges, of both kinds, that
reach the layer, and are upgraded; what others wrote is seen under a lock, of the database, of its size and of the
journal's coming and going; and what was written is there when a lock is given up.

By hand, for longer, in minutes: `NETOVERLAY_SQLITE_TRANSACTIONS=2000 pytest -n 0 --log-cli-level=INFO`, of this file.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mounted import sqlite_counter
from tests.mounted.mounting import OverlayMount, layer_table, smb_login
from tests.servers.smbd import SmbServer

logger = logging.getLogger(__name__)

VARIABLE = "NETOVERLAY_SQLITE_TRANSACTIONS"
TRANSACTIONS = int(os.environ.get(VARIABLE, "25"))
PROCESSES = 4
"""On the mount; one more is beside it."""


@pytest.fixture(params=["local", "smb"])
def mount(request: pytest.FixtureRequest, tmp_path: Path, smbd: SmbServer) -> OverlayMount:
    """With an upper that is not private, whose directory is `upper`."""
    (tmp_path / "base").mkdir()
    upper = tmp_path / "served" / "upper"
    keys = [f'url = "{upper}"']
    if request.param == "smb":
        keys = [f'url = "{smbd.url_of(upper)}"', *smb_login(smbd)]
    return OverlayMount(tmp_path / "m", layer_table(str(tmp_path / "base")), upper=upper, upper_keys=keys)


def counting(database: Path, who: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, sqlite_counter.__file__, database, who, str(TRANSACTIONS)])


@pytest.mark.timeout(0 if VARIABLE in os.environ else 120)
def test_no_update_is_lost_between_programs_on_the_mount_and_beside_it(mount: OverlayMount) -> None:
    with mount:
        here, there = mount.path / "db", mount.upper / "db"
        sqlite_counter.make(here)
        began = time.monotonic()
        programs = [counting(here, f"mount {number}") for number in range(PROCESSES)]
        programs.append(counting(there, "beside"))
        assert [program.wait() for program in programs] == [0] * len(programs)
        seconds = time.monotonic() - began
        total = TRANSACTIONS * len(programs)
        logger.info("%d transactions in %.1f s: %.1f a second", total, seconds, total / seconds)
        expected = (total, total, total, "ok")
        assert sqlite_counter.counted(here) == expected
        assert sqlite_counter.counted(there) == expected


_DIE_IN_THE_MIDDLE = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("pragma cache_size = 1")  # so that it writes to the database before it commits
connection.execute("begin immediate")
connection.execute("update counter set value = -1")
connection.executemany("insert into log values (?, ?, ?)", (("x" * 1000, n, n) for n in range(200)))
os._exit(0)
"""


@pytest.mark.parametrize("dies", ["beside", "here"])
def test_what_a_killed_program_left_half_done_is_taken_back_by_the_other_side(mount: OverlayMount, dies: str) -> None:
    """Its journal is there, or gone, when the other side looks for it under its lock, whatever it knew before."""
    with mount:
        here, there = mount.path / "db", mount.upper / "db"
        killed, other = (there, here) if dies == "beside" else (here, there)
        sqlite_counter.make(here)
        journal, journal_there = here.with_name("db-journal"), there.with_name("db-journal")
        for _ in range(2):
            assert sqlite_counter.counted(here) == sqlite_counter.counted(there) == (0, 0, 0, "ok")
            assert not journal.exists()
            subprocess.run([sys.executable, "-c", _DIE_IN_THE_MIDDLE, killed], check=True)
            assert journal_there.exists()
            assert sqlite_counter.counted(other) == (0, 0, 0, "ok")
            assert not journal_there.exists()
            assert sqlite_counter.counted(killed) == (0, 0, 0, "ok")
            with sqlite3.connect(killed) as connection:
                connection.execute("update counter set value = 0")
            connection.close()
