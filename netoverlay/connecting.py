"""From a profile's layers to connected ones: each backend with its wrappers and caches, or one line on why not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from netoverlay.backend_api import Backend, Capabilities, FileStat, UnavailableError
from netoverlay.backend_api.registry import load_plugin
from netoverlay.backend_api.url import LOCAL_SCHEME
from netoverlay.backend_api.waiting import waiting_at_most
from netoverlay.cache.content import ContentCache
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.kept_layer import KeptLayer
from netoverlay.cache.metadata import MetadataCache
from netoverlay.config.errors import ConfigError, error_line
from netoverlay.config.model import LowerSettings, Profile, UpperSettings
from netoverlay.connecting_upper import Own, RemoteUpper, UpperPlaces, as_it_is, local_upper, owning_for
from netoverlay.overlay.layers import FOR_EVER_NS, UPPER_NUMBER, Layer, LayerStack, UpperLayer
from netoverlay.overlay.lazy_upper import LazyUpper
from netoverlay.overlay.metacopy import with_data_below
from netoverlay.overlay.ownership import Held
from netoverlay.overlay.whiteouts import check_work_directory, lower_format, upper_format
from netoverlay.wrappers.availability import AvailabilityBackend
from netoverlay.wrappers.limits import LimitedBackend
from netoverlay.wrappers.metrics import MeteredBackend
from netoverlay.wrappers.owners import OwnersBackend
from netoverlay.wrappers.retry import RetryingBackend

_NANOSECONDS = 1_000_000_000
_CLOSING_SECONDS = 3.0
"""So long a server is waited for before it is closed without being told."""


@dataclass(frozen=True, slots=True)
class ConnectedLayer:
    """A layer of a profile, connected."""

    settings: LowerSettings | UpperSettings
    backend: Backend
    """With its caches and wrappers; to be closed."""
    meter: MeteredBackend
    """Counts what reaches the layer, below the caches."""
    capabilities: Capabilities
    content: ContentCache | None = None
    """Of a lower that is not local: what `backend` is made of, without the owners that are shown."""
    held: Held | None = None
    """The ownership of an upper that had to be owned before it could be connected; closing `backend` gives it back."""
    hang_up: Callable[[], None] | None = None
    """Of an upper on a server: cuts the connection."""

    def hang_up_if_away(self) -> None:
        """Before it is closed: close() gives up at once then, and at each step, what it would wait for.

        A lower has nothing to be told; what an upper has not told its server by now nobody waits for any more.
        """
        if self.capabilities.local:
            return
        if self.hang_up is None:
            self.backend.close()
        elif not self._answers():
            self.hang_up()

    def _answers(self) -> bool:
        try:
            with waiting_at_most(_CLOSING_SECONDS):
                self.meter.stat("")
        except UnavailableError:
            return False
        return True

    def counts(self, ignored: int) -> bool:
        """Whether the machine itself heeds what `ignored` (os.ST_NOSUID, os.ST_NODEV) would have ignored there.

        Never of a server's files: who runs it must not become root here.
        """
        if isinstance(self.settings, LowerSettings) and self.settings.owners is not None:
            # Somebody else's set-id program, or device, would become that of who is shown as its owner.
            return False
        url = self.settings.url
        return url.scheme == LOCAL_SCHEME and not os.statvfs(url.path).f_flag & ignored

    @property
    def has_outsiders(self) -> bool:
        """Others than the mount may lock its files, and write them."""
        settings = self.settings
        return not (settings.private if isinstance(settings, UpperSettings) else settings.immutable)

    @property
    def is_upper(self) -> bool:
        """Whether it takes the changes."""
        return isinstance(self.settings, UpperSettings)


def connect_lower(
    profile: Profile, settings: LowerSettings, store: DiskStore, *, at_once: bool = False
) -> ConnectedLayer:
    """Connect a lower layer; what is read of a remote one is kept in `store`. ConfigError if that fails.

    An immutable one that was connected before is connected in the background, unless it is to be `at_once`.
    """
    with _blaming(profile, settings):
        backend = load_plugin(settings.url.scheme).create(settings.url, settings.options, settings.deadline)
    if settings.url.scheme == LOCAL_SCHEME:
        meter = MeteredBackend(backend)
        content = None
    else:
        patient = settings.on_down == "wait"
        limited = LimitedBackend(backend, settings.deadline)
        meter = MeteredBackend(RetryingBackend(limited, settings.deadline, patient=patient))
        content = _cached(settings, meter, store, at_once=at_once)
    stacked: Backend = content or meter
    if settings.owners is not None:
        stacked = OwnersBackend(stacked, settings.owners)
    return _connect(profile, settings, stacked, meter, content)


def _cached(settings: LowerSettings, meter: MeteredBackend, store: DiskStore, *, at_once: bool) -> ContentCache:
    """A remote lower with its caches."""
    kept = KeptLayer(store, meter.identity(), meter.appearance()) if settings.immutable else None
    facts = None if kept is None else kept.facts

    def connected(capabilities: Capabilities, root: FileStat) -> None:
        if kept is not None:
            kept.connected(capabilities, root, asked_user=meter.asks_user())

    available = AvailabilityBackend(
        meter,
        settings.deadline,
        patient=settings.on_down == "wait",
        known=None if facts is None or at_once else facts.capabilities,
        at_once=facts is not None and facts.asked_user,
        on_connected=connected,
    )
    metadata = MetadataCache(
        available,
        ttl=None if settings.immutable else settings.ttl,
        kept=kept,
        is_down=available.is_down if settings.on_down == "cache" else lambda: False,
    )
    # Outside, so that what version of a file is wanted is known without asking the layer.
    return ContentCache(metadata, store, immutable=settings.immutable)


def connect_upper(profile: Profile, settings: UpperSettings, mountpoint: str | None) -> ConnectedLayer:
    """Connect the upper layer, rooted at the directory that holds both it and its work directory.

    One on a server is owned from then on, for the mount at `mountpoint`; not with None, which is for a look at it.
    """
    return connect_upper_as(profile, settings, None if mountpoint is None else owning_for(mountpoint))


def connect_upper_as(
    profile: Profile, settings: UpperSettings, own: Own | None, around: Callable[[Backend], Backend] = as_it_is
) -> ConnectedLayer:
    """As connect_upper(), with what RemoteUpper takes; a local one has `around` as well, and is not owned yet."""
    with _blaming(profile, settings):
        if settings.url.scheme != LOCAL_SCHEME:
            upper = RemoteUpper(settings, own, around)
            capabilities = upper.connect()
            return ConnectedLayer(
                settings, upper.backend, upper.meter, capabilities, held=upper.held, hang_up=upper.hang_up
            )
        meter = local_upper(settings)
    return _connect(profile, settings, around(meter), meter)


def layer_stack(profile: Profile, upper: ConnectedLayer | None, lowers: list[ConnectedLayer]) -> LayerStack:
    """The connected layers in their roles. ConfigError if the upper cannot be one."""
    below: tuple[Layer, ...] = ()
    for number, lower in reversed(list(enumerate(lowers, 1))):
        below = (_lower_layer(lower, number, below), *below)
    stacked = None
    if upper is not None and isinstance(upper.settings, UpperSettings):
        with _blaming(profile, upper.settings):
            marks = upper_format(upper.backend, upper.capabilities)
            places = UpperPlaces(upper.settings)
            check_work_directory(upper.backend, places.work)
            lazy = None
            if upper.capabilities.local:
                lazy = LazyUpper(upper.backend, marks, upper.capabilities, places.root, places.work, below)
            stacked = UpperLayer(
                number=UPPER_NUMBER,
                backend=lazy or with_data_below(upper.backend, marks, places.root, below),
                lazy=lazy,
                capabilities=upper.capabilities,
                format=marks,
                marks=marks,
                identity=upper.backend.identity(),
                root=places.root,
                work=places.work,
                ttl_ns=int(upper.settings.ttl * _NANOSECONDS) if upper.has_outsiders else FOR_EVER_NS,
                has_outsiders=upper.has_outsiders,
            )
    return LayerStack(stacked, below)


def _lower_layer(lower: ConnectedLayer, number: int, below: tuple[Layer, ...]) -> Layer:
    ttl_ns = FOR_EVER_NS
    if isinstance(lower.settings, LowerSettings) and not lower.settings.immutable:
        ttl_ns = int(lower.settings.ttl * _NANOSECONDS)
    marks = lower_format(lower.backend, lower.capabilities)
    return Layer(
        number=number,
        backend=with_data_below(lower.backend, marks, "", below),
        capabilities=lower.capabilities,
        format=marks,
        identity=lower.backend.identity(),
        root="",
        ttl_ns=ttl_ns,
        has_outsiders=lower.has_outsiders,
    )


def _connect(
    profile: Profile,
    settings: LowerSettings | UpperSettings,
    backend: Backend,
    meter: MeteredBackend,
    content: ContentCache | None = None,
) -> ConnectedLayer:
    with _blaming(profile, settings):
        try:
            capabilities = backend.connect()
        except BaseException:
            backend.close()
            raise
    return ConnectedLayer(settings, backend, meter, capabilities, content)


@contextmanager
def _blaming(profile: Profile, settings: LowerSettings | UpperSettings) -> Iterator[None]:
    """Say of every failure inside which layer of the profile it was."""
    try:
        yield
    except (OSError, ValueError, LookupError) as error:
        raise _refused(profile, settings, error_line(error)) from error


def _refused(profile: Profile, settings: LowerSettings | UpperSettings, problem: str) -> ConfigError:
    return ConfigError(profile.file, f"{settings.key}.url", f"{settings.url}: {problem}")
