"""What runs over pyfuse3 as well as over our own channel, and what of it cannot, each for what pyfuse3 lacks.

Of the tests that could, those are marked that ask most of a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

import pytest

from netoverlay.channels import Lack
from tests.mounted.differential.planting import Carried

Test = TypeVar("Test", bound=Callable[..., None])

TESTS_WITHOUT: Final = {
    "test_interrupted_caller": Lack.INTERRUPTS,
    "test_more_wait_than_there_are_threads": Lack.BACKGROUND,
}
"""Tests that fail over pyfuse3."""

CALLS_WITHOUT: Final = {
    "holes": Lack.HOLES,
    "a_file_without_a_name": Lack.NAMELESS_FILES,
    "a_file_without_a_name_is_gone_when_closed": Lack.NAMELESS_FILES,
    "access_lists": Lack.UMASK_BESIDE_ACLS,
}
"""Of calls.py, what does not give over pyfuse3 what it gives natively."""

STEPS_WITHOUT: Final[dict[str, tuple[Any, Lack]]] = {
    "allocate": ((), Lack.ALLOCATION),
    "nameless": (False, Lack.NAMELESS_FILES),
    "acls": (False, Lack.UMASK_BESIDE_ACLS),
}
"""Of the differential tests, fields of Carried, with what they are over pyfuse3."""

_RUNS: Final = {
    "local": ("own", "local"),
    "sftp": ("own", "sftp"),
    "smb": ("own", "smb"),
    "local-pyfuse3": ("pyfuse3", "local"),
}


def on_each_channel(test: Test) -> Test:
    """For a test with the fixture `channel`."""
    channels = ["own"] if test.__name__ in TESTS_WITHOUT else ["own", "pyfuse3"]
    return pytest.mark.parametrize("channel", channels, indirect=True)(test)


def over_both(test: Test) -> Test:
    """For a test of all transports: over pyfuse3, with a base on this machine."""
    return pytest.mark.parametrize(("channel", "transport"), _RUNS.values(), indirect=True, ids=_RUNS.keys())(test)


def uncalled(channel: str) -> list[str]:
    """The arguments of calls.py that leave out what the channel lacks."""
    return [f"--without={name}" for name in CALLS_WITHOUT] if channel == "pyfuse3" else []


def carried_over(channel: str, carried: Carried) -> Carried:
    """What is left of `carried` over the channel."""
    if channel == "own":
        return carried
    return replace(carried, **{field: value for field, (value, _) in STEPS_WITHOUT.items()})
