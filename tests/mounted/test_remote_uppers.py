"""An upper on a server: what programs do on it gives what it gives on a local disk, over every kind of base."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, run
from tests.mounted.test_parity import _LIST, CALLS, LIMITS, as_smb_has_links

NOT_KEPT = {
    "sftp": ["paths_of_any_length", "holes"],
    "smb": ["paths_of_any_length"],
}
"""As docs/upper.md says: paths are as long as the server takes, and SFTP tells no holes."""
PRIVATE = {"sftp": ["private = true"], "smb": []}
"""SFTP has no locks: programs have them if the mount alone may keep them."""


PAIRS = [("local", "sftp"), ("local", "smb"), ("sftp", "smb"), ("smb", "sftp")]
"""Of base and upper."""


@pytest.mark.parametrize(("transport", "kind"), PAIRS, indirect=True)
def test_every_call_gives_what_it_gives_on_a_native_directory(
    tmp_path: Path, lower: Callable[[Path], str], transport: str, kind: str, upper_keys: Callable[[Path], list[str]]
) -> None:
    base, native = tmp_path / "base", tmp_path / "native"
    for top in (base, native):
        top.mkdir()
        run(sys.executable, CALLS, "plant", top, *LIMITS.get(transport, ()))
    if transport == "smb":
        as_smb_has_links(base)
    without = [f"--without={name}" for name in NOT_KEPT[kind]]
    expected = json.loads(run(sys.executable, CALLS, "call", native, "--uncounted", *without))
    # Apart from the mountpoint: the server looks at all that is beside the upper.
    upper = tmp_path / "served" / "upper"
    keys = [*upper_keys(upper), *PRIVATE[kind]]
    with OverlayMount(
        tmp_path / "m", lower(base), upper=upper, upper_keys=keys, tables="[mount]\nallow_other = true\n"
    ) as mount:
        given = json.loads(run(sys.executable, CALLS, "call", mount.path, "--uncounted", *without))
        differing = {name: (given[name], expected[name]) for name in expected if given[name] != expected[name]}
        assert not differing
        shown = {name: tree for name, (_, tree) in given.items()}
        mount.remount()
        again = json.loads(run(sys.executable, "-c", _LIST, mount.path, *shown))
        assert again == shown
