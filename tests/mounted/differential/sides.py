"""The two sides: a process that works on the mount, and one that does the same in a native directory."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.mounted.differential.messages import Message

CHECKOUT: Final = Path(__file__).parents[3]
SECONDS: Final = 25.0
"""In which each call must return."""


class SideError(Exception):
    """A side did not answer: a call hangs, or the process died."""


class Side:
    """A worker process."""

    def __init__(self, kind: str, log: Path) -> None:
        """`kind` is "native" or "mount"; what it says before it dies goes to `log`."""
        self.kind = kind
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.mounted.differential.worker", kind],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )

    def send(self, message: Message) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(pickle.dumps(message))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideError(f"{self.kind}: the process died:\n{self._log.read_text()}") from None

    def receive(self) -> Any:
        """The answer to the message that was sent."""
        assert self._process.stdout is not None
        descriptor, give_up_at = self._process.stdout.fileno(), time.monotonic() + SECONDS
        data = bytearray()
        while True:
            if not select.select([descriptor], [], [], max(0.0, give_up_at - time.monotonic()))[0]:
                raise SideError(f"{self.kind}: no answer after {SECONDS} s; it stands in {self._stack()}")
            piece = os.read(descriptor, 1 << 20)
            if not piece:
                raise SideError(f"{self.kind}: the process died:\n{self._log.read_text()}")
            data += piece
            # An answer is one pickle, and ends with the opcode STOP; the same byte may stand inside.
            if data.endswith(pickle.STOP):
                try:
                    return pickle.loads(data)
                except (pickle.UnpicklingError, EOFError):
                    continue

    def ask(self, message: Message) -> Any:
        self.send(message)
        return self.receive()

    def _stack(self) -> str:
        try:
            return Path(f"/proc/{self._process.pid}/stack").read_text()
        except OSError:
            return "?"

    def close(self) -> None:
        """End the process, also one that hangs."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process.wait(SECONDS)
