"""Where bases and uppers lie: directories of this machine, reached as such or through a server on loopback."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mounted.mounting import layer_table, sftp_login, smb_login, through_proxy
from tests.servers.proxy import Proxy
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

KINDS = ("local", "sftp", "smb")
REMOTE_KINDS = ("sftp", "smb")


class Site(ABC):
    """One transport."""

    kind: str

    @abstractmethod
    def keys(self, path: Path) -> list[str]:
        """The keys of a profile's table that lead to the directory."""

    def lower(self, path: Path) -> str:
        """A profile's table `[[lower]]`."""
        url, *login = self.keys(path)
        return layer_table(url.split('"')[1], login)


class LocalSite(Site):
    """No server."""

    kind = "local"

    def keys(self, path: Path) -> list[str]:
        return [f'url = "{path}"']


class SftpSite(Site):
    """An sshd."""

    kind = "sftp"

    def __init__(self, server: SshServer) -> None:
        self.server = server

    def keys(self, path: Path) -> list[str]:
        return [f'url = "{self.server.url(path)}"', *sftp_login(self.server)]


class SmbSite(Site):
    """An smbd."""

    kind = "smb"

    def __init__(self, server: SmbServer) -> None:
        self.server = server

    def keys(self, path: Path) -> list[str]:
        return [f'url = "{self.server.url_of(path)}"', *smb_login(self.server)]


class ProxiedSite(Site):
    """A server that is reached through a proxy, which can fail."""

    def __init__(self, server: SshServer | SmbServer, proxy: Proxy, place: Path, deadline: float) -> None:
        """`place`: a directory for what is known of the proxy. `deadline`: of the layers, in seconds."""
        self.kind = "smb" if isinstance(server, SmbServer) else "sftp"
        self.server = server
        self.proxy = proxy
        self._known_hosts = place / "known_hosts"
        self._deadline = deadline

    def keys(self, path: Path) -> list[str]:
        url, login = through_proxy(self.server, self.proxy.port, path, self._known_hosts)
        return [f'url = "{url}"', *login, f"deadline = {self._deadline}"]


@contextmanager
def started_behind_proxy(kind: str, place: Path, deadline: float) -> Iterator[ProxiedSite]:
    """As started(), of a kind that has a server."""
    with started(kind, place) as site:
        if not isinstance(site, SftpSite | SmbSite):
            raise ValueError(f"{kind} has no server")
        with Proxy(site.server.port) as proxy:
            yield ProxiedSite(site.server, proxy, place, deadline)


@contextmanager
def started(kind: str, place: Path) -> Iterator[Site]:
    """The site of this kind, with a server of its own for what is below `place`/served."""
    served = place / "served"
    served.mkdir(parents=True)
    if kind == "sftp":
        with SshServer(place / "sshd") as sshd:
            yield SftpSite(sshd)
    elif kind == "smb":
        with SmbServer(place / "smbd", {"served": served}) as smbd:
            yield SmbSite(smbd)
    else:
        yield LocalSite()
