"""Faults of the way to a server, and of the server itself, one after the other while programs work."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Self

from tests.chaos.sites import ProxiedSite

PAUSES = (0.6, 1.8)
"""Seconds between two faults, at least and at most."""
PAUSES_OF_RESTARTS = (1.5, 3.5)
"""A server takes a moment until it serves again."""
LENGTHS = (0.3, 3.0)
"""Of a silence, a refusal, or the time in which there is no server."""
_IN_REPLY_SECONDS = 0.5


class Fault(StrEnum):
    """What is done, and how it is counted."""

    CUT = "all connections cut"
    CUT_IN_REPLY = "cut in the middle of a reply"
    SILENCE = "silences"
    REFUSAL = "refusals"
    RESTART = "server restarts"


CUTS = (Fault.CUT, Fault.CUT, Fault.CUT, Fault.CUT_IN_REPLY, Fault.CUT_IN_REPLY, Fault.SILENCE, Fault.REFUSAL)
"""Each as often as it is here."""
RESTARTS = (Fault.RESTART,)


class Faults:
    """Makes `count` faults, in a thread; all is well again after each."""

    def __init__(self, site: ProxiedSite, kinds: tuple[Fault, ...], count: int, rng: random.Random) -> None:
        self.made: Counter[Fault] = Counter()
        self.longest = 0.0
        """Seconds."""
        self._proxy = proxy = site.proxy
        self._server = site.server
        self._kinds = kinds
        self._count = count
        self._rng = rng
        self._stopped = threading.Event()
        self._failure: Exception | None = None
        self._acts: dict[Fault, Callable[[], None]] = {
            Fault.CUT: proxy.cut,
            Fault.CUT_IN_REPLY: self._cut_in_reply,
            Fault.SILENCE: lambda: self._for_a_while(proxy.silence),
            Fault.REFUSAL: lambda: self._for_a_while(proxy.refuse),
            Fault.RESTART: self._restart,
        }
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)

    def wait(self) -> None:
        """Return when all were made; raise what kept that from being done."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._proxy.restore()

    def _run(self) -> None:
        try:
            while self.made.total() < self._count and not self._stopped.wait(self._pause()):
                fault = self._rng.choice(self._kinds)
                began = time.monotonic()
                self._acts[fault]()
                self._proxy.restore()
                self.longest = max(self.longest, time.monotonic() - began)
                self.made[fault] += 1
        except Exception as error:  # noqa: BLE001  (raised by wait(), on the thread that can)
            self._failure = error

    def _pause(self) -> float:
        return self._rng.uniform(*(PAUSES_OF_RESTARTS if Fault.RESTART in self._kinds else PAUSES))

    def _cut_in_reply(self) -> None:
        before = self._proxy.cuts
        self._proxy.cut_in_reply()
        give_up_at = time.monotonic() + _IN_REPLY_SECONDS
        while self._proxy.cuts == before and time.monotonic() < give_up_at:
            time.sleep(0.005)

    def _for_a_while(self, begin: Callable[[], None]) -> None:
        begin()
        self._stopped.wait(self._rng.uniform(*LENGTHS))

    def _restart(self) -> None:
        self._server.stop()
        self._stopped.wait(self._rng.uniform(*LENGTHS) / 2)
        self._server.start()
