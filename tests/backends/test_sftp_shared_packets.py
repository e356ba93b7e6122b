"""Packets that many threads read: a real sshd renews keys meanwhile, and servers lie or stop half-way."""

from __future__ import annotations

import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST, MSG_GLOBAL_REQUEST, MSG_KEXINIT

from netoverlay.backend_api import Access, Creation
from netoverlay_sftp.inbox import Inbox
from netoverlay_sftp.shared_packets import SharedPacketizer
from netoverlay_sftp.streams import Liveness
from netoverlay_sftp.watched_socket import MAX_PACKET_BYTES, WatchedSocket
from tests.backends.sftp_layer import connected
from tests.servers.sshd import SshServer

LONG = 20.0
FILE_BYTES = 3 << 20


@pytest.mark.parametrize(
    ("settings", "client_limit"),
    [(("RekeyLimit 1M",), None), ((), 1 << 20), (("Ciphers aes256-ctr", "RekeyLimit 1M"), None)],
    ids=["the server renews", "we renew", "another cipher"],
)
def test_keys_are_renewed_while_many_threads_read_and_write(tmp_path, monkeypatch, settings, client_limit):
    renewed: list[str] = []
    noted = SharedPacketizer.set_inbound_cipher
    monkeypatch.setattr(
        SharedPacketizer,
        "set_inbound_cipher",
        lambda *arguments, **named: (renewed.append(""), noted(*arguments, **named)),
    )
    if client_limit:
        monkeypatch.setattr(SharedPacketizer, "REKEY_BYTES", client_limit)
    root = tmp_path / "root"
    root.mkdir()
    contents = [os.urandom(FILE_BYTES) for _ in range(3)]
    with SshServer(tmp_path / "sshd", settings=settings) as server, connected(server, root) as backend:

        def work(number: int) -> None:
            content = contents[number]
            with backend.open(f"f{number}", Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
                for offset in range(0, FILE_BYTES, 1 << 18):
                    file.write_at(offset, content[offset : offset + (1 << 18)])
                    backend.stat(f"f{number}")
                assert file.read_at(0, FILE_BYTES) == content
                for offset in range(0, FILE_BYTES, 100_003):
                    assert file.read_at(offset, 4096) == content[offset : offset + 4096]

        with ThreadPoolExecutor(3) as threads:
            list(threads.map(work, range(3)))
    assert [(root / f"f{number}").read_bytes() for number in range(3)] == contents
    assert len(renewed) > 5


class Peer:
    """The other end of a packetizer whose transport's thread only notes what it is given."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            self.socket = listener.accept()[0]
        self.engine, self.prefix, self.counter = AESGCM(bytes(16)), b"abcd", 2**64 - 3
        self.packets = SharedPacketizer(WatchedSocket(ours, LONG, Liveness()))
        nonce = self.prefix + self.counter.to_bytes(8, "big")
        self.packets.set_inbound_cipher(self.engine, 16, None, 16, b"", aead=True, iv_in=nonce)
        self.packets.lend()
        self.seen: queue.SimpleQueue[int | BaseException] = queue.SimpleQueue()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.adjusted: list[int] = []
        self.thread = threading.Thread(target=self._transport)
        self.thread.start()

    def _transport(self) -> None:
        while True:
            try:
                kind, _ = self.packets.read_message()
            except (OSError, EOFError, paramiko.SSHException) as error:
                self.seen.put(error)
                return
            self.seen.put(kind)
            self.may_go_on.wait(LONG)

    def inbox(self, number: int) -> Inbox:
        """Of a channel with this number."""
        inbox = Inbox()
        peer = self

        class Channel:
            def get_id(self) -> int:
                return number

            def _window_adjust(self, message: paramiko.Message) -> None:
                peer.adjusted.append(message.get_int())

        self.packets.register(Channel(), inbox)  # type: ignore[arg-type]  # what it needs of one
        return inbox

    def sealed(self, payload: bytes) -> bytes:
        padding = 16 - (1 + len(payload)) % 16
        padding += 16 if padding < 4 else 0
        plain = bytes([padding]) + payload + bytes(padding)
        length = struct.pack(">I", len(plain))
        nonce = self.prefix + self.counter.to_bytes(8, "big")
        self.counter = (self.counter + 1) % 2**64
        return length + self.engine.encrypt(nonce, plain, length)

    def send(self, kind: int, *numbers: int, data: bytes = b"") -> None:
        self.socket.sendall(self.sealed(bytes([kind]) + b"".join(struct.pack(">I", each) for each in numbers) + data))

    def send_data(self, channel: int, data: bytes) -> None:
        self.send(MSG_CHANNEL_DATA, channel, len(data), data=data)

    def close(self) -> None:
        self.may_go_on.set()
        self.packets.close()
        self.socket.close()
        self.thread.join(LONG)
        assert not self.thread.is_alive()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


def took(peer: Peer, inbox: Inbox, wanted: int, timeout: float = LONG) -> bytes:
    peer.packets.await_data(inbox, wanted, timeout)
    taken = b""
    while inbox:
        taken += inbox.read(1)
    return taken


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_each_gets_its_own_whoever_reads(peer):
    """Also over the end of the nonce's counter, which wraps."""
    inboxes = [peer.inbox(number) for number in range(4)]
    got: list[bytes] = [b""] * 4

    def take(number: int) -> None:
        while len(got[number]) < 500:
            got[number] += took(peer, inboxes[number], 10)

    threads = [in_background(lambda number=number: take(number)) for number in range(4)]
    for turn in range(50):
        for number in (2, 0, 3, 1):
            peer.send_data(number, bytes([turn, number]) * 5)
    for thread in threads:
        thread.join(LONG)
    assert got == [b"".join(bytes([turn, number]) * 5 for turn in range(50)) for number in range(4)]


def test_half_a_packet_is_kept_when_time_is_up(peer):
    inbox = peer.inbox(7)
    packet = peer.sealed(bytes([MSG_CHANNEL_DATA]) + struct.pack(">II", 7, 5) + b"hello")
    for piece in (packet[:2], packet[2:30]):
        peer.socket.sendall(piece)
        with pytest.raises(TimeoutError):
            peer.packets.await_data(inbox, 1, 0.05)
    peer.socket.sendall(packet[30:])
    assert took(peer, inbox, 5) == b"hello"


def test_windows_are_widened_by_whoever_reads(peer):
    inbox = peer.inbox(7)
    peer.send(MSG_CHANNEL_WINDOW_ADJUST, 7, 4711, data=b"")
    peer.send_data(7, b"hello")
    assert took(peer, inbox, 5) == b"hello"
    # The transport's own thread deals with it if it was the first to look.
    assert peer.adjusted == [4711] or peer.seen.get(timeout=LONG) == MSG_CHANNEL_WINDOW_ADJUST


def test_while_keys_are_renewed_nobody_else_reads(peer):
    inbox = peer.inbox(7)
    peer.may_go_on.clear()
    waiting = in_background(lambda: peer.packets.await_data(inbox, 1, LONG))
    peer.send(MSG_KEXINIT)
    assert peer.seen.get(timeout=LONG) == MSG_KEXINIT
    peer.engine, before = AESGCM(bytes(range(16))), peer.engine
    peer.send_data(7, b"with new keys")
    time.sleep(0.1)
    assert waiting.is_alive()
    assert not inbox
    nonce = peer.prefix + ((peer.counter - 1) % 2**64).to_bytes(8, "big")
    assert before is not peer.engine
    peer.packets.set_inbound_cipher(peer.engine, 16, None, 16, b"", aead=True, iv_in=nonce)
    peer.may_go_on.set()
    waiting.join(LONG)
    # Who has the turn by then puts it there, or hands it to the transport, which would put it there.
    assert took(peer, inbox, 1) == b"with new keys" or peer.seen.get(timeout=LONG) == MSG_CHANNEL_DATA


def test_what_is_for_the_transport_reaches_it_though_nobody_waits(peer):
    peer.send(MSG_GLOBAL_REQUEST)
    assert peer.seen.get(timeout=LONG) == MSG_GLOBAL_REQUEST


def test_somebody_reads_while_it_is_asked_for(peer):
    time.sleep(0.1)  # the transport's thread has lent its turn
    with peer.packets.attended():
        for _ in range(20):
            peer.send(MSG_GLOBAL_REQUEST)
            assert peer.seen.get(timeout=LONG) == MSG_GLOBAL_REQUEST


@pytest.mark.parametrize("kind", ["changed", "too long", "wrong length", "empty", "end"])
def test_nonsense_ends_the_connection(peer, kind):
    inbox = peer.inbox(7)
    waiting = in_background(lambda: peer.packets.await_data(inbox, 1, LONG))
    packet = bytearray(peer.sealed(bytes([MSG_CHANNEL_DATA]) + struct.pack(">II", 7, 5) + b"hello"))
    if kind == "changed":
        packet[9] ^= 1
    elif kind == "too long":
        packet[:4] = struct.pack(">I", MAX_PACKET_BYTES + 5000)
    elif kind == "wrong length":
        peer.counter = (peer.counter - 1) % 2**64
        packet[:] = peer.sealed(bytes([MSG_CHANNEL_DATA]) + struct.pack(">II", 7, 6) + b"hello")
    elif kind == "empty":
        length = struct.pack(">I", 16)
        nonce = peer.prefix + ((peer.counter - 1) % 2**64).to_bytes(8, "big")
        packet[:] = length + peer.engine.encrypt(nonce, bytes([15]) * 16, length)
    if kind == "end":
        peer.socket.shutdown(socket.SHUT_RDWR)
    else:
        peer.socket.sendall(packet)
    error = peer.seen.get(timeout=LONG)
    assert isinstance(error, EOFError if kind == "end" else paramiko.SSHException)
    inbox.close()  # as paramiko does for all channels at the end
    waiting.join(LONG)
    assert not waiting.is_alive()
    with pytest.raises(TimeoutError):
        peer.packets.await_data(peer.inbox(8), 1, 0.05)


def test_an_idle_connection_that_is_closed_ends_the_transport(peer):
    time.sleep(0.1)
    peer.packets.close()
    assert isinstance(peer.seen.get(timeout=LONG), (EOFError, OSError))


def test_a_write_that_is_larger_than_the_servers_window(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    content = os.urandom(12 << 20)
    with SshServer(tmp_path / "sshd") as server, connected(server, root) as backend:
        with backend.open("f", Access.WRITE, create=Creation.EXCLUSIVE) as file:
            file.write_at(0, content)
        assert (root / "f").read_bytes() == content
