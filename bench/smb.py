"""The SMB backend against smbclient and libsmbclient, in one run: python -m bench.smb

Starts a smbd of its own on loopback, on files in memory where there is /dev/shm. For each protection (plain, signed,
encrypted) every round measures all contenders in turn; the tables show medians, ratios and, at the end, the criteria.
The server is asked, by smbstatus, what it agreed on with each contender: all must have the same dialect, signing and
cipher. smbclient's connecting is measured and taken off its times; the others connect before. Then come reads over a
connection with delay, and a load of many threads on a server that grants few credits, which nothing may fail under.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.table import Table

from bench.contenders import (
    DEADLINE,
    MEGABYTE,
    STATS,
    Contender,
    backend_contender,
    delayed,
    elapsed,
    fill,
    measure,
    ratios,
    table_of,
)
from bench.libsmbclient import Libsmbclient
from netoverlay.backend_api import Access, Backend, BackendFile, Creation, parse_url
from netoverlay_smb import PLUGIN, SmbOptions
from tests.servers.processes import required_program
from tests.servers.smbd import SmbServer

SHARE = "bench"
LIBRARY_CALL_BYTES = 1 << 20  # the fastest of 1, 4 and 8 MiB; with 32 MiB it fails
THREADS = 32
OPEN_FILES = 2000
CREDITS = 64
LOAD_FILE_BYTES = 4096
LOAD_READ_BYTES = 4 << 20  # as much as 64 credits allow for at a time
ERRORS_SHOWN = 5


@dataclass(frozen=True)
class Mode:
    """A protection of the connection, and what each contender calls it."""

    name: str
    sign: bool
    encrypt: bool
    smbclient: str
    signing_setting: str
    write_wanted: float

    def is_kept(self, protection: Protection) -> bool:
        """The server signs a plain connection's first messages, as the protocol has it."""
        if self.encrypt:
            return protection.encryption == "full AES-128-GCM"
        if self.sign:
            return (protection.encryption, protection.signing) == ("none -", "full AES-128-GMAC")
        return protection.encryption == "none -" and not protection.signing.startswith("full")


MODES = (
    Mode("plain", False, False, "off", "disabled", 1.2),
    Mode("signed", True, False, "sign", "required", 1.2),
    Mode("encrypted", True, True, "encrypt", "default", 1.0),
)


@dataclass(frozen=True)
class Protection:
    """What the server says of a connection to the share."""

    dialect: str
    signing: str
    encryption: str


@dataclass(frozen=True)
class Criterion:
    what: str
    value: float
    comparison: Literal[">=", ">", "<="]
    wanted: float

    @property
    def met(self) -> bool:
        if self.comparison == "<=":
            return self.value <= self.wanted
        return self.value > self.wanted or (self.comparison == ">=" and self.value == self.wanted)


class Witness:
    """Finds out from the server how the connections to it are protected."""

    def __init__(self, server: SmbServer) -> None:
        self._command = [required_program("smbstatus"), "-s", str(server.config), "--json"]
        self._known: set[str] = set()

    def new(self) -> Protection:
        """Of the one connection to the share that was made since the last call."""
        status = json.loads(subprocess.run(self._command, check=True, capture_output=True).stdout)
        trees = {key: tree for key, tree in status["tcons"].items() if tree["service"] == SHARE}
        new = [tree for key, tree in trees.items() if key not in self._known]
        self._known |= trees.keys()
        if len(new) != 1:
            raise RuntimeError(f"{len(new)} new connections to the share, not 1")
        (tree,) = new
        words = {what: f"{tree[what]['degree']} {tree[what]['cipher']}" for what in ("signing", "encryption")}
        return Protection(status["sessions"][tree["session_id"]]["session_dialect"], **words)


class Smbclient:
    """Samba's client program, on its own defaults: no configuration of this machine is read."""

    def __init__(self, server: SmbServer, work: Path, mode: Mode, port: int) -> None:
        configuration, authentication = work / "smbclient.conf", work / "smbclient.auth"
        configuration.write_text("[global]\n")
        authentication.touch(mode=0o600)
        authentication.write_text(f"username = {server.user}\npassword = {server.password}\n")
        self._command = [required_program("smbclient"), "-s", str(configuration), "-A", str(authentication)]
        self._command += ["-p", str(port), f"--client-protection={mode.smbclient}", f"//127.0.0.1/{SHARE}"]

    def run(self, command: str) -> float:
        """The seconds that one command takes, with all that comes before it."""
        words = [*self._command, "-c", command]
        return elapsed(lambda: subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=True))

    def without_connecting(self, command: str) -> float:
        connecting = self.run("quit")
        return self.run(command) - connecting

    def protection(self, witness: Witness, work: Path) -> Protection:
        """Of a connection that has been used: the server does not know before."""
        got = work / "got"
        with subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
        ) as process:
            if process.stdin is None:
                raise RuntimeError("smbclient has no standard input")
            process.stdin.write(f"get many/file-000000 {got}\n")
            process.stdin.flush()
            give_up_at = time.monotonic() + DEADLINE
            while not got.exists():  # what it says, it says at its end
                if process.poll() is not None or time.monotonic() > give_up_at:
                    raise RuntimeError("smbclient did not get a file")
                time.sleep(0.02)
            found = witness.new()
            process.stdin.close()
        got.unlink()
        return found

    def contender(self, root: Path, source: Path) -> Contender:
        return Contender(
            "smbclient (binary)",
            lambda target: self.without_connecting(f"get {target.relative_to(root)} /dev/null"),
            lambda target: self.without_connecting(f"put {source} {target.relative_to(root)}"),
            None,
            lambda target: self.without_connecting(f"ls {target.relative_to(root)}/*"),
        )


def library_contender(library: Libsmbclient, root: Path, size: int, entries: int) -> Contender:
    def path(target: Path) -> str:
        return str(target.relative_to(root))

    return Contender(
        "libsmbclient (ctypes)",
        lambda target: library.measure("read", path(target), size, LIBRARY_CALL_BYTES),
        lambda target: library.measure("write", path(target), size, LIBRARY_CALL_BYTES),
        lambda target: library.measure("stat", path(target), STATS) / STATS,
        lambda target: library.measure("listing", path(target), entries),
    )


def connected(
    stack: ExitStack, server: SmbServer, mode: Mode, permissions: Literal["server", "profile"], port: int
) -> Backend:
    options = SmbOptions(
        password_file=server.password_file, sign=mode.sign, encrypt=mode.encrypt, permissions=permissions
    )
    backend = stack.enter_context(PLUGIN.create(parse_url(server.url(SHARE, port=port)), options, DEADLINE))
    backend.connect()
    return backend


def started_library(stack: ExitStack, server: SmbServer, work: Path, mode: Mode, port: int) -> Libsmbclient:
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work)))
    settings = f"[global]\nclient signing = {mode.signing_setting}\n"
    share = f"//127.0.0.1/{SHARE}"
    return stack.enter_context(
        Libsmbclient(home, settings, share, port, server.user, server.password, encrypt=mode.encrypt)
    )


@dataclass(frozen=True)
class Bench:
    """What the parts have in common."""

    console: Console
    work: Path
    root: Path
    source: Path
    size: int
    entries: int
    rounds: int
    criteria: list[Criterion]

    def loopback(self, server: SmbServer, mode: Mode) -> None:
        with ExitStack() as stack:
            witness, protections = Witness(server), dict[str, Protection]()
            contenders: list[Contender] = []

            def add(contender: Contender, protection: Protection) -> Contender:
                contenders.append(contender)
                protections[contender.name] = protection
                return contender

            def ours(permissions: Literal["server", "profile"]) -> Contender:
                backend = connected(stack, server, mode, permissions, server.port)
                backend.stat("")
                contender = backend_contender(f"netoverlay ({permissions})", backend, self.root, self.size)
                return add(contender, witness.new())

            full, like_theirs = ours("server"), ours("profile")
            like_theirs.read = like_theirs.write = None
            program = Smbclient(server, self.work, mode, server.port)
            smbclient = add(program.contender(self.root, self.source), program.protection(witness, self.work))
            library = started_library(stack, server, self.work, mode, server.port)
            libsmbclient = add(library_contender(library, self.root, self.size, self.entries), witness.new())
            measure(contenders, self.rounds, self.root, self.source)
        self.console.print(protection_table(mode, protections))
        self.console.print(table_of(f"SMB on loopback, {mode.name}", contenders, self.size, self.entries))
        self.console.print(ratios(contenders, 2))
        unlike = [name for name, found in protections.items() if not mode.is_kept(found)]
        if unlike or len({found.dialect for found in protections.values()}) != 1:
            sys.exit(f"{mode.name}: not protected alike: {', '.join(unlike) or 'another dialect'}")
        self._judge(mode, full, smbclient, "read", ">=", 1.5)
        self._judge(mode, full, smbclient, "write", ">=", mode.write_wanted)
        self._judge(mode, full, libsmbclient, "stat", ">", 1)
        self._judge(mode, like_theirs, libsmbclient, "stat", ">", 1)
        self._judge(mode, like_theirs, libsmbclient, "listing", ">=", 1)

    def over_delay(self, server: SmbServer, mode: Mode, delay_ms: int) -> None:
        """Reads only; the delay is a process of its own, so that no contender pays for it."""
        with ExitStack() as stack:
            port = stack.enter_context(delayed(server.port, delay_ms / 1000))
            backend = connected(stack, server, mode, "server", port)
            # In one call, as smbclient reads: between calls nothing would be in flight.
            ours = backend_contender("netoverlay (server)", backend, self.root, self.size, self.size)
            smbclient = Smbclient(server, self.work, mode, port).contender(self.root, self.source)
            library = started_library(stack, server, self.work, mode, port)
            libsmbclient = library_contender(library, self.root, self.size, self.entries)
            contenders = [ours, smbclient, libsmbclient]
            for contender in contenders:
                contender.write = contender.stat = contender.listing = None
            measure(contenders, self.rounds, self.root, self.source)
        table = Table(title=f"SMB over {delay_ms} ms, {mode.name}: {self.size // MEGABYTE} MB; medians")
        table.add_column("")
        table.add_column("read MB/s", justify="right")
        table.add_column("times as fast", justify="right")
        for contender in contenders:
            seconds, ratio = contender.median("read"), ours.times_as_fast(contender, "read")
            table.add_row(contender.name, f"{self.size / MEGABYTE / (seconds or 1):.0f}", f"{ratio or 0:.2f}")
        self.console.print(table)
        self._judge(mode, ours, smbclient, "read", ">=", 2, f" over {delay_ms} ms")

    def _judge(
        self,
        mode: Mode,
        mine: Contender,
        other: Contender,
        what: str,
        comparison: Literal[">=", ">"],
        wanted: float,
        where: str = "",
    ) -> None:
        value = mine.times_as_fast(other, what) or 0.0
        self.criteria.append(
            Criterion(f"{mode.name}: {what}{where}, {mine.name} to {other.name}", value, comparison, wanted)
        )

    def threads(self, server: SmbServer, mode: Mode, seconds: float) -> None:
        with ExitStack() as stack:
            load = Load(connected(stack, server, mode, "server", server.port), self.root, self.source)
            load.run(seconds)
        table = Table(title=f"{THREADS} threads, {OPEN_FILES} open files, {CREDITS} credits, {mode.name}")
        for heading in ("", "calls", "a second"):
            table.add_column(heading, justify="left" if not heading else "right")
        for what, count in [*sorted(load.done.items()), ("all", load.done.total())]:
            table.add_row(what, str(count), f"{count / load.seconds:.0f}")
        self.console.print(table)
        for error, count in load.errors.most_common(ERRORS_SHOWN):
            self.console.print(f"{count} times {error}", markup=False)
        failures = load.errors.total()
        self.criteria.append(Criterion(f"{mode.name}: failures under {THREADS} threads", failures, "<=", 0))


class Load:
    """Every thread opens its share of the files, then does this and that with them, and closes them."""

    def __init__(self, backend: Backend, root: Path, source: Path) -> None:
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.seconds = 0.0
        self._backend = backend
        self._source = source.name
        self._expected = source.read_bytes()
        self._directory = root / "load"
        self._directory.mkdir(exist_ok=True)
        self._files: dict[int, BackendFile] = {}
        self._lock = threading.Lock()
        for number in range(OPEN_FILES):
            (self._directory / f"{number:04}").write_bytes(self._content(number))

    def run(self, seconds: float) -> None:
        self._in_threads("opening", self._open)
        if len(self._files) != OPEN_FILES:
            self.errors[f"{len(self._files)} files are open, not {OPEN_FILES}"] += 1
        stop_at = time.monotonic() + seconds
        self.seconds = elapsed(lambda: self._in_threads("working", lambda thread: self._work(thread, stop_at)))
        self._in_threads("closing", self._close)

    def _in_threads(self, phase: str, action: Callable[[int], None]) -> None:
        def guarded(thread: int) -> None:
            try:
                action(thread)
            except Exception as error:  # noqa: BLE001 - what fails is what is counted
                self._failed(f"{phase}: {error!r}")

        threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        give_up_at = time.monotonic() + 2 * DEADLINE
        for thread in threads:
            thread.join(max(0.0, give_up_at - time.monotonic()))
        if hanging := sum(thread.is_alive() for thread in threads):
            self.errors[f"{phase}: a thread hangs"] += hanging

    def _failed(self, what: str) -> None:
        with self._lock:
            self.errors[what] += 1

    @staticmethod
    def _content(number: int) -> bytes:
        return f"{number:08}".encode() * (LOAD_FILE_BYTES // 8)

    def _path(self, number: int) -> str:
        return f"{self._directory.name}/{number:04}"

    def _open(self, thread: int) -> None:
        for number in range(thread, OPEN_FILES, THREADS):
            file = self._backend.open(self._path(number), Access.READ_WRITE)
            with self._lock:
                self._files[number] = file

    def _close(self, thread: int) -> None:
        for number in range(thread, OPEN_FILES, THREADS):
            if number in self._files:
                self._files[number].close()

    def _work(self, thread: int, stop_at: float) -> None:
        actions = (self._stat, self._read, self._read, self._write, self._create, self._list, self._read_much)
        chance, done = random.Random(thread), Counter[str]()
        buffer = bytearray(LOAD_READ_BYTES)
        while time.monotonic() < stop_at:
            number, action = chance.randrange(thread, OPEN_FILES, THREADS), chance.choice(actions)
            what = action.__name__.strip("_").replace("_", " ")
            try:
                right = action(number, buffer)
            except Exception as error:  # noqa: BLE001 - what fails is what is counted
                self._failed(f"{what}: {error!r}")
                continue
            done[what] += 1
            if not right:
                self._failed(f"{what}: not what was expected")
        with self._lock:
            self.done += done

    def _stat(self, number: int, _buffer: bytearray) -> bool:
        return self._backend.stat(self._path(number)).size == LOAD_FILE_BYTES

    def _read(self, number: int, _buffer: bytearray) -> bool:
        return self._files[number].read_at(0, LOAD_FILE_BYTES) == self._content(number)

    def _write(self, number: int, _buffer: bytearray) -> bool:
        self._files[number].write_at(0, self._content(number))
        return True

    def _create(self, number: int, _buffer: bytearray) -> bool:
        path = f"{self._path(number)}-new"
        with self._backend.open(path, Access.WRITE, create=Creation.EXCLUSIVE) as file:
            file.write_at(0, b"new")
        right = self._backend.stat(path).size == len(b"new")
        self._backend.unlink(path)
        return right

    def _list(self, _number: int, _buffer: bytearray) -> bool:
        return "source" in {entry.name for entry in self._backend.list_dir("")}

    def _read_much(self, number: int, buffer: bytearray) -> bool:
        offset = number * LOAD_FILE_BYTES % len(self._expected)
        with self._backend.open(self._source, Access.READ) as file:
            count = file.read_into(offset, buffer)
        whole = count == min(len(buffer), len(self._expected) - offset)
        return whole and self._expected.startswith(memoryview(buffer)[:count], offset)  # comparing views is slow


def protection_table(mode: Mode, protections: dict[str, Protection]) -> Table:
    table = Table(title=f"{mode.name}: what the server says")
    for heading in ("", "dialect", "signing", "encryption"):
        table.add_column(heading)
    for name, found in protections.items():
        table.add_row(name, found.dialect, found.signing, found.encryption)
    return table


def criteria_table(criteria: Sequence[Criterion]) -> Table:
    table = Table(title="criteria (times as fast)")
    for heading in ("", "value", "wanted", "met"):
        table.add_column(heading, justify="left" if not heading else "right")
    for each in criteria:
        wanted = f"{each.comparison} {each.wanted:g}"
        table.add_row(each.what, f"{each.value:.2f}", wanted, "yes" if each.met else "NO")
    return table


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--megabytes", default=256, show_default=True, help="MiB to read and to write.")
@click.option("--entries", default=10_000, show_default=True, help="Files in the directory to list.")
@click.option("--mode", "names", multiple=True, type=click.Choice([mode.name for mode in MODES]), help="Default: all.")
@click.option("--part", "parts", multiple=True, type=click.Choice(["loopback", "delay", "threads"]), help="Same.")
@click.option("--delay-ms", default=20, show_default=True, help="The round trip of the part `delay`.")
@click.option("--load-seconds", default=5.0, show_default=True, help="The length of the part `threads`.")
def main(
    rounds: int,
    megabytes: int,
    entries: int,
    names: Sequence[str],
    parts: Sequence[str],
    delay_ms: int,
    load_seconds: float,
) -> None:
    """Measure the SMB backend against smbclient and libsmbclient. The exit status is 1 if a criterion is not met."""
    modes = [mode for mode in MODES if not names or mode.name in names]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="netoverlay-bench-", dir=memory)))
        root = work / "root"
        source = fill(root, megabytes, entries)
        bench = Bench(Console(), work, root, source, megabytes << 20, entries, rounds, [])
        server = stack.enter_context(SmbServer(work / "smbd", {SHARE: root}))
        frugal = [f"smb2 max credits = {CREDITS}"]
        for mode in modes:
            if not parts or "loopback" in parts:
                bench.loopback(server, mode)
            if not parts or "delay" in parts:
                bench.over_delay(server, mode, delay_ms)
        if not parts or "threads" in parts:
            few = stack.enter_context(SmbServer(work / "smbd-few-credits", {SHARE: root}, settings=frugal))
            for mode in modes:
                bench.threads(few, mode, load_seconds)
    bench.console.print(criteria_table(bench.criteria))
    missed = [each.what for each in bench.criteria if not each.met]
    sys.exit(f"not met: {'; '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
