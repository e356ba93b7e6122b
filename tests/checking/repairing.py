"""For the tests that crash: what is left is put in order by the checks alone, and then nothing is found."""

from __future__ import annotations

from netoverlay.backend_api import Backend, Capabilities, LayerPath
from netoverlay.checking.check import check_upper
from netoverlay.checking.subject import Subject
from netoverlay.overlay.layers import FOR_EVER_NS, UPPER_NUMBER, LayerStack, UpperLayer
from netoverlay.overlay.whiteouts import upper_format
from netoverlay.wrappers.sidecar import SidecarBackend
from tests.overlay.trees import Mounted


def put_in_order(upper: Mounted) -> None:
    """Repair all that is found in an upper that is not mounted, and close it."""
    repair_all(Subject(upper.stack, None))
    upper.abandon()


def repair_all(subject: Subject) -> None:
    """Repair all that is found, and see that this was all."""
    for finding in check_upper(subject, None):
        assert finding.repair is not None, finding
        finding.repair()
    assert list(check_upper(Subject(subject.stack, subject.sidecar), None)) == []


def server_subject(backend: Backend, capabilities: Capabilities, root: LayerPath, work: LayerPath) -> Subject:
    """An upper on a server, connected, without lowers."""
    assert isinstance(backend, SidecarBackend)
    marks = upper_format(backend, capabilities)
    layer = UpperLayer(
        number=UPPER_NUMBER,
        backend=backend,
        capabilities=capabilities,
        format=marks,
        marks=marks,
        identity="",
        root=root,
        work=work,
        ttl_ns=FOR_EVER_NS,
        has_outsiders=False,
    )
    return Subject(LayerStack(layer, ()), backend.connected())
