"""How long the random searches last that take seconds.

`NETOVERLAY_SEARCH=20 pytest -n 0 tests/cache/test_metadata_machine.py` makes twenty times as many attempts as usual,
with others each time.
"""

from __future__ import annotations

import os

_FACTOR = int(os.environ.get("NETOVERLAY_SEARCH", "1"))


def attempts(usual: int) -> int:
    """The number of examples for Hypothesis."""
    return usual * _FACTOR
