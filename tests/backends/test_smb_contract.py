"""What of smbprotocol is used and not documented is there, and means what it is taken for: by logins at a real smbd.

And a login at a server that lies: handshake.py receives in smbprotocol's place.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import inspect
import socket
import struct
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from smbprotocol import Dialects
from smbprotocol.connection import Ciphers, Connection, SigningAlgorithms
from smbprotocol.dfs import DFSReferralRequest, DFSReferralResponse
from smbprotocol.header import SMB2HeaderResponse
from smbprotocol.session import Session
from smbprotocol.transport import Tcp
from smbprotocol.tree import TreeConnect

from netoverlay.backend_api import LayerSetupError, UnavailableError
from netoverlay.backend_api.leadership import TICK_SECONDS
from netoverlay_smb import commands, handshake, replies
from netoverlay_smb.credentials import Credentials
from netoverlay_smb.engine import Engine
from netoverlay_smb.handshake import Handshake, LoggedIn, Target, connect_share, log_in, take_over
from netoverlay_smb.options import SmbOptions
from netoverlay_smb.outgoing import Link
from netoverlay_smb.protection import CmacSigner, GmacSigner, HmacSigner
from netoverlay_smb.protocol import HEADER, MAGIC, CreateOptions, FileAccess, HeaderFlags
from netoverlay_smb.status import Status
from tests.backends.smb_layer import DEADLINE
from tests.servers.smbd import SmbServer

SHARE = "tests"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"
SESSION_SETUP, TREE_CONNECT = 1, 3


def test_the_version_is_the_one_that_is_looked_at_here():
    assert importlib.metadata.version("smbprotocol").startswith("1.17.")
    dependencies = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    assert [each for each in dependencies if each.startswith("smbprotocol")] == ["smbprotocol==1.17.*"]


def credentials(server: SmbServer) -> Credentials:
    return Credentials(getpass.getuser(), None, server.password, "ntlm")


class Recording(Handshake):
    """Notes who is called."""

    def __init__(self, *arguments, **options) -> None:
        self.ran_in: list[threading.Thread] = []
        self.unfinished: list[int] = []
        super().__init__(*arguments, **options)

    def _process_message_thread(self) -> None:
        self.ran_in.append(threading.current_thread())
        super()._process_message_thread()

    def receive(self, request, wait=True, timeout=None, resolve_symlinks=True):
        self.unfinished.append(len(self.outstanding_requests))
        return super().receive(request, wait, timeout, resolve_symlinks)


@contextmanager
def logged_in(server: SmbServer, dialect: int | None, *, sign: bool, encrypt: bool, **algorithms) -> Iterator[LoggedIn]:
    """As handshake.log_in() does it, but with a choice of what is negotiated."""
    target = Target("127.0.0.1", server.port, SHARE)
    connection = Recording(target, sign=sign, expires_at=time.monotonic() + DEADLINE)
    connection.connect(dialect=dialect, timeout=DEADLINE, **algorithms)
    session = handshake._authenticate(connection, credentials(server), SmbOptions(sign=sign, encrypt=encrypt))
    login = LoggedIn(connection, session, target, "test")
    try:
        yield login
    finally:
        with suppress(OSError):  # an engine that took the socket over has closed it
            login.close()


@pytest.fixture(scope="module")
def login(smbd) -> Iterator[tuple[Recording, Session, TreeConnect]]:
    """Signed, as by default."""
    with logged_in(smbd, None, sign=True, encrypt=False) as login:
        yield login.connection, login.session, connect_share(login, SHARE)


def test_connecting_runs_the_receiving_method_in_a_thread(login):
    connection, _, _ = login
    (thread,) = connection.ran_in
    assert thread is not threading.current_thread()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_receiving_has_the_parameters_that_are_overridden():
    theirs, ours = (inspect.signature(kind.receive).parameters for kind in (Connection, Handshake))
    assert [*theirs] == [*ours] == ["self", "request", "wait", "timeout", "resolve_symlinks"]
    assert [each.default for each in theirs.values()] == [each.default for each in ours.values()]
    assert [*inspect.signature(Connection.verify_signature).parameters][:3] == ["self", "header", "session_id"]
    assert [*inspect.signature(Connection._decrypt).parameters] == ["self", "message"]
    assert [*inspect.signature(Connection._process_message_thread).parameters] == ["self"]


def test_the_socket_is_an_ordinary_one(login):
    connection, _, _ = login
    assert type(connection.transport) is Tcp
    connected = connection.transport._sock
    assert type(connected) is socket.socket
    assert connected.gettimeout() is None
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) in (0, 1)


def test_the_window_is_of_message_ids_and_no_request_is_left(login):
    connection, _, tree = login
    assert {*connection.sequence_window} == {"low", "high"}
    before = dict(connection.sequence_window)
    assert before["high"] - before["low"] > 16
    connection.echo(sid=tree.session.session_id, credit_request=5)
    after = connection.sequence_window
    assert (after["low"] - before["low"], after["high"] - before["high"]) == (1, 5)
    assert connection.sequence_lock.acquire(blocking=False)
    connection.sequence_lock.release()
    assert connection.outstanding_requests == {}
    assert all(connection.unfinished)  # a request is in the table until its reply is fetched


def test_what_the_keys_are_made_of_is_kept(login):
    connection, session, _ = login
    negotiate, answer = connection.preauth_integrity_hash_value
    assert (negotiate[:4], answer[:4]) == (MAGIC, MAGIC)
    assert (negotiate[12:14], answer[12:14]) == (b"\0\0", b"\0\0")
    assert not HEADER.unpack_from(negotiate)[6] & HeaderFlags.SERVER_TO_CLIENT
    assert HEADER.unpack_from(answer)[6] & HeaderFlags.SERVER_TO_CLIENT
    assert connection.preauth_integrity_session_hash_value == {}  # moved to the session
    setups = [HEADER.unpack_from(message) for message in session.preauth_integrity_hash_value]
    assert all(fields[4] == SESSION_SETUP for fields in setups)
    # Request and reply in turn; the last reply, which is signed with the key, is not among them.
    directions = [fields[6] & HeaderFlags.SERVER_TO_CLIENT for fields in setups]
    assert directions == [0, 1, 0]


def test_what_is_known_of_the_session(login):
    connection, session, tree = login
    assert connection.dialect == Dialects.SMB_3_1_1
    assert connection.session_table == {session.session_id: session}
    assert session.tree_connect_table == {tree.tree_connect_id: tree}
    assert {len(key) for key in (session.signing_key, session.encryption_key, session.decryption_key)} == {16}
    assert len({session.signing_key, session.encryption_key, session.decryption_key}) == 3
    assert (session.encrypt_data, session.signing_required, tree.encrypt_data) == (False, True, False)
    assert connection.cipher_id in handshake._CIPHERS
    assert connection.signing_algorithm_id in handshake._SIGNERS
    assert connection.supports_encryption
    assert connection.supports_multi_credit
    assert not tree.is_dfs_share
    for size in (connection.max_read_size, connection.max_write_size, connection.max_transact_size):
        assert size >= 1 << 20


def test_a_signature_of_the_server_is_checked(login):
    """verify_signature() refuses what was changed, and needs no more than a header and a session id."""
    connection, session, _ = login
    kept: list[bytes] = []
    deliver = connection._deliver
    connection._deliver = lambda message, *, encrypted: kept.append(message) or deliver(message, encrypted=encrypted)
    connection.echo(sid=session.session_id)
    del connection._deliver
    (message,) = kept
    header = SMB2HeaderResponse()
    header.unpack(message)
    connection.verify_signature(header, session.session_id)
    header.unpack(message[:-1] + b"\xff")
    with pytest.raises(Exception, match="signature could not be verified"):
        connection.verify_signature(header, session.session_id)


def works(link: Link) -> None:
    """The engine goes on where the login has ended: its ids, its keys and its credits are right."""
    engine = Engine(link, DEADLINE)
    try:
        root = commands.create(b"", FileAccess.READ_DATA | FileAccess.READ_ATTRIBUTES, CreateOptions.DIRECTORY)
        for _ in range(3):
            opened, listed, closed = engine.call(
                root, commands.query_directory(b"\xff" * 16, 38, 65536), commands.close()
            )
            assert (opened.status, listed.status, closed.status) == (0, 0, 0)
            assert "." in [entry.name for entry in replies.listed(replies.info(listed.body))]
        for _ in range(100):  # more than there were at first
            engine.wait(engine.submit(commands.echo())[0])
        assert engine.credits > link.credits
        assert not engine.broken
    finally:
        engine.close()


SIGNERS = {
    SigningAlgorithms.AES_GMAC: GmacSigner,
    SigningAlgorithms.AES_CMAC: CmacSigner,
    SigningAlgorithms.HMAC_SHA256: HmacSigner,
}


@pytest.mark.parametrize(
    ("dialect", "signer"),
    [
        (Dialects.SMB_2_1_0, HmacSigner),
        (Dialects.SMB_3_0_0, CmacSigner),
        (Dialects.SMB_3_0_2, CmacSigner),
        (Dialects.SMB_3_1_1, GmacSigner),
    ],
)
def test_a_signed_session_of_every_dialect_is_taken_over(smbd, dialect, signer):
    with logged_in(smbd, dialect, sign=True, encrypt=False) as login:
        link = take_over(login, connect_share(login, SHARE), DEADLINE)
        assert login.connection.dialect == link.dialect == dialect
        assert type(link.signer) is signer
        assert link.sealer is None
        works(link)


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_session_with_every_signature_is_taken_over(smbd, algorithm):
    with logged_in(smbd, None, sign=True, encrypt=False, preferred_signing_algos=[algorithm]) as login:
        assert login.connection.signing_algorithm_id == algorithm
        link = take_over(login, connect_share(login, SHARE), DEADLINE)
        assert type(link.signer) is SIGNERS[algorithm]
        works(link)


@pytest.mark.parametrize("cipher", handshake._CIPHERS)
def test_a_session_with_every_cipher_is_taken_over(smbd, cipher):
    with logged_in(smbd, None, sign=True, encrypt=True, preferred_encryption_algos=[cipher]) as login:
        assert login.connection.cipher_id == cipher
        assert login.session.encrypt_data
        assert not login.session.signing_required
        link = take_over(login, connect_share(login, SHARE), DEADLINE)
        assert link.signer is None
        assert link.sealer is not None
        assert link.sealer.name == handshake._CIPHERS[cipher]
        works(link)


@pytest.mark.parametrize("dialect", [Dialects.SMB_3_0_0, Dialects.SMB_3_0_2])
def test_an_encrypted_session_of_an_older_dialect_is_taken_over(smbd, dialect):
    with logged_in(smbd, dialect, sign=True, encrypt=True) as login:
        link = take_over(login, connect_share(login, SHARE), DEADLINE)
        assert link.sealer is not None
        assert link.sealer.name == handshake._CIPHERS[Ciphers.AES_128_CCM]
        works(link)


@pytest.mark.parametrize("dialect", [Dialects.SMB_2_1_0, Dialects.SMB_3_0_2, Dialects.SMB_3_1_1])
def test_a_session_in_the_clear_is_taken_over(smbd, dialect):
    with logged_in(smbd, dialect, sign=False, encrypt=False) as login:
        tree = connect_share(login, SHARE)
        assert not login.session.signing_required
        link = take_over(login, tree, DEADLINE)
        assert (link.signer, link.sealer) == (None, None)
        works(link)


def test_a_share_that_demands_encryption_is_taken_over(tmp_path, tmp_path_factory):
    """Only the share says so, not the session."""
    shares = {SHARE: tmp_path}
    directory = tmp_path_factory.mktemp("encrypting") / "smbd"
    demand = ("server smb encrypt = required",)
    with (
        SmbServer(directory, shares, share_settings=demand) as server,
        logged_in(server, None, sign=True, encrypt=False) as login,
    ):
        tree = connect_share(login, SHARE)
        assert (login.session.encrypt_data, tree.encrypt_data) == (False, True)
        link = take_over(login, tree, DEADLINE)
        assert link.sealer is not None
        works(link)


def test_a_socket_that_is_taken_over_has_time_limits_of_its_own(smbd):
    with logged_in(smbd, None, sign=True, encrypt=False) as login:
        link = take_over(login, connect_share(login, SHARE), 2.5)
        assert link.socket is login.connection.transport._sock
        for option, seconds in ((socket.SO_RCVTIMEO, TICK_SECONDS), (socket.SO_SNDTIMEO, 2.5)):
            whole, micro = struct.unpack("@ll", link.socket.getsockopt(socket.SOL_SOCKET, option, 16))
            assert whole + micro / 1e6 == pytest.approx(seconds, abs=0.01)


def test_a_referral_is_asked_for_and_read_as_the_standard_has_it():
    """MS-DFSC 2.2.2 and 2.2.4, by the names that dfs.py uses."""
    wanted = DFSReferralRequest()
    wanted["request_file_name"] = r"\a\b"
    assert wanted.pack().hex() == "0400" + r"\a\b".encode("utf-16-le").hex() + "0000"
    strings = [text.encode("utf-16-le") + b"\0\0" for text in (r"\a\b", r"\a\b", r"\server\share\in")]
    at = [34, 34 + len(strings[0]), 34 + len(strings[0]) + len(strings[1])]
    # VersionNumber, Size, ServerType, ReferralEntryFlags, TimeToLive, offsets of the three strings, ServiceSiteGuid
    entry = struct.pack("<HHHHIHHH16s", 4, 34, 0, 4, 300, *at, bytes(16))
    # PathConsumed, NumberOfReferrals, ReferralHeaderFlags
    response = DFSReferralResponse()
    response.unpack(struct.pack("<HHI", 8, 1, 2) + entry + b"".join(strings))
    assert response["path_consumed"].get_value() == 8
    (referral,) = response["referral_entries"].get_value()
    assert referral.network_address == r"\server\share\in"


# A server that lies while one logs in.


@contextmanager
def lying(answer: Callable[[socket.socket, bytes], None]) -> Iterator[int]:
    """A server that gets a negotiation, and answers as `answer` does; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(DEADLINE)

        def serve() -> None:
            connected, _ = listening.accept()
            with connected, suppress(OSError):
                connected.settimeout(DEADLINE)
                answer(connected, connected.recv(1 << 16))
                while connected.recv(1 << 16):
                    pass

        serving = threading.Thread(target=serve)
        serving.start()
        yield listening.getsockname()[1]
        serving.join(DEADLINE)
        assert not serving.is_alive()


def negotiated(status: int = 0, *, flags: int = 1, command: int = 0, message_id: int = 0, body: bytes = b"") -> bytes:
    """A reply to a negotiation, or what pretends to be one."""
    header = HEADER.pack(MAGIC, 64, 1, status, command, 1, flags, 0, message_id, 0, 0, 0, bytes(16))
    return (64 + len(body)).to_bytes(4, "big") + header + body


def nothing_else(reply: bytes) -> Callable[[socket.socket, bytes], None]:
    return lambda connected, _: connected.sendall(reply)


LIES: dict[str, Callable[[socket.socket, bytes], None]] = {
    "our own words": lambda connected, asked: connected.sendall(asked),
    "a reply that says it is none": nothing_else(negotiated(flags=0, body=bytes(200))),
    "a reply to another command": nothing_else(negotiated(command=TREE_CONNECT, body=bytes(200))),
    "a reply to nothing": nothing_else(negotiated(message_id=7, body=bytes(200))),
    "a reply without a body": nothing_else(negotiated()),
    "ones": nothing_else(negotiated(body=b"\xff" * 300)),
    "an error without details": nothing_else(negotiated(0xC000_9999)),
    "a message of gigabytes": nothing_else(b"\x7f\xff\xff\xff" + bytes(100)),
    "a message of nothing": nothing_else(bytes(4)),
    "another magic": nothing_else(b"\0\0\0\x40" + b"\xfcSMB" + bytes(60)),
    "an encrypted message": nothing_else(b"\0\0\0\x80" + b"\xfdSMB" + bytes(124)),
    "a compound that goes on in itself": nothing_else(
        b"\0\0\0\x80" + negotiated(0x103)[4:24] + b"\1\0\0\0" + bytes(104)
    ),
    "http": nothing_else(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 200),
    "the end": lambda connected, _: connected.shutdown(socket.SHUT_RDWR),
    "the end within a message": lambda connected, _: (
        connected.sendall(negotiated(body=bytes(65))[:50]),
        connected.shutdown(socket.SHUT_WR),
    )[1],
}


def attempt(port: int, seconds: float) -> None:
    target = Target("127.0.0.1", port, SHARE)
    who = Credentials("user", None, "secret", "ntlm")
    log_in(target, who, SmbOptions(), time.monotonic() + seconds)


@pytest.mark.parametrize("what", LIES)
def test_a_lie_ends_the_login(what):
    with lying(LIES[what]) as port, pytest.raises(UnavailableError, match=f"127.0.0.1:{port}"):
        attempt(port, DEADLINE)


def test_a_dialect_that_there_is_not_ends_the_login():
    with lying(nothing_else(negotiated(body=bytes(65)))) as port, pytest.raises(LayerSetupError, match="or later"):
        attempt(port, DEADLINE)


def drip(connected: socket.socket, _: bytes) -> None:
    """A reply that never ends."""
    connected.sendall((1 << 20).to_bytes(4, "big"))
    with suppress(OSError):
        while connected.send(b"x"):
            time.sleep(0.0001)


def flood(connected: socket.socket, _: bytes) -> None:
    """The server is at it, and at it, and at it."""
    reply = negotiated(Status.PENDING, flags=3, body=bytes(9)) * 100
    with suppress(OSError):
        while True:
            connected.sendall(reply)


@pytest.mark.parametrize("way", [drip, flood])
def test_a_server_that_talks_without_end_does_not_hold_the_login(way):
    with lying(way) as port, ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(attempt, port, 0.5)
        assert isinstance(outcome.exception(DEADLINE), UnavailableError)
