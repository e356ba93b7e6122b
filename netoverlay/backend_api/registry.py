"""Find the backend of a url's scheme among the entry points of the group `netoverlay.backends`.

An entry point is named as the scheme and refers to a BackendPlugin, so a third party adds a backend by installing a
package: nothing in netoverlay names one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from netoverlay.backend_api.backend import Backend
from netoverlay.backend_api.url import LayerUrl

ENTRY_POINT_GROUP = "netoverlay.backends"


@dataclass(frozen=True, slots=True)
class BackendPlugin:
    """What an entry point refers to."""

    options: type[Any]
    """A frozen dataclass with a default for every field: the keys that a layer of this backend may have in a profile,
    beside those that all have. Fields of type pathlib.Path get "~" expanded."""
    create: Callable[[LayerUrl, Any, float], Backend]
    """(url, options, deadline in seconds) -> a backend that is not connected yet. ValueError if the url or the options
    do not fit, with a sentence for the user."""


def known_schemes() -> list[str]:
    """The schemes of all installed backends, sorted."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)})


def load_plugin(scheme: str) -> BackendPlugin:
    """The backend for `scheme`. LookupError if none is installed; whatever its import raises otherwise."""
    for point in entry_points(group=ENTRY_POINT_GROUP, name=scheme):
        plugin = point.load()
        if not isinstance(plugin, BackendPlugin):
            raise TypeError(f"the entry point {scheme!r} of {ENTRY_POINT_GROUP} is no BackendPlugin: {plugin!r}")
        return plugin
    raise LookupError(f"no backend for {scheme}:// is installed (there is: {', '.join(known_schemes())})")
