"""The manual has every kind of finding, as the code has it."""

from __future__ import annotations

import re
from pathlib import Path

from netoverlay.checking.findings import ExitCode, Kind

MANUAL = (Path(__file__).parents[2] / "docs" / "fsck.md").read_text()


def test_the_tables_of_findings() -> None:
    expected = [(row.code, row.severity.value, row.sentence, row.remedy) for row in sorted(kind.row for kind in Kind)]
    assert sorted(re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.+) \| (.+) \|$", MANUAL, re.MULTILINE)) == expected


def test_the_table_of_exit_codes() -> None:
    assert re.findall(r"^\| (\d+) \| ", MANUAL, re.MULTILINE) == [str(code.value) for code in ExitCode]
