"""Mounting to unmounting: what is refused, what stays, and a clean end by every way there is."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.mounted.channels import over_both
from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, wait_for_end


@pytest.fixture
def base(tmp_path: Path) -> Path:
    top = tmp_path / "base"
    (top / "dir").mkdir(parents=True)
    (top / "file").write_text("content\n")
    (top / "dir" / "deep").write_text("deep\n")
    return top


@over_both
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_ends_it_with_all_that_was_written(tmp_path: Path, lower, base: Path, number: int) -> None:
    mount = OverlayMount(tmp_path / "m", lower(base))
    mount.mount()
    (mount.path / "file").write_text("changed\n")
    pid = mount.daemon()
    os.kill(pid, number)
    wait_for_end(pid)
    assert not os.path.ismount(mount.path)
    assert (mount.upper / "file").read_text() == "changed\n"
    with mount:
        assert (mount.path / "file").read_text() == "changed\n"


@over_both
def test_a_signal_while_files_are_open_lets_their_users_finish(tmp_path: Path, lower, base: Path) -> None:
    mount = OverlayMount(tmp_path / "m", lower(base))
    mount.mount()
    pid = mount.daemon()
    with (mount.path / "file").open("a") as file:
        file.write("before\n")
        file.flush()
        os.kill(pid, signal.SIGTERM)
        while os.path.ismount(mount.path):
            threading.Event().wait(0.02)
        file.write("after\n")
    wait_for_end(pid)
    assert (mount.upper / "file").read_text() == "content\nbefore\nafter\n"


@over_both
def test_umount_of_a_busy_mount_is_refused(tmp_path: Path, lower, base: Path) -> None:
    with OverlayMount(tmp_path / "m", lower(base)) as mount:
        with (mount.path / "file").open():
            refused = subprocess.run([*COMMAND, "umount", mount.path], capture_output=True, text=True, check=False)
            assert refused.returncode == 1
            assert "busy" in refused.stderr
        assert (mount.path / "file").read_text() == "content\n"


def test_a_second_mount_of_an_upper_is_told_who_holds_it(tmp_path: Path, lower, base: Path) -> None:
    with OverlayMount(tmp_path / "m", lower(base)) as mount:
        second = OverlayMount(tmp_path / "n", lower(base), upper=mount.upper)
        refused = subprocess.run(
            [*COMMAND, "mount", second.profile, second.path], capture_output=True, text=True, check=False
        )
        assert refused.returncode == 1
        assert f"upper.url: another mount owns it: {mount.path}, process {mount.daemon()}" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        assert not os.path.ismount(second.path)


@over_both
def test_changes_stay_over_a_remount(tmp_path: Path, lower, base: Path) -> None:
    with OverlayMount(tmp_path / "m", lower(base)) as mount:
        top = mount.path
        (top / "dir").rename(top / "moved")
        (top / "dir").mkdir()
        (top / "file").unlink()
        numbers = {name: (top / name).stat().st_ino for name in ("moved", "moved/deep", "dir")}
        (top / "moved" / "deep").write_text("more\n")
        mount.remount()
        assert sorted(os.listdir(top)) == ["dir", "moved"]
        assert os.listdir(top / "dir") == []
        assert (top / "moved" / "deep").read_text() == "more\n"
        assert {name: (top / name).stat().st_ino for name in numbers} == numbers


@over_both
def test_without_an_upper_every_change_is_refused(tmp_path: Path, lower, base: Path) -> None:
    mount = OverlayMount(tmp_path / "m", lower(base))
    mount.write_profile(f"read_only = true\n{lower(base)}")
    with mount:
        assert (mount.path / "dir" / "deep").read_text() == "deep\n"
        for command in ("touch file", "touch new", "rm file", "mkdir d", "mv file g", "chmod 600 file", "ln file h"):
            assert "Read-only file system" in run("sh", "-c", command, cwd=mount.path, check=False), command


def test_what_the_upper_holds_is_what_overlayfs_reads(tmp_path: Path, lower, base: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts overlayfs; the run as root, which CI is, has it")
    with OverlayMount(tmp_path / "m", lower(base)) as mount:
        top = mount.path
        (top / "dir" / "deep").unlink()
        (top / "file").write_text("new\n")
        (top / "opaque").mkdir()
        (top / "opaque").rmdir()
        (top / "dir").rename(top / "other")
        (top / "dir").mkdir()
        (top / "dir" / "x").write_text("x\n")
        ours = run("sh", "-c", "find . -mindepth 1 -printf '%p %y %m %s %T@\\n' | sort", cwd=top)
    theirs_at, work = tmp_path / "theirs", tmp_path / "work"
    theirs_at.mkdir()
    work.mkdir()
    options = f"lowerdir={base},upperdir={mount.upper},workdir={work},redirect_dir=on"
    run("mount", "-t", "overlay", "overlay", "-o", options, theirs_at)
    try:
        theirs = run("sh", "-c", "find . -mindepth 1 -printf '%p %y %m %s %T@\\n' | sort", cwd=theirs_at)
        (theirs_at / "dir" / "theirs").write_text("theirs\n")
        (theirs_at / "file").unlink()
    finally:
        run("umount", theirs_at)
    assert [line.split()[:4] for line in theirs.splitlines()] == [line.split()[:4] for line in ours.splitlines()]
    with mount:
        assert (top / "dir" / "theirs").read_text() == "theirs\n"
        assert not (top / "file").exists()


def test_layers_of_both_kinds_are_one_tree(tmp_path: Path, base: Path, sshd) -> None:
    other = tmp_path / "other"
    (other / "dir").mkdir(parents=True)
    (other / "dir" / "second").write_text("second\n")
    (other / "file").write_text("hidden\n")
    keys = [f'identity_file = "{sshd.identity_file}"', f'known_hosts = "{sshd.known_hosts}"']
    layers = layer_table(sshd.url(base), keys) + layer_table(str(other))
    with OverlayMount(tmp_path / "m", layers) as mount:
        assert sorted(os.listdir(mount.path / "dir")) == ["deep", "second"]
        assert (mount.path / "file").read_text() == "content\n"
        (mount.path / "file").unlink()
        assert not (mount.path / "file").exists()
        status = run(*COMMAND, "status", mount.path)
        assert str(other) in status
        assert sshd.url(base) in status


def test_more_files_are_open_than_the_shell_allows(tmp_path: Path, lower, base: Path) -> None:
    for number in range(400):
        (base / f"n{number}").write_text(str(number))
    with OverlayMount(tmp_path / "m", lower(base), prefix=["prlimit", "--nofile=256:4096"]) as mount:
        files = []
        try:
            for number in range(400):
                file = (mount.path / f"n{number}").open("r+")
                files.append(file)
                file.write("x")
                file.flush()
            for file in files:
                file.seek(0)
                assert file.read(1) == "x"
        finally:
            for file in files:
                file.close()
