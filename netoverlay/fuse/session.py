"""One mount, served: handshake, dispatch, interrupts, and the end.

A thread reads a request, serves it and answers it, and only then reads on, unless the operation calls
backend_api.waiting.about_to_wait(): then another thread reads meanwhile (crew.py), and an INTERRUPT can reach the
request, whose operation learns of it from backend_api.waiting.check_interrupted().
"""

from __future__ import annotations

import enum
import errno
import logging
import math
import mmap
import queue
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from netoverlay.backend_api import waiting
from netoverlay.fuse import abi, decoding, negotiation
from netoverlay.fuse.abi import Opcode
from netoverlay.fuse.channel import Channel
from netoverlay.fuse.crew import Crew
from netoverlay.fuse.decoding import Decoder, MalformedRequestError
from netoverlay.fuse.deferred import Deferred
from netoverlay.fuse.messages import MESSAGES, Answered, Internal, Served
from netoverlay.fuse.negotiation import Negotiated, SessionSettings
from netoverlay.fuse.notify import Notifier
from netoverlay.fuse.operations import Operations
from netoverlay.fuse.replies import Reply
from netoverlay.fuse.requests import ForgetRequest, InterruptRequest, RequestHeader

_log = logging.getLogger(__name__)

_LOOK_UP_SECONDS: Final = 1.0

_Handler: TypeAlias = tuple[Decoder, Callable[[RequestHeader, Any], Reply | Deferred], bool]
"""How to decode the body, what to call with it, and whether the kernel waits for an answer."""


def plain_errno(error: OSError) -> int:
    """The error's own errno, or EIO if it has none."""
    return error.errno or errno.EIO


class _Event(enum.Enum):
    """What run() waits for."""

    STOP = "somebody asked for the end"
    ENDED = "nobody reads any more"


class _Worker:
    """What a thread knows of the request that it serves."""

    def __init__(self, session: Session, buffer: mmap.mmap) -> None:
        self._session = session
        self.buffers = [buffer]
        self.view = memoryview(buffer)
        self.unique = 0
        self.has_passed_reading = False
        self.interrupted = False

    def before_wait(self) -> None:
        """Let another thread read. In this order: once it reads, it may find the INTERRUPT of this request."""
        if not self.has_passed_reading:
            self.has_passed_reading = True
            # Not when the request begins: while another thread reads, it may still mark the one before.
            self.interrupted = False
            self._session.in_flight[self.unique] = self
            self._session.crew.pass_reading()

    def is_interrupted(self) -> bool:
        return self.has_passed_reading and self.interrupted

    def regain_reading(self) -> None:
        """Read on, if nobody else does: before the answer, which the next request may follow at once."""
        if self.has_passed_reading and self._session.crew.regain_reading():
            self.done()

    def done(self) -> None:
        """The request that passed the reading on waits for nothing any more."""
        del self._session.in_flight[self.unique]
        self.has_passed_reading = False
        waiting.request_done()


class Session:
    """Serves one mount from handshake() to the end of run()."""

    def __init__(
        self,
        channel: Channel,
        operations: Operations,
        settings: SessionSettings | None = None,
        errno_of: Callable[[OSError], int] = plain_errno,
    ) -> None:
        """`errno_of` says what an error of an operation is answered with: 1 to 511, anything else becomes EIO."""
        self._channel = channel
        self._operations = operations
        self.settings: Final = settings or SessionSettings()
        self._errno_of = errno_of
        self.notifier: Final = Notifier(channel)
        self.in_flight: Final[dict[int, _Worker]] = {}
        """By its unique, who serves a request and waits."""
        self._deferred: dict[int, Deferred] = {}
        """By its unique, whose answer comes later."""
        self.crew: Final = Crew("fuse", self._work, self.settings.max_threads, self.settings.idle_threads)
        # SimpleQueue and no Event or Condition: its put() may be called from a signal handler.
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._stopping = False
        self._failure: BaseException | None = None
        self._counts: dict[int, int] = dict.fromkeys(MESSAGES, 0)
        self._answers: dict[int, int] = {code: row.errno for code, row in MESSAGES.items() if isinstance(row, Answered)}
        self._handlers: dict[int, _Handler] = {}
        for opcode, row in MESSAGES.items():
            if isinstance(row, Served):
                self._handlers[opcode] = (row.decode, getattr(operations, row.method), True)
            elif isinstance(row, Internal):
                self._handlers[opcode] = (row.decode, getattr(self, f"_{row.method}"), False)

    def counters(self) -> dict[str, int]:
        """How many requests of each kind came; those that never came are left out."""
        return {Opcode(opcode).name.lower(): count for opcode, count in self._counts.items() if count}

    def handshake(self) -> Negotiated:
        """Wait for INIT and answer it; from then on the mount can be used, and waits for run().

        EPROTONOSUPPORT if the kernel is too old, ENODEV if it was unmounted meanwhile.
        """
        buffer = self._channel.buffer(self.settings.max_write)
        while True:
            length = self._channel.receive([buffer])
            if not length:
                raise OSError(errno.ENODEV, "the file system was unmounted before it was ready")
            message = memoryview(buffer)[:length]
            header = decoding.decode_header(message)
            if header.opcode != Opcode.INIT:
                self._channel.reply_errno(header.unique, errno.EIO)
                continue
            request = decoding.init(message)
            if request.major > abi.MAJOR:
                self._channel.reply(header.unique, negotiation.major_only_reply())
                continue
            try:
                agreed = negotiation.negotiate(request, self.settings)
            except OSError:
                self._channel.reply_errno(header.unique, errno.EPROTO)
                raise
            self._serve_as_agreed(agreed)
            self._operations.init(agreed)
            self._channel.reply(header.unique, negotiation.init_reply(agreed, self.settings))
            return agreed

    def _serve_as_agreed(self, agreed: Negotiated) -> None:
        for opcode, row in MESSAGES.items():
            if not isinstance(row, Served):
                continue
            if row.decode_without is not None and row.needs not in agreed.flags:
                _, method, answered = self._handlers[opcode]
                self._handlers[opcode] = (row.decode_without, method, answered)
            if row.spared_by & agreed.flags:
                del self._handlers[opcode]

    def run(self, unmount: Callable[[], None] | None = None, grace_seconds: float = 10.0) -> None:
        """Serve until the file system is unmounted; then close the device.

        After request_stop() `unmount` is called, on this thread, which serves nothing. It detaches the mount; whoever
        still has files open is served for up to `grace_seconds`, or until a second request_stop(). After that the
        requests already read have as long again, and the kernel cuts off the rest when the process exits.

        Raises what made the device unreadable, if something did.
        """
        self.crew.start(self._channel.fd)
        try:
            ended = self._next_event() is _Event.ENDED or self._let_users_finish(unmount, grace_seconds)
            self._stopping = True
            self.crew.end()
            if ended:
                self._end_in_flight()
                self.crew.join()
            elif not self.crew.join_but_reader(grace_seconds):
                _log.error("some requests were not done after %s seconds more", grace_seconds)
        finally:
            self._operations.destroy()
            self._channel.close()
        if self._failure is not None:
            raise self._failure

    def _end_in_flight(self) -> None:
        """What reads ahead, or closes a file, nobody waits for any more: let it not wait for a server that is away."""
        if not self.crew.join_but_reader(_LOOK_UP_SECONDS):
            for worker in list(self.in_flight.values()):
                worker.interrupted = True

    def request_stop(self) -> None:
        """Ask run() to unmount and return. Harmless from any thread, at any time, and in a signal handler."""
        self._events.put(_Event.STOP)

    def _let_users_finish(self, unmount: Callable[[], None] | None, grace_seconds: float) -> bool:
        """Unmount and wait for the end of the connection; False if it does not come."""
        try:
            if unmount is not None:
                unmount()
        except OSError as error:
            _log.error(
                "cannot unmount, so a dead mount is left behind (`netoverlay umount --lazy` removes it): %s", error
            )
            return False
        event = self._next_event(grace_seconds)
        if event is None:
            _log.warning("still in use after %s seconds: open files are cut off", grace_seconds)
        return event is _Event.ENDED

    def _next_event(self, seconds: float = math.inf) -> _Event | None:
        """What happens next, or None after `seconds`.

        Looks up every second, because Python runs signal handlers on the main thread only and does not wake it for a
        signal that another thread took, as a thread that starts one is apt to do (clone(2)).
        """
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            try:
                return self._events.get(timeout=min(_LOOK_UP_SECONDS, max(0.0, left)))
            except queue.Empty:
                if left <= 0:
                    return None

    def _work(self) -> None:
        """The life of a thread."""
        worker = _Worker(self, self._channel.buffer(self.settings.max_write))
        waiting.set_hooks(worker.before_wait, worker.is_interrupted)
        try:
            while self._read_and_serve(worker) and self.crew.await_reading():
                pass
        except BaseException as error:  # noqa: BLE001 - run() raises it, on the thread that can
            self._failure = error
            _log.exception("the session cannot go on")
            self._end()
        finally:
            waiting.set_hooks(None, None)

    def _read_and_serve(self, worker: _Worker) -> bool:
        """Serve until the reading is passed on (True) or the connection ends (False)."""
        receive = self._channel.receive
        while not self._stopping:
            length = receive(worker.buffers)
            if not length:
                break
            self._serve(worker, worker.view[:length])
            if worker.has_passed_reading:
                worker.done()
                return True
        self._end()
        return False

    def _end(self) -> None:
        self.crew.end()
        self._events.put(_Event.ENDED)

    def _serve(self, worker: _Worker, message: memoryview) -> None:
        try:
            header = decoding.decode_header(message)
        except MalformedRequestError as error:
            self._refuse_malformed(message, error)
            return
        opcode = header.opcode
        handler = self._handlers.get(opcode)
        if opcode in self._counts:
            self._counts[opcode] += 1
        if handler is None:
            self._channel.reply_errno(header.unique, self._answers.get(opcode, errno.ENOSYS))
            return
        decode, operation, answered = handler
        worker.unique = header.unique
        body = None
        try:
            body = decode(message)
            reply = operation(header, body)
        except Exception as error:  # noqa: BLE001 - a defect in one operation must not end the mount
            worker.regain_reading()
            self._failed(header, error, answered)
            return
        if isinstance(reply, Deferred):
            self._defer(worker, header, reply)
            return
        worker.regain_reading()
        if answered and not self._channel.reply(header.unique, reply):
            self._take_back(header, body, reply)

    def _defer(self, worker: _Worker, header: RequestHeader, deferred: Deferred) -> None:
        """Let the answer be sent when it is there."""

        def send(error: OSError | None) -> None:
            del self._deferred[header.unique]
            if error is None:
                self._channel.reply(header.unique, None)
            else:
                self._channel.reply_errno(header.unique, self._errno_of(error) or errno.EIO)

        self._deferred[header.unique] = deferred
        deferred.attach(send)
        # After it can be found: an INTERRUPT marks the worker first, and then looks for it.
        if worker.is_interrupted():
            deferred.interrupt()

    def _refuse_malformed(self, message: memoryview, error: MalformedRequestError) -> None:
        _log.error("%s", error)
        if len(message) >= decoding.HEADER_SIZE:
            self._channel.reply_errno(abi.IN_HEADER.unpack_from(message)[2], errno.EINVAL)

    def _failed(self, header: RequestHeader, error: Exception, answered: bool) -> None:
        code = errno.EIO
        if isinstance(error, OSError):
            code = self._errno_of(error)
        if not answered or not isinstance(error, OSError):
            _log.error("request %d (opcode %d) failed", header.unique, header.opcode, exc_info=error)
        if answered:
            # 0 would be taken for success, with a reply that is too short.
            self._channel.reply_errno(header.unique, code or errno.EIO)

    def _take_back(self, header: RequestHeader, body: object, reply: Reply) -> None:
        try:
            self._operations.unanswered(header, body, reply)
        except Exception:  # noqa: BLE001 - as in _serve
            _log.exception("the unanswered request %d (opcode %d) was not undone", header.unique, header.opcode)

    def _forget(self, header: RequestHeader, body: ForgetRequest) -> None:
        self._operations.forget(header, body)

    def _interrupt(self, header: RequestHeader, body: InterruptRequest) -> None:
        """Mark the request. One that is not there was answered meanwhile: the kernel expects nothing more."""
        del header
        worker = self.in_flight.get(body.unique)
        if worker is not None:
            worker.interrupted = True
        deferred = self._deferred.get(body.unique)
        if deferred is not None:
            deferred.interrupt()
