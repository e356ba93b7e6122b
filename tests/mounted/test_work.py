"""The work that a mount is for: git, a C build, copies by cp, rsync and tar. The base is never changed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mounted.channels import over_both
from tests.mounted.mounting import OverlayMount, layer_table, run, sftp_login, smb_login
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

GIT = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(directory: Path, *arguments: str) -> str:
    return run("git", "-c", "safe.directory=*", *arguments, cwd=directory, **GIT)


def fingerprint(top: Path) -> dict[str, tuple[object, ...]]:
    """Names, types, modes, owners, times and content of everything below."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(top):
        for path in (Path(directory), *(Path(directory) / name for name in [*names, *files])):
            stat = path.lstat()
            content = ""
            if path.is_symlink():
                content = str(path.readlink())
            elif path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(top))] = (oct(stat.st_mode), stat.st_uid, stat.st_gid, stat.st_mtime_ns, content)
    return found


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of 600 files."""
    top = tmp_path_factory.mktemp("git") / "base"
    rng = random.Random(7)
    for number in range(600):
        path = top / f"package{number % 20}" / f"module{number % 100}" / f"file{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"line {line} {rng.random()}\n" for line in range(rng.randint(1, 40))))
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "the base"]):
        git(top, *arguments)
    return top


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A C project with a makefile and 24 sources."""
    top = tmp_path_factory.mktemp("c") / "base"
    (top / "src").mkdir(parents=True)
    (top / "include").mkdir()
    units = range(24)
    (top / "include" / "units.h").write_text("".join(f"int unit{n}(int);\n" for n in units))
    for n in units:
        (top / "src" / f"unit{n}.c").write_text(f'#include "units.h"\nint unit{n}(int x) {{ return x + {n}; }}\n')
    calls = " + ".join(f"unit{n}(1)" for n in units)
    (top / "src" / "main.c").write_text(
        f'#include <stdio.h>\n#include "units.h"\nint main(void) {{ printf("%d\\n", {calls}); return 0; }}\n'
    )
    (top / "Makefile").write_text(
        "SOURCES := $(wildcard src/*.c)\nOBJECTS := $(SOURCES:src/%.c=build/%.o)\n"
        "build/program: $(OBJECTS)\n\t$(CC) -o $@ $^\n"
        "build/%.o: src/%.c include/units.h | build\n\t$(CC) -Iinclude -c -o $@ $<\n"
        "build:\n\tmkdir build\n"
    )
    return top


@pytest.fixture
def assorted(tmp_path: Path, transport: str) -> Path:
    """A tree of many kinds of names and files; of Samba's, what it shows as it is."""
    top = tmp_path / "base"
    rng = random.Random(11)
    for number in range(120):
        path = top / f"d{number % 13}" / f"e{number % 7}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 100, 5000, 70_000])))
        path.chmod(rng.choice([0o644, 0o600, 0o755, 0o444]))
    (top / "big").write_bytes(rng.randbytes(9 << 20))
    (top / ("x" * 255)).write_bytes(b"long")
    (top / "\u00fcn\u00efcode \U0001f40c").write_bytes(b"UTF-8")
    if transport != "smb":
        (top / "link").symlink_to("d1")
        (top / "dangling").symlink_to("/nowhere/at/all")
        (Path(os.fsdecode(os.fsencode(top) + b"/not utf-8 \xff\xfe"))).write_bytes(b"bytes")
        (top / "new\nline").write_bytes(b"")
        os.mkfifo(top / "fifo")
    (top / "empty").mkdir(mode=0o750)
    for path in [*top.rglob("*"), top]:
        os.utime(path, (1_600_000_000, 1_600_000_123), follow_symlinks=False)
    return top


def test_git_works_in_it(tmp_path: Path, repository: Path, lower) -> None:
    before = fingerprint(repository)
    with OverlayMount(tmp_path, lower(repository)) as mount:
        top = mount.path
        assert git(top, "status", "--short") == ""
        assert "the base" in git(top, "log", "--oneline")
        git(top, "checkout", "-q", "-b", "work")
        with (top / "package3" / "module3" / "file3.py").open("a") as file:
            file.write("edited\n")
        (top / "package4" / "module4" / "file4.py").unlink()
        (top / "package5" / "new.py").write_text("new\n")
        git(top, "mv", "package6/module6", "package6/moved")
        assert len(git(top, "status", "--short").splitlines()) > 3
        git(top, "add", "-A")
        git(top, "commit", "-qm", "the work")
        git(top, "gc", "-q")
        git(top, "fsck", "--strict")
        head = git(top, "rev-parse", "HEAD")
        mount.remount()
        assert git(top, "rev-parse", "HEAD") == head
        assert git(top, "status", "--short") == ""
        assert "the work" in git(top, "log", "--oneline", "work")
        git(top, "checkout", "-q", "main")
        assert (top / "package4" / "module4" / "file4.py").exists()
        git(top, "fsck", "--strict")
    assert fingerprint(repository) == before


@over_both
def test_a_c_project_is_built_in_it(tmp_path: Path, project: Path, lower) -> None:
    before = fingerprint(project)
    with OverlayMount(tmp_path, lower(project)) as mount:
        run("make", "-j4", cwd=mount.path)
        assert run(mount.path / "build" / "program") == f"{sum(range(24)) + 24}\n"
        assert "up to date" in run("make", "-j4", cwd=mount.path)
        with (mount.path / "src" / "unit0.c").open("a") as file:
            file.write("/* changed */\n")
        assert "unit0.c" in run("make", "-j4", cwd=mount.path)
    assert fingerprint(project) == before


TOOLS = {"local": ("cp", "rsync", "tar"), "sftp": ("rsync",), "smb": ("tar",)}


def copy_by(tool: str, source: Path, target: Path) -> None:
    if tool == "tar":
        target.mkdir()
        packed = subprocess.run(["tar", "-C", source, "-cf", "-", "."], check=True, capture_output=True)
        subprocess.run(["tar", "-C", target, "-xpf", "-"], input=packed.stdout, check=True)
    elif tool == "rsync":
        run("rsync", "-a", "--checksum", f"{source}/", target)
    else:
        run("cp", "-a", source, target)


def test_copies_through_it_equal_copies_of_the_base(tmp_path: Path, assorted: Path, lower, transport: str) -> None:
    with OverlayMount(tmp_path / "m", lower(assorted)) as mount:
        for tool in TOOLS[transport]:
            direct, through = tmp_path / f"direct-{tool}", tmp_path / f"through-{tool}"
            copy_by(tool, assorted, direct)
            copy_by(tool, mount.path, through)
            assert fingerprint(through) == fingerprint(direct)
        assert run("rsync", "-ain", "--checksum", f"{mount.path}/", direct) == ""
        # And into it, and back.
        run("cp", "-a", direct, mount.path / "copy")
        mount.remount()
        assert fingerprint(mount.path / "copy") == fingerprint(direct)


def test_smb_and_sftp_lowers_under_one_upper(tmp_path: Path, project: Path, sshd: SshServer, smbd: SmbServer) -> None:
    """A C project of which one server has the sources and the other the rest, with files of its own in between."""
    sources, rest = tmp_path / "sources", tmp_path / "rest"
    shutil.copytree(project / "src", sources / "src")
    shutil.copytree(project, rest, ignore=shutil.ignore_patterns("unit*.c"))
    (sources / "src" / "shadowed.txt").write_text("above\n")
    (rest / "src" / "shadowed.txt").write_text("below\n")
    (rest / "src" / "main.c").write_text("#error this one is covered\n")
    before = fingerprint(sources), fingerprint(rest)
    lowers = layer_table(smbd.url_of(sources), smb_login(smbd)) + layer_table(sshd.url(rest), sftp_login(sshd))
    with OverlayMount(tmp_path / "m", lowers) as mount:
        top = mount.path
        assert sorted(os.listdir(top / "src")) == sorted(os.listdir(sources / "src"))
        assert (top / "src" / "shadowed.txt").read_text() == "above\n"
        run("make", "-j4", cwd=top)
        assert run(top / "build" / "program") == f"{sum(range(24)) + 24}\n"
        (top / "src" / "shadowed.txt").unlink()
        (top / "src" / "unit0.c").write_text("int unit0(int x) { return x + 1000; }\n")
        (top / "include" / "units.h").rename(top / "include" / "moved.h")
        (top / "include" / "units.h").symlink_to("moved.h")
        run("make", "-j4", cwd=top)
        mount.remount()
        assert run(top / "build" / "program") == f"{sum(range(24)) + 24 + 1000}\n"
        assert "shadowed.txt" not in os.listdir(top / "src")
    assert (fingerprint(sources), fingerprint(rest)) == before
