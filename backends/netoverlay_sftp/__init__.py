"""Layers on SFTP servers."""

from __future__ import annotations

from netoverlay.backend_api import BackendPlugin, LayerUrl
from netoverlay_sftp.backend import SftpBackend
from netoverlay_sftp.options import SftpOptions

__all__ = ["PLUGIN", "SftpBackend", "SftpOptions"]


def _create(url: LayerUrl, options: SftpOptions, deadline: float) -> SftpBackend:
    if not url.host:
        raise ValueError("sftp:// needs a host: sftp://[USER@]HOST[:PORT]/PATH")
    if url.host.startswith("-"):
        raise ValueError(f"{url.host!r} is no host name")
    return SftpBackend(url, options, deadline)


PLUGIN = BackendPlugin(options=SftpOptions, create=_create)
