"""Every server is silent: each call returns within the deadline, or at a signal, and what is elsewhere goes on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.waits import Waits
from tests.mounted.all_at_once import WAIT_FOR_PAGES
from tests.mounted.calls import CALLS, plant
from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, through_proxy, wait_for_end
from tests.servers.proxy import Proxy
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

DEADLINE = 1.5
SLACK = 1.0
"""What a call may take beyond that."""
LONG = 100.0
"""A deadline that no test waits for."""
READERS = 80
"""More than a layer takes calls at once."""
CHECKOUT = Path(__file__).parents[2]
FROM_CACHES = {
    "exclusive_create": {errno.EEXIST},
    "open_a_directory_for_writing": {errno.EISDIR},
    "open_no_follow": {errno.ELOOP, errno.ENOENT},  # of links that lead nowhere Samba says nothing
    "link_of_a_symlink": {errno.ENOENT},
    "an_absent_attribute": {errno.ENODATA},
    "a_fifo_is_no_file": {errno.ENOENT},
    "locks_exclude": {errno.EAGAIN},
    "rename_a_directory_over_a_full_one": {errno.ENOTEMPTY},
    "remove_what_is_not_empty": {errno.ENOTEMPTY},
    "rename_into_itself": {errno.EINVAL},
}
"""What can be known without any server: which names there are, and of what kind."""
MAPPINGS = {"a_mapping_sees_later_writes", "write_through_a_mapping"}
"""A page that cannot be had is SIGBUS."""

Mount = Callable[..., OverlayMount]


@pytest.fixture(params=["sftp"])
def server(request: pytest.FixtureRequest) -> SshServer | SmbServer:
    found: SshServer | SmbServer = request.getfixturevalue("sshd" if request.param == "sftp" else "smbd")
    return found


@pytest.fixture
def base(tmp_path: Path) -> Path:
    top = tmp_path / "served" / "base"
    for name in CALLS:
        plant(str(top / name), links=False, special=False)
        (top / name / "link").unlink()
        (top / name / "link").symlink_to("nowhere")  # Samba follows its own, but not these
    return top


@pytest.fixture
def mount(tmp_path: Path, base: Path, server: SshServer | SmbServer, proxy: Proxy) -> Iterator[Mount]:
    """Mounts base and upper through the proxy, each name of the base known; `local`: the upper is a local directory."""
    with ExitStack() as mounted:

        def make(deadline: float, *, local: bool = False) -> OverlayMount:
            known_hosts = tmp_path / "known_hosts"
            upper = tmp_path / "served" / "upper"
            keys = [f"deadline = {deadline}"]
            url, login = through_proxy(server, proxy.port, base, known_hosts)
            upper_url, upper_login = through_proxy(server, proxy.port, upper, known_hosts)
            upper_keys = [] if local else [f'url = "{upper_url}"', *upper_login, *keys, "private = true"]
            found = OverlayMount(tmp_path / "m", layer_table(url, [*login, *keys]), upper=upper, upper_keys=upper_keys)
            found.mount()
            mounted.callback(found.unmount_quietly)
            for name in CALLS:
                os.listdir(found.path / name)
            return found

        yield make


def given_by(mount: OverlayMount, *arguments: str) -> dict[str, object]:
    said = run(sys.executable, "-m", "tests.mounted.all_at_once", mount.path, *arguments, cwd=CHECKOUT)
    found: dict[str, object] = json.loads(said)
    return found


def unexpected(given: dict[str, object], *allowed: object) -> dict[str, object]:
    """What was given that is neither allowed nor known from caches."""
    known = {name: [["error", code] for code in codes] for name, codes in FROM_CACHES.items()}
    return {name: told for name, told in given.items() if told not in (*allowed, *known.get(name, ()))}


def test_no_call_takes_longer_than_the_deadline(mount: Mount, proxy: Proxy) -> None:
    mounted = mount(DEADLINE)
    proxy.silence()
    with Waits() as waits:
        given = given_by(mounted)
    assert waits.told.longest < DEADLINE + SLACK
    assert unexpected(given, ["error", errno.EIO], ["error", errno.ETIMEDOUT]) == dict.fromkeys(MAPPINGS)


@pytest.mark.parametrize("server", ["smb"], indirect=True)
def test_a_signal_ends_each_call_and_it_unmounts(mount: Mount, proxy: Proxy) -> None:
    mounted = mount(LONG)
    pid = mounted.daemon()
    proxy.silence()
    ended = unexpected(given_by(mounted, "--signal"), "interrupted")
    assert ended == dict.fromkeys(ended.keys() & WAIT_FOR_PAGES)
    run(*COMMAND, "umount", mounted.path)
    assert not os.path.ismount(mounted.path)
    wait_for_end(pid)


def test_files_elsewhere_are_not_delayed(mount: Mount, proxy: Proxy) -> None:
    mounted = mount(LONG, local=True)
    (mounted.path / "mine").write_text("here\n")
    proxy.silence()
    paths = [mounted.path / name / file for name in CALLS for file in ("file", "other")][:READERS]
    readers = [subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for path in paths]
    try:
        run("sh", "-c", "cat mine; echo more >> mine; mkdir made; mv mine made; cat made/mine", cwd=mounted.path)
        assert all(reader.poll() is None for reader in readers)
        run(*COMMAND, "umount", "--lazy", mounted.path)
        assert not os.path.ismount(mounted.path)
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
