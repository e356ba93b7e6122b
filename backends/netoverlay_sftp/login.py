"""Log in with paramiko, the way that the user's ssh does: jump hosts, host keys, agent, keys and certificates."""

from __future__ import annotations

import socket
import time

import paramiko

from netoverlay.backend_api import LayerSetupError, LayerUrl, UnavailableError
from netoverlay_sftp import host_keys
from netoverlay_sftp.connection_errors import connection_error, peer_errors
from netoverlay_sftp.keys import KeyRing, SocketAgent
from netoverlay_sftp.options import SftpOptions
from netoverlay_sftp.paramiko_stream import LOG_CHANNEL, ParamikoConnection, open_transport
from netoverlay_sftp.ssh_config import HostSettings, host_settings
from netoverlay_sftp.streams import Liveness
from netoverlay_sftp.watched_socket import Duplex, WatchedSocket

_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
"""GCM first: one pass for secrecy and integrity, twice as fast as CTR with an HMAC."""
_MAX_JUMPS = 8
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}


class Login:
    """Makes connections to one server; keeps what the user was asked for."""

    def __init__(self, url: LayerUrl, options: SftpOptions, deadline: float) -> None:
        self._url = url
        self._options = options
        self._deadline = deadline
        self._keys = KeyRing(deadline)

    @property
    def asked_user(self) -> bool:
        """Whether somebody had to be asked for a passphrase."""
        return self._keys.asked_user

    def connect(self) -> ParamikoConnection:
        """Log in. LayerSetupError or UnavailableError, naming the host that it failed at."""
        expires_at = time.monotonic() + self._deadline
        hops = self._route(host_settings(self._url.host or "", self._url.user, self._url.port, self._options))
        transports: list[paramiko.Transport] = []
        liveness = Liveness()
        try:
            for hop in hops:
                try:
                    pipe = self._pipe(hop, transports[-1] if transports else None, expires_at)
                    transports.append(open_transport(WatchedSocket(pipe, self._deadline, liveness)))
                    self._start(hop, transports[-1], expires_at)
                    self._authenticate(hop, transports[-1])
                except Exception as error:
                    raise connection_error(error, str(hop)) from error
        except BaseException:
            for transport in reversed(transports):
                transport.packetizer.close()
                transport.close()
            raise
        return ParamikoConnection(transports, liveness, self._deadline, str(hops[-1]))

    def _route(self, target: HostSettings, depth: int = 0) -> list[HostSettings]:
        """The hosts to log in at, one through the other. What the profile says is about the last one only."""
        if depth > _MAX_JUMPS:
            raise LayerSetupError(f"ssh_config: ProxyJump of {target.alias} leads through more than {_MAX_JUMPS} hosts")
        hops: list[HostSettings] = []
        for jump in target.jumps:
            options = SftpOptions(ssh_config=self._options.ssh_config)
            settings = host_settings(jump.host, jump.user, jump.port, options)
            hops += [settings] if hops else self._route(settings, depth + 1)
        return [*hops, target]

    def _pipe(self, hop: HostSettings, through: paramiko.Transport | None, expires_at: float) -> Duplex:
        if through is None:
            return _connect(hop, expires_at)
        timeout = max(0.1, expires_at - time.monotonic())
        address = (hop.host_name, hop.port)
        with peer_errors():
            return through.open_channel("direct-tcpip", address, ("127.0.0.1", 0), timeout=timeout)

    def _start(self, hop: HostSettings, transport: paramiko.Transport, expires_at: float) -> None:
        """Exchange keys, and see whether the host is the right one."""
        known = host_keys.known_keys(hop)
        remaining = max(0.1, expires_at - time.monotonic())
        transport.set_log_channel(LOG_CHANNEL)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = remaining
        transport.clear_to_send_timeout = transport.channel_timeout = self._deadline
        security = transport.get_security_options()
        security.ciphers = _CIPHERS
        security.key_types = host_keys.preferred_algorithms(known, security.key_types)
        with peer_errors():
            transport.start_client(timeout=remaining)
        if not transport.initial_kex_done:  # start_client() returns after its timeout as if all were well
            raise TimeoutError
        host_keys.check_host_key(hop, known, transport.get_remote_server_key())

    def _authenticate(self, hop: HostSettings, transport: paramiko.Transport) -> None:
        notes: list[str] = []
        agent = self._agent(hop, notes)
        tried: list[str] = []
        allowed = ["publickey"]
        try:
            for candidate in self._keys.candidates(hop, agent, notes):
                tried.append(candidate.description)
                try:
                    with peer_errors():
                        allowed = transport.auth_publickey(hop.user, candidate.key)
                except paramiko.BadAuthenticationType as error:
                    allowed = error.allowed_types
                except paramiko.AuthenticationException as error:
                    if not transport.is_active():
                        if len(tried) == 1:  # a server hangs up after several keys, if at all: it was the line
                            raise UnavailableError(f"{hop}: the connection was lost at the login ({error})") from error
                        notes.append(f"the server then closed the connection ({error})")
                        break
                    continue
                if not allowed:
                    return
                if "publickey" not in allowed:
                    break
        finally:
            if agent is not None:
                agent.close()
        raise LayerSetupError(_refusal(hop, tried, notes, allowed))

    def _agent(self, hop: HostSettings, notes: list[str]) -> SocketAgent | None:
        if hop.agent_socket is None:
            return None
        try:
            return SocketAgent(hop.agent_socket, self._deadline)
        except (OSError, paramiko.SSHException) as error:
            notes.append(f"the agent at {hop.agent_socket} does not answer ({error})")
            return None


def _refusal(hop: HostSettings, tried: list[str], notes: list[str], allowed: list[str]) -> str:
    attempts = f"tried {', '.join(tried)}" if tried else "found no key to try"
    remarks = list(notes)
    if "publickey" not in allowed:
        remarks.append(f'it demands {" or ".join(allowed)}, which only transport = "ssh" may be able to do')
    elif hop.other_logins:
        remarks.append(f'transport = "ssh" would also use {" and ".join(hop.other_logins)}')
    return "; ".join([f"{hop}: the server refused the login: {attempts}", *remarks])


def _connect(hop: HostSettings, expires_at: float) -> socket.socket:
    """A TCP connection to the first of the host's addresses that takes one."""
    family = _FAMILIES.get(hop.address_family, socket.AF_UNSPEC)
    last: OSError = UnavailableError(f"{hop}: the host has no address")
    for kind, _, _, _, address in socket.getaddrinfo(hop.host_name, hop.port, family, socket.SOCK_STREAM):
        connected = socket.socket(kind, socket.SOCK_STREAM)
        try:
            connected.settimeout(max(0.1, expires_at - time.monotonic()))
            connected.connect(address)
        except OSError as error:
            connected.close()
            last = error
        else:
            return connected
    raise last
