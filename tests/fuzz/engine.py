"""The process that fuzzes: atheris around one target. Started by __main__.py, for atheris ends its process.

    python -m tests.fuzz.engine TARGET COUNTER [LIBFUZZER_OPTION...]

COUNTER is a file of 16 bytes, in which stand how many inputs and how many messages were fed.
"""

from __future__ import annotations

import mmap
import os
import resource
import sys
import threading
from pathlib import Path

import atheris

_LOOK_EVERY = 1000
"""Inputs."""
_FEW = 8
_TOP = Path(__file__).parents[2]
MEMORY_BYTES = 4 << 30
"""Of the address space: what asks for more has MemoryError."""


def main(name: str, counter: str, options: list[str]) -> None:
    """Does not return."""
    # What libFuzzer itself maps for its tables is large, so that the limit counts from here.
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    from tests.fuzz.targets import INSTRUMENTED, load_target  # noqa: PLC0415

    with atheris.instrument_imports(include=[INSTRUMENTED[name]], exclude=_layers_in_memory()):
        target = load_target(name)
    from tests.fuzz.target import Mutator  # noqa: PLC0415

    descriptor = os.open(counter, os.O_RDWR)
    counts = memoryview(mmap.mmap(descriptor, 16)).cast("Q")
    flat = _Flat()
    # By its name each time: atheris replaces it when the search begins.
    mutator = Mutator(target, lambda data, room: atheris.Mutate(data, room))  # noqa: PLW0108  (as said)

    def run(data: bytes) -> None:
        counts[0] += 1
        counts[1] += target.run(data)
        if counts[0] % _LOOK_EVERY == 0:
            flat.look()

    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, mapped + MEMORY_BYTES))
    arguments = [sys.argv[0], f"-max_len={target.max_bytes}", *options]
    atheris.Setup(arguments, run, custom_mutator=mutator.mutate)
    atheris.Fuzz()


class _Flat:
    """What must not grow from input to input."""

    def __init__(self) -> None:
        self._before = 0

    def look(self) -> None:
        """RuntimeError if there are more descriptors and threads than at the first look."""
        count = len(os.listdir("/proc/self/fd")) + threading.active_count()
        self._before = self._before or count
        if count > self._before + _FEW:
            raise RuntimeError(f"{count} descriptors and threads, where {self._before} were")


def _layers_in_memory() -> list[str]:
    """The modules that stand in for layers, which nobody wants to reach more of."""
    return [".".join(path.relative_to(_TOP).with_suffix("").parts) for path in _TOP.glob("netoverlay/testing/**/*.py")]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
