"""What becomes of calls while a layer cannot be reached, and connecting in the background.

A layer of which enough is known from before is connected in the background: what the caches hold is served meanwhile,
and what they do not hold waits. One that is not waited for has a circuit breaker: the first call that could not reach
it opens the circuit, all others then fail at once, and hold no threads; one thread tries to reach the layer, and closes
the circuit when it has. Nothing that fails here says anything of a file: all of it is UnavailableError.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from netoverlay.backend_api.backend import Backend
from netoverlay.backend_api.errors import LayerSetupError, UnavailableError
from netoverlay.backend_api.types import Capabilities, FileStat
from netoverlay.backend_api.waiting import Patience, asking, check_interrupted, give_up_at
from netoverlay.wrappers.intercept import InterceptingBackend, Operation

P = ParamSpec("P")
T = TypeVar("T")

LATE = 0.3
"""Seconds after which a known layer is connected, if nobody needs it sooner: by then the mount is ready. Logging in
takes as long in the interpreter, so it begins in a time of LATE in which the process has little else to do."""
LATEST = 5.0
"""Seconds after which it is connected however much there is to do."""
_LITTLE = 0.1
"""Processor seconds a second."""
FIRST_PAUSE = 0.25
"""Seconds between two tries to reach the layer, at first and at most."""
MAX_PAUSE = 5.0
REFUSED_PAUSE = 60.0
"""After the server refused the login: a user who is refused too often is locked out."""
_INTERRUPT_SECONDS = 0.25
_RELEASES = frozenset({Operation.CLOSE, Operation.FILE_CLOSE})
"""What is given back without the server, too."""

_log = logging.getLogger(__name__)


class AvailabilityBackend(InterceptingBackend):
    """Waits for the layer for up to `deadline` seconds if `patient`; else fails at once while it is down.

    `on_connected(capabilities, root)` is called before anything else is asked of the layer. `known`: its capabilities,
    from an earlier mount; then connect() returns at once, and connects in the background, unless it is to be tried
    `at_once`: then only if the layer cannot be reached.
    """

    def __init__(
        self,
        inner: Backend,
        deadline: float,
        *,
        patient: bool = True,
        known: Capabilities | None = None,
        at_once: bool = False,
        on_connected: Callable[[Capabilities, FileStat], object] = lambda *_: None,
    ) -> None:
        super().__init__(inner)
        self._deadline = deadline
        self._patience = Patience(deadline)
        self._patient = patient
        self._known = known
        self._at_once = at_once or known is None
        self._on_connected = on_connected
        self._changed = threading.Condition()
        self._connected = False
        """Once, and from then on."""
        self._open = False
        """The circuit: nothing gets through."""
        self._trying = False
        self._problem = ""
        """Why the last try failed; empty after one that did not."""
        self._wanted = threading.Event()
        """Somebody waits for the layer, or will at once."""
        self._closing = threading.Event()

    def connect(self) -> Capabilities:
        if self._at_once:
            try:
                return self._connect()
            except UnavailableError as error:
                if self._known is None:
                    raise
                self._note_failure(error)
                self._wanted.set()
        with self._changed:
            self._try_in_background()
        return self._known or Capabilities()

    def close(self) -> None:
        self._closing.set()
        self._wanted.set()
        with self._changed:
            self._changed.notify_all()
        self.inner.close()

    def is_down(self) -> bool:
        """Whether nobody waits for the layer now."""
        return self._open

    def connection_state(self) -> str:
        if self._connected and not self._open:
            return self.inner.connection_state()
        return "down" if self._problem else "reconnecting"

    def connection_problem(self) -> str | None:
        return self._problem or self.inner.connection_problem()

    def around(self, operation: Operation, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if operation in _RELEASES:
            return function(*args, **kwargs)
        with asking(self._patience):
            if not self._connected or self._open:
                self._wait()
            try:
                return function(*args, **kwargs)
            except InterruptedError:
                raise
            except (UnavailableError, LayerSetupError) as error:
                if not self._patient:
                    self._is_lost(error)
                if isinstance(error, UnavailableError):
                    raise
                # It is about the layer, whatever its errno would say of a file.
                raise UnavailableError(_sentence(error)) from error

    def _wait(self) -> None:
        """Return when the layer can be asked; UnavailableError if it cannot, or not in time."""
        self._wanted.set()
        end = give_up_at(self._deadline)
        while True:
            with self._changed:
                if self._connected and not self._open:
                    return
                # The first try of all is waited for without patience, too: nothing says yet that the layer is down.
                is_hopeless = bool(self._problem) and not self._patient
                left = end - time.monotonic()
                if is_hopeless or left <= 0 or self._closing.is_set():
                    raise UnavailableError(self._problem or "the layer could not be connected in time")
                self._changed.wait(min(left, _INTERRUPT_SECONDS))
            check_interrupted()

    def _is_lost(self, error: OSError) -> None:
        with self._changed:
            if self._open or self._closing.is_set():
                return
            self._open = True
            self._problem = _sentence(error)
            self._try_in_background()
        _log.warning("the layer is down, and is not waited for: %s", self._problem)

    def _try_in_background(self) -> None:
        """Called with the lock held."""
        if not self._trying:
            self._trying = True
            # A daemon thread: a try can take as long as the deadline, and nobody should wait for it to unmount.
            threading.Thread(target=self._try_until_reached, name="reach-layer", daemon=True).start()

    def _try_until_reached(self) -> None:
        if not self._connected:
            self._await_leisure()
        pause = FIRST_PAUSE
        while not self._closing.is_set():
            try:
                self._reach()
            except OSError as error:
                self._note_failure(error)
                self._closing.wait(REFUSED_PAUSE if isinstance(error, LayerSetupError) else pause)
                pause = min(2 * pause, MAX_PAUSE)
            else:
                return

    def _await_leisure(self) -> None:
        """Return when somebody waits for the layer, or what the caches hold is not being asked for, or after LATEST."""
        end = time.monotonic() + LATEST
        spent = time.process_time()
        while not self._wanted.wait(LATE) and time.monotonic() < end:
            before, spent = spent, time.process_time()
            if spent - before < _LITTLE * LATE:
                return

    def _reach(self) -> None:
        if not self._connected:
            self._connect()
            return
        self.inner.stat("")
        self._is_reached()

    def _connect(self) -> Capabilities:
        capabilities = self.inner.connect()
        self._on_connected(capabilities, self.inner.stat(""))
        self._is_reached()
        return capabilities

    def _note_failure(self, error: OSError) -> None:
        problem = _sentence(error)
        with self._changed:
            is_news = problem != self._problem
            self._open = not self._patient
            self._problem = problem
            self._changed.notify_all()
        if is_news and not self._closing.is_set():
            _log.warning("the layer cannot be reached, which is tried again: %s", problem)

    def _is_reached(self) -> None:
        with self._changed:
            was_down = bool(self._problem)
            self._connected = True
            self._open = self._trying = False
            self._problem = ""
            self._changed.notify_all()
        if was_down:
            _log.info("the layer can be reached again")


def _sentence(error: OSError) -> str:
    return error.strerror or str(error)
