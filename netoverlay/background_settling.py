"""Settle the upper of a mount in the background, while it is served; and tell how far that is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from netoverlay.overlay.settling import Settler
from netoverlay.status.snapshot import LazyStatus, UnsettledFile

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2


class BackgroundSettling:
    """Of one mount. Thread-safe."""

    def __init__(self, settler: Settler | None) -> None:
        """`settler` is None if no file of the mount can be lazy."""
        self._settler = settler
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._unsettled: tuple[UnsettledFile, ...] = ()

    def start(self) -> None:
        """Begin to settle, if that is not being done."""
        with self._lock:
            if self._settler is None or self._stopped.is_set() or self._is_running():
                return
            self._unsettled = ()
            self._thread = threading.Thread(target=self._run, args=(self._settler,), name="settle", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Settle no more, from now on; what is half done goes on with the next mount."""
        self._stopped.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    def status(self) -> LazyStatus | None:
        """What there is to settle, and what came of the last time; None if nothing ever is."""
        if self._settler is None:
            return None
        with self._lock:
            settling, unsettled = self._is_running(), self._unsettled
        usage = self._settler.usage()
        return LazyStatus(files=usage.files, bytes=usage.bytes, settling=settling, unsettled=unsettled)

    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self, settler: Settler) -> None:
        try:
            unsettled = settler.run(self._stopped.is_set, int)
        except InterruptedError:
            return
        except OSError as error:
            logger.error("settle: %s", error)
            self._unsettled = (UnsettledFile(path="", reason=error.strerror or str(error)),)
        else:
            self._unsettled = tuple(UnsettledFile(path=path, reason=reason) for path, reason in unsettled)


def follow(look: Callable[[], LazyStatus | None], show: Callable[[LazyStatus], object]) -> LazyStatus | None:
    """Tell `show` what `look` sees of a settling that was begun, until it has ended. What it sees last."""
    while (status := look()) is not None and status.settling:
        show(status)
        time.sleep(POLL_SECONDS)
    return status
