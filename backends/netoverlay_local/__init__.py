"""Layers that are directories of this machine.

Nothing here translates errors: what the kernel says is what a caller of the seam expects.
"""

from dataclasses import dataclass

from netoverlay.backend_api import BackendPlugin, LayerUrl
from netoverlay_local.backend import LocalBackend


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """A local layer has no options of its own."""


def create(url: LayerUrl, options: LocalOptions, deadline: float) -> LocalBackend:  # noqa: ARG001 - BackendPlugin's signature
    """A backend for the directory of `url`. The kernel's calls cannot be given a deadline."""
    return LocalBackend(url.path)


PLUGIN = BackendPlugin(options=LocalOptions, create=create)

__all__ = ["PLUGIN", "LocalBackend", "LocalOptions"]
