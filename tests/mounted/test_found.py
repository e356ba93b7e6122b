"""What random sequences of calls have found to differ from a native directory, each as short as it can be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted.differential.bench import Bench, Item, run_all
from tests.mounted.differential.planting import CARRIED
from tests.mounted.differential.steps import ACCESS_ACLS, Between, Step, Watch
from tests.mounted.differential.system_calls import KEEP_SIZE

Differences = Callable[..., list[str]]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


@pytest.fixture
def transport() -> str:
    return "local"


@pytest.fixture
def differences(tmp_path: Path, lower: Callable[[Path], str], transport: str) -> Iterator[Differences]:
    """Makes steps in a fresh tree, of the mount and natively, and tells how these then differ."""
    with Bench(tmp_path, lower, CARRIED[transport], trees=2) as bench:

        def run(*items: Item, watch: Watch = Watch.NOTHING) -> list[str]:
            return run_all(bench, items, watch)

        yield run


def test_allocating_takes_set_id_bits(differences: Differences) -> None:
    steps = Step("open", (0, b"setuid", os.O_RDWR)), Step("fallocate", (0, KEEP_SIZE, 0, 100), user=3000)
    assert not differences(*steps)


def test_copying_a_range_takes_set_id_bits(differences: Differences) -> None:
    opened = Step("open", (0, b"large", os.O_RDONLY)), Step("open", (1, b"setuid", os.O_RDWR))
    assert not differences(*opened, Step("copy_range", (0, 1, 100, 0, 0), user=3000))


@pytest.mark.parametrize(
    "step", [Step("unlink", (b"d/e/a",)), Step("rename", (b"large", b"d/e/a"))], ids=lambda s: s.call
)
def test_losing_a_name_changes_the_ctime_of_a_file(differences: Differences, step: Step) -> None:
    assert not differences(step)


@pytest.mark.parametrize(
    ("name", "flags"),
    [("user.one", os.XATTR_CREATE), ("user.none", os.XATTR_REPLACE), ("user.", 0)],
    ids=["create", "replace", "no name"],
)
def test_an_attribute_that_is_not_set_changes_no_ctime(differences: Differences, name: str, flags: int) -> None:
    assert not differences(Step("setxattr", (b"a", name, b"x", flags)))


def test_losing_the_last_name_changes_the_ctime_of_an_open_file(differences: Differences) -> None:
    assert not differences(Step("open", (0, b"d/a", os.O_RDWR)), Step("unlink", (b"d/a",)))


def test_an_acl_that_is_not_there_can_be_removed(differences: Differences) -> None:
    assert not differences(Step("removexattr", (b"b", "system.posix_acl_access")))


def test_attributes_of_root_are_not_listed_to_others(differences: Differences) -> None:
    """Those of "trusted.", which listxattr(2) shows only to who may read them."""
    assert not differences(Step("open", (0, b"a", os.O_RDONLY)), Step("flistxattr", (0,), user=1000))


def test_a_write_by_root_leaves_set_id_bits(differences: Differences) -> None:
    """Also where the file has capabilities, which any write takes."""
    assert not differences(Step("append_record", (b"setuid", b"A")))


def test_an_acl_that_was_the_same_changes_no_ctime(differences: Differences) -> None:
    assert not differences(Step("setxattr", (b"d/a", "system.posix_acl_access", ACCESS_ACLS[0])))


@pytest.mark.parametrize("transport", ["sftp"])
def test_copying_up_changes_no_ctime_of_directories(differences: Differences) -> None:
    """Also of a base that tells none, where it is the mtime."""
    assert not differences(Between.COMPARE, Step("chown", (b"d/e/a", -1, -1)))


def test_names_that_stay_are_listed_while_others_are_removed_and_somebody_else_lists(differences: Differences) -> None:
    """The kernel has the first listing in its cache, so the daemon is asked for the rest of the second alone."""
    removed = (b"a", b"a2", b"b", b"large", b"setuid", b"fifo", b"link", b"dangling", b"loop", b"to-dir", b"char")
    begun = Step("names", (b".",)), Step("open", (1, b".", os.O_DIRECTORY)), Step("read_directory", (1, 300))
    rest = Step("read_directory", (1, 4096))
    assert not differences(*begun, *(Step("unlink", (name,)) for name in removed), Step("names", (b".",)), rest, rest)


@pytest.mark.parametrize("transport", ["sftp"])
def test_a_name_of_no_attribute_is_not_supported(differences: Differences) -> None:
    assert not differences(Step("getxattr", (b"b", "bad")))


@pytest.mark.parametrize("transport", ["local", "sftp"])
def test_a_name_space_alone_is_no_attribute(differences: Differences) -> None:
    assert not differences(Step("setxattr", (b"b", "user.", b"", os.XATTR_REPLACE, True)))
