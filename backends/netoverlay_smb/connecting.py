"""From a url to a session: imported when the first connection is made, for what logs in takes long to import."""

from __future__ import annotations

import logging
import time

from netoverlay.backend_api import LayerUrl
from netoverlay_smb import dfs
from netoverlay_smb.credentials import resolve
from netoverlay_smb.handshake import take_over
from netoverlay_smb.options import SmbOptions
from netoverlay_smb.outgoing import Link
from netoverlay_smb.session import Session

_log = logging.getLogger(__name__)


def connect(url: LayerUrl, options: SmbOptions, deadline: float, previous: Link | None = None) -> Session:
    """Log in at the server that holds the directory of `url`. LayerSetupError, UnavailableError.

    `previous` is what a connection that was lost had.
    """
    started_at = time.monotonic()
    credentials = resolve(url, options, deadline)
    place = dfs.find(url, credentials, options, started_at + deadline, previous)
    try:
        link = take_over(place.login, place.tree, deadline)
        session = Session(link, place.root, deadline, is_referred=place.is_referred)
    except BaseException:
        place.login.close()
        raise
    protection = link.sealer or link.signer
    _log.info(
        "%s: connected in %.2f s, SMB %x, %s",
        link.server,
        time.monotonic() - started_at,
        link.dialect,
        protection.name if protection else "neither signed nor encrypted",
    )
    return session
