"""Run as a program: python -m tests.mounted.lock_model PLACE [--calls N] [--seed N] [--without rename,...].

PLACE: private, shared, local, changing, smb (mounts), or a directory, whose file system is compared with the model.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.mounted.lock_model.driving import Call, Processes
from tests.mounted.lock_model.places import PLACES, placed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("place")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without", default="", help="calls to leave out")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    place = None if options.place in PLACES else Path(options.place)
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as directory:
        begun = time.monotonic()
        with placed(options.place, Path(directory)) as root, Processes(root, is_native=place is not None) as processes:
            while processes.calls < options.calls:
                call = Call.random(generator)
                if call.what not in options.without.split(","):
                    processes.do(call)
            processes.finish()
        seconds = time.monotonic() - begun
    told = f"{options.place}: {processes.calls} calls, no difference, {seconds:.1f} s, seed {options.seed}"
    sys.stdout.write(f"{told}\n")


if __name__ == "__main__":
    main()
