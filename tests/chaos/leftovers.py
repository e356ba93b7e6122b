"""What lies in an upper or its work directory, and should not while it is mounted."""

from __future__ import annotations

import os
import stat as stat_bits
from collections.abc import Collection, Iterator
from pathlib import Path

_DOCUMENTED = frozenset({"lock", "links", "ctimes"})
_DOCUMENTED_ON_SERVERS = _DOCUMENTED | {"attributes.jsonl"}
"""docs/upper.md; `links` and `ctimes` are in netoverlay/overlay/workspace.py."""
_MARK_PREFIX = ".wh."


def leftovers(upper: Path, shown: Collection[str], *, is_local: bool) -> list[str]:
    """Told one by one. `shown` are all paths that the mount shows."""
    work = upper.with_name(f"{upper.name}.work")
    documented = _DOCUMENTED if is_local else _DOCUMENTED_ON_SERVERS
    found = [f"left in the work directory: {name}" for name in sorted(set(os.listdir(work)) - documented)]
    beside = set(os.listdir(upper.parent)) - {upper.name, work.name}
    found += [f"left beside the upper: {name}" for name in sorted(beside)]
    found += [f"in the upper, and not shown: {path}" for path in _unmarked(upper, is_local) if path not in shown]
    return found


def _unmarked(upper: Path, is_local: bool) -> Iterator[str]:
    """What should be shown of an upper."""
    for place, directories, files in os.walk(upper):
        for name in [*directories, *files]:
            path = os.path.join(place, name)
            stat = os.lstat(path)
            is_mark = stat_bits.S_ISCHR(stat.st_mode) if is_local else name.startswith(_MARK_PREFIX)
            if not is_mark:
                yield os.path.relpath(path, upper)
