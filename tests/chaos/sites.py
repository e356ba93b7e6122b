"""Where bases and uppers lie: directories of this machine, reached as such or through a server on loopback."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mounted.mounting import layer_table, sftp_login, smb_login
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

KINDS = ("local", "sftp", "smb")


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
        self._server = server

    def keys(self, path: Path) -> list[str]:
        return [f'url = "{self._server.url(path)}"', *sftp_login(self._server)]


class SmbSite(Site):
    """An smbd."""

    kind = "smb"

    def __init__(self, server: SmbServer) -> None:
        self._server = server

    def keys(self, path: Path) -> list[str]:
        return [f'url = "{self._server.url_of(path)}"', *smb_login(self._server)]


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
