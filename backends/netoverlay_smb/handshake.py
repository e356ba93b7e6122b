"""Log in with smbprotocol: negotiate, authenticate, connect to the share; then the connection is ours.

smbprotocol knows how to do that. But its receiving thread dies of an oplock break, cannot wait on descriptors above
1023, and has no deadlines. So the caller receives, while the login lasts, and the engine after that. The names of
smbprotocol that are used and are not documented are held by a contract test.
"""

from __future__ import annotations

import socket
import struct
import time
import uuid
from dataclasses import dataclass

import spnego
from smbprotocol import Dialects
from smbprotocol.connection import Ciphers, Connection, Request, SigningAlgorithms, SMB2TransformHeader
from smbprotocol.exceptions import SMBAuthenticationError, SMBException, SMBResponseException
from smbprotocol.header import SMB2HeaderResponse
from smbprotocol.session import Session, SMB2SessionSetupRequest
from smbprotocol.tree import TreeConnect

from netoverlay.backend_api import LayerSetupError, UnavailableError
from netoverlay.backend_api.leadership import TICK_SECONDS
from netoverlay_smb.connection_errors import Stage, connection_error, peer_errors
from netoverlay_smb.credentials import Credentials
from netoverlay_smb.frames import MAX_FRAME_BYTES
from netoverlay_smb.options import SmbOptions
from netoverlay_smb.outgoing import Link
from netoverlay_smb.protection import CmacSigner, GmacSigner, HmacSigner, Sealer, Signer
from netoverlay_smb.protocol import (
    DEFAULT_PORT,
    HEADER_BYTES,
    LENGTH_BYTES,
    MAGIC,
    NOTIFICATION_ID,
    TRANSFORM_MAGIC,
    HeaderFlags,
    ProtocolError,
)
from netoverlay_smb.status import Status

_NEGATIVE_SESSION_RESPONSE = 0x83
"""RFC 1002 4.3.4, in place of a message's length: what Samba says to an address that it denies (`hosts deny`)."""
_CIPHERS = {
    Ciphers.AES_128_CCM: "AES-128-CCM",
    Ciphers.AES_128_GCM: "AES-128-GCM",
    Ciphers.AES_256_CCM: "AES-256-CCM",
    Ciphers.AES_256_GCM: "AES-256-GCM",
}
_SIGNERS: dict[int, type[Signer]] = {
    SigningAlgorithms.HMAC_SHA256: HmacSigner,
    SigningAlgorithms.AES_CMAC: CmacSigner,
    SigningAlgorithms.AES_GMAC: GmacSigner,
}


@dataclass(frozen=True, slots=True)
class Target:
    """A share of a server."""

    host: str
    port: int
    share: str

    def __str__(self) -> str:
        port = "" if self.port == DEFAULT_PORT else f":{self.port}"
        return f"//{self.host}{port}/{self.share}"


class Handshake(Connection):  # type: ignore[misc]  # smbprotocol has no types
    """smbprotocol's connection, without its thread: who waits for a reply receives."""

    def __init__(self, target: Target, *, sign: bool, expires_at: float) -> None:
        super().__init__(uuid.uuid4(), target.host, target.port, require_signing=sign)
        self.target = target
        self._expires_at = expires_at
        self.previous_session_id = 0
        """That of a session which this one is to replace."""

    def send(self, message: object, *arguments: object, **options: object) -> Request:
        """As smbprotocol's, whose login says nothing of an earlier session."""
        if isinstance(message, SMB2SessionSetupRequest):
            message["previous_session_id"] = self.previous_session_id
        return super().send(message, *arguments, **options)

    def _process_message_thread(self) -> None:
        """What connect() runs in a thread."""

    def receive(
        self,
        request: Request,
        wait: bool = True,
        timeout: float | None = None,
        resolve_symlinks: bool = True,  # noqa: ARG002  (smbprotocol's signature)
    ) -> SMB2HeaderResponse:
        """As smbprotocol's, within the deadline of the login."""
        while not request.response_event.is_set():
            self._receive_message()
        return super().receive(request, wait=wait, timeout=timeout, resolve_symlinks=False)

    def _receive_message(self) -> None:
        length = int.from_bytes(self._receive_bytes(LENGTH_BYTES), "big")
        if length >> 24 == _NEGATIVE_SESSION_RESPONSE:
            raise LayerSetupError(f"{self.target}: the server lets nobody in from this address: allow it there")
        if not HEADER_BYTES <= length <= MAX_FRAME_BYTES:
            raise ProtocolError(f"it answers with a message of {length} bytes, which is no SMB2")
        message = self._receive_bytes(length)
        encrypted = message[:4] == TRANSFORM_MAGIC
        if encrypted:
            transform = SMB2TransformHeader()
            transform.unpack(message)
            message = self._decrypt(transform)
        while message:
            following = int.from_bytes(message[20:24], "little")
            self._deliver(message[: following or None], encrypted=encrypted)
            message = message[following:] if following else b""

    def _receive_bytes(self, count: int) -> bytes:
        data = bytearray()
        connected: socket.socket = self.transport._sock  # noqa: SLF001  (held by a contract test)
        while len(data) < count:
            remaining = self._expires_at - time.monotonic()
            if remaining <= 0:  # also of a server that sends, but never what is waited for
                raise TimeoutError
            connected.settimeout(remaining)
            more = connected.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        connected.settimeout(None)
        return bytes(data)

    def _deliver(self, message: bytes, *, encrypted: bool) -> None:
        if message[:4] != MAGIC or len(message) < HEADER_BYTES:
            raise ProtocolError(f"it answers with {message[:8]!r}, which is no SMB2")
        header = SMB2HeaderResponse()
        header.unpack(message)
        message_id = header["message_id"].get_value()
        if message_id == NOTIFICATION_ID:
            return
        request = self.outstanding_requests.get(message_id)
        if request is None:
            raise ProtocolError(f"the server answered request {message_id}, which was not made")
        command, status = header["command"].get_value(), header["status"].get_value()
        asked = request.message["command"].get_value()
        # What we have sent ourselves is no reply: many signatures are good for both directions.
        if command != asked or not header["flags"].has_flag(HeaderFlags.SERVER_TO_CLIENT):
            raise ProtocolError(f"it answers command {asked} with what is no reply to that")
        with self.sequence_lock:
            self.sequence_window["high"] += header["credit_response"].get_value()
        if status == Status.PENDING:
            return
        if not encrypted:
            self._check_protection(header, request, signed=header["flags"].has_flag(HeaderFlags.SIGNED))
        if command == 0:  # NEGOTIATE
            self.preauth_integrity_hash_value.append(message)
        elif command == 1 and status == 0xC000_0016:  # SESSION_SETUP, which goes on
            self.preauth_integrity_session_hash_value[message_id].append(message)
        request.response = header
        request.response_event.set()

    def _check_protection(self, header: SMB2HeaderResponse, request: Request, *, signed: bool) -> None:
        session = self.session_table.get(request.session_id)
        if session is None:
            return
        if session.encrypt_data or (session.signing_required and not signed):
            raise ProtocolError("the server sent in the clear what has to be encrypted or signed")
        self.verify_signature(header, request.session_id)


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A session at a server that no share is connected in yet."""

    connection: Handshake
    session: Session
    target: Target
    server: str
    """User, host and share, for messages."""

    def close(self) -> None:
        """Drop the connection."""
        self.connection.transport.close()


def log_in(
    target: Target, credentials: Credentials, options: SmbOptions, expires_at: float, previous: Link | None = None
) -> LoggedIn:
    """Negotiate and authenticate. LayerSetupError, UnavailableError, naming the server.

    `previous` is a lost connection of ours: a server that has not noticed drops it at once, with all its locks, if it
    is the same user's at this server (MS-SMB2 3.3.5.5.3).
    """
    server = f"{credentials} at {target}"
    connection = Handshake(target, sign=options.sign, expires_at=expires_at)
    if previous is not None and previous.server == server:
        connection.previous_session_id = previous.session_id
    try:
        with peer_errors():
            _negotiate(connection, target, options, expires_at)
            session = _authenticate(connection, credentials, options)
            return LoggedIn(connection, session, target, server)
    except BaseException as error:
        if connection.transport is not None:
            connection.transport.close()
        if isinstance(error, Exception):
            raise connection_error(_cause(error), server, Stage.LOGIN) from error
        raise


def _cause(error: Exception) -> Exception:
    """smbprotocol hides what the socket said of a connection that could not be made behind a ValueError."""
    inner = error.__cause__
    while isinstance(inner, Exception) and not isinstance(inner, OSError):
        inner = inner.__cause__
    return inner if isinstance(inner, OSError) and isinstance(error, ProtocolError) else error


def _negotiate(connection: Handshake, target: Target, options: SmbOptions, expires_at: float) -> None:
    mode = connection.client_security_mode
    try:
        connection.connect(timeout=max(0.1, expires_at - time.monotonic()))
    except EOFError as error:
        said = "the server closed the connection at once: does it speak SMB 2.1 or later?"
        raise UnavailableError(f"{target}: {said}") from error
    # Changed by smbprotocol where the server insists on signing. But a server of SMB 3.0 is told once more what it was
    # told then (FSCTL_VALIDATE_NEGOTIATE_INFO), and hangs up if that is something else.
    connection.client_security_mode = mode
    connection.transport._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # noqa: SLF001  (contract test)
    if connection.dialect < Dialects.SMB_2_1_0:
        raise LayerSetupError(f"{target}: the server speaks no SMB 2.1 or later: have it allow that")
    if options.encrypt and not connection.supports_encryption:
        raise LayerSetupError(
            f"{target}: the server offers no encryption, and encrypt = true demands it: allow it there"
        )


def _authenticate(connection: Handshake, credentials: Credentials, options: SmbOptions) -> Session:
    user: str | spnego.Password | None = credentials.principal
    if isinstance(user, str) and credentials.password is not None:
        # As an object: some passwords, given as a string, would be taken for the hash of one.
        user = spnego.Password(user, credentials.password)
    session = Session(
        connection,
        user,
        require_encryption=options.encrypt,
        auth_protocol=credentials.protocol,
    )
    try:
        session.connect()
    except (SMBResponseException, SMBAuthenticationError):
        raise
    except SMBException as error:
        if not _is_guest(session):
            server = f"{credentials} at {connection.target}"
            raise LayerSetupError(f"{server}: the login is not possible: {error}") from error
    if _is_guest(session):  # which smbprotocol accepts, if nothing has to be signed
        raise LayerSetupError(
            f"{credentials} at {connection.target}: the server takes this user for a guest, with whom nothing can be "
            "protected: is the user, the password and the domain right?"
        )
    return session


def _is_guest(session: Session) -> bool:
    """Whether the login was accepted, and its keys are of no use."""
    return session.full_session_key is not None and session.signing_key is None


def connect_share(login: LoggedIn, share: str) -> TreeConnect:
    """Connect to a share of the server; always signed or encrypted, whatever the profile says of the rest."""
    session = login.session
    tree = TreeConnect(session, rf"\\{login.target.host}\{share}")
    protected = session.signing_required
    try:
        with peer_errors():
            if not session.encrypt_data:
                session.signing_required = True
            tree.connect()
    except Exception as error:
        raise connection_error(error, login.server, Stage.SHARE) from error
    finally:
        session.signing_required = protected
    return tree


def take_over(login: LoggedIn, tree: TreeConnect, deadline: float) -> Link:
    """What the engine needs of a login; smbprotocol's part is done then."""
    connection, session = login.connection, login.session
    connected: socket.socket = connection.transport._sock  # noqa: SLF001  (held by a contract test)
    connected.settimeout(None)
    for option, seconds in ((socket.SO_RCVTIMEO, TICK_SECONDS), (socket.SO_SNDTIMEO, deadline)):
        connected.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000)))
    sealer = _sealer(connection, session) if session.encrypt_data or tree.encrypt_data else None
    window = connection.sequence_window
    return Link(
        socket=connected,
        server=login.server,
        session_id=session.session_id,
        tree_id=tree.tree_connect_id,
        next_message_id=window["low"],
        credits=window["high"] - window["low"],
        multi_credit=connection.supports_multi_credit,
        signer=_signer(connection, session) if session.signing_required and sealer is None else None,
        sealer=sealer,
        max_read_bytes=connection.max_read_size,
        max_write_bytes=connection.max_write_size,
        max_transact_bytes=connection.max_transact_size,
        dialect=connection.dialect,
    )


def _signer(connection: Handshake, session: Session) -> Signer:
    if connection.dialect >= Dialects.SMB_3_1_1 and connection.signing_algorithm_id is not None:
        return _SIGNERS[connection.signing_algorithm_id](session.signing_key)
    kind = CmacSigner if connection.dialect >= Dialects.SMB_3_0_0 else HmacSigner
    return kind(session.signing_key)


def _sealer(connection: Handshake, session: Session) -> Sealer:
    cipher = connection.cipher_id if connection.dialect >= Dialects.SMB_3_1_1 else Ciphers.AES_128_CCM
    return Sealer(_CIPHERS[cipher], session.encryption_key, session.decryption_key, session.session_id)
