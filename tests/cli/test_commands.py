"""The commands without a mount: what they print, and their exit status."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from netoverlay.cli import main
from netoverlay.config import find

LOWER = '[[lower]]\nurl = "/usr/share"\n'


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "config" / "netoverlay"
    directory.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(find, "SYSTEM_DIRECTORY", tmp_path / "etc")
    return directory


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in arguments], prog_name="netoverlay")


def failure(*arguments: str | Path) -> str:
    """The line on standard error of a command that fails with status 1 and prints nothing else."""
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    return result.stderr.rstrip("\n")


def test_version() -> None:
    assert call("--version").stdout == f"netoverlay {version('netoverlay')}\n"


def test_the_installed_command() -> None:
    command = Path(sys.executable).with_name("netoverlay")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"netoverlay {version('netoverlay')}\n"


def test_help_of_every_command() -> None:
    shown = call("--help").stdout
    for name in main.commands:
        assert re.search(rf"^  {name} ", shown, re.MULTILINE)
        result = call(name, "--help")
        assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("mount",),
        ("mount", "a", "b", "c"),
        ("mount", "--log-level", "loud", "a"),
        ("umount",),
        ("check",),
        ("status", "--xml"),
        ("format",),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: netoverlay")


def test_no_mountpoint_anywhere_is_wrong_usage(profiles: Path) -> None:
    (profiles / "dev.toml").write_text(LOWER)
    result = call("mount", "dev")
    assert result.exit_code == 2
    assert f"{profiles}/dev.toml names no mountpoint; give one after the profile" in result.stderr


def test_a_local_base_needs_no_cache(profiles: Path) -> None:
    (profiles / "dev.toml").write_text(f'{LOWER}[cache]\ndirectory = "{profiles}/cache"\n')
    assert call("prefetch", "dev").stdout == "nothing to prefetch: no lower layer is on a server\n"
    assert call("cache", "drop", "dev").stdout == "0 B freed\n"


def test_profiles_are_listed(profiles: Path) -> None:
    (profiles / "dev.toml").touch()
    (profiles / "a-long-name.toml").touch()
    assert call("profiles").stdout.splitlines() == [
        "profile      file",
        f"a-long-name  {profiles}/a-long-name.toml",
        f"dev          {profiles}/dev.toml",
    ]


@pytest.mark.parametrize("command", ["mount", "check", "settle"])
def test_a_missing_profile(command: str, profiles: Path) -> None:
    expected = f"netoverlay: {profiles}/dev.toml: no such profile, nor {find.SYSTEM_DIRECTORY}/dev.toml; "
    assert failure(command, "dev") == expected + "write one there, or give the path of one"


@pytest.mark.parametrize("command", ["mount", "check", "settle"])
def test_a_wrong_profile(command: str, profiles: Path) -> None:
    (profiles / "dev.toml").write_text(LOWER + "imutable = true\n")
    expected = f"netoverlay: {profiles}/dev.toml: lower[0].imutable: unknown key; did you mean 'immutable'?"
    assert failure(command, "dev") == expected


def test_an_upper_that_is_whole_is_settled(profiles: Path, tmp_path: Path) -> None:
    (profiles / "dev.toml").write_text(f'{LOWER}[cache]\ndirectory = "{tmp_path}/cache"\n')
    assert call("settle", "dev").stdout == "settled: the upper is whole\n"


def test_a_mountpoint_that_is_not_there(profiles: Path, tmp_path: Path) -> None:
    (profiles / "dev.toml").write_text(LOWER)
    expected = f"netoverlay: {tmp_path}/mnt: no such directory; make it with `mkdir -p`"
    assert failure("mount", "dev", tmp_path / "mnt") == expected


def test_a_mountpoint_that_is_a_file(profiles: Path) -> None:
    path = profiles / "dev.toml"
    path.write_text(LOWER)
    assert failure("mount", "dev", path) == f"netoverlay: {path}: not a directory; a mountpoint has to be one"


def test_the_profiles_mountpoint_is_used(profiles: Path, tmp_path: Path) -> None:
    (profiles / "dev.toml").write_text(f'mountpoint = "{tmp_path}/mnt"\n' + LOWER)
    assert failure("mount", "dev").startswith(f"netoverlay: {tmp_path}/mnt: no such directory")


def test_a_log_in_the_mountpoint(profiles: Path, tmp_path: Path) -> None:
    (profiles / "dev.toml").write_text(LOWER)
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to("mnt")
    expected = f"{tmp_path}/link/log: the log file lies in the mountpoint {tmp_path}/mnt; log elsewhere"
    line = failure("mount", "dev", tmp_path / "mnt", "--log-file", tmp_path / "link/log")
    assert line == f"netoverlay: {expected}".replace("/link/", "/mnt/")


def test_a_log_that_cannot_be_written(profiles: Path, tmp_path: Path) -> None:
    (profiles / "dev.toml").write_text(LOWER)
    (tmp_path / "mnt").mkdir()
    line = failure("mount", "dev", tmp_path / "mnt", "--log-file", tmp_path / "none/log")
    assert line == f"netoverlay: {tmp_path}/none/log: No such file or directory"


@pytest.mark.parametrize("command", ["umount", "status"])
def test_what_is_no_mount(command: str, tmp_path: Path) -> None:
    expected = f"netoverlay: {tmp_path}: no netoverlay mount; `netoverlay status` lists them"
    assert failure(command, tmp_path) == expected


def test_names_that_no_terminal_shows(profiles: Path) -> None:
    os.close(os.open(os.fsencode(profiles) + b"/caf\xe9.toml", os.O_CREAT))
    assert "caf\\udce9" in call("profiles").stdout
