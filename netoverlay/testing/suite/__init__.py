"""The parts of the conformance suite; netoverlay.testing.backend_suite puts them together."""

import pkgutil

import pytest

# Without this, a failing assert of the suite shows its advice but not the values.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))
