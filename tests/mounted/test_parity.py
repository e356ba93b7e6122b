"""The same calls on the mount and in a native directory give the same: values, errors, and the tree that is left."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from netoverlay_smb import symlinks
from tests.mounted.channels import over_both, uncalled
from tests.mounted.mounting import OverlayMount, run

CALLS = Path(__file__).with_name("calls.py")
LIMITS = {
    "sftp": ["--without-links"],  # it tells no inode numbers, so two names of one file in the base are two files
    "smb": ["--without-special"],
}


def as_smb_has_links(top: Path) -> None:
    """Make symbolic links what they are on an SMB server: files of a certain content."""
    for path in [path for path in top.rglob("*") if path.is_symlink()]:
        target, times = os.readlink(path), path.lstat()
        path.unlink()
        path.write_bytes(symlinks.pack(os.fsencode(target)))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


TABLES = "[mount]\nallow_other = true\n"


@over_both
def test_every_call_gives_what_it_gives_on_a_native_directory(
    tmp_path: Path, lower, channel: str, transport: str
) -> None:
    base, native = tmp_path / "base", tmp_path / "native"
    for top in (base, native):
        top.mkdir()
        run(sys.executable, CALLS, "plant", top, *LIMITS.get(transport, ()))
    if transport == "smb":
        as_smb_has_links(base)
    left_out = [*([] if transport == "local" else ["--uncounted"]), *uncalled(channel)]
    expected = json.loads(run(sys.executable, CALLS, "call", native, *left_out))
    with OverlayMount(tmp_path / "m", lower(base), private=transport != "sftp", tables=TABLES) as mount:
        given = json.loads(run(sys.executable, CALLS, "call", mount.path, *left_out))
        differing = {name: (given[name], expected[name]) for name in expected if given[name] != expected[name]}
        assert not differing
        shown = {name: tree for name, (_, tree) in given.items()}
        mount.remount()
        again = json.loads(run(sys.executable, "-c", _LIST, mount.path, *shown))
        assert again == shown


_LIST = f"""
import json, os, sys
sys.path.insert(0, {str(CALLS.parent)!r})
import calls
found = {{}}
for name in sys.argv[2:]:
    os.chdir(f"{{sys.argv[1]}}/{{name}}")
    found[name] = calls.tree()
json.dump(found, sys.stdout)
"""
