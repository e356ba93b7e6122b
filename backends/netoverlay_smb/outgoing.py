"""Make messages of requests, signed or encrypted as it has to be, and send them: from any thread, in one system call.

Whoever receives must never wait to send: the server may send no more until what it has sent is received. So there are
two ways: send() waits until the server has taken everything, post() leaves what it does not take now for later.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from netoverlay.backend_api import Readable
from netoverlay_smb.commands import Body
from netoverlay_smb.credits import CreditWindow
from netoverlay_smb.protection import Sealer, Signer, length_prefix
from netoverlay_smb.protocol import (
    HEADER,
    HEADER_BYTES,
    MAGIC,
    NO_SIGNATURE,
    SIGNATURE_AT,
    Command,
    HeaderFlags,
)

MAX_POSTED = 4096
"""Messages that a server does not take, before it is given up."""
_IOV_MAX = os.sysconf("SC_IOV_MAX")
_SIGNED = int(HeaderFlags.SIGNED)
_RELATED = int(HeaderFlags.RELATED)
_ASYNC = int(HeaderFlags.ASYNC)
_CANCEL_BODY = b"\4\0\0\0"


@dataclass(frozen=True, slots=True)
class Link:
    """An authenticated connection with a share on it, as the login has left it."""

    socket: socket.socket
    server: str
    """For messages."""
    session_id: int
    tree_id: int
    next_message_id: int
    credits: int
    multi_credit: bool
    """Whether requests of more than 64 KiB can be paid for."""
    signer: Signer | None
    sealer: Sealer | None
    """If there is one, everything is encrypted, and nothing signed beside that."""
    max_read_bytes: int
    max_write_bytes: int
    max_transact_bytes: int
    """Of a listing, or of what is asked of a file."""
    dialect: int

    def charge(self, body: Body) -> int:
        """What it costs, in credits."""
        return body.charge if self.multi_credit else 1


class Outgoing:
    """The sending side of `link`. Its lock is held while the socket is written to."""

    def __init__(self, link: Link, credits: CreditWindow, deadline: float) -> None:
        """`deadline` in seconds, for the server to take what is sent at once."""
        self._link = link
        self._deadline = deadline
        self._credits = credits
        self._socket = link.socket
        self._signer = link.signer if link.sealer is None else None
        self._lock = threading.Lock()
        self._posted: deque[memoryview] = deque()

    def part(self, body: Body, message_id: int, *, is_first: bool = True, is_last: bool = True) -> list[Readable]:
        """One request of a related compound: header, body, what is not to be copied, and what fills it up."""
        link, content, tail = self._link, body.content, body.tail
        length = HEADER_BYTES + len(content) + (len(tail) if tail is not None else 0)
        padding = 0 if is_last else -length % 8
        charge = link.charge(body)
        header = HEADER.pack(
            MAGIC,
            HEADER_BYTES,
            charge if link.multi_credit else 0,
            0,
            body.command,
            self._credits.request(charge) if is_first else charge,
            (0 if is_first else _RELATED) | (_SIGNED if self._signer is not None else 0),
            0 if is_last else length + padding,
            message_id,
            0,
            link.tree_id,
            link.session_id,
            NO_SIGNATURE,
        )
        parts: list[Readable] = [header + content + bytes(padding)] if tail is None else [header + content, tail]
        if padding and tail is not None:
            parts.append(bytes(padding))
        return self._signed(parts, message_id)

    def cancellation(self, message_id: int, async_id: int) -> list[Readable]:
        """MS-SMB2 2.2.30: the server need not go on with it. Costs no credit, and is not answered."""
        flags = _ASYNC | (_SIGNED if self._signer is not None else 0)
        fields = (MAGIC, HEADER_BYTES, 0, 0, Command.CANCEL, 0, flags, 0, message_id)
        header = HEADER.pack(*fields, async_id & 0xFFFF_FFFF, async_id >> 32, self._link.session_id, NO_SIGNATURE)
        return self._signed([header + _CANCEL_BODY], message_id, is_cancel=True)

    def send(self, messages: Sequence[list[Readable]]) -> None:
        """Return when all are sent. OSError; then nothing can follow, for one may have gone in part."""
        parts = [part for message in messages for part in self._framed(message)]
        with self._lock:
            expires_at = time.monotonic() + self._deadline
            self._send_posted(0)
            sent = self._socket.sendmsg(parts if len(parts) <= _IOV_MAX else [b"".join(parts)])
            if sent < sum(map(len, parts)):
                self._send_rest(memoryview(b"".join(parts))[sent:], expires_at)
        self.flush()

    def post(self, message: list[Readable]) -> None:
        """Send without waiting: now, or before what is sent next, or at flush(). OSError."""
        if len(self._posted) >= MAX_POSTED:
            raise TimeoutError
        self._posted.append(memoryview(b"".join(self._framed(message))))
        self.flush()

    def flush(self) -> None:
        """Send what is posted, as far as that needs no waiting. OSError."""
        # Looked at again after the lock was free: another thread may have posted something while it was held.
        while self._posted and self._lock.acquire(blocking=False):
            try:
                self._send_posted(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            finally:
                self._lock.release()

    def close(self) -> None:
        """Close the socket, once no thread writes to it."""
        with self._lock:
            self._socket.close()

    def _signed(self, parts: list[Readable], message_id: int, *, is_cancel: bool = False) -> list[Readable]:
        if self._signer is not None:
            signature = self._signer.signature(parts, message_id, is_reply=False, is_cancel=is_cancel)
            head = bytes(parts[0])
            parts[0] = head[:SIGNATURE_AT] + signature + head[HEADER_BYTES:]
        return parts

    def _framed(self, message: list[Readable]) -> list[Readable]:
        sealer = self._link.sealer
        parts = message if sealer is None else sealer.seal(message)
        return [length_prefix(parts), *parts]

    # Under the lock.

    def _send_posted(self, flags: int) -> None:
        while self._posted:
            rest = self._posted[0]
            rest = rest[self._socket.send(rest, flags) :]
            if rest:
                self._posted[0] = rest
            else:
                self._posted.popleft()

    def _send_rest(self, rest: memoryview, expires_at: float) -> None:
        """The socket's own time limit is for each call: a server that takes a byte now and then would hold us."""
        while rest:
            if time.monotonic() >= expires_at:
                raise TimeoutError
            rest = rest[self._socket.send(rest) :]
