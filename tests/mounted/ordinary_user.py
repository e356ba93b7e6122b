"""Running what an ordinary user runs, from tests that root runs.

On some machines /dev/fuse is closed to ordinary users, and fusermount3 opens it with their rights. So their programs
run in a mount name space of their own, in which a device node that is open to all lies over it, and what they mount is
there only, and gone with their last process.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

UID = 65534
"""nobody."""


def make_device(directory: Path) -> Path:
    """A /dev/fuse that everybody may open. `directory` must be one that everybody may enter."""
    node = directory / "fuse"
    os.mknod(node, stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    node.chmod(0o666)
    return node


def in_own_namespace(device: Path, *command: str) -> list[str]:
    """Run `command`, still as root, in a mount name space with that device."""
    script = 'mount --bind "$0" /dev/fuse && exec "$@"'
    return ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-ec", script, str(device), *command]


def in_namespace_of(pid: int, *command: str) -> list[str]:
    """Run `command` as the ordinary user in the mount name space of the process `pid`."""
    identity = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    return ["nsenter", f"--target={pid}", "--mount", *identity, *command]
