"""Going to the background, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FORK = """
import json, os, signal, sys, time
from netoverlay.background import continue_in_child
ready = continue_in_child()
"""


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FORK + script, *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(path: Path) -> str:
    give_up_at = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < give_up_at, f"{path} has not appeared"
        time.sleep(0.01)
    return path.read_text()


def wait_for_end(pid: int) -> None:
    give_up_at = time.monotonic() + 30
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < give_up_at, f"process {pid} has not ended"
        time.sleep(0.01)


WRITE = (
    "def write(text):\n open(sys.argv[1] + '.part', 'w').write(text)\n os.rename(sys.argv[1] + '.part', sys.argv[1])\n"
)


def test_ready(tmp_path: Path) -> None:
    """The parent ends with status 0 and lets its pipes go, though the child lives on."""
    report, go_on = tmp_path / "report", tmp_path / "go"
    script = (
        WRITE
        + "print('before', flush=True)\nready()\nprint('after', flush=True)\n"
        + "links = [os.readlink(f'/proc/self/fd/{n}') for n in range(3)]\n"
        + "write(json.dumps((os.getpid(), os.getsid(0), os.getcwd(), links)))\n"
        + "while not os.path.exists(sys.argv[2]): time.sleep(0.01)\n"
    )
    parent = start(script, report, go_on)
    output, errors = parent.communicate(timeout=60)
    assert (parent.returncode, output, errors) == (0, "before\n", "")
    pid, session, directory, links = json.loads(wait_for(report))
    assert Path(f"/proc/{pid}").exists()
    assert (session, directory, links) == (pid, "/", ["/dev/null"] * 3)
    go_on.touch()
    wait_for_end(pid)


def test_the_error_and_the_status_of_a_child_that_fails() -> None:
    parent = start("sys.exit('it cannot be done')")
    assert parent.communicate(timeout=60) == ("", "it cannot be done\n")
    assert parent.returncode == 1


@pytest.mark.parametrize(("status", "expected"), [(0, 1), (1, 1), (3, 3)])
def test_the_status_of_a_child_that_ends_without_being_ready(status: int, expected: int) -> None:
    parent = start(f"sys.exit({status})")
    parent.communicate(timeout=60)
    assert parent.returncode == expected


def test_a_child_that_is_killed() -> None:
    parent = start("os.kill(os.getpid(), signal.SIGKILL)")
    assert parent.communicate(timeout=60)[1] == "netoverlay: the daemon was ended by signal 9 before it had mounted\n"
    assert parent.returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_parent_reaches_the_child(number: signal.Signals, tmp_path: Path) -> None:
    started = tmp_path / "started"
    parent = start(WRITE + "write(str(os.getpid()))\ntime.sleep(100)\n", started)
    child = int(wait_for(started))
    os.kill(parent.pid, number)
    parent.communicate(timeout=60)
    assert parent.returncode == 128 + number
    wait_for_end(child)


def test_a_child_whose_parent_is_gone_goes_on(tmp_path: Path) -> None:
    started, report = tmp_path / "started", tmp_path / "report"
    script = (
        "parent = os.getppid()\nopen(sys.argv[2], 'w').close()\n"
        "while os.getppid() == parent: time.sleep(0.01)\n" + WRITE + "ready()\nwrite('served')\n"
    )
    parent = start(script, report, started)
    wait_for(started)
    parent.kill()
    parent.communicate(timeout=60)
    assert wait_for(report) == "served"
