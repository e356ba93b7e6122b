"""The parts of the conformance suite; netoverlay.testing.backend_suite puts them together."""

import pytest

# Without this, a failing assert of the suite shows its advice but not the values.
pytest.register_assert_rewrite(__name__)
