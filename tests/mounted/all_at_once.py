"""The calls of calls.py, each in a process of its own and all at the same time: for a mount on which they wait.

Run as python -m tests.mounted.all_at_once DIRECTORY [--signal], where `plant` has made their parts. Prints as JSON what
each gave; null for one that was killed. With --signal each is sent a signal, again and again until it ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from tests.mounted.calls import CALLS, outcome

WAIT_FOR_PAGES = {"a_mapping_sees_later_writes", "write_through_a_mapping", "a_reader_sees_later_writes"}
"""The kernel lets no signal end that but SIGKILL."""
_PAUSE_SECONDS = 0.5


class _InterruptedError(Exception):
    """A signal has come."""


def _interrupt(*_: object) -> None:
    raise _InterruptedError


def begin(top: str, name: str) -> tuple[int, int]:
    """Start one; its process, and where to read what it gave."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writes)
        return pid, reads
    status = 1
    try:
        try:
            given = _given(top, name)
        except _InterruptedError:  # in the call; on a busy machine also before it
            given = "interrupted"
        os.write(writes, json.dumps(given).encode())
        status = 0
    finally:
        os._exit(status)


def _given(top: str, name: str) -> object:
    try:
        os.chdir(f"{top}/{name}")
        return outcome(CALLS[name])
    except OSError as error:
        return ["error", error.errno]
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def interrupt(pids: dict[int, signal.Signals]) -> None:
    """Send signals until all have ended."""
    while pids:
        time.sleep(_PAUSE_SECONDS)
        for pid, number in list(pids.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                del pids[pid]
            else:
                os.kill(pid, number)


def main(top: str, *, with_signals: bool) -> None:
    signal.signal(signal.SIGUSR1, _interrupt)
    begun = {name: begin(top, name) for name in CALLS}
    if with_signals:
        numbers = {True: signal.SIGKILL, False: signal.SIGUSR1}
        interrupt({pid: numbers[name in WAIT_FOR_PAGES] for name, (pid, _) in begun.items()})
    given = {}
    for name, (pid, reads) in begun.items():
        with os.fdopen(reads, "rb") as told:
            given[name] = json.loads(told.read() or "null")
        os.waitpid(pid, 0)
    json.dump(given, sys.stdout)


if __name__ == "__main__":
    os.umask(0o022)
    main(sys.argv[1], with_signals="--signal" in sys.argv)
