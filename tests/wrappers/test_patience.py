"""How long a request waits for a layer in all: its calls, its locks and its tries share one deadline."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from netoverlay.backend_api import UnavailableError, waiting
from netoverlay.backend_api.connector import Connector
from netoverlay.backend_api.errors import InterruptedWaitError, LayerClosedError
from netoverlay.backend_api.waiting import (
    Patience,
    about_to_wait,
    answered,
    as_one_request,
    asking,
    give_up_at,
    lost_since,
    request_done,
    set_hooks,
    waiting_at_most,
)
from netoverlay.testing.memory_backend import MemoryBackend
from netoverlay.wrappers.intercept import Operation
from netoverlay.wrappers.limits import LimitedBackend
from netoverlay.wrappers.retry import RetryingBackend
from tests.cache.calls import WatchedBackend

DEADLINE = 1000.0


@pytest.fixture
def serving():
    """This thread serves requests."""
    set_hooks(lambda: None, None)
    yield
    set_hooks(None, None)


def patience_left(patience):
    with asking(patience):
        return give_up_at(DEADLINE)


@pytest.mark.usefixtures("serving")
def test_the_calls_of_a_request_share_a_deadline_and_requests_do_not():
    patience = Patience(DEADLINE)
    about_to_wait()
    first = patience_left(patience)
    time.sleep(0.01)
    assert patience_left(patience) == first
    request_done()
    about_to_wait()
    assert patience_left(patience) > first


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    found = SimpleNamespace(now=time.monotonic())
    monkeypatch.setattr(time, "monotonic", lambda: found.now)
    return found


def answer(patience):
    with asking(patience):
        answered()


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize(
    ("answered_after", "given_up_after"), [(0.0, 1000.0), (500.0, 1000.0), (700.0, 1400.0), (5000.0, 6000.0)]
)
def test_a_silent_layer_is_waited_for_as_long_as_it_was_not(clock, answered_after, given_up_after):
    """And until its deadline is over in any case: what a request that was short waits is no longer."""
    patience = Patience(DEADLINE)
    about_to_wait()
    began_at = clock.now
    clock.now += answered_after
    with ThreadPoolExecutor(1) as pool:
        pool.submit(answer, patience).result(60)
    assert patience_left(patience) == min(began_at + given_up_after, clock.now + DEADLINE)
    clock.now += 300.0
    assert patience_left(patience) == began_at + given_up_after


@pytest.mark.usefixtures("serving")
def test_a_layer_that_nobody_asks_is_not_silent(clock):
    patience = Patience(DEADLINE)
    answer(patience)
    request_done()
    about_to_wait()
    clock.now += 5000.0  # for a lock
    assert patience_left(patience) == clock.now + DEADLINE
    clock.now += DEADLINE + 1.0
    assert patience_left(patience) == clock.now - 1.0


def test_work_in_the_background_has_a_deadline_for_each_call_unless_it_says_so():
    patience = Patience(DEADLINE)
    first = patience_left(patience)
    time.sleep(0.01)
    assert patience_left(patience) > first
    with as_one_request():
        first = patience_left(patience)
        time.sleep(0.01)
        assert patience_left(patience) == first


def test_a_short_wait_is_shorter_than_any_deadline():
    with waiting_at_most(1.0):
        assert patience_left(Patience(DEADLINE)) < time.monotonic() + 1.5


@pytest.mark.usefixtures("serving")
def test_a_request_that_has_waited_long_enough_asks_no_more():
    watched = WatchedBackend(MemoryBackend())
    backend = RetryingBackend(LimitedBackend(watched, 0.05), 0.05)
    backend.connect()
    asked = []

    def silent(path):
        asked.append(path)
        time.sleep(0.06)
        raise UnavailableError("it does not answer")

    watched.before[Operation.STAT] = silent
    time.sleep(0.06)  # connect() was answered
    request_done()
    for _ in range(3):
        with pytest.raises(UnavailableError):
            backend.stat("")
    assert len(asked) == 1
    request_done()
    with pytest.raises(UnavailableError):
        backend.stat("")
    assert len(asked) == 2


@pytest.mark.usefixtures("serving")
def test_the_time_of_a_request_begins_with_its_first_call_and_ends_with_it(clock):
    watched = WatchedBackend(MemoryBackend())
    backend = RetryingBackend(LimitedBackend(watched, DEADLINE), DEADLINE)
    backend.connect()
    request_done()
    left = []

    def silent(_):
        left.append(give_up_at(DEADLINE) - clock.now)
        clock.now += 400.0
        raise LayerClosedError

    watched.before[Operation.STAT] = silent
    for _ in range(2):
        clock.now += 1.0  # since the layer answered
        for _ in range(4):
            with pytest.raises(UnavailableError):
                backend.stat("")
        request_done()
    assert left == [1000.0, 600.0, 200.0] * 2


@pytest.mark.usefixtures("serving")
def test_time_that_is_lost_with_failures_is_not_had_again(monkeypatch):
    monkeypatch.setattr(waiting._thread, "answered_at", 0.0)  # another test's, later than what this one pretends
    patience = Patience(DEADLINE)
    about_to_wait()
    with asking(patience):
        lost_since(time.monotonic() - 300.0)
        answered()
        assert give_up_at(DEADLINE) < time.monotonic() + 701.0
        lost_since(time.monotonic() - 300.0)  # since it was answered: nothing
        assert give_up_at(DEADLINE) > time.monotonic() + 699.0
    request_done()
    about_to_wait()
    assert patience_left(patience) > time.monotonic() + 999.0


class Session:
    broken = False

    def close(self):
        self.broken = True


def test_one_connects_and_each_waits_for_himself():
    let_in = threading.Event()
    calls = []

    def connect():
        calls.append(1)
        assert let_in.wait(60)
        return Session()

    connector = Connector(connect, DEADLINE)

    def impatient():
        with waiting_at_most(0.05), asking(Patience(DEADLINE)):
            connector.session()

    def interrupted():
        set_hooks(None, lambda: True)
        connector.session()

    with ThreadPoolExecutor(3) as pool:
        first, ended = pool.submit(impatient), pool.submit(interrupted)
        with pytest.raises(UnavailableError):
            first.result(60)
        with pytest.raises(InterruptedWaitError):
            ended.result(60)
        patient = pool.submit(connector.session)
        let_in.set()
        assert not patient.result(60).broken
    assert len(calls) == 1
    connector.close()
    with pytest.raises(LayerClosedError):
        connector.session()


def test_what_connecting_raised_is_raised_for_all():
    def connect():
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        Connector(connect, DEADLINE).session()
