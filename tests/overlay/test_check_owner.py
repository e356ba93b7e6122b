"""Who had an upper last, as a check tells it, on each kind of server; and what taking the upper makes of that."""

from __future__ import annotations

import pytest

from netoverlay.backend_api import Backend, Capabilities
from netoverlay.checking.findings import Kind
from netoverlay.checking.owner import check_owner, clear_owner
from netoverlay.overlay.lease import Timing
from netoverlay.overlay.owner import UpperHeldError
from netoverlay.overlay.ownership import require_free
from tests.overlay.owners import LOCK, WORK, Server, elsewhere, make_old, taken_at_last, write_lease


def kinds(backend: Backend) -> list[tuple[Kind, str]]:
    return [(finding.kind, finding.path) for finding in check_owner(backend, WORK)]


def look(backend: Backend, timing: Timing) -> None:
    require_free(backend, Capabilities(), WORK, timing)


def names(backend: Backend) -> list[str]:
    return sorted(entry.name for entry in backend.list_dir(WORK))


def test_nothing_is_left_by_who_gives_it_back(server: Server) -> None:
    backend = server.connect()
    server.take().release()
    assert kinds(backend) == []
    look(backend, server.timing)
    assert names(backend) == []


@pytest.mark.parametrize("kind", [Kind.OWNER_DAMAGED, Kind.OWNER_DEAD])
def test_what_is_no_lease_and_one_of_who_died_elsewhere(server: Server, kind: Kind) -> None:
    backend = server.connect()
    owner = elsewhere(server.timing)
    write_lease(backend, b"half a le" if kind is Kind.OWNER_DAMAGED else owner.pack())
    assert kinds(backend) == [(kind, LOCK)]
    with pytest.raises(UpperHeldError):  # it may be alive
        look(backend, server.timing)
    make_old(backend, 100.0)
    look(backend, server.timing)
    assert kinds(backend) == [(kind, LOCK)]
    assert names(backend) == ["lock"]
    held = taken_at_last(server.take)
    clear_owner(backend, WORK)
    held.release()
    assert kinds(backend) == []
    assert names(backend) == []


def test_what_died_while_taking_it(server: Server) -> None:
    backend = server.connect()
    write_lease(backend, elsewhere(server.timing, released=True).pack())
    backend.rename(LOCK, f"{LOCK}-77")
    assert kinds(backend) == [(Kind.LEASE_ASIDE, f"{LOCK}-77")]
    clear_owner(backend, WORK)
    assert names(backend) == []
