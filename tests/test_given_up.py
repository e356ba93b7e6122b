"""What has just been given up is not waited for as long once more."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from netoverlay import given_up
from netoverlay.backend_api import UnavailableError, waiting
from netoverlay.backend_api.errors import InterruptedWaitError
from netoverlay.cache.single_flight import outcome
from netoverlay.given_up import GivenUp


@pytest.fixture(autouse=True)
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This thread serves requests, and any wait is a long one."""
    monkeypatch.setattr(given_up, "_LONG_SECONDS", 0.0)
    waiting.set_hooks(lambda: None, None)
    yield
    waiting.set_hooks(None, None)


def fail(error: OSError) -> None:
    waiting.about_to_wait()
    raise error


def patience(requests: GivenUp, nodeid: int) -> float:
    return requests.read(nodeid, lambda: waiting._thread.at_most)


def failed_reading(requests: GivenUp, nodeid: int, error: OSError) -> None:
    with pytest.raises(type(error)):
        requests.read(nodeid, fail, error)
    waiting.request_done()


def test_the_same_file_again_waits_for_less() -> None:
    requests = GivenUp()
    failed_reading(requests, 1, UnavailableError("silent"))
    assert patience(requests, 1) < 1
    assert patience(requests, 2) == math.inf


def test_a_name_that_was_not_confirmed_fails_as_often_again() -> None:
    requests = GivenUp()
    waiting.about_to_wait()
    for _ in range(2):  # two programs at once
        requests.note((1, "name"), UnavailableError("silent"))
    requests.refuse_again((1, "other"))
    requests.refuse_again((2, "name"))
    for _ in range(2):
        with pytest.raises(UnavailableError, match="a moment ago"):
            requests.refuse_again((1, "name"))
    requests.refuse_again((1, "name"))


def test_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_up, "_AGAIN_SECONDS", 0.01)
    requests = GivenUp()
    failed_reading(requests, 1, UnavailableError("silent"))
    waiting.about_to_wait()
    requests.note((1, "name"), UnavailableError("silent"))
    time.sleep(0.02)
    assert patience(requests, 1) == math.inf
    requests.refuse_again((1, "name"))
    failed_reading(requests, 2, UnavailableError("silent"))
    assert list(requests._failures) == [2]


@pytest.mark.parametrize("error", [InterruptedWaitError(), PermissionError(13, "no")])
def test_other_failures_are_none_of_its_business(error: OSError) -> None:
    requests = GivenUp()
    failed_reading(requests, 1, error)
    assert patience(requests, 1) == math.inf


def test_what_was_refused_at_once_may_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_up, "_LONG_SECONDS", 0.5)
    requests = GivenUp()
    failed_reading(requests, 1, UnavailableError("refused"))
    assert patience(requests, 1) == math.inf


def test_what_another_fetches_is_waited_for_no_longer() -> None:
    with waiting.waiting_at_most(0.01), pytest.raises(UnavailableError):
        outcome(Future())
