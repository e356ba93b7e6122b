"""How long a request waits for a layer in all: its calls, its locks and its tries share one deadline."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

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


@pytest.mark.usefixtures("serving")
def test_a_layer_that_answers_anybody_is_waited_for():
    patience, other = Patience(DEADLINE), Patience(DEADLINE)
    about_to_wait()
    first = patience_left(patience)
    time.sleep(0.01)

    def answer():
        with asking(patience):
            answered()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(answer).result(60)
    assert patience_left(patience) > first
    assert patience_left(other) == first


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
    about_to_wait()
    for _ in range(3):
        with pytest.raises(UnavailableError):
            backend.stat("")
    assert len(asked) == 1
    request_done()
    with pytest.raises(UnavailableError):
        backend.stat("")
    assert len(asked) == 2


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
