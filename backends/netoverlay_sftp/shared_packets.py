"""paramiko's packets, read by whichever thread waits for one: no reply costs a switch to a thread that only receives.

A transport of paramiko's has a thread that reads every packet and hands it on. Here that thread lends its turn to read,
once it has logged in and as long as nothing is asked of it: a thread that waits for a channel's data takes the turn,
decrypts packets itself, leaves what is for other channels in their inboxes, and passes the turn to the next that waits.
What is not a channel's data or window it gives to the transport's thread, and the turn with it; so what that thread
alone may do (renewing the keys, answering the server's requests, ending) happens in the order of the packets.

Only for AES-GCM (RFC 5647), whose packets tell their length before they are decrypted: a thread that waits for one that
never ends must still be able to give up. With other ciphers the transport's thread keeps its turn.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import paramiko
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko.common import MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST, MSG_KEXINIT
from paramiko.packet import NeedRekeyException, Packetizer

from netoverlay.backend_api.leadership import TICK_SECONDS
from netoverlay_sftp.inbox import Inbox
from netoverlay_sftp.protocol import UINT32
from netoverlay_sftp.watched_socket import WatchedSocket

_TAG_BYTES = 16
_LENGTH = slice(0, UINT32.size)
_COUNTER_BYTES = 8
"""Of the nonce, the last; RFC 5647, section 7.1."""
_KIND_BYTES = 1
_DATA_HEADER_BYTES = _KIND_BYTES + 2 * UINT32.size
"""Of CHANNEL_DATA: kind, channel and length (RFC 4254, section 5.2)."""
_MIN_PADDING = 4


class _Handed(NamedTuple):
    """Why the transport's thread is called."""

    message: tuple[int, paramiko.Message] | None = None
    """A packet that only it may deal with; or"""
    error: BaseException | None = None
    """what ended the connection. With either comes the turn; without, it is to take it if nobody has it."""
    has_turn: bool = True


_READ: Final = _Handed(has_turn=False)
_LOOK: Final = _Handed()


class _Receiver(NamedTuple):
    inbox: Inbox
    adjust_window: Callable[[paramiko.Message], None]


class SharedPacketizer(Packetizer):
    """One connection's packets. The turn to read is a lock, which the transport's thread has from the beginning."""

    def __init__(self, socket: WatchedSocket) -> None:
        super().__init__(socket)  # type: ignore[arg-type]  # which paramiko allows, and its type stubs do not
        self._wire = socket
        self._turn = threading.Lock()
        self._turn.acquire()
        self._mutex = threading.Lock()
        self._waiting: dict[Inbox, None] = {}
        """Those who want the turn, in the order in which they came."""
        self._attended = 0
        """How many wait for something that does not come to an inbox."""
        self._calls: queue.SimpleQueue[_Handed] = queue.SimpleQueue()
        self._receivers: dict[int, _Receiver] = {}
        self._is_lent = False
        self._renewing = False
        self._engine: AESGCM | None = None
        self._prefix, self._counter = b"", 0
        """The two parts of the nonce."""
        self._sequence = 0
        self._received = 0
        """Bytes, with these keys."""

    # What paramiko calls.

    def set_inbound_cipher(
        self,
        block_engine: Any,  # noqa: ANN401  (as paramiko has it)
        block_size: int,
        mac_engine: Any,  # noqa: ANN401  (as paramiko has it)
        mac_size: int,
        mac_key: bytes | bytearray,
        etm: bool = False,
        aead: bool = False,
        iv_in: bytes | None = None,
    ) -> None:
        """From now on the new keys hold. Called by the transport's thread, in its turn."""
        super().set_inbound_cipher(block_engine, block_size, mac_engine, mac_size, mac_key, etm, aead, iv_in)
        self._engine = None
        if aead and iv_in is not None:
            self._engine = block_engine
            self._prefix = iv_in[:-_COUNTER_BYTES]
            self._counter = int.from_bytes(iv_in[-_COUNTER_BYTES:], "big")
        self._received = 0
        self._renewing = False

    def reset_seqno_in(self) -> None:
        super().reset_seqno_in()
        self._sequence = 0

    def read_message(self) -> tuple[int, paramiko.Message]:
        """The next packet for the transport's thread, which alone calls this. It has the turn until it calls again."""
        if self._engine is None or not self._is_lent or self._is_needed():
            return self._read_own()
        self._pass_on()
        while True:
            call = self._await_call()
            if call.error is not None:
                raise call.error
            if call.message is not None:
                return self._noted(call.message)
            if not call.has_turn and not self._turn.acquire(blocking=False):
                continue
            if self.need_rekey():
                raise NeedRekeyException  # run() begins it
            return self._read_own()

    def close(self) -> None:
        super().close()
        self._calls.put(_READ)

    # What streams call.

    def lend(self) -> None:
        """From now on others may read: the login is over."""
        self._is_lent = True

    def register(self, channel: paramiko.Channel, inbox: Inbox) -> None:
        """Whoever reads may leave data for `channel` in `inbox`, which is its in_buffer."""
        self._receivers[channel.get_id()] = _Receiver(inbox, channel._window_adjust)  # type: ignore[attr-defined]  # noqa: SLF001

    def await_data(self, inbox: Inbox, wanted: int, timeout: float) -> None:
        """Return when `inbox` has `wanted` bytes, or gets no more; TimeoutError after `timeout` seconds."""
        inbox.expect(wanted)
        if inbox.is_ready():
            return
        give_up_at = time.monotonic() + timeout
        with self._mutex:
            self._waiting[inbox] = None
        try:
            while not inbox.is_ready():
                left = give_up_at - time.monotonic()
                if self._turn.acquire(blocking=False):
                    self._read_for(inbox, left)
                else:
                    inbox.wait(left)
                if left <= 0 and not inbox.is_ready():
                    raise TimeoutError
        finally:
            with self._mutex:
                self._waiting.pop(inbox, None)
            if not self._turn.locked():
                self._nudge_next()

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Somebody reads as long as the block takes, though what it waits for comes to no inbox."""
        with self._mutex:
            self._attended += 1
        if not self._turn.locked():
            self._calls.put(_READ)
        try:
            yield
        finally:
            with self._mutex:
                self._attended -= 1

    # The turn.

    def _is_needed(self) -> bool:
        """Whether the transport's thread has to read itself."""
        return self._renewing or self._attended > 0 or self.need_rekey() or self.closed

    def _pass_on(self) -> None:
        """With the turn: let the next one have it."""
        self._turn.release()
        self._nudge_next()

    def _nudge_next(self) -> None:
        with self._mutex:
            inbox = next(iter(self._waiting), None)
        if inbox is not None:
            inbox.nudge()
        elif self._attended:
            self._calls.put(_READ)

    def _await_call(self) -> _Handed:
        """By the transport's thread, without the turn. While nobody waits it looks at times whether anything came."""
        while True:
            try:
                return self._calls.get(timeout=TICK_SECONDS)
            except queue.Empty:
                if not self._turn.acquire(blocking=False):
                    continue
                if self._is_needed() or self._wire.has_packet(_TAG_BYTES):
                    return _LOOK
                self._pass_on()

    # Reading, with the turn.

    def _read_own(self) -> tuple[int, paramiko.Message]:
        """For the transport's thread."""
        if self._engine is None:
            return self._noted(super().read_message())
        while True:
            try:
                payload = self._next(self._engine, math.inf)
            except OSError as error:
                if self.closed:
                    raise EOFError from None
                if not isinstance(error, TimeoutError):
                    raise
                if self.need_rekey():
                    raise NeedRekeyException from None
            else:
                return self._noted(self._message(payload))

    def _noted(self, message: tuple[int, paramiko.Message]) -> tuple[int, paramiko.Message]:
        kind, content = message
        if kind == MSG_KEXINIT:
            self._renewing = True
        self._sequence = content.seqno + 1
        return message

    def _read_for(self, inbox: Inbox, timeout: float) -> None:
        """Read until `inbox` is ready or time is up, then let go of the turn; or give it to the transport's thread."""
        engine = self._engine
        try:
            while engine is not None and not inbox.is_ready() and not self.need_rekey():
                payload = self._next(engine, timeout)
                if not self._deliver(payload):
                    self._calls.put(_Handed(self._message(payload)))
                    return
        except TimeoutError:
            pass
        except BaseException as error:
            self._calls.put(_Handed(error=error if isinstance(error, Exception) else EOFError()))
            if not isinstance(error, Exception):
                raise
            return
        if engine is None or self.need_rekey():
            self._calls.put(_LOOK)
        else:
            self._turn.release()

    def _next(self, engine: AESGCM, timeout: float) -> memoryview:
        """What the next packet carries. TimeoutError, EOFError, SSHException."""
        packet = self._wire.packet(_TAG_BYTES, timeout)
        nonce = self._prefix + self._counter.to_bytes(_COUNTER_BYTES, "big")
        try:
            plain = engine.decrypt(nonce, packet[UINT32.size :], packet[_LENGTH])
        except InvalidTag:
            raise paramiko.SSHException("a packet was changed on the way") from None
        self._counter = (self._counter + 1) % (1 << 8 * _COUNTER_BYTES)
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        self._count(len(packet))
        end = len(plain) - plain[0]
        if plain[0] < _MIN_PADDING or end <= _KIND_BYTES:
            raise paramiko.SSHException("the server sent a packet without content")
        return memoryview(plain)[1:end]

    def _count(self, size: int) -> None:
        """Keys are renewed after so much, and the server has to agree before it is twice as much."""
        self._received += size
        if self._received >= self.REKEY_BYTES and not self.need_rekey():
            self._trigger_rekey()  # type: ignore[attr-defined]
        if self._received >= self.REKEY_BYTES + self.REKEY_BYTES_OVERFLOW_MAX:
            raise paramiko.SSHException("the server ignores that the keys are to be renewed")

    def _message(self, payload: memoryview) -> tuple[int, paramiko.Message]:
        message = paramiko.Message(bytes(payload[_KIND_BYTES:]))
        message.seqno = self._sequence - 1
        return payload[0], message

    def _deliver(self, payload: memoryview) -> bool:
        """Whether it was for a stream. SSHException if it makes no sense."""
        kind = payload[0]
        if kind not in (MSG_CHANNEL_DATA, MSG_CHANNEL_WINDOW_ADJUST) or len(payload) < _DATA_HEADER_BYTES:
            return False
        receiver = self._receivers.get(UINT32.unpack_from(payload, _KIND_BYTES)[0])
        if receiver is None:
            return False
        if kind == MSG_CHANNEL_WINDOW_ADJUST:
            receiver.adjust_window(paramiko.Message(bytes(payload[_KIND_BYTES + UINT32.size :])))
            return True
        data = payload[_DATA_HEADER_BYTES:]
        if UINT32.unpack_from(payload, _KIND_BYTES + UINT32.size)[0] != len(data):
            raise paramiko.SSHException("the server sent data of another length than it says")
        receiver.inbox.feed(data)
        return True
