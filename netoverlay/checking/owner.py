"""Who had the upper last: looked at before it is taken, for taking it puts that in order."""

from __future__ import annotations

from netoverlay.backend_api import Backend, LayerPath
from netoverlay.checking.findings import Finding, Findings, Kind
from netoverlay.overlay.lease_file import LeaseFile


def check_owner(backend: Backend, work: LayerPath) -> Findings:
    """What the last owner has left; of one who may be alive as well. `backend`: as of ownership.acquire()."""
    file = LeaseFile(backend, work, nonce="")
    seen = file.look()
    if seen is not None and seen.owner is None:
        yield Finding(Kind.OWNER_DAMAGED, file.path)
    elif seen is not None and seen.owner is not None and not seen.owner.released:
        yield Finding(Kind.OWNER_DEAD, file.path, str(seen.owner))
    try:
        aside = file.set_aside()
    except FileNotFoundError:
        return  # an upper that was never mounted
    for path, _ in aside:
        yield Finding(Kind.LEASE_ASIDE, path)


def clear_owner(backend: Backend, work: LayerPath) -> None:
    """Remove what others who wanted the upper have left, now that it is owned."""
    file = LeaseFile(backend, work, nonce="")
    for path, _ in file.set_aside():
        file.forget(path)
