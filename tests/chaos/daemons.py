"""A mount whose daemon is there to be killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from netoverlay.cli import main
from netoverlay.fuse.mount import unmount
from netoverlay.mount_table import mounted_device
from tests.chaos.processes import context
from tests.mounted.mounting import OverlayMount

_MOUNT_SECONDS = 40.0
_END_SECONDS = 20.0
_POLL_SECONDS = 0.003


class MountError(Exception):
    """It does not mount, or not what it should."""


class Daemon:
    """The mount of a profile, served by the command in a process of its own; what it logs is in `log`."""

    def __init__(self, mount: OverlayMount) -> None:
        self.path = mount.path
        self.log = mount.log
        self._profile = mount.profile
        self._process: ForkServerProcess | None = None

    def start(self) -> None:
        """Mount, and wait for that. MountError with what it said if it ends instead."""
        process = self.begin()
        _wait(lambda: not process.is_alive() or mounted_device(str(self.path)) is not None, _MOUNT_SECONDS)
        if not process.is_alive():
            raise MountError(f"it does not mount, status {process.exitcode}: {self.log.read_text(errors='replace')}")

    def begin(self) -> ForkServerProcess:
        """Start mounting, and wait for nothing."""
        self._process = context.Process(target=_serve, args=(self._profile, self.path, self.log))
        self._process.start()
        return self._process

    def kill(self) -> None:
        """SIGKILL; the mount stays, and answers nothing."""
        if self._process is None:
            raise RuntimeError("it does not run")
        self._process.kill()

    def clear_away(self) -> None:
        """Take away what is left of a mount whose daemon was killed, or is to be."""
        if self._process is not None:
            self._process.kill()
            self._end(self._process)
        if mounted_device(str(self.path)) is not None:
            unmount(str(self.path), lazy=True)

    def stop(self) -> None:
        """Unmount as people do."""
        if self._process is not None:
            unmount(str(self.path))
            self._end(self._process)

    def complaints(self) -> list[str]:
        """The lines of its log that nobody expects."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if any(level in line for level in (" WARNING ", " ERROR ", " CRITICAL "))]

    def _end(self, process: ForkServerProcess) -> None:
        process.join(_END_SECONDS)
        if process.is_alive():
            raise TimeoutError("the daemon does not end")
        process.close()
        self._process = None


def _serve(profile: Path, mountpoint: Path, log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    main(["mount", "--foreground", str(profile), str(mountpoint)], prog_name="netoverlay")


def _wait(until: Callable[[], bool], seconds: float) -> None:
    give_up_at = time.monotonic() + seconds
    while not until():
        if time.monotonic() > give_up_at:
            raise TimeoutError("it does not get mounted")
        time.sleep(_POLL_SECONDS)
