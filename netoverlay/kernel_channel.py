"""The two ways to the kernel, as one: which of them a profile has, and what of it the daemon uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from netoverlay.bridge import Bridge
from netoverlay.config.errors import ConfigError
from netoverlay.config.model import Profile
from netoverlay.fuse.backing import BackingFiles
from netoverlay.fuse.channel import Channel
from netoverlay.fuse.negotiation import Negotiated, SessionSettings
from netoverlay.fuse.notify import Notifier
from netoverlay.fuse.session import Session
from netoverlay.kernel_errors import errno_of
from netoverlay.overlay.overlay import Overlay

_REMEDY = (
    "pip install 'netoverlay[pyfuse3]', which compiles "
    "(Debian: apt-get install libfuse3-dev pkg-config gcc python3-dev), or remove the line"
)


class KernelSession(Protocol):
    """What serves a mount; see fuse/session.py for what each does."""

    @property
    def settings(self) -> SessionSettings: ...

    @property
    def notifier(self) -> Notifier: ...

    def counters(self) -> dict[str, int]: ...

    def handshake(self) -> Negotiated: ...

    def run(self, unmount: Callable[[], None] | None = None, grace_seconds: float = 10.0) -> None: ...

    def request_stop(self) -> None: ...


def require_channel(profile: Profile) -> None:
    """ConfigError if what the profile's channel needs is not installed."""
    if profile.mount.channel != "pyfuse3":
        return
    try:
        import pyfuse3  # noqa: F401, PLC0415  (installed only by who wants it)
    except ImportError as error:
        # Its extension does not load without the library libfuse3.so.3.
        raise ConfigError(profile.file, "mount.channel", f"pyfuse3 cannot be used: {error}; {_REMEDY}") from None


def open_session(profile: Profile, device: int, overlay: Overlay, settings: SessionSettings) -> KernelSession:
    """A session that serves `overlay` on `device`, which it closes at its end."""
    if profile.mount.channel == "pyfuse3":
        from netoverlay.pyfuse3_session import Pyfuse3Session  # noqa: PLC0415  (as above)

        return Pyfuse3Session(device, Bridge(overlay), settings, errno_of)
    channel = Channel(device)
    return Session(channel, Bridge(overlay, BackingFiles(channel), Notifier(channel).store), settings, errno_of)
