"""A layer that cannot be reached: who waits, who does not, and how it is found again."""

from __future__ import annotations

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from netoverlay.backend_api import Access, Capabilities, LayerSetupError, UnavailableError
from netoverlay.backend_api.waiting import set_hooks
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.wrappers import availability
from netoverlay.wrappers.availability import AvailabilityBackend
from netoverlay.wrappers.intercept import Operation
from tests.cache.calls import WatchedBackend, write_file

KNOWN = Capabilities()


class Layer:
    """A backend whose server is there, refuses, or does not answer before `answer` is set."""

    def __init__(self, **options):
        self.memory = MemoryBackend()
        self.memory.connect()
        write_file(self.memory, "f", b"12345")
        self.watched = WatchedBackend(self.memory)
        self.failure = None
        self.answer = threading.Event()
        self.answer.set()
        self.connected = []
        for operation in Operation:
            self.watched.before[operation] = self._before
        self.backend = AvailabilityBackend(
            self.watched, on_connected=lambda *found: self.connected.append(found), **{"deadline": 5.0, **options}
        )

    def _before(self, _):
        assert self.answer.wait(20)
        if self.failure is not None:
            raise self.failure

    def down(self):
        self.failure = UnavailableError("no route to it")

    def until(self, state):
        end = time.monotonic() + 10
        while self.backend.connection_state() != state:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(availability, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(availability, "MAX_PAUSE", 0.02)
    monkeypatch.setattr(availability, "REFUSED_PAUSE", 0.02)


@pytest.fixture
def layer():
    made = []

    def make(**options):
        made.append(Layer(**options))
        return made[-1]

    yield make
    for each in made:
        each.failure = None
        each.answer.set()
        each.backend.close()


def test_a_layer_that_is_not_known_is_connected_first(layer):
    found = layer()
    assert found.backend.connect() == found.memory.connect()
    assert found.connected == [(found.memory.connect(), found.memory.stat(""))]
    assert found.backend.stat("f").size == 5
    away = layer()
    away.down()
    with pytest.raises(UnavailableError):
        away.backend.connect()


@pytest.mark.parametrize("patient", [True, False])
def test_a_known_layer_is_connected_meanwhile_and_waited_for(layer, patient):
    found = layer(known=KNOWN, patient=patient)
    found.answer.clear()
    assert found.backend.connect() == KNOWN
    assert found.backend.connection_state() == "reconnecting"
    with ThreadPoolExecutor() as pool:
        sizes = [pool.submit(found.backend.stat, "f") for _ in range(4)]
        time.sleep(0.05)
        assert found.watched.count(Operation.STAT) == 0
        found.answer.set()
        assert [size.result().size for size in sizes] == [5] * 4
    assert len(found.connected) == 1
    assert found.backend.connection_state() == "connected"


def test_a_known_layer_is_connected_when_there_is_little_to_do(layer, monkeypatch):
    monkeypatch.setattr(availability, "LATE", 0.01)
    spent = iter(range(1_000_000))
    looks = threading.Semaphore(0)

    def busy():
        looks.release()
        return next(spent)

    monkeypatch.setattr(availability.time, "process_time", busy)
    found = layer(known=KNOWN)
    found.backend.connect()
    for _ in range(5):
        looks.acquire()
    assert not found.connected
    monkeypatch.setattr(availability.time, "process_time", lambda: 0.0)
    found.until("connected")


def test_a_known_layer_is_connected_at_last_and_at_once_for_who_waits(layer, monkeypatch):
    spent = iter(range(1_000_000))
    monkeypatch.setattr(availability.time, "process_time", lambda: next(spent))
    waited_for = layer(known=KNOWN)
    waited_for.backend.connect()
    assert waited_for.backend.stat("f").size == 5
    monkeypatch.setattr(availability, "LATE", 0.01)
    monkeypatch.setattr(availability, "LATEST", 0.05)
    busy = layer(known=KNOWN)
    busy.backend.connect()
    busy.until("connected")


def test_with_patience_calls_wait_until_it_is_back(layer):
    found = layer(known=KNOWN)
    found.down()
    found.backend.connect()
    found.until("down")
    with ThreadPoolExecutor() as pool:
        size = pool.submit(found.backend.stat, "f")
        time.sleep(0.05)
        assert not size.done()
        found.failure = None
        assert size.result().size == 5


def test_with_patience_it_is_an_error_at_the_deadline_and_no_absence(layer):
    found = layer(known=KNOWN, deadline=0.1)
    found.failure = LayerSetupError("no such root", errno.ENOENT)
    found.backend.connect()
    for call in (found.backend.stat, found.backend.list_dir, found.backend.readlink):
        with pytest.raises(UnavailableError) as caught:
            call("f")
        assert caught.value.errno == errno.EIO
    assert "no such root" in str(caught.value)


def test_without_patience_one_call_finds_out_and_no_other_reaches_it(layer):
    found = layer(patient=False)
    found.backend.connect()
    with found.backend.open("f", Access.READ) as file:
        found.down()
        with pytest.raises(UnavailableError):
            found.backend.stat("f")
        assert found.backend.is_down()
        found.answer.clear()  # who gets through now hangs
        time.sleep(0.05)
        for call in (lambda: found.backend.stat("f"), lambda: found.backend.list_dir(""), lambda: file.read_at(0, 5)):
            start = time.monotonic()
            with pytest.raises(UnavailableError):
                call()
            assert time.monotonic() - start < 1
        found.failure = None
        found.answer.set()
        found.until("connected")
        assert file.read_at(0, 5) == b"12345"
    assert len(found.connected) == 1


def test_without_patience_a_failed_first_try_is_down(layer):
    found = layer(known=KNOWN, patient=False)
    found.down()
    assert found.backend.connect() == KNOWN
    found.until("down")
    assert found.backend.connection_problem() == "no route to it"
    with pytest.raises(UnavailableError, match="no route"):
        found.backend.stat("f")
    found.failure = None
    found.until("connected")
    assert found.backend.connection_problem() is None
    assert found.backend.stat("f").size == 5


def test_a_refused_connection_is_no_error_of_a_file(layer):
    found = layer()
    found.backend.connect()
    found.failure = LayerSetupError("no such share", errno.ENOENT)
    with pytest.raises(UnavailableError) as caught:
        found.backend.stat("f")
    assert caught.value.errno == errno.EIO
    found.failure = FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(FileNotFoundError):
        found.backend.stat("f")


def test_what_has_to_be_asked_for_is_connected_at_once_if_it_can_be(layer):
    found = layer(known=KNOWN, at_once=True)
    found.backend.connect()
    assert len(found.connected) == 1
    away = layer(known=KNOWN, at_once=True, patient=False)
    away.down()
    assert away.backend.connect() == KNOWN
    refused = layer(known=KNOWN, at_once=True)
    refused.failure = LayerSetupError("wrong passphrase")
    with pytest.raises(LayerSetupError):
        refused.backend.connect()


def test_who_waits_can_be_interrupted_and_closed(layer):
    found = layer(known=KNOWN, deadline=20.0)
    found.down()
    found.backend.connect()
    set_hooks(None, lambda: True)
    try:
        with pytest.raises(InterruptedError):
            found.backend.stat("f")
    finally:
        set_hooks(None, None)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(found.backend.stat, "f")
        time.sleep(0.05)
        found.failure = None
        found.answer.clear()
        threading.Timer(0.3, found.answer.set).start()
        found.backend._closing.set()
        with pytest.raises(UnavailableError):
            waiting.result(10)
