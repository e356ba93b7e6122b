"""Layers on SMB servers."""

from __future__ import annotations

from netoverlay.backend_api import BackendPlugin, LayerUrl
from netoverlay_smb.backend import SmbBackend
from netoverlay_smb.options import SmbOptions, validate

__all__ = ["PLUGIN", "SmbBackend", "SmbOptions"]


def _create(url: LayerUrl, options: SmbOptions, deadline: float) -> SmbBackend:
    if not url.host:
        raise ValueError("smb:// needs a host: smb://[[DOMAIN;]USER@]HOST[:PORT]/SHARE[/PATH]")
    if not url.path.strip("/"):
        raise ValueError("smb:// needs a share: smb://[[DOMAIN;]USER@]HOST[:PORT]/SHARE[/PATH]")
    validate(options)
    return SmbBackend(url, options, deadline)


PLUGIN = BackendPlugin(options=SmbOptions, create=_create)
