"""Distributed file system paths (MS-DFSC): a url may name a name space, whose directories lie on other servers.

The url's path is resolved when a layer connects; a link further down is not followed, and opening it is EREMOTE.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from smbprotocol.dfs import DFSReferralRequest, DFSReferralResponse
from smbprotocol.exceptions import SMBResponseException
from smbprotocol.ioctl import CtlCode, IOCTLFlags, SMB2IOCTLRequest, SMB2IOCTLResponse
from smbprotocol.tree import TreeConnect

from netoverlay.backend_api import LayerSetupError, LayerUrl, UnavailableError
from netoverlay_smb import names
from netoverlay_smb.connection_errors import Stage, connection_error, peer_errors
from netoverlay_smb.credentials import Credentials
from netoverlay_smb.handshake import LoggedIn, Target, connect_share, log_in
from netoverlay_smb.options import SmbOptions
from netoverlay_smb.outgoing import Link
from netoverlay_smb.protocol import DEFAULT_PORT

_MAX_HOPS = 8
_REPLY_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Place:
    """Where the layer's root lies."""

    login: LoggedIn
    tree: TreeConnect
    root: str
    """The path on the share, as names.server_path() makes them."""
    is_referred: bool = False
    """It is elsewhere than the url says."""


def find(
    url: LayerUrl, credentials: Credentials, options: SmbOptions, expires_at: float, previous: Link | None = None
) -> Place:
    """Connect to the share that holds the directory of `url`, as often as another one is named for it.

    Where several are named, they are tried in their order, the time that is left being shared out among them.
    LayerSetupError, UnavailableError; of several failures one that may pass by itself. `previous` is as in log_in().
    """
    share, _, path = url.path.strip("/").partition("/")
    port = url.port or DEFAULT_PORT
    candidates = [(Target(url.host or "", port, share), names.server_path("", path))]
    failures: list[LayerSetupError | UnavailableError] = []
    hops = 0
    while candidates:
        now = time.monotonic()
        give_up_at = now + (expires_at - now) / len(candidates)
        target, root = candidates.pop(0)
        try:
            login = log_in(target, credentials, options, give_up_at, previous)
            found = _look_at(login, target, root)
        except (LayerSetupError, UnavailableError) as error:
            failures.append(error)
            continue
        if isinstance(found, Place):
            return replace(found, is_referred=hops > 0)
        hops += 1
        if hops > _MAX_HOPS:
            raise LayerSetupError(f"{url}: its DFS links lead on more than {_MAX_HOPS} times: do they form a circle?")
        home = (url.host or "").casefold()
        named = [(Target(host, port if host.casefold() == home else DEFAULT_PORT, at), to) for host, at, to in found]
        candidates[:0] = named
    raise next((each for each in failures if isinstance(each, UnavailableError)), failures[0])


def _look_at(login: LoggedIn, target: Target, root: str) -> Place | list[tuple[str, str, str]]:
    """The place, if it is this one; otherwise where it may be, and the connection is closed."""
    try:
        tree = connect_share(login, target.share)
        referred = _referrals(login, target, root) if tree.is_dfs_share else []
    except BaseException:
        login.close()
        raise
    if not referred:
        return Place(login, tree, root)
    login.close()
    return referred


def _referrals(login: LoggedIn, target: Target, root: str) -> list[tuple[str, str, str]]:
    r"""Host, share and path of each place where \\HOST\SHARE\ROOT may be; none if it is just that."""
    asked = f"\\{target.host}\\{target.share}" + (f"\\{root}" if root else "")
    try:
        with peer_errors():
            response = _ask(login, asked)
            consumed = response["path_consumed"].get_value() // 2
            addresses = [entry.network_address for entry in response["referral_entries"].get_value()]
    except SMBResponseException:
        return []  # it knows of none, for all that it calls the share one of a name space
    except Exception as error:
        raise connection_error(error, login.server, Stage.SHARE) from error
    referred = []
    for address in addresses:
        resolved = (address or "") + asked[consumed:]
        host, share, path = [*resolved.strip("\\").split("\\", 2), "", ""][:3]
        if not host or not share:
            continue
        if (host.casefold(), share.casefold(), path) == (target.host.casefold(), target.share.casefold(), root):
            return []
        referred.append((host, share, path))
    return referred


def _ask(login: LoggedIn, path: str) -> DFSReferralResponse:
    """FSCTL_DFS_GET_REFERRALS (MS-SMB2 2.2.31)."""
    tree = connect_share(login, "IPC$")
    wanted = DFSReferralRequest()
    wanted["request_file_name"] = path
    control = SMB2IOCTLRequest()
    control["ctl_code"] = CtlCode.FSCTL_DFS_GET_REFERRALS
    control["file_id"] = b"\xff" * 16
    control["max_output_response"] = _REPLY_BYTES
    control["flags"] = IOCTLFlags.SMB2_0_IOCTL_IS_FSCTL
    control["buffer"] = wanted
    connection, session = login.connection, login.session
    reply = connection.receive(connection.send(control, sid=session.session_id, tid=tree.tree_connect_id))
    body = SMB2IOCTLResponse()
    body.unpack(reply["data"].get_value())
    response = DFSReferralResponse()
    response.unpack(body["buffer"].get_value())
    return response
