"""Search for inputs that break a decoder: `python -m tests.fuzz TARGET ...` (scripts/fuzz)."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.fuzz.corpus import seed_files
from tests.fuzz.targets import INSTRUMENTED

_RUNS: Final = 100_000
_SECONDS_EACH: Final = 10
"""For one input."""
_LARGEST_MB: Final = 1024
_STATE: Final = re.compile(r"#\d+\s+\w+\s+cov: (\d+) ft: (\d+)")
_TAIL_LINES: Final = 60


def main() -> int:
    """1 if an input was found; it stays in a directory that is named."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(INSTRUMENTED))
    parser.add_argument("--runs", type=int, default=_RUNS, help="how many inputs")
    parser.add_argument("--seconds", type=int, default=0, help="stop after so long; 0 is never")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of all that is random")
    parser.add_argument("--corpus", type=Path, help="a directory for what was found worth keeping, to go on from")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="netoverlay-fuzz."))
    corpus = arguments.corpus or place / "corpus"
    seeds = place / "seeds"
    for directory in (corpus, seeds):
        directory.mkdir(parents=True, exist_ok=True)
    seed_files(arguments.target, seeds)
    _say(f"{arguments.target}, seed {arguments.seed}")
    status = _search(arguments, place, [str(corpus), str(seeds)])
    if not status:
        shutil.rmtree(place)
    return status


def _search(arguments: argparse.Namespace, place: Path, directories: list[str]) -> int:
    counter = place / "counter"
    counter.write_bytes(bytes(16))
    options = [
        f"-runs={arguments.runs}",
        f"-max_total_time={arguments.seconds}",
        f"-seed={arguments.seed}",
        f"-timeout={_SECONDS_EACH}",
        f"-rss_limit_mb={_LARGEST_MB}",
        f"-artifact_prefix={place}/",
        *directories,
    ]
    command = [sys.executable, "-m", "tests.fuzz.engine", arguments.target, str(counter), *options]
    began = time.monotonic()
    # Its end is no ordinary one, so that what it has made for itself stays: here.
    own_place = {**os.environ, "TMPDIR": str(place)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace", env=own_place) as engine:
        assert engine.stderr is not None
        tail = deque(_shown(engine.stderr), _TAIL_LINES)  # read to its end, or the engine would wait
    seconds = time.monotonic() - began
    inputs, messages = struct.unpack("=QQ", counter.read_bytes())
    found = _STATE.findall("\n".join(tail))
    _say(f"inputs: {inputs}\nmessages: {messages}\ninputs a second: {inputs / seconds:.0f}")
    _say("edges and features: {} and {}".format(*(found[-1] if found else ("?", "?"))))
    if engine.returncode:
        _say("".join(tail))
        _say(f"what was found is in {place}; move it to tests/fuzz/found/{arguments.target}, and mend what it shows")
        return 1
    _say("found: nothing")
    return 0


def _shown(lines: Iterator[str]) -> Iterator[str]:
    """Each line, when the engine's progress has been told."""
    for line in lines:
        if "pulse" in line or "NEW_FUNC" in line:
            _say(line.rstrip())
        yield line


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
