"""How many heaps the C library has made, once several threads have allocated: as the library itself tells it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes, sys, threading
from netoverlay.one_heap import use_one_heap

if sys.argv[1] == "one":
    use_one_heap()
allocated = threading.Barrier(8)

def allocate():
    kept = [bytes(10_000) for _ in range(100)]
    allocated.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def heaps(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True, timeout=20)
    return done.stdout.count("<heap nr=")


def test_threads_share_one() -> None:
    assert heaps("many") > 1
    assert heaps("one") == 1
