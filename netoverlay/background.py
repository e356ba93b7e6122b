"""Go to the background once there is something to serve, as a daemon does (daemon(7)), and say so to who waits."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Final

_READY: Final = b"r"
_SHELL_SIGNAL_BASE: Final = 128
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP)
_LOGGER = logging.getLogger(__name__)


def continue_in_child() -> Callable[[], None]:
    """Fork. Returns in the child only; what it returns there is to be called once the child is ready.

    The parent waits for that and exits 0, or exits as the child does if that ends before. Until it is ready the child
    keeps the terminal: it may ask for a passphrase, print why it fails, and be interrupted from the keyboard. Then it
    leaves the session, and its standard streams become /dev/null.

    Call it before any thread is started: a fork takes none along.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    reading, writing = os.pipe()
    # Held back until the parent can pass them on: one that came before would end it, and leave the child behind.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *_PASSED_ON))
    child = os.fork()
    if child:
        os.close(writing)
        sys.exit(_wait_until_ready(child, reading, before))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(reading)
    return lambda: _become_ready(writing)


def _wait_until_ready(child: int, reading: int, signal_mask: Iterable[int]) -> int:
    """The parent's exit status. `signal_mask` is set once signals are passed on."""

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    # The keyboard interrupts both, so the child ends, and cleans up; other signals reach this process alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, signal_mask)
    with open(reading, "rb") as pipe:
        if pipe.read(1) == _READY:
            return 0
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        sys.stderr.write(f"netoverlay: the daemon was ended by signal {-status} before it had mounted\n")
        return _SHELL_SIGNAL_BASE - status
    return status or 1


def _become_ready(writing: int) -> None:
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    os.close(null)
    try:
        os.write(writing, _READY)
    except BrokenPipeError:
        _LOGGER.info("who asked for the mount has not waited for it")
    os.close(writing)
