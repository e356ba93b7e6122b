"""A Debian root file system as the base: apt and dpkg work in a chroot on the mount as they do in one on a disk."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import TypeVar

import pytest

from tests.mounted.mounting import OverlayMount, layer_table, run

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may chroot; the run as root, which CI is, has it"),
    pytest.mark.timeout(400),  # packages come over the network
]

Fact = TypeVar("Fact")
Tree = dict[str, tuple[object, ...]]

HOST_SETTINGS = re.compile(r"^Acquire::(?:Check-|http|https|Retries|ForceIPv).*", re.MULTILINE)
"""What this machine may need to reach its mirror: proxies, certificates, no trust in the clock."""
HOST_FILES = (Path("/etc/resolv.conf"), Path("/etc/ssl/certs/ca-certificates.crt"))

# The mounts, and whatever a maintainer script starts, are gone with the shell, however it ends.
ENTER = ("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "/bin/sh", "-euc")
CHROOT = (
    'mount -t proc proc "$0/proc"; mount -t devpts -o newinstance devpts "$0/dev/pts"; exec chroot "$0" sh -euc "$1"'
)
# Said, because the directory for temporary files may be where set-uid programs and devices do not work.
AS_ON_A_DISK = "[mount]\nallow_other = true\nsuid = true\ndev = true\n"
ON_DISK = 'mount --bind "$0" "$0"; mount -o remount,bind,suid,dev "$0"; '

PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AS_TESTER = "setpriv --reuid=tester --regid=tester --clear-groups"

INSTALLING = {
    "use devices": """
        echo gone > /dev/null
        head --bytes=9 /dev/zero | wc --bytes
        mknod /root/full c 1 7
        cp /dev/null /root/empty
        echo x | dd of=/root/full status=none || true""",
    "update": "apt-get -qq update",
    # set-id bits, owners and configuration files; capabilities; alternatives; hard links
    "install": "apt-get -qq --no-install-recommends install at iputils-ping less bzip2",
    "audit": "dpkg --audit; apt-get -qq check",
    "run what was installed": """
        ping -V
        at -V
        less --version | head -n 1
        echo text | bzip2 | bzcat
        update-alternatives --query pager""",
    "add a user": "useradd --create-home tester; id tester; su - tester -c 'echo text > file; cat file; pwd'",
    "gain rights by set-uid": f"{AS_TESTER} cat /etc/shadow || true; {AS_TESTER} passwd --status | cut -d ' ' -f 1,2",
    "gain rights by capabilities": f"""
        getcap /usr/bin/ping
        for name in reader written; do
            cp /bin/cat /usr/local/bin/$name
            setcap cap_dac_read_search=ep /usr/local/bin/$name
        done
        {AS_TESTER} reader /etc/shadow | wc --lines
        echo >> /usr/local/bin/written
        getcap /usr/local/bin/*""",
    "divert": """
        dpkg-divert --add --rename /usr/bin/yes
        dpkg-statoverride --add --update root tester 4710 /usr/bin/who""",
    # What the base has is linked away, put there anew, and removed: set-uid programs, hard links, libraries in use.
    "install again": "apt-get -qq --reinstall install coreutils libc6",
    "install more again": "apt-get -qq --reinstall install passwd gzip",
    "verify again": """
        dpkg --verify
        ls /usr/bin/yes*
        stat --format='%A %G' /usr/bin/who
        stat --format=%h /usr/bin/gunzip /usr/bin/uncompress""",
    "make the linker's cache": "ldconfig; ldconfig --print-cache; ldd /usr/bin/apt | cut -d '(' -f 1",
}
REMOVING = {
    "list special modes": r"""
        getcap /usr/bin/ping /usr/local/bin/*
        find / -xdev -perm /7000 -printf '%p %M %u:%g\n' | sort""",
    "end the diversion": """
        dpkg-divert --remove --rename /usr/bin/yes
        dpkg-statoverride --remove /usr/bin/who
        ls /usr/bin/yes*""",
    "remove": "apt-get -qq remove less; apt-get -qq purge at; userdel --remove tester",
    "remove what nobody needs": "apt-get -qq autoremove; apt-get clean",
    "verify what is left": "dpkg --verify; dpkg --audit; apt-get -qq check; dpkg --list; ls -A /home /var/spool /etc",
}

OF_THE_MOMENT = re.compile("var/log/|var/cache/apt/|var/cache/ldconfig/")
"""Logs, and caches that hold times and inode numbers."""


def mirror(suite: str) -> str:
    """Where this machine gets the packages of `suite` from."""
    wanted = ("Created-By: Packages", f"Release: {suite}", "Component: main")
    found = run("apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted).split()
    assert found, f"apt has no source for {suite}"
    return found[0]


def apt_settings() -> list[str]:
    """What apt in the root file system is told."""
    own = ['Acquire::Languages "none";', 'Dpkg::Use-Pty "0";']
    return [*HOST_SETTINGS.findall(run("apt-config", "dump")), *own]


def bootstrap(archive: Path, options: list[str], suite: str, source: str) -> None:
    """Make it with mmdebstrap, which may take as long as the network needs."""
    made = archive.with_name("being-made.tar")
    command = ["mmdebstrap", "--mode=root", "--variant=apt", *options, suite, str(made), source]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    made.rename(archive)


@pytest.fixture(scope="module")
def archive(pytestconfig: pytest.Config) -> Path:
    """The smallest root file system with apt, of this machine's suite. It takes 11 s, so it is kept between runs."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    options = [f"--aptopt={line}" for line in apt_settings()]
    # Without it, the package that converts to a merged /usr is installed, and all of Perl with it.
    options += ["--include=usr-is-merged", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"]
    source = mirror(suite)
    assert pytestconfig.cache is not None
    directory = pytestconfig.cache.mkdir("root-file-system")
    kept = directory / f"{hashlib.sha256(repr([*options, suite, source]).encode()).hexdigest()}.tar"
    if not kept.exists():
        for old in directory.iterdir():
            old.unlink()
        bootstrap(kept, options, suite, source)
    return kept


def unpack(archive: Path, top: Path) -> Path:
    """The root file system as a directory, with what programs in it need to reach the mirror."""
    top.mkdir()
    run("tar", "-C", top, "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", archive)
    for path in filter(Path.exists, HOST_FILES):
        inside = top / path.relative_to("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.unlink(missing_ok=True)
        shutil.copyfile(path, inside)
    return top


def carry_out(steps: dict[str, str], top: Path, prepare: str = "") -> dict[str, str]:
    """What each step prints in a chroot on `top`."""
    printed = {}
    for name, script in steps.items():
        command = (*ENTER, prepare + CHROOT, top, script)
        printed[name] = run(*command, DEBIAN_FRONTEND="noninteractive", LC_ALL="C.UTF-8", PATH=PATH)
    return printed


def content(path: Path, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""


def facts(path: Path) -> tuple[object, ...]:
    """What makes the file at `path` what it is, but for its place, its times and its number."""
    status = path.lstat()
    names = sorted(os.listxattr(path, follow_symlinks=False))
    xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    links = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
    identity = (stat.filemode(status.st_mode), status.st_uid, status.st_gid, status.st_rdev, links)
    return (*identity, xattrs, content(path, status.st_mode))


def tree(top: Path) -> Tree:
    """The facts of all that is below `top` and lasts."""
    found: Tree = {}
    for directory, directories, files in os.walk(top):
        for path in (Path(directory, name) for name in [*directories, *files]):
            name = str(path.relative_to(top))
            if not OF_THE_MOMENT.match(name):
                found[name] = facts(path)
    return found


def untouched(top: Path) -> Tree:
    """The facts of all that is below `top`, with the times that any change would change."""
    times = {path: path.lstat() for path in [top, *top.rglob("*")]}
    return {str(path): (*facts(path), at.st_ino, at.st_mtime_ns, at.st_ctime_ns) for path, at in times.items()}


def differences(given: dict[str, Fact], expected: dict[str, Fact]) -> dict[str, tuple[Fact | None, Fact | None]]:
    """What is not the same in both, as (given, expected)."""
    pairs = {name: (given.get(name), expected.get(name)) for name in sorted(given.keys() | expected.keys())}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def by_the_kernel(mount: OverlayMount, base: Path) -> str:
    """Mounts overlayfs, of the same layers, as the root."""
    work = mount.directory / "kernel.work"
    work.mkdir()
    options = f"lowerdir={base},upperdir={mount.upper},workdir={work},redirect_dir=on"
    return f'mount -t overlay -o "{options}" overlay "$0"; '


def test_packages_are_installed_and_removed(tmp_path: Path, archive: Path) -> None:
    base, native = unpack(archive, tmp_path / "base"), unpack(archive, tmp_path / "native")
    before = untouched(base)
    with OverlayMount(tmp_path / "m", layer_table(str(base)), tables=AS_ON_A_DISK) as mount:
        given = carry_out(INSTALLING, mount.path)
        assert not differences(given, carry_out(INSTALLING, native, ON_DISK))
        assert given["audit"] == ""
        assert "tester L" in given["gain rights by set-uid"]
        assert "reader cap_dac_read_search=ep" in given["gain rights by capabilities"]
        mount.remount()
        given = carry_out(REMOVING, mount.path)
        assert not differences(given, carry_out(REMOVING, native, ON_DISK))
        assert "/usr/bin/at -rwsr-sr-x daemon:daemon" in given["list special modes"]
        mount.remount()
        assert not differences(tree(mount.path), tree(native))
    left = {"verify what is left": REMOVING["verify what is left"]}
    assert not differences(
        carry_out(left, mount.path, by_the_kernel(mount, base)), {name: given[name] for name in left}
    )
    assert not differences(untouched(base), before)
