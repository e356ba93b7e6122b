"""Imports go one way: the contracts of import-linter in pyproject.toml hold."""

import subprocess
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def test_import_contracts():
    linter = Path(sysconfig.get_path("scripts")) / "lint-imports"
    result = subprocess.run([linter, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
