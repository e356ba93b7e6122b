"""What a thread lists directories for, as far as it is not because a program asks."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Purpose(enum.Enum):
    """Why a directory is listed."""

    ASKED = enum.auto()
    """Somebody has asked for it."""
    AHEAD = enum.auto()
    """For what is fetched ahead, which tells of no walk."""
    ONE_NAME = enum.auto()
    """To find one name in each of the directories below."""


class _Thread(threading.local):
    purpose = Purpose.ASKED


_thread = _Thread()


@contextmanager
def listing_for(purpose: Purpose) -> Iterator[None]:
    """What this thread lists inside is for that."""
    before, _thread.purpose = _thread.purpose, purpose
    try:
        yield
    finally:
        _thread.purpose = before


def purpose() -> Purpose:
    """What this thread lists for now."""
    return _thread.purpose
