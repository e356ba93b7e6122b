"""A profile whose kernel channel is pyfuse3: what it must say, what must be installed, and what it is told it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from netoverlay.channels import Lack, lacks
from netoverlay.config.errors import ConfigError
from netoverlay.config.load import load_profile

WriteProfile = Callable[..., Path]

MANUAL = Path(__file__).parents[2] / "docs" / "channels.md"
PROFILE = """
read_only = true
[[lower]]
url = "{base}"
[mount]
channel = "pyfuse3"
[locks]
mode = "{mode}"
"""


@pytest.mark.parametrize("mode", ["delegate", "none"])
def test_locks_that_it_does_not_pass_on_are_refused(write_profile: WriteProfile, mode: str) -> None:
    write_profile(PROFILE.format(base="/usr/share", mode=mode))
    with pytest.raises(ConfigError, match=rf'locks\.mode: "{mode}" cannot be kept with mount.channel = "pyfuse3"'):
        load_profile("dev")


def test_another_channel_is_refused(write_profile: WriteProfile) -> None:
    write_profile('[[lower]]\nurl = "/usr/share"\n[mount]\nchannel = "libfuse"\n')
    with pytest.raises(ConfigError, match=r"mount\.channel: write one of: 'own', 'pyfuse3'"):
        load_profile("dev")


@pytest.mark.parametrize("missing", ["pyfuse3", "libfuse3.so.3"])
def test_what_is_not_installed_is_said_with_the_remedy(
    write_profile: WriteProfile, tmp_path: Path, missing: str
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "mnt").mkdir()
    write_profile(PROFILE.format(base=tmp_path / "base", mode="local"))
    environment = dict(os.environ)
    hide = ""
    if missing == "pyfuse3":
        hide = "sys.modules['pyfuse3'] = None; "  # the import system's way to say that there is none
    else:
        (tmp_path / missing).touch()  # found first, and no library
        environment["LD_LIBRARY_PATH"] = str(tmp_path)
    program = f"import sys; {hide}from netoverlay.cli import main; main()"
    for command in (["check", "dev"], ["mount", "dev", str(tmp_path / "mnt")]):
        done = subprocess.run(
            [sys.executable, "-c", program, *command], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "mount.channel: pyfuse3 cannot be used: " in done.stderr
        assert missing in done.stderr
        assert "pip install 'netoverlay[pyfuse3]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_check_and_the_manual_tell_what_it_lacks(write_profile: WriteProfile, tmp_path: Path) -> None:
    write_profile(PROFILE.format(base=tmp_path, mode="local"))
    done = subprocess.run(
        [sys.executable, "-m", "netoverlay", "check", "dev"], capture_output=True, text=True, check=True
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("channel pyfuse3: ")]
    assert told == [f"channel pyfuse3: {lack.value}" for lack in Lack]
    rows = [
        line.split(" | ")[0].removeprefix("| ") for line in MANUAL.read_text().splitlines() if line.startswith("| ")
    ]
    assert rows[1:] == [lack.value for lack in Lack]
    assert lacks("own") == ()
