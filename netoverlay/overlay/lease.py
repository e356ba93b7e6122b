"""An upper on a server is owned by a lease: a file that its owner writes anew every few seconds, while it lives.

Who wants the upper goes by the server's clock alone: by the time of the lease's last change, against that of a file
that is made for the purpose. Who owns it goes by its own clock alone: by when it began to renew the lease the last
time. The owner gives up before anybody else may take over, so the two never have to agree on the time.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from netoverlay.backend_api import Backend, LayerPath
from netoverlay.backend_api.waiting import about_to_wait
from netoverlay.overlay.lease_file import LeaseFile, Seen, SupersededError, check_nonce, is_taken
from netoverlay.overlay.owner import Holding, Owner, UpperHeldError, is_dead_here, this_process

logger = logging.getLogger(__name__)

_SECOND_NS = 1_000_000_000
_SILENT_BEATS = 2.5
"""After so many beats that did not come an owner is called silent."""
_WATCH_BEATS = 2.0
"""For so long an owner that counts as dead is watched before it is replaced."""
_ATTEMPTS = 20
_RETRIES_PER_BEAT = 5
_PART_PATIENCE = 1.0
_SETTLE_PATIENCE = 5.0
_POLLS = 20
_TAKER_PAUSE = 0.1
_LONGEST_SECONDS = 86400.0


def clock_with_sleep() -> float:
    """Seconds, counting those in which the machine was suspended, too, as the monotonic clock of Linux does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How often, how long, by which clock. All in seconds."""

    beat_seconds: float = 10.0
    """Between two renewals."""
    expires_seconds: float = 60.0
    """An owner that was not heard of for so long counts as dead. It is written in the lease: others go by it."""
    margin_seconds: float = 30.0
    """So long before that the owner gives up by itself. No change that began before may take longer."""
    clock: Callable[[], float] = clock_with_sleep

    @classmethod
    def for_deadline(cls, deadline: float) -> Timing:
        """For a backend whose calls return within `deadline` seconds."""
        usual = cls()
        margin = max(usual.margin_seconds, deadline)
        return dataclasses.replace(usual, expires_seconds=margin + usual.own_seconds, margin_seconds=margin)

    @property
    def own_seconds(self) -> float:
        """So long a renewal is good for its owner."""
        return self.expires_seconds - self.margin_seconds


class HeldLease:
    """An upper that this process owns. A thread renews the lease until release(), or until it is lost."""

    def __init__(self, file: LeaseFile, owner: Owner, renewed_at: float, timing: Timing) -> None:
        """`renewed_at` is when the writing of the lease began, by the clock of `timing`."""
        self._file = file
        self._owner = owner
        self._timing = timing
        self._good_until = renewed_at + timing.own_seconds
        self._lost = False
        self._failing = False
        self._holding = Holding(state="held", since=time.time())
        self._ended = threading.Event()
        self._renewing = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="netoverlay-lease", daemon=True)
        self._thread.start()

    def lost(self) -> bool:
        """Whether the upper is not ours any more; once it is not, it never is again.

        Where the lease has run out this first tries to renew it: the machine may have been suspended, and nobody else
        come. That asks the server, and takes as long as its deadline allows.
        """
        if self._lost:
            return True
        if self._timing.clock() < self._good_until:
            return False
        about_to_wait()
        with self._renewing:
            self._renew_if_run_out()
            return self._lost

    def holding(self) -> Holding:
        """How it stands, as far as is known: asks nobody, and returns at once."""
        holding = self._holding
        left = self._good_until - self._timing.clock()
        if holding.state == "held" and left <= 0:  # the machine was suspended
            problem = "it has run out; the server is asked before the next change"
            return Holding(state="unrenewed", since=time.time() + left, problem=problem)
        if holding.state == "unrenewed":
            problem = f"it cannot be renewed, and is lost in {max(0.0, left):.0f} s if that stays so: {holding.problem}"
            return dataclasses.replace(holding, problem=problem)
        return holding

    def release(self) -> None:
        """Give the upper back. If the server cannot be reached the lease stays there, until it has expired."""
        if self._ended.is_set():
            return
        self._ended.set()
        with self._renewing:
            self._lost = True
            try:
                self._file.give_back(self._owner)
            except (FileNotFoundError, SupersededError):
                pass  # it is another's, or has been released before
            except OSError as error:
                logger.warning(
                    "the lease of the upper stays until it has expired; a mount elsewhere has to wait for that: %s: %s",
                    self._file.where(),
                    error,
                )
        self._thread.join()

    def _beat(self) -> None:
        pause = self._timing.beat_seconds
        while not self._ended.wait(pause):
            with self._renewing:
                if self._ended.is_set() or self._lost:
                    return
                self._renew()
                pause = self._timing.beat_seconds / (_RETRIES_PER_BEAT if self._failing else 1)

    def _renew_if_run_out(self) -> None:
        """Unless another thread has just done so, or learnt that it is lost."""
        if not self._lost and self._timing.clock() >= self._good_until:
            self._renew()

    def _renew(self) -> None:
        """Write the lease anew; decide what it means if that fails."""
        owner = dataclasses.replace(self._owner, beat=self._owner.beat + 1)
        try:
            began = self._timing.clock()
            self._file.overwrite(owner)
            # Somebody may have renamed it away before we wrote. If not, whoever does later sees that it was renewed.
            check_nonce(self._file.look(), owner.nonce)
        except SupersededError as error:
            self._lose(str(error))
        except OSError as error:
            self._not_renewed(error)
        else:
            self._owner = owner
            self._good_until = began + self._timing.own_seconds
            if self._failing:
                self._failing = False
                self._holding = Holding(state="held", since=time.time())
                logger.info("the lease of the upper is renewed again: %s", self._file.where())

    def _not_renewed(self, error: OSError) -> None:
        left = self._good_until - self._timing.clock()
        if left <= 0:
            self._lose(f"it could not be renewed in time: {_one_line(error)}")
        elif not self._failing:
            self._failing = True
            self._holding = Holding(state="unrenewed", since=time.time(), problem=_one_line(error))
            logger.warning("the lease of the upper cannot be renewed, for %.0f s more it is ours: %s", left, error)

    def _lose(self, reason: str) -> None:
        self._lost = True
        self._holding = Holding(state="lost", since=time.time(), problem=reason)
        logger.error(
            "the upper is lost, every change fails from now on: unmount, and mount again. The lease %s: %s",
            self._file.where(),
            reason,
        )


def take_lease(backend: Backend, work: LayerPath, mountpoint: str, timing: Timing) -> HeldLease:
    """Own the upper with the work directory `work`, for the mount at `mountpoint`. UpperHeldError.

    `backend` must ask the server each time, as LeaseFile says. An owner that is dead, but was on another machine, is
    watched for two beats before: then this takes so long.
    """
    contender = Contender(backend, work, timing)
    owner = dataclasses.replace(
        this_process(mountpoint),
        nonce=contender.file.nonce,
        beat_seconds=timing.beat_seconds,
        expires_seconds=timing.expires_seconds,
    )
    failure: OSError = UpperHeldError("many mounts want it at the same time; try again")
    for _ in range(_ATTEMPTS):
        began = timing.clock()
        try:
            if contender.file.create(owner):
                contender.settle(owner)
                return HeldLease(contender.file, owner, began, timing)
        except OSError as error:
            if not is_taken(error):
                raise
            failure = error
        seen = contender.look()
        if seen is not None and contender.is_free(seen):
            contender.remove(seen)
    raise failure


class Contender:
    """Somebody who wants an upper, and has to find out whether it is another's."""

    def __init__(self, backend: Backend, work: LayerPath, timing: Timing) -> None:
        self.file = LeaseFile(backend, work, secrets.token_hex(8))
        self._timing = timing
        self._nobody = threading.Event()

    def look(self) -> Seen | None:
        """The lease. One that is just being written is waited for, a little."""
        seen = self.file.look()
        for _ in range(_POLLS):
            if seen is None or seen.owner is not None:
                break
            self._pause(min(_PART_PATIENCE, self._timing.beat_seconds) / _POLLS)
            seen = self.file.look()
        return seen

    def is_free(self, seen: Seen) -> bool:
        """Whether the owner of a lease is gone; False if it changed meanwhile. UpperHeldError if it is not gone.

        An owner that has expired by the server's clock is watched for two beats more: a clock can be set.
        """
        if self._is_given_up(seen):
            return True
        self._refuse(seen)
        owner = seen.owner
        watch = _WATCH_BEATS * _limited(owner.beat_seconds if owner else self._timing.beat_seconds)
        logger.warning("the owner of the upper is silent (%s); if it stays so for %.0f s it is replaced", owner, watch)
        self._pause(watch)
        return self.file.look() == seen

    def remove(self, seen: Seen) -> None:
        """Remove a lease that is_free(), if it is still there, unless another does."""
        with self.file.taking() as is_alone:
            if is_alone:
                self.file.take_away(seen)
                return
        self._pause(_TAKER_PAUSE)
        self.file.forget_taker(self._timing.expires_seconds)

    def settle(self, owner: Owner) -> None:
        """Make sure of a lease that was just created. UpperHeldError if another's is only away for a moment."""
        for _ in range(_POLLS):
            self._give_way_to_others(owner)
            seen = self.file.look()
            if seen is not None and seen.owner is not None and seen.owner.nonce == owner.nonce:
                return
            # Somebody took it for the one that was there before, and will put it back.
            self._pause(_SETTLE_PATIENCE / _POLLS)
        self.file.withdraw(owner)
        raise UpperHeldError("another mount is just taking it; try again")

    def _give_way_to_others(self, owner: Owner) -> None:
        for path, seen in self.file.set_aside():
            if seen.owner is not None and seen.owner.nonce == owner.nonce:
                continue
            if not self._is_given_up(seen):
                try:
                    self._refuse(seen)
                except UpperHeldError:
                    self.file.withdraw(owner)
                    raise
            self.file.forget(path)

    def _is_given_up(self, seen: Seen) -> bool:
        """Whether a lease is certainly nobody's, whatever the time."""
        return seen.owner is not None and (seen.owner.released or is_dead_here(seen.owner))

    def _refuse(self, seen: Seen) -> None:
        """UpperHeldError unless a lease has expired."""
        owner, where = seen.owner, self.file.where()
        if owner is not None and not owner.nonce:
            raise UpperHeldError(
                f"another mount owns it: {owner}; unmount that first, or remove {where} if that machine has crashed"
            )
        now = self.file.server_now()
        # Whole seconds may be cut off: then up to one less has passed.
        slack = 1.0 if seen.mtime_ns % _SECOND_NS == 0 else 0.0
        age = (now - seen.mtime_ns) / _SECOND_NS
        told = _limited(owner.expires_seconds) if owner is not None else 0.0
        left = (told or self._timing.expires_seconds) + slack - age
        if left <= 0:
            return
        if owner is None:
            raise UpperHeldError(
                "another mount is just taking it, or died over that; "
                f"try again in {left:.0f} seconds, or remove {where}"
            )
        if age <= _SILENT_BEATS * _limited(owner.beat_seconds) + slack:
            raise UpperHeldError(f"another mount owns it: {owner}; unmount that first")
        raise UpperHeldError(
            f"another mount owns it: {owner}; it was last heard of {age:.0f} seconds ago, and can be replaced in "
            f"{left:.0f} seconds: try again then, or remove {where} if that machine is gone for good"
        )

    def _pause(self, seconds: float) -> None:
        self._nobody.wait(seconds)


def _one_line(error: OSError) -> str:
    return error.strerror or str(error)


def _limited(seconds: float) -> float:
    """What another wrote about itself, kept in bounds."""
    return min(max(0.0, seconds), _LONGEST_SECONDS)
