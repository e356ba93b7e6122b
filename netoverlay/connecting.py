"""From a profile's layers to connected ones: each backend with its wrappers and caches, or one line on why not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from netoverlay.backend_api import Backend, Capabilities, LayerPath, LayerUrl
from netoverlay.backend_api.registry import load_plugin
from netoverlay.backend_api.url import LOCAL_SCHEME
from netoverlay.cache.content import ContentCache
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.metadata import MetadataCache
from netoverlay.config.errors import ConfigError, error_line
from netoverlay.config.model import LowerSettings, Profile, UpperSettings
from netoverlay.overlay.layers import FOR_EVER_NS, UPPER_NUMBER, Layer, LayerStack, UpperLayer
from netoverlay.overlay.metacopy import with_data_below
from netoverlay.overlay.whiteouts import check_work_directory, lower_format, upper_format
from netoverlay.wrappers.limits import LimitedBackend
from netoverlay.wrappers.metrics import MeteredBackend
from netoverlay.wrappers.owners import OwnersBackend
from netoverlay.wrappers.retry import RetryingBackend

_NANOSECONDS = 1_000_000_000
_PRIVATE_MODE = 0o700


@dataclass(frozen=True, slots=True)
class ConnectedLayer:
    """A layer of a profile, connected."""

    settings: LowerSettings | UpperSettings
    backend: Backend
    """With its caches and wrappers; to be closed."""
    meter: MeteredBackend
    """Counts what reaches the layer, below the caches."""
    capabilities: Capabilities

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
    def is_upper(self) -> bool:
        """Whether it takes the changes."""
        return isinstance(self.settings, UpperSettings)


def connect_lower(profile: Profile, settings: LowerSettings, store: DiskStore) -> ConnectedLayer:
    """Connect a lower layer; what is read of a remote one is kept in `store`. ConfigError if that fails."""
    with _blaming(profile, settings):
        backend = load_plugin(settings.url.scheme).create(settings.url, settings.options, settings.deadline)
    if settings.url.scheme == LOCAL_SCHEME:
        meter = MeteredBackend(backend)
        stacked: Backend = meter
    else:
        meter = MeteredBackend(RetryingBackend(LimitedBackend(backend, settings.deadline), settings.deadline))
        metadata = MetadataCache(meter, ttl=None if settings.immutable else settings.ttl)
        # Outside, so that what version of a file is wanted is known without asking the layer.
        stacked = ContentCache(metadata, store, immutable=settings.immutable)
    if settings.owners is not None:
        stacked = OwnersBackend(stacked, settings.owners)
    return _connect(profile, settings, stacked, meter)


def connect_upper(profile: Profile, settings: UpperSettings) -> ConnectedLayer:
    """Connect the upper layer, rooted at the directory that holds both it and its work directory."""
    if settings.url.scheme != LOCAL_SCHEME:
        raise _refused(profile, settings, "the upper has to be a directory of this machine")
    with _blaming(profile, settings):
        if settings.private:
            # The upper itself gets the mode of the base's root: what keeps others out is the directory around it.
            os.makedirs(os.path.dirname(settings.url.path), _PRIVATE_MODE, exist_ok=True)
            os.makedirs(settings.url.path, _PRIVATE_MODE, exist_ok=True)
        if not os.path.isdir(settings.url.path):
            raise NotADirectoryError(f"there is no such directory; make it: mkdir -p {settings.url.path}")
        url = LayerUrl(LOCAL_SCHEME, _common_directory(settings))
        meter = MeteredBackend(load_plugin(LOCAL_SCHEME).create(url, settings.options, settings.deadline))
    return _connect(profile, settings, meter, meter)


def layer_stack(profile: Profile, upper: ConnectedLayer | None, lowers: list[ConnectedLayer]) -> LayerStack:
    """The connected layers in their roles. ConfigError if the upper cannot be one."""
    below: tuple[Layer, ...] = ()
    for number, lower in reversed(list(enumerate(lowers, 1))):
        below = (_lower_layer(lower, number, below), *below)
    stacked = None
    if upper is not None and isinstance(upper.settings, UpperSettings):
        with _blaming(profile, upper.settings):
            marks = upper_format(upper.backend, upper.capabilities)
            top = _common_directory(upper.settings)
            root = _below(top, os.path.realpath(upper.settings.url.path))
            work = _below(top, os.path.realpath(upper.settings.work))
            check_work_directory(upper.backend, work)
            stacked = UpperLayer(
                number=UPPER_NUMBER,
                backend=with_data_below(upper.backend, marks, root, below),
                capabilities=upper.capabilities,
                format=marks,
                marks=marks,
                identity=upper.backend.identity(),
                root=root,
                work=work,
                ttl_ns=FOR_EVER_NS,
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
    )


def _connect(
    profile: Profile, settings: LowerSettings | UpperSettings, backend: Backend, meter: MeteredBackend
) -> ConnectedLayer:
    with _blaming(profile, settings):
        try:
            capabilities = backend.connect()
        except BaseException:
            backend.close()
            raise
    return ConnectedLayer(settings, backend, meter, capabilities)


def _common_directory(settings: UpperSettings) -> str:
    """What holds both the upper's root and its work directory, without symbolic links."""
    return os.path.commonpath([os.path.realpath(settings.url.path), os.path.realpath(settings.work)])


def _below(top: str, path: str) -> LayerPath:
    relative = os.path.relpath(path, top)
    return "" if relative == os.curdir else relative


@contextmanager
def _blaming(profile: Profile, settings: LowerSettings | UpperSettings) -> Iterator[None]:
    """Say of every failure inside which layer of the profile it was."""
    try:
        yield
    except (OSError, ValueError, LookupError) as error:
        raise _refused(profile, settings, error_line(error)) from error


def _refused(profile: Profile, settings: LowerSettings | UpperSettings, problem: str) -> ConfigError:
    return ConfigError(profile.file, f"{settings.key}.url", f"{settings.url}: {problem}")
