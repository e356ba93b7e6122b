"""The stacks that are compared: each shows one base, from a server, with a writable local directory over it.

Those of others are tuned as their manuals say: sshfs with all its caches, rclone with its whole cache of files.
"""

from __future__ import annotations

import abc
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.mounted.mounting import COMMAND, OverlayMount, layer_table, run, sftp_login, smb_login
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

_WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """The servers, by the ports at which they are reached, which may be those of delaying proxies."""

    base: Path
    sshd: SshServer
    smbd: SmbServer
    sftp_port: int
    smb_port: int
    known_hosts: Path


class Stack(abc.ABC):
    """One way to mount the base with a local upper; `directory` is its own."""

    name: str
    needs: tuple[str, ...] = ()
    """Programs without which it is left out."""

    def __init__(self, site: Site, directory: Path) -> None:
        self.site = site
        self.directory = directory
        self.top = directory / "mnt"

    def fresh(self) -> None:
        """Unmounted, with empty caches and an empty upper."""
        self.unmount()
        shutil.rmtree(self.directory, ignore_errors=True)
        for name in ("mnt", "lower", "upper", "work", "cache"):
            (self.directory / name).mkdir(parents=True)

    @abc.abstractmethod
    def mount(self) -> None:
        """Mount it; it is ready when this returns."""

    def unmount(self) -> None:
        """Whatever is mounted of it."""
        for place in (self.top, self.directory / "lower"):
            give_up_at = time.monotonic() + _WAIT_SECONDS
            while os.path.ismount(place) and time.monotonic() < give_up_at:
                if subprocess.run(["umount", place], stderr=subprocess.DEVNULL, check=False).returncode:
                    time.sleep(0.1)

    def server_calls(self) -> int | None:
        """How many calls have reached the server since it was mounted; None if it does not tell."""
        return None

    def _overlayfs(self, lower: Path) -> None:
        layers = f"lowerdir={lower},upperdir={self.directory}/upper,workdir={self.directory}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self.top)


class Local(Stack):
    """The kernel's overlayfs over the base on this machine's disk: what nothing over a network can reach."""

    name = "local disk"

    def mount(self) -> None:
        self._overlayfs(self.site.base)


class SshfsOverlayfs(Stack):
    name = "sshfs + overlayfs"
    needs = ("sshfs",)

    def _sshfs(self) -> None:
        site = self.site
        options = (
            f"ro,allow_other,IdentityFile={site.sshd.identity_file},UserKnownHostsFile={site.known_hosts},"
            "kernel_cache,dcache_timeout=3600,dcache_max_size=100000,entry_timeout=3600,attr_timeout=3600,"
            "negative_timeout=3600,max_conns=4"
        )
        source = f"{site.sshd.user}@127.0.0.1:{site.base}"
        run("sshfs", source, self.directory / "lower", "-p", str(site.sftp_port), "-o", options)

    def mount(self) -> None:
        self._sshfs()
        self._overlayfs(self.directory / "lower")


class SshfsFuseOverlayfs(SshfsOverlayfs):
    name = "sshfs + fuse-overlayfs"
    needs = ("sshfs", "fuse-overlayfs")

    def mount(self) -> None:
        self._sshfs()
        layers = f"lowerdir={self.directory}/lower,upperdir={self.directory}/upper,workdir={self.directory}/work"
        run("fuse-overlayfs", "-o", layers, self.top)


class RcloneSftp(Stack):
    """A union of the remote and a local directory: as a lower of overlayfs a mount of rclone answers EIO."""

    name = "rclone (SFTP)"
    needs = ("rclone",)
    _process: subprocess.Popen[bytes] | None = None

    def _remote(self) -> tuple[str, str]:
        """The section of rclone's configuration, and the path."""
        site = self.site
        keys = f"key_file = {site.sshd.identity_file}\nknown_hosts_file = {site.known_hosts}\nshell_type = none"
        login = f"type = sftp\nhost = 127.0.0.1\nport = {site.sftp_port}\nuser = {site.sshd.user}"
        return f"{login}\n{keys}", str(site.base)

    def mount(self) -> None:
        remote, path = self._remote()
        configuration = self.directory / "rclone.conf"
        configuration.touch(mode=0o600)
        union = f"[union]\ntype = union\nupstreams = {self.directory}/upper base:{path}:ro"
        configuration.write_text(f"[base]\n{remote}\n{union}\n")
        caches = ["--vfs-cache-mode", "full", "--dir-cache-time", "1h", "--attr-timeout", "1h"]
        places = ["--config", str(configuration), "--cache-dir", str(self.directory / "cache")]
        command = ["rclone", "mount", "union:", str(self.top), *places, *caches, "--allow-other"]
        with (self.directory / "rclone.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        give_up_at = time.monotonic() + _WAIT_SECONDS
        while not os.path.ismount(self.top):
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise OSError(f"{self.name} did not mount: {(self.directory / 'rclone.log').read_text()[-300:]}")
            time.sleep(0.01)

    def unmount(self) -> None:
        super().unmount()
        if self._process is not None:
            self._process.wait(_WAIT_SECONDS)
            self._process = None


class RcloneSmb(RcloneSftp):
    name = "rclone (SMB)"

    def _remote(self) -> tuple[str, str]:
        site = self.site
        password = site.smbd.password_file.read_text().strip()
        # On its standard input, for others can read its arguments.
        command = ["rclone", "obscure", "-"]
        obscured = subprocess.run(command, input=password, capture_output=True, text=True, check=True)
        login = f"type = smb\nhost = 127.0.0.1\nport = {site.smb_port}\nuser = {site.smbd.user}"
        return f"{login}\npass = {obscured.stdout.strip()}", "base"


class NetoverlaySftp(Stack):
    name = "netoverlay (SFTP)"
    upper_keys: tuple[str, ...] = ()

    def _lower(self) -> str:
        site = self.site
        keys = [*sftp_login(site.sshd)[:1], f'known_hosts = "{site.known_hosts}"']
        return layer_table(site.sshd.url(site.base, port=site.sftp_port), keys)

    def mount(self) -> None:
        keys = [f'url = "{self.directory}/upper"', *self.upper_keys]
        OverlayMount(self.directory, self._lower(), upper_keys=keys).mount()

    def unmount(self) -> None:
        if os.path.ismount(self.top):
            run(*COMMAND, "umount", self.top)

    def server_calls(self) -> int | None:
        (mount,) = json.loads(run(*COMMAND, "status", "--json", self.top))["mounts"]
        layers = mount["status"]["layers"]
        return sum(int(layer["counters"]["calls"]) for layer in layers if layer["role"] == "lower")


class NetoverlaySmb(NetoverlaySftp):
    name = "netoverlay (SMB)"

    def _lower(self) -> str:
        site = self.site
        return layer_table(site.smbd.url_of(site.base, port=site.smb_port), smb_login(site.smbd))


class PrivateSftp(NetoverlaySftp):
    """With an upper that only the mount uses."""

    name = "netoverlay (SFTP), private"
    upper_keys = ("private = true",)


STACKS: tuple[type[Stack], ...] = (
    Local,
    SshfsOverlayfs,
    SshfsFuseOverlayfs,
    RcloneSftp,
    RcloneSmb,
    NetoverlaySftp,
    NetoverlaySmb,
    PrivateSftp,
)
OURS = (NetoverlaySftp, NetoverlaySmb, PrivateSftp)
