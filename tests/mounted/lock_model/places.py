"""Where locks are tried: on mounts of each kind, or in a directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.mounted.lock_model.driving import NAMES
from tests.mounted.mounting import OverlayMount, layer_table, smb_login
from tests.servers.smbd import SmbServer

PLACES: Final = ("private", "shared", "local", "changing", "smb")


@contextmanager
def placed(place: str, directory: Path) -> Iterator[Path]:
    """A directory with the files of NAMES, on a mount of the kind `place`; else in `directory` itself."""
    base = directory / "base" if place in PLACES else directory
    base.mkdir(exist_ok=True)
    for name in NAMES:
        (base / name).write_bytes(b"content")
    if place not in PLACES:
        yield base
        return
    tables = '[locks]\nmode = "local"\n' if place == "local" else ""
    lowers = layer_table(str(base), immutable=place != "changing")
    with ExitStack() as stack:
        keys = [f'url = "{directory}/upper"', *(["private = true"] if place == "private" else [])]
        if place == "smb":
            # A share without the mount point: who lists that waits for the mount, which waits for the list.
            share = directory / "share"
            (share / "upper").mkdir(parents=True)
            smbd = stack.enter_context(SmbServer(directory / "smbd", {"tests": share}))
            keys = [f'url = "{smbd.url_of(share / "upper")}"', *smb_login(smbd)]
        mount = stack.enter_context(OverlayMount(directory, lowers, upper_keys=keys, tables=tables))
        yield mount.path
