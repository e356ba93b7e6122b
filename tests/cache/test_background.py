"""Work that nobody waits for: done, told of where it fails, and not begun after the end."""

from __future__ import annotations

import threading

from netoverlay.cache.background import Background


def test_what_is_under_way_is_waited_for_and_nothing_more_begins():
    background = Background("test", 1)
    begun, goes_on = threading.Event(), threading.Event()
    done = []

    def work(number):
        begun.set()
        assert goes_on.wait(20)
        done.append(number)

    for number in range(3):
        background.start(work, number)
    assert begun.wait(20)
    background.stop()
    assert background.is_stopped
    background.start(work, 3)
    goes_on.set()
    background.join()
    assert done == [0]


def test_an_error_of_ours_is_told(caplog):
    background = Background("test", 1)
    begun = threading.Event()

    def work():
        begun.set()
        raise ZeroDivisionError

    background.start(work)
    assert begun.wait(20)
    background.stop()
    background.join()
    assert "ZeroDivisionError" in caplog.text
