"""`netoverlay prefetch` and `netoverlay cache drop`: fill the caches of a profile's layers, and empty them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from netoverlay.backend_api.registry import load_plugin
from netoverlay.backend_api.url import LOCAL_SCHEME
from netoverlay.cache.disk_store import DiskStore
from netoverlay.cache.prefetch import Prefetch, Progress, Wanted
from netoverlay.config.errors import ConfigError
from netoverlay.config.model import LowerSettings, Profile
from netoverlay.connecting import connect_lower


def prefetch(
    profile: Profile, globs: Sequence[str], show: Callable[[Progress], object]
) -> list[tuple[LowerSettings, Progress]]:
    """Fill the caches with what the globs say of every lower that is on a server. `show` is told now and then how far
    the layer at hand is. ConfigError if one cannot be connected, UnavailableError if it is lost meanwhile."""
    reports = []
    for settings in _remote_lowers(profile):
        with _store(profile) as store, ExitStack() as cleanup:
            layer = connect_lower(profile, settings, store, at_once=True)
            cleanup.callback(layer.backend.close)
            if layer.content is not None:
                # Each shard of the store is held to its part of the limit, and none is filled quite as the others.
                room = store.limit // 8 * 7
                filling = Prefetch(layer.content, layer.capabilities, Wanted(globs), room, show)
                reports.append((settings, filling.run()))
    return reports


def drop(profile: Profile) -> int:
    """Remove what is kept of the profile's lowers on local disk; the bytes that were freed. OSError."""
    freed = 0
    with _store(profile) as store:
        for settings in _remote_lowers(profile):
            backend = load_plugin(settings.url.scheme).create(settings.url, settings.options, settings.deadline)
            freed += store.drop_layer(backend.identity())
    return freed


def _remote_lowers(profile: Profile) -> list[LowerSettings]:
    return [lower for lower in profile.lowers if lower.url.scheme != LOCAL_SCHEME]


@contextmanager
def _store(profile: Profile) -> Iterator[DiskStore]:
    store = DiskStore(str(profile.cache.directory))
    if not store.is_writable:
        raise ConfigError(
            profile.file, "cache.directory", f"{profile.cache.directory} cannot be used (see the warning)"
        )
    try:
        yield store
    finally:
        store.close()
