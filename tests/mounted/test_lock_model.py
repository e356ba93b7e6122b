"""Random lock calls by eight processes, on a mount: every answer is what fcntl(2) and flock(2) say.

`python -m tests.mounted.lock_model PLACE` runs 10,000; with a directory as the place, the model itself is tried.
`NETOVERLAY_LOCK_CALLS=2000 pytest -n 0 tests/mounted/test_lock_model.py` runs longer, with other calls each time.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.mounted.lock_model.driving import DESCRIPTORS, PROCESSES, WHATS, Call, Processes, an_outsider_can_lock
from tests.mounted.lock_model.model import BYTES
from tests.mounted.lock_model.places import NAMES, placed

VARIABLE: Final = "NETOVERLAY_LOCK_CALLS"
CALLS: Final = int(os.environ.get(VARIABLE, "200"))
_EXAMPLE: Final = 50


@st.composite
def calls(draw: st.DrawFn) -> Call:
    start = draw(st.integers(0, BYTES))
    return Call(
        draw(st.integers(0, PROCESSES - 1)),
        draw(st.sampled_from(WHATS)),
        draw(st.sampled_from(DESCRIPTORS)),
        draw(st.sampled_from("rwu")),
        start,
        draw(st.integers(0, BYTES - start)),
        draw(st.booleans()),
    )


@pytest.mark.parametrize("place", ["private", "shared", "changing"])
def test_every_answer_is_what_the_model_says(place: str, tmp_path: Path) -> None:
    with placed(place, tmp_path) as root, Processes(root) as processes:

        @settings(
            max_examples=CALLS // _EXAMPLE,
            deadline=None,
            derandomize=VARIABLE not in os.environ,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(calls(), min_size=_EXAMPLE, max_size=_EXAMPLE))
        def run(steps: list[Call]) -> None:
            for call in steps:
                processes.do(call)

        run()
        processes.finish()
        for name in NAMES:
            in_upper = tmp_path / "upper" / name
            assert an_outsider_can_lock(in_upper if in_upper.exists() else tmp_path / "base" / name)


RESTARTED = """
import ctypes, fcntl, os, signal, struct, sys
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, False)  # SA_RESTART
libc = ctypes.CDLL(None)
fd = os.open("a", os.O_RDWR)
print("waits", flush=True)
if sys.argv[1] == "flock":
    sys.exit(libc.flock(fd, fcntl.LOCK_EX) != 0)
sys.exit(libc.fcntl(fd, int(sys.argv[1]), struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)) != 0)
"""


def test_a_signal_with_sa_restart_does_not_end_the_waiting(tmp_path: Path) -> None:
    """The calls are made by way of the C library, for Python restarts its own."""
    with placed("private", tmp_path) as root:
        for call in (str(fcntl.F_SETLKW), str(fcntl.F_OFD_SETLKW), "flock"):
            fd = os.open(root / "a", os.O_RDWR)
            fcntl.flock(fd, fcntl.LOCK_EX)
            fcntl.lockf(fd, fcntl.LOCK_EX)
            command = [sys.executable, "-c", RESTARTED, call]
            with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as waiting:
                assert waiting.stdout is not None
                waiting.stdout.readline()
                for _ in range(3):
                    time.sleep(0.02)
                    waiting.send_signal(signal.SIGUSR1)
                time.sleep(0.02)
                assert waiting.poll() is None
                os.close(fd)
                assert waiting.wait(10) == 0
