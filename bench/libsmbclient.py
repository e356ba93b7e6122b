"""libsmbclient, Samba's C library, by way of ctypes, in a process of its own: what bench/smb.py measures it with.

with Libsmbclient(home, settings, "//127.0.0.1/share", port, user, password, encrypt=True) as library:
    seconds = library.measure("stat", "name", 2000)

The process is `python -m bench.libsmbclient`; it gets everything, the password too, through its standard input, a JSON
list a line, and answers each line with the seconds that the calls took. Only the C calls are timed, and nothing that
they deliver is turned into Python objects, so that ctypes costs next to nothing: some 0.3 us a call.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

ENCRYPTION_REQUIRED = 2  # SMBC_ENCRYPTLEVEL_REQUIRE
STAT_BYTES = 256  # more than a struct stat has anywhere
NEW_FILE_MODE = 0o644
AUTHENTICATE = ctypes.CFUNCTYPE(
    None,
    ctypes.c_void_p,  # the context
    ctypes.c_char_p,  # server
    ctypes.c_char_p,  # share
    *(ctypes.c_void_p, ctypes.c_int) * 3,  # room for the workgroup, the user and the password
)


def library() -> ctypes.CDLL:
    name = ctypes.util.find_library("smbclient")
    if name is None:
        raise FileNotFoundError("libsmbclient is not installed; it is measured against: apt-get install libsmbclient")
    found = ctypes.CDLL(name, use_errno=True)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "smbc_new_context": (ctypes.c_void_p, []),
        "smbc_init_context": (ctypes.c_void_p, [ctypes.c_void_p]),
        "smbc_set_context": (ctypes.c_void_p, [ctypes.c_void_p]),
        "smbc_setOptionDebugToStderr": (None, [ctypes.c_void_p, ctypes.c_int]),
        "smbc_setOptionSmbEncryptionLevel": (None, [ctypes.c_void_p, ctypes.c_int]),
        "smbc_setPort": (None, [ctypes.c_void_p, ctypes.c_uint16]),
        "smbc_setFunctionAuthDataWithContext": (None, [ctypes.c_void_p, AUTHENTICATE]),
        "smbc_stat": (ctypes.c_int, [ctypes.c_char_p, ctypes.c_void_p]),
        "smbc_open": (ctypes.c_int, [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32]),
        "smbc_read": (ctypes.c_ssize_t, [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]),
        "smbc_write": (ctypes.c_ssize_t, [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]),
        "smbc_close": (ctypes.c_int, [ctypes.c_int]),
        "smbc_opendir": (ctypes.c_int, [ctypes.c_char_p]),
        "smbc_readdirplus2": (ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]),
        "smbc_closedir": (ctypes.c_int, [ctypes.c_int]),
    }
    for function, (result, arguments) in signatures.items():
        getattr(found, function).restype = result
        getattr(found, function).argtypes = arguments
    return found


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Calls:
    """What is measured; each returns what is to be checked of it."""

    def __init__(self, share: str, port: int, user: str, password: str, encrypt: bool) -> None:
        self._base = share.encode()
        self._c = library()
        context = self._c.smbc_new_context()
        self._c.smbc_setOptionDebugToStderr(context, 1)
        self._c.smbc_setPort(context, port)
        if encrypt:
            self._c.smbc_setOptionSmbEncryptionLevel(context, ENCRYPTION_REQUIRED)

        def authenticate(
            _context: int,
            _server: bytes,
            _share: bytes,
            *room: int,  # (address, size) three times
        ) -> None:
            for text, address, size in zip(("WORKGROUP", user, password), room[::2], room[1::2], strict=True):
                data = text.encode()[: size - 1] + b"\0"
                ctypes.memmove(address, data, len(data))

        self._authenticate = AUTHENTICATE(authenticate)  # the library keeps no reference of its own
        self._c.smbc_setFunctionAuthDataWithContext(context, self._authenticate)
        if not self._c.smbc_init_context(context):
            raise OSError(ctypes.get_errno(), "smbc_init_context")
        self._c.smbc_set_context(context)

    def _url(self, path: str) -> bytes:
        return b"smb:" + self._base + b"/" + quote(path).encode()

    def stat(self, path: str, count: int) -> float:
        """`count` calls of smbc_stat; each asks the server, thrice: create, query, close, one after the other."""
        url, attributes, call = self._url(path), ctypes.create_string_buffer(STAT_BYTES), self._c.smbc_stat
        started_at = time.perf_counter()
        results = [call(url, attributes) for _ in range(count)]
        seconds = time.perf_counter() - started_at
        checked(min(results))
        return seconds

    def listing(self, path: str, entries: int) -> float:
        """smbc_opendir, smbc_readdirplus2 of each entry, smbc_closedir; `entries` without "." and ".."."""
        url, attributes, call = self._url(path), ctypes.create_string_buffer(STAT_BYTES), self._c.smbc_readdirplus2
        found = 0
        started_at = time.perf_counter()
        directory = checked(self._c.smbc_opendir(url))
        while call(directory, attributes):
            found += 1
        checked(self._c.smbc_closedir(directory))
        seconds = time.perf_counter() - started_at
        if found - entries not in {0, 2}:
            raise RuntimeError(f"{path}: {found} entries, not {entries}")
        return seconds

    def read(self, path: str, size: int, call_bytes: int) -> float:
        url, buffer, total = self._url(path), ctypes.create_string_buffer(call_bytes), 0
        started_at = time.perf_counter()
        file = checked(self._c.smbc_open(url, os.O_RDONLY, 0))
        while count := checked(self._c.smbc_read(file, buffer, call_bytes)):
            total += count
        checked(self._c.smbc_close(file))
        seconds = time.perf_counter() - started_at
        if total != size:
            raise RuntimeError(f"{path}: {total} bytes, not {size}")
        return seconds

    def write(self, path: str, size: int, call_bytes: int) -> float:
        url, buffer, total = self._url(path), ctypes.create_string_buffer(call_bytes), 0
        started_at = time.perf_counter()
        file = checked(self._c.smbc_open(url, os.O_WRONLY | os.O_CREAT | os.O_EXCL, NEW_FILE_MODE))
        while total < size:
            total += checked(self._c.smbc_write(file, buffer, min(call_bytes, size - total)))
        checked(self._c.smbc_close(file))
        return time.perf_counter() - started_at


class Libsmbclient:
    """The process. It connects at once, and keeps its connection, as our backend does."""

    def __init__(
        self, home: Path, settings: str, share: str, port: int, user: str, password: str, *, encrypt: bool
    ) -> None:
        """`share` is //host/name. `settings` are put where the library looks for smb.conf first: below `home`, a
        directory for this alone. It heeds `client signing` there; encryption it has to be asked for."""
        (home / ".smb").mkdir()
        (home / ".smb" / "smb.conf").write_text(settings)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.libsmbclient"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOME": str(home)},
            cwd=Path(__file__).parents[1],
        )
        self._ask([share, port, user, password, encrypt])

    def measure(self, what: str, path: str, *arguments: int) -> float:
        """The seconds that the method `what` of Calls took."""
        return self._ask([what, path, *arguments])

    def _ask(self, question: list[str | int]) -> float:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"libsmbclient's process ended: {question[0]}")  # what it says stands on stderr
        return float(json.loads(answer))

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libsmbclient complains on standard output
    calls = Calls(*json.loads(sys.stdin.readline()))
    actions: dict[str, Callable[..., float]] = {
        "stat": calls.stat,
        "listing": calls.listing,
        "read": calls.read,
        "write": calls.write,
    }
    print(calls.stat("", 1), file=answers, flush=True)
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        print(actions[what](*arguments), file=answers, flush=True)


if __name__ == "__main__":
    main()
