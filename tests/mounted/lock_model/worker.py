"""A process that locks as it is told, one line a call, and says what came of it. Run as a script, by driving.py.

What may wait is announced ("w") first. SIGUSR1 ends the waiting.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import sys

FLOCK = struct.Struct("@hhqqi4x")
KINDS = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK, "u": fcntl.F_UNLCK}
WHOLE = {"r": fcntl.LOCK_SH, "w": fcntl.LOCK_EX, "u": fcntl.LOCK_UN}
LETTERS = {number: letter for letter, number in KINDS.items()}
# (is the open file the owner, does it wait)
SET = {
    (False, False): fcntl.F_SETLK,
    (False, True): fcntl.F_SETLKW,
    (True, False): fcntl.F_OFD_SETLK,
    (True, True): fcntl.F_OFD_SETLKW,
}


def stop_waiting(number: int, frame: object) -> None:
    raise InterruptedError(errno.EINTR, "")


def announce(waits: str) -> None:
    if waits == "1":
        os.write(1, b"w\n")


def ranged(fd: str, open_file: str, waits: str, kind: str, start: str, length: str) -> str:
    announce(waits)
    asked = FLOCK.pack(KINDS[kind], os.SEEK_SET, int(start), int(length), 0)
    fcntl.fcntl(int(fd), SET[open_file == "1", waits == "1"], asked)
    return "ok"


def found(fd: str, open_file: str, kind: str, start: str, length: str) -> str:
    asked = FLOCK.pack(KINDS[kind], os.SEEK_SET, int(start), int(length), 0)
    command = fcntl.F_OFD_GETLK if open_file == "1" else fcntl.F_GETLK
    type_, _, start_, length_, pid = FLOCK.unpack(fcntl.fcntl(int(fd), command, asked))
    return f"{LETTERS[type_]} {start_} {length_} {pid}"


def whole(fd: str, waits: str, kind: str) -> str:
    announce(waits)
    fcntl.flock(int(fd), WHOLE[kind] | (0 if waits == "1" else fcntl.LOCK_NB))
    return "ok"


def opened(fd: str, path: str) -> str:
    new = os.open(path, os.O_RDWR)
    os.dup2(new, int(fd))
    os.close(new)
    return "ok"


def duplicated(fd: str, target: str) -> str:
    os.dup2(int(fd), int(target))
    return "ok"


def closed(fd: str) -> str:
    os.close(int(fd))
    return "ok"


def written(fd: str) -> str:
    os.pwrite(int(fd), b"x", 0)
    return "ok"


CALLS = {call.__name__: call for call in (ranged, found, whole, opened, duplicated, closed, written)}


def main() -> None:
    signal.signal(signal.SIGUSR1, stop_waiting)
    for line in sys.stdin:
        what, *arguments = line.split()
        try:
            said = CALLS[what](*arguments)
        except OSError as error:
            said = "EDEADLK" if error.errno == errno.EDEADLK else errno.errorcode[error.errno or 0]
        os.write(1, said.encode() + b"\n")


if __name__ == "__main__":
    main()
