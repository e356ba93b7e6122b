"""What is particular to a mount through pyfuse3; what it has in common with others is in their tests (channels.py)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, layer_table, through
from tests.mounted.test_channel import Mounted


def test_a_profile_may_change_its_channel(tmp_path: Path) -> None:
    """And all is as it was, the inode numbers included."""
    base = tmp_path / "base"
    (base / "dir").mkdir(parents=True)
    (base / "dir" / "file").write_text("content\n")
    mount = OverlayMount(tmp_path / "m", layer_table(str(base)))
    own = mount.profile.read_text()
    seen = []
    for number, channel in enumerate(("own", "pyfuse3", "own")):
        mount.profile.write_text(through(channel, own))
        with mount:
            top = mount.path
            with (top / "dir" / "file").open("a") as file:
                file.write(channel)
            (top / f"made{number}").mkdir()
            listed = {entry.name: entry.inode() for entry in os.scandir(top)}
            assert listed == {name: (top / name).stat().st_ino for name in listed}
            seen.append({**listed, "": top.stat().st_ino, "file": (top / "dir" / "file").stat().st_ino})
    assert seen[0].items() < seen[1].items() < seen[2].items()
    assert (mount.upper / "dir" / "file").read_text() == "content\nownpyfuse3own"


def test_a_name_that_cannot_be_looked_up_is_not_left_out() -> None:
    """The memory server lists what begins with a dot without an inode."""
    with Mounted(os.getuid(), channel="pyfuse3") as mounted:
        mounted.shell("mkdir dir; touch dir/one; mkdir empty")
        mounted.shell("touch dir/.unknown dir/two")
        with pytest.raises(OSError, match="Input/output error"):
            os.listdir(mounted.path("dir"))
        assert os.listdir(mounted.path("empty")) == []
        mounted.server.terminate()
        mounted.finish()
        # The lookup of "two", which was not told in either part: that before the name, and that which begins with it.
        returned = mounted.report["returned"]
        assert len(returned) == 2
        assert returned[0] == returned[1]


def test_a_request_that_does_not_end_is_given_up_after_the_grace() -> None:
    with Mounted(os.getuid(), channel="pyfuse3", grace=0.3) as mounted:
        reader = mounted.start("cat", mounted.path("slow"))
        assert mounted.line() == "slow"
        mounted.server.send_signal(signal.SIGTERM)
        mounted.finish()
        assert "cut off" in mounted.errors
        assert "some requests were not done" in mounted.errors
        assert reader.wait(30) != 0
