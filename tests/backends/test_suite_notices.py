"""The conformance suite's own tools: a suite that cannot fail proves nothing."""

import errno
import threading

import pytest

from netoverlay.backend_api import NotSupportedError, os_error
from netoverlay.testing.suite import layer as tools
from netoverlay.testing.suite.layer import for_each, pattern, refused, run_threads, supported


def raising(error):
    raise error


@pytest.mark.parametrize(
    "call",
    [
        lambda: None,
        lambda: raising(os_error(errno.EACCES)),
        lambda: raising(NotSupportedError("stat")),
    ],
    ids=["nothing", "another errno", "not supported"],
)
def test_a_missing_refusal_is_noticed(call):
    with pytest.raises(pytest.fail.Exception, match="stat of nothing"), refused(errno.ENOENT, advice="stat of nothing"):
        call()


def test_the_expected_refusal_is_accepted():
    with refused(errno.ENOENT, errno.ENOTDIR, advice="stat of nothing"):
        raise os_error(errno.ENOTDIR)


@pytest.mark.parametrize(
    ("claimed", "call"),
    [(True, lambda: raising(NotSupportedError("link"))), (False, lambda: None)],
    ids=["claimed but refused", "works unclaimed"],
)
def test_a_false_claim_is_noticed(claimed, call):
    with pytest.raises(pytest.fail.Exception, match=r"Capabilities\.hard_links"), supported(claimed, "hard_links"):
        call()


def test_another_error_is_no_refusal_of_an_unclaimed_operation():
    with pytest.raises(PermissionError), supported(claimed=False, claim="devices"):
        raise os_error(errno.EPERM)


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(FileNotFoundError):
        run_threads(lambda number: raising(os_error(errno.ENOENT)) if number == 3 else None)
    with pytest.raises(FileNotFoundError):
        for_each(["a", "b"], lambda path: raising(os_error(errno.ENOENT)) if path == "b" else None)


def test_a_thread_that_hangs_is_noticed(monkeypatch):
    monkeypatch.setattr(tools, "HANG_SECONDS", 0.2)
    release = threading.Event()
    try:
        with pytest.raises(AssertionError, match="1 of 8 threads hang"):
            run_threads(lambda number: release.wait() and None if number == 0 else None)
    finally:
        release.set()


def test_misplaced_data_is_not_alike():
    data = pattern(1 << 20)
    blocks = {data[offset : offset + 1024] for offset in range(0, len(data), 1024)}
    assert len(blocks) == 1024
    assert pattern(4096, 1) != pattern(4096, 2)
