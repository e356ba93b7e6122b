"""Which failures a killed daemon explains."""

from __future__ import annotations

import errno

import pytest

from tests.chaos.steps import Call, Step
from tests.chaos.working import Failure

KILLED_AT = 5000


@pytest.mark.parametrize(
    ("code", "at", "is_of_the_kill"),
    [
        (errno.EIO, KILLED_AT + 300, True),
        (errno.EIO, KILLED_AT - 300, False),
        (errno.EACCES, KILLED_AT + 300, False),
    ],
)
def test_only_what_the_kernel_says_after_it(code: int, at: int, *, is_of_the_kill: bool) -> None:
    assert Failure(Step(Call.RENAME, "old", "new"), code, at).is_of_the_kill(KILLED_AT) is is_of_the_kill
