"""The upper of a profile, connected: a local directory as it is, one on a server with all that an upper needs.

Around a server's backend, from the inside: a guard that lets nothing be changed once another mount owns the upper;
limits, retries and counters as for every layer; listings kept, as long as nobody else changes them; names told apart by
their case; writes gathered; and what the transport cannot hold kept in a journal (docs/upper.md).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from netoverlay.backend_api import Backend, Capabilities, FileType, LayerPath, LayerSetupError, LayerUrl
from netoverlay.backend_api.registry import load_plugin
from netoverlay.backend_api.url import LOCAL_SCHEME
from netoverlay.cache.metadata import MetadataCache
from netoverlay.config.model import UpperSettings
from netoverlay.overlay.lease import Timing
from netoverlay.overlay.ownership import Held, acquire
from netoverlay.wrappers.guard import GuardedBackend
from netoverlay.wrappers.letter_case import LetterCaseBackend
from netoverlay.wrappers.limits import LimitedBackend
from netoverlay.wrappers.metrics import MeteredBackend
from netoverlay.wrappers.retry import Makes, RetryingBackend
from netoverlay.wrappers.sidecar.backend import SidecarBackend
from netoverlay.wrappers.write_back import WriteBackBackend

_PRIVATE_MODE = 0o700


Own: TypeAlias = Callable[[Backend, Capabilities, LayerPath, Timing], Held]
"""Own the upper with that work directory, through a backend that answers from the server each time. UpperHeldError."""


def owning_for(mountpoint: str) -> Own:
    """Own it for the mount at `mountpoint`."""
    return lambda backend, capabilities, work, timing: acquire(backend, capabilities, work, mountpoint, timing)


def as_it_is(backend: Backend) -> Backend:
    """No wrapper."""
    return backend


class UpperPlaces:
    """Where an upper and its work directory lie: both in one directory, at which the backend is rooted."""

    def __init__(self, settings: UpperSettings) -> None:
        local = settings.url.scheme == LOCAL_SCHEME
        root, work = settings.url.path, str(settings.work)
        if local:
            root, work = os.path.realpath(root), os.path.realpath(work)
        self.top = posixpath.commonpath([root, work])
        self.root: LayerPath = self._below(root)
        self.work: LayerPath = self._below(work)

    def _below(self, path: str) -> LayerPath:
        relative = posixpath.relpath(path, self.top)
        return "" if relative == posixpath.curdir else relative


class RemoteUpper:
    """An upper on a server, being connected."""

    def __init__(
        self, settings: UpperSettings, own: Own | None, around: Callable[[Backend], Backend] = as_it_is
    ) -> None:
        """`own`: how to own it, called before anything of it is looked at; None only to see whether it can be reached.

        `around`: a wrapper for what reaches the server, inside of all that keeps anything.
        """
        self._settings = settings
        self._own = own
        self._places = UpperPlaces(settings)
        url = replace(settings.url, path=self._places.top)
        self._raw = load_plugin(url.scheme).create(url, settings.options, settings.deadline)
        self._guard = GuardedBackend(self._raw)
        self.held: Held | None = None
        makes = Makes.MOUNT_ALONE if settings.private else Makes.MOUNT
        # Elsewhere names are made by others too, but who owns the upper has the work directory for himself.
        self.meter = MeteredBackend(self._reliable(self._guard, makes, self._places.work))
        self.backend: Backend = self.meter
        if own is not None:
            there = around(self.meter)
            listed = MetadataCache(there, ttl=None if settings.private else settings.ttl, one_spelling=True)
            told_apart = LetterCaseBackend(listed)
            self.backend = SidecarBackend(
                WriteBackBackend(told_apart),
                self._places.work,
                journal_through=there,
                on_connected=partial(self._take, own, told_apart),
            )

    def connect(self) -> Capabilities:
        """LayerSetupError, UpperHeldError. Nothing is left open or owned if it fails, nor once `backend` is closed."""
        try:
            capabilities = self.backend.connect()
            if self._own is None:
                self._require_directory()
        except BaseException:
            self.backend.close()
            raise
        return capabilities

    def hang_up(self) -> None:
        """Cut the connection; closing `backend` tells the server nothing any more, and waits for nothing."""
        self._raw.close()

    def _reliable(self, backend: Backend, makes: Makes, work: LayerPath | None = None) -> Backend:
        deadline = self._settings.deadline
        return RetryingBackend(LimitedBackend(backend, deadline), deadline, makes=makes, work=work)

    def _require_directory(self) -> None:
        try:
            found = self.meter.stat(self._places.root).type
        except FileNotFoundError:
            found = None
        if found is not FileType.DIRECTORY:
            raise LayerSetupError("there is no such directory on the server; make it")

    def _take(self, own: Own, told_apart: LetterCaseBackend, capabilities: Capabilities) -> None:
        """Own the upper, before anything of it is looked at."""
        self._require_directory()
        timing = Timing.for_deadline(self._settings.deadline)
        claims = replace(capabilities, case_sensitive=not told_apart.is_needed)
        self.held = own(self._reliable(self._raw, Makes.ANYBODY), claims, self._places.work, timing)
        self._guard.watch(self.held.lost, self.held.release)


def local_upper(settings: UpperSettings) -> MeteredBackend:
    """The backend of an upper on this machine, not connected yet. NotADirectoryError."""
    if settings.is_default:
        # The upper itself gets the mode of the base's root: what keeps others out is the directory around it.
        os.makedirs(os.path.dirname(settings.url.path), _PRIVATE_MODE, exist_ok=True)
        os.makedirs(settings.url.path, _PRIVATE_MODE, exist_ok=True)
    if not os.path.isdir(settings.url.path):
        raise NotADirectoryError(f"there is no such directory; make it: mkdir -p {settings.url.path}")
    url = LayerUrl(LOCAL_SCHEME, UpperPlaces(settings).top)
    return MeteredBackend(load_plugin(LOCAL_SCHEME).create(url, settings.options, settings.deadline))
