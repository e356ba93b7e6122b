"""One owner of an upper on a server: who is refused, who may take over, and who has lost it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import logging
import os
import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from netoverlay.backend_api import Access, Capabilities, Creation, UnavailableError
from netoverlay.overlay import lease, lease_file
from netoverlay.overlay.lease import HeldLease, Timing, take_lease
from netoverlay.overlay.owner import UpperHeldError, is_dead_here, parse_owner, this_process
from netoverlay.testing.faults import CrashedError
from netoverlay.testing.faulty_backend import FaultyBackend
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, MemoryBackend
from netoverlay.wrappers.guard import GuardedBackend
from netoverlay.wrappers.retry import RetryingBackend
from tests.overlay.owners import (
    FAST,
    LOCK,
    NO_BEAT,
    WORK,
    FakeClock,
    Server,
    SkewedBackend,
    elsewhere,
    lease_of,
    make_old,
    memory_server,
    taken_at_last,
    wait_until,
    work_names,
    write_lease,
)


def dead_here() -> bytes:
    """What a process of this machine left that was killed."""
    process = subprocess.Popen(["true"])
    process.wait()
    return dataclasses.replace(this_process("/dead"), pid=process.pid, nonce="d" * 16, beat_seconds=10.0).pack()


# Over each transport.


def test_the_second_is_told_who_owns_it_and_has_it_afterwards(server: Server) -> None:
    held = server.take(mountpoint="/first")
    wanted = (
        rf"another mount owns it: /first, process {os.getpid()} on \S+ since [-:\d ]+ [-+]\d{{4}}; unmount that first"
    )
    for _ in range(2):
        with pytest.raises(UpperHeldError) as caught:
            server.take()
        assert re.fullmatch(wanted, str(caught.value.strerror))
        assert caught.value.errno == errno.EBUSY
        time.sleep(2 * server.timing.beat_seconds)
    assert not held.lost()
    held.release()
    assert work_names(server.connect()) == []
    server.take().release()


def test_an_owner_that_lives_is_never_replaced(server: Server) -> None:
    held = server.take()
    beats = lease_of(server.connect()).beat
    # Over SFTP, which cuts off what is less than a second, an owner counts as dead a second later.
    end = time.monotonic() + server.timing.expires_seconds + 1.5
    backend = server.connect()
    while time.monotonic() < end:
        with pytest.raises(UpperHeldError, match="another mount owns it"):
            server.take(backend)
        time.sleep(server.timing.beat_seconds)
    assert not held.lost()
    assert lease_of(backend).beat >= beats + 3


def test_an_owner_elsewhere_is_replaced_once_it_has_expired(server: Server) -> None:
    backend = server.connect()
    began = time.monotonic()
    write_lease(backend, elsewhere(server.timing).pack())
    with pytest.raises(UpperHeldError, match=r"another mount owns it: /far, process 1[0-9]+ on far since 2026-01-02"):
        server.take(backend)
    held = taken_at_last(lambda: server.take(backend))
    assert time.monotonic() - began > server.timing.expires_seconds
    assert lease_of(backend).pid == os.getpid()
    assert not held.lost()
    assert work_names(backend) == ["lock"]


def test_a_silent_owner_is_told_with_its_age_and_what_to_do(server: Server) -> None:
    backend = server.connect()
    minute = Timing()
    write_lease(backend, elsewhere(minute).pack())
    make_old(backend, 40.0)
    with pytest.raises(UpperHeldError) as caught:
        server.take(backend)
    told = str(caught.value.strerror)
    found = re.search(r"last heard of (\d+) seconds ago, and can be replaced in (\d+) seconds: try again then", told)
    assert found, told
    assert 39 <= int(found[1]) <= 42
    assert 17 <= int(found[2]) <= 22
    assert told.endswith(f"or remove {backend.identity()}/{LOCK} if that machine is gone for good")
    assert work_names(backend) == ["lock"]


def test_a_process_of_this_machine_that_is_gone_is_replaced_at_once(server: Server) -> None:
    backend = server.connect()
    write_lease(backend, dead_here())
    started = time.monotonic()
    assert not server.take(backend, Timing()).lost()
    assert time.monotonic() - started < 5.0
    assert lease_of(backend).pid == os.getpid()


@pytest.mark.parametrize("content", [b"", b'{"version": 1, "host": "fa'], ids=["empty", "torn"])
def test_half_a_lease_is_kept_until_it_has_expired(server: Server, content: bytes) -> None:
    half_a_lease(server, content)


def half_a_lease(server: Server, content: bytes) -> None:
    timing = dataclasses.replace(server.timing, expires_seconds=60.0)  # not over before it is looked at
    backend = server.connect()
    write_lease(backend, content)
    with pytest.raises(
        UpperHeldError, match=rf"just taking it, or died over that; try again in \d+ s.*remove .*{LOCK}"
    ):
        server.take(backend, timing)
    make_old(backend, timing.expires_seconds + 2)
    assert not server.take(backend, timing).lost()


@pytest.mark.parametrize("left", ["nothing", "dead", "expired"])
def test_of_many_at_once_exactly_one_wins(server: Server, left: str) -> None:
    rounds = 20 if server.kind == "memory" else 4
    timing = Timing(beat_seconds=0.02, expires_seconds=60.0, margin_seconds=10.0)
    backends = [server.connect() for _ in range(4)]
    for _ in range(rounds):
        if left != "nothing":
            write_lease(backends[0], dead_here() if left == "dead" else elsewhere(timing).pack())
            make_old(backends[0], 100.0)
        held = compete(backends, timing)
        time.sleep(0.05)
        assert [owner.lost() for owner in held] == [False]
        assert work_names(backends[0]) == ["lock"]
        held[0].release()


def compete(backends, timing: Timing) -> list[HeldLease]:
    barrier = threading.Barrier(len(backends))
    won: list[HeldLease] = []
    refused: list[UpperHeldError] = []
    failed: list[Exception] = []

    def contend(backend) -> None:
        barrier.wait()
        try:
            won.append(take_lease(backend, WORK, "/mnt", timing))
        except UpperHeldError as error:
            refused.append(error)
        except Exception as error:  # noqa: BLE001  (shown by the assertion)
            failed.append(error)

    threads = [threading.Thread(target=contend, args=(backend,)) for backend in backends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failed:
        raise error
    assert len(refused) == len(backends) - 1
    return won


def test_it_is_lost_when_another_has_it(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    backend = server.connect()
    held = server.take(backend)
    guarded = GuardedBackend(backend, held.lost)
    with guarded.open("file", Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
        file.write_at(0, b"ours")
        other = server.connect()
        other.rename(LOCK, f"{WORK}/away")
        write_lease(other, elsewhere(server.timing).pack())
        theirs = lease_of(other)
        wait_until(held.lost)
        with pytest.raises(OSError, match="another mount's now") as caught:
            file.write_at(0, b"gone")
        assert caught.value.errno == errno.EIO
        assert file.read_at(0, 9) == b"ours"
    held.release()
    assert lease_of(other) == theirs
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "held by /far, process" in errors[0].getMessage()


# The rest needs one transport only.


@pytest.mark.parametrize("content", [b"\0" * 300, b"[1]", b'"x"', b"{}", b"\xff{"])
def test_what_is_no_lease_is_taken_for_half_of_one(memory: Server, content: bytes) -> None:
    half_a_lease(memory, content)


def test_the_clock_of_the_server_alone_counts(memory: Server) -> None:
    for hours in (-5, 5):
        skewed = SkewedBackend(memory.connect(), hours * 3600 * 10**9)
        held = memory.take(skewed)
        time.sleep(FAST.beat_seconds)
        with pytest.raises(UpperHeldError, match="unmount that first"):
            memory.take(skewed)
        held.release()
        write_lease(skewed, elsewhere(FAST).pack())
        time.sleep(FAST.expires_seconds + 0.1)
        memory.take(skewed).release()


def test_a_living_owner_survives_a_clock_that_is_set_forward(memory: Server) -> None:
    held = memory.take(timing=Timing(beat_seconds=0.4, expires_seconds=60.0, margin_seconds=30.0))

    class Jump(SkewedBackend):
        """What is made from now on is an hour later than what was made before."""

        def shifted(self, stat):
            late = stat.mtime_ns > jumped_at
            return stat._replace(mtime_ns=stat.mtime_ns + late * self.skew_ns)

    jumped_at = time.time_ns()
    with pytest.raises(UpperHeldError, match="unmount that first"):
        memory.take(Jump(memory.connect(), 3600 * 10**9))
    assert not held.lost()


def test_who_is_slow_puts_back_what_he_took_by_mistake(memory: Server) -> None:
    write_lease(memory.connect(), dead_here())
    slow = FaultyBackend(memory.connect())
    gate = slow.faults.pause("rename", path="*/lock-*")
    refused, thread = contend_in_thread(slow)
    gate.wait_until_reached()
    held = memory.take()
    gate.open()
    thread.join()
    assert "unmount that first" in str(refused[0])
    time.sleep(4 * FAST.beat_seconds)
    assert not held.lost()
    assert work_names(memory.connect()) == ["lock"]


@pytest.mark.parametrize(
    "claims",
    [
        ALL_CAPABILITIES,
        dataclasses.replace(ALL_CAPABILITIES, rename_noreplace=False),
        dataclasses.replace(ALL_CAPABILITIES, rename_noreplace=False, hard_links=False),
    ],
    ids=["noreplace", "link", "neither"],
)
def test_nobody_gets_in_while_a_lease_is_away_by_mistake(memory: Server, claims: Capabilities) -> None:
    backend = memory.connect()
    write_lease(backend, dead_here())
    slow = FaultyBackend(MemoryBackend(claims, backend.tree))
    slow.connect()
    before, after = slow.faults.pause("rename", path="*/lock-*"), slow.faults.pause("open", path="*/lock-*")
    refused, thread = contend_in_thread(slow)
    before.wait_until_reached()
    held = memory.take()
    before.open()
    after.wait_until_reached()  # now the lease of `held` is away
    assert "lock" not in work_names(backend)
    with pytest.raises(UpperHeldError, match="unmount that first"):
        memory.take()
    after.open()
    thread.join()
    assert "unmount that first" in str(refused[0])
    time.sleep(4 * FAST.beat_seconds)
    assert not held.lost()
    assert work_names(backend) == ["lock"]


def contend_in_thread(backend) -> tuple[list[UpperHeldError], threading.Thread]:
    refused: list[UpperHeldError] = []

    def contend() -> None:
        try:
            take_lease(backend, WORK, "/slow", FAST).release()
        except UpperHeldError as error:
            refused.append(error)

    thread = threading.Thread(target=contend)
    thread.start()
    return refused, thread


def test_an_owner_that_comes_back_just_then_keeps_it(memory: Server) -> None:
    """It is silent until it has expired, and beats between the last look of the other and his renaming."""
    clock = FakeClock()
    held = memory.take(timing=dataclasses.replace(NO_BEAT, clock=clock))
    make_old(memory.connect(), 3000.0)
    clock.now += 3000.0
    slow = FaultyBackend(memory.connect())
    gate = slow.faults.pause("rename", path="*/lock-*")
    refused, thread = contend_in_thread(FastForward(slow))
    gate.wait_until_reached()
    assert not held.lost()
    gate.open()
    thread.join()
    assert "unmount that first" in str(refused[0])
    assert not held.lost()


class FastForward(SkewedBackend):
    """Reads the seconds that a lease says as thousandths, so that nobody has to watch for long."""

    def __init__(self, inner) -> None:
        super().__init__(inner, 0)

    def open(self, path, access, **options):
        file = super().open(path, access, **options)
        read = file.read_at
        file.read_at = lambda offset, size: read(offset, size).replace(
            b'"beat_seconds": 1000.0', b'"beat_seconds": 0.1'
        )
        return file


def test_a_machine_that_slept_keeps_it_if_nobody_came(memory: Server) -> None:
    clock = FakeClock()
    held = memory.take(timing=dataclasses.replace(NO_BEAT, clock=clock))
    beat = lease_of(memory.connect()).beat
    clock.now += 100_000.0
    assert not held.lost()
    assert lease_of(memory.connect()).beat == beat + 1


def test_a_machine_that_slept_has_lost_it_if_somebody_came(memory: Server) -> None:
    clock = FakeClock()
    held = memory.take(timing=dataclasses.replace(NO_BEAT, clock=clock))
    backend = memory.connect()
    backend.unlink(LOCK)
    memory.take(backend)
    clock.now += 100_000.0
    assert held.lost()
    held.release()
    with pytest.raises(UpperHeldError):
        memory.take()


@pytest.mark.parametrize("content", [None, b"torn"])
def test_a_lease_that_is_gone_or_spoilt_is_lost_when_it_has_run_out(memory: Server, content: bytes | None) -> None:
    held = memory.take()
    backend = memory.connect()
    backend.unlink(LOCK)
    if content is not None:
        write_lease(backend, content)
    assert not held.lost()
    wait_until(held.lost)


def test_a_short_failure_is_survived_and_said_once(memory: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    backend = FaultyBackend(memory.connect())
    held = memory.take(backend, Timing(beat_seconds=0.05, expires_seconds=60.0, margin_seconds=10.0))
    backend.faults.fail("open", error=lambda: UnavailableError("cut"), times=4)
    wait_until(lambda: "renewed again" in caplog.text)
    assert not held.lost()
    assert caplog.text.count("cannot be renewed") == 1


def test_a_long_failure_loses_it_for_good(memory: Server, caplog: pytest.LogCaptureFixture) -> None:
    backend = FaultyBackend(memory.connect())
    held = memory.take(backend)
    backend.faults.fail("open", error=lambda: UnavailableError("cut"), times=None)
    wait_until(held.lost)
    backend.faults.clear()
    time.sleep(4 * FAST.beat_seconds)
    assert held.lost()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "could not be renewed in time" in errors[0]
    held.release()  # nobody came: what is there is still ours to remove
    assert work_names(memory.connect()) == []


def test_a_release_without_the_server_leaves_it_to_expire(memory: Server, caplog: pytest.LogCaptureFixture) -> None:
    backend = FaultyBackend(memory.connect())
    held = memory.take(backend)
    backend.faults.fail(error=lambda: UnavailableError("cut"), times=None)
    held.release()
    assert "stays until it has expired" in caplog.text
    assert work_names(memory.connect()) == ["lock"]


def test_a_full_server_leaves_no_lease(memory: Server) -> None:
    backend = FaultyBackend(memory.connect())
    backend.faults.fail("file.write_at", error=errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        memory.take(backend)
    assert work_names(memory.connect()) == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_death_at_any_step_bars_nobody_for_ever(after: bool) -> None:
    """Whoever takes over dies at his nth call; the next owner comes in, at the latest when that has expired."""
    # Most of it is waiting, each for an upper of its own.
    with ThreadPoolExecutor(8) as pool:
        reached = list(pool.map(lambda nth: dies_at(nth, after=after), range(1, 100)))
    assert reached.count(True) >= 20
    assert not reached[-1]


def dies_at(nth: int, *, after: bool) -> bool:
    """Whether there was an nth call."""
    quick = Timing(beat_seconds=0.05, expires_seconds=0.3, margin_seconds=0.1)
    with memory_server() as memory:
        left = FaultyBackend(memory.connect())
        write_lease(left, dead_here())
        rule = left.faults.crash(nth=nth, after=after)
        with contextlib.suppress(CrashedError):
            memory.take(left, quick).release()
        taken_at_last(lambda: memory.take(timing=quick), 10.0).release()
        assert [name for name in work_names(left.inner) if not name.startswith("#")] == []
        return rule.seen >= nth


AT_ONE_STROKE = (ALL_CAPABILITIES, dataclasses.replace(ALL_CAPABILITIES, rename_noreplace=False))
"""Servers that give a file a name that is free in one step."""


@pytest.mark.parametrize("left", ["nothing", "dead"])
@pytest.mark.parametrize("claims", AT_ONE_STROKE, ids=["noreplace", "link"])
def test_who_is_killed_while_he_takes_it_bars_nobody_here(
    monkeypatch: pytest.MonkeyPatch, claims: Capabilities, left: str
) -> None:
    """At his nth call, or after it: the next one of this machine has it at once, though a lease is good for minutes."""
    dead = parse_owner(dead_here())
    killed = 0
    for nth, after in itertools.product(range(1, 30), (False, True)):
        with memory_server() as memory:
            backend = FaultyBackend(MemoryBackend(claims, memory.connect().tree))
            backend.connect()
            if left == "dead":
                write_lease(backend, dead_here())
            backend.faults.crash(nth=nth, after=after)
            with monkeypatch.context() as patch:
                for module in (lease, lease_file):
                    patch.setattr(module, "this_process", lambda _: dead)
                with contextlib.suppress(CrashedError):
                    take_lease(backend, WORK, "/killed", NO_BEAT)
                    continue
            killed += 1
            held = memory.take(timing=NO_BEAT)
            assert not held.lost()
            held.release()
            assert [name for name in work_names(memory.connect()) if not name.startswith("#")] == []
    assert killed >= 12


def test_a_retrying_backend_may_be_between(memory: Server) -> None:
    held = memory.take(RetryingBackend(memory.connect(), 5.0))
    time.sleep(3 * FAST.beat_seconds)
    assert not held.lost()


def test_an_upper_that_a_lock_of_the_server_holds_is_refused(memory: Server) -> None:
    backend = memory.connect()
    write_lease(backend, dataclasses.replace(elsewhere(FAST), nonce="").pack())
    make_old(backend, 1e6)
    with pytest.raises(
        UpperHeldError, match=rf"/far, .*; unmount that first, or remove .*{LOCK} if that machine has cra"
    ):
        memory.take(backend)


# What is known of a process.


def test_who_is_dead() -> None:
    alive = this_process("/mnt")
    assert not is_dead_here(alive)
    dead = parse_owner(dead_here())
    assert dead is not None
    assert is_dead_here(dead)
    assert is_dead_here(dataclasses.replace(alive, started=alive.started + 1)), "another program has its pid"
    for change in ({"boot_id": "x"}, {"host": "x"}, {"pid_namespace": "pid:[1]"}, {"pid": 0}):
        assert not is_dead_here(dataclasses.replace(dead, **change))
    init = dataclasses.replace(alive, pid=1, started=0)
    assert not is_dead_here(init)


def test_a_process_that_nobody_has_waited_for_is_dead() -> None:
    process = subprocess.Popen(["true"])
    owner = dataclasses.replace(this_process("/mnt"), pid=process.pid, started=0)
    wait_until(lambda: is_dead_here(owner))
    process.wait()


def test_what_is_written_is_read_and_keeps_its_size() -> None:
    owner = dataclasses.replace(this_process("/mnt/ä\udcff"), nonce="a" * 16, beat_seconds=10.0, expires_seconds=60.0)
    assert parse_owner(owner.pack()) == owner
    late = dataclasses.replace(owner, beat=10**12, released=True)
    assert parse_owner(late.pack()) == late
    assert len(late.pack()) == len(owner.pack())
    mixed = late.pack()[:-40] + owner.pack()[-40:]
    assert (told := parse_owner(mixed)) is None or told.nonce == owner.nonce


def test_a_lease_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    told = parse_owner(b'{"version": 9, "pid": 7, "host": "h", "nonce": "n", "beat": "many", "colour": "red"}')
    assert told is not None
    assert (told.version, told.pid, told.host, told.nonce, told.beat) == (9, 7, "h", "n", 0)


def test_the_timing_follows_the_deadline() -> None:
    usual = Timing.for_deadline(30.0)
    assert (usual.beat_seconds, usual.expires_seconds, usual.margin_seconds) == (10.0, 60.0, 30.0)
    assert Timing.for_deadline(5.0) == usual
    patient = Timing.for_deadline(100.0)
    assert (patient.expires_seconds, patient.margin_seconds) == (130.0, 100.0)
