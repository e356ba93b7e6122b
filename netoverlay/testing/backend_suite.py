"""The conformance suite: what every backend must do, as pytest classes to be subclassed.

    from netoverlay.testing.backend_suite import BackendSuite

    class TestMyBackend(BackendSuite):
        @pytest.fixture(scope="class")
        @classmethod
        def new_backend(cls, my_server):
            return lambda: MyBackend(my_server.url, deadline=10.0)

`new_backend` makes backends that are not connected yet, all of one root that can be written to; the suite works in
directories of its own there and removes them. The class attributes of SuiteBase say what may differ from backend to
backend. What a backend claims (Capabilities) is tested, and so is that it refuses what it does not claim. No test needs
root, and none asserts a time.

BackendFailureSuite is for backends with a server that can be made to fail; BackendReadOnlySuite is for layers that
cannot be written to. pytest and hypothesis must be installed.
"""

from __future__ import annotations

from netoverlay.testing.suite.attributes import IdentitySuite, ModeSuite, OwnerSuite, TimeSuite, XattrSuite
from netoverlay.testing.suite.base import SuiteBase
from netoverlay.testing.suite.claims import ClaimSuite
from netoverlay.testing.suite.concurrency import ManyFilesSuite, RaceSuite, ThreadSuite
from netoverlay.testing.suite.copies import CopySuite
from netoverlay.testing.suite.directories import DirectorySuite, HardLinkSuite, SpecialFileSuite, SymlinkSuite
from netoverlay.testing.suite.failures import BackendFailureSuite, FailingServer
from netoverlay.testing.suite.files import ContentSuite, OpenFileSuite, OpenSuite
from netoverlay.testing.suite.names import ListingSuite, NamesSuite, RootSuite
from netoverlay.testing.suite.read_only import BackendReadOnlySuite
from netoverlay.testing.suite.renames import RenameFlagSuite, RenameSuite
from netoverlay.testing.suite.storage import AllocateSuite, HoleSuite, LockSuite, SpaceSuite
from netoverlay.testing.suite.whole_files import WholeFilesSuite

__all__ = ["BackendFailureSuite", "BackendReadOnlySuite", "BackendSuite", "FailingServer", "SuiteBase"]


class BackendSuite(
    NamesSuite,
    ListingSuite,
    RootSuite,
    OpenSuite,
    ContentSuite,
    OpenFileSuite,
    WholeFilesSuite,
    DirectorySuite,
    RenameSuite,
    RenameFlagSuite,
    SymlinkSuite,
    HardLinkSuite,
    SpecialFileSuite,
    ModeSuite,
    OwnerSuite,
    TimeSuite,
    IdentitySuite,
    XattrSuite,
    HoleSuite,
    AllocateSuite,
    CopySuite,
    LockSuite,
    SpaceSuite,
    ClaimSuite,
    ThreadSuite,
    RaceSuite,
    ManyFilesSuite,
):
    """Everything that a writable backend must do."""
