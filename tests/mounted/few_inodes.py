"""The command, whose mounts have room for a few inodes only: python -m tests.mounted.few_inodes prune|shrink ...

"shrink" lets go of them as on a kernel that cannot be asked to forget one by one.
"""

from __future__ import annotations

import functools
import sys

from netoverlay import cli
from netoverlay.fuse import abi
from netoverlay.overlay import tree
from netoverlay.overlay.inode_table import InodeTable

MOST = 40


def main() -> None:
    way = sys.argv.pop(1)
    tree.InodeTable = functools.partial(InodeTable, most=MOST)  # type: ignore[misc, assignment]
    if way == "shrink":
        abi.PRUNE_MINOR = abi.MINOR + 1  # type: ignore[misc]
    cli.main()


if __name__ == "__main__":
    main()
