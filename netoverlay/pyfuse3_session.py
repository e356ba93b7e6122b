"""One mount, served through libfuse by pyfuse3: the same life as that of fuse/session.py.

The device is opened and mounted by fuse/mount.py, as always; libfuse gets it as /dev/fd/N. Notifications go to it past
libfuse, for pyfuse3 cannot have a name looked up again without unmounting what is mounted below it.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import re
from collections.abc import Callable, Sequence
from typing import Final

import pyfuse3
import trio

from netoverlay.fuse.abi import InitFlag
from netoverlay.fuse.channel import Channel
from netoverlay.fuse.negotiation import Negotiated, SessionSettings
from netoverlay.fuse.notify import Notifier
from netoverlay.fuse.operations import Operations
from netoverlay.pyfuse3_channel import Adapter
from netoverlay.pyfuse3_numbers import KernelNumbers

_log = logging.getLogger(__name__)

_AGREED: Final = Negotiated(
    minor=0, flags=InitFlag(0), max_write=0, max_readahead=0, kernel_minor=0, offered=InitFlag(0)
)
"""libfuse does not tell what it agrees on, so nothing may be built on it."""
_UNWANTED_REPLY: Final = re.compile(
    r"fuse_reply_\* failed with (" + "|".join(os.strerror(code) for code in (errno.ENOENT, errno.ENODEV)) + ")"
)


def _is_defect(record: logging.LogRecord) -> bool:
    """Not that nobody waits for a reply any more, as at the end of a mount that was in use: to pyfuse3 an error."""
    return _UNWANTED_REPLY.search(record.getMessage()) is None


class Pyfuse3Session:
    """Serves one mount, the only one of the process, from handshake() to the end of run()."""

    def __init__(
        self, device: int, operations: Operations, settings: SessionSettings, errno_of: Callable[[OSError], int]
    ) -> None:
        """`device` is closed at the end of run(). Of the settings only `max_threads` is heeded by libfuse."""
        self._device = device
        self._operations = operations
        self._until_init = trio.CancelScope()
        self._adapter = Adapter(operations, errno_of, settings.max_threads, self._until_init.cancel)
        # One of its own, for libfuse closes the other one.
        self._notifications = Channel(os.dup(device))
        self.settings: Final = settings
        self.notifier: Final[Notifier] = _NumberedNotifier(self._notifications, self._adapter.numbers)
        # SimpleQueue: its put() may be called from a signal handler.
        self._stops: queue.SimpleQueue[None] = queue.SimpleQueue()

    def counters(self) -> dict[str, int]:
        """As of Session."""
        return {opcode.name.lower(): count for opcode, count in dict(self._adapter.counts).items()}

    def handshake(self) -> Negotiated:
        """As of Session. EIO if libfuse does not take the device."""
        logging.getLogger(pyfuse3.__name__).addFilter(_is_defect)
        try:
            pyfuse3.init(self._adapter, f"/dev/fd/{self._device}", set())
        except RuntimeError as error:
            raise OSError(errno.EIO, f"libfuse: {error}") from error
        if not trio.run(self._answer_init):
            raise OSError(errno.ENODEV, "the file system was unmounted before it was ready")
        _log.info("served through pyfuse3 %s", pyfuse3.__version__)
        return _AGREED

    async def _answer_init(self) -> bool:
        """Serve until INIT, and nothing after it: its reply is sent before pyfuse3 looks whether it is cancelled."""
        with self._until_init:
            await pyfuse3.main()
        return self._until_init.cancelled_caught

    def run(self, unmount: Callable[[], None] | None = None, grace_seconds: float = 10.0) -> None:
        """As of Session; what made the device unreadable comes in an ExceptionGroup. Call it on the main thread."""
        try:
            trio.run(self._serve, unmount, grace_seconds)
        finally:
            self._stops.put(None)  # releases the thread that waits for it
            self._operations.destroy()
            pyfuse3.close(unmount=False)
            self._notifications.close()

    def request_stop(self) -> None:
        """As of Session."""
        self._stops.put(None)

    async def _serve(self, unmount: Callable[[], None] | None, grace_seconds: float) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_asked, unmount, grace_seconds, nursery.cancel_scope)
            await pyfuse3.main(max_tasks=self.settings.max_threads)
            nursery.cancel_scope.cancel()

    async def _end_when_asked(
        self, unmount: Callable[[], None] | None, grace_seconds: float, session: trio.CancelScope
    ) -> None:
        """Cancelled by the end of the connection."""
        await self._stop_requested()
        if await self._unmounted(unmount):
            with trio.move_on_after(grace_seconds) as grace:
                await self._stop_requested()
            if grace.cancelled_caught:
                _log.warning("still in use after %s seconds: open files are cut off", grace_seconds)
        pyfuse3.terminate()
        await trio.sleep(grace_seconds)
        _log.error("some requests were not done after %s seconds more", grace_seconds)
        session.cancel()

    async def _stop_requested(self) -> None:
        await trio.to_thread.run_sync(self._stops.get, abandon_on_cancel=True)

    async def _unmounted(self, unmount: Callable[[], None] | None) -> bool:
        if unmount is None:
            return True
        try:
            await trio.to_thread.run_sync(unmount)
        except OSError as error:
            _log.error(
                "cannot unmount, so a dead mount is left behind (`netoverlay umount --lazy` removes it): %s", error
            )
            return False
        return True


class _NumberedNotifier(Notifier):
    """For the numbers by which the kernel knows the inodes. 0, for one that it does not know, is never one."""

    def __init__(self, channel: Channel, numbers: KernelNumbers) -> None:
        super().__init__(channel)
        self._number_of = numbers.number_of

    def invalidate_inode(self, nodeid: int, offset: int = 0, length: int = 0) -> bool:
        return super().invalidate_inode(self._number_of(nodeid), offset, length)

    def invalidate_entry(self, parent: int, name: str) -> bool:
        return super().invalidate_entry(self._number_of(parent), name)

    def expire_entry(self, parent: int, name: str) -> bool:
        return super().expire_entry(self._number_of(parent), name)

    def delete(self, parent: int, child: int, name: str) -> bool:
        return super().delete(self._number_of(parent), self._number_of(child), name)

    def prune(self, nodeids: Sequence[int]) -> None:
        super().prune([self._number_of(nodeid) for nodeid in nodeids])
