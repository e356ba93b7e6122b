"""The composition root: connects a profile's layers, stacks them, mounts them, and serves the mount to its end."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from netoverlay.background_settling import BackgroundSettling, follow
from netoverlay.cache.disk_store import DiskStore
from netoverlay.config.errors import ConfigError
from netoverlay.config.model import LowerSettings, Profile, UpperSettings
from netoverlay.connecting import ConnectedLayer, connect_lower, connect_upper, layer_stack
from netoverlay.fuse.abi import InitFlag
from netoverlay.fuse.mount import Mount, MountOptions, mount
from netoverlay.fuse.negotiation import Negotiated, SessionSettings
from netoverlay.kernel_channel import KernelSession, open_session, require_channel
from netoverlay.limitations import in_one_line, limitations
from netoverlay.mount_status import control_server
from netoverlay.one_heap import use_one_heap
from netoverlay.overlay.layers import LayerStack
from netoverlay.overlay.lock_rules import Keeping, LockMode, in_words, keeping
from netoverlay.overlay.overlay import Overlay
from netoverlay.overlay.owner import UpperHeldError
from netoverlay.status.snapshot import LayerReport, LazyStatus, capability_table

logger = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""How long programs that still have files open are served after a signal to end."""
END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def serve(
    profile: Profile, mountpoint: Path, *, on_ready: Callable[[], None], tell_user: Callable[[str], None]
) -> None:
    """Mount `profile` on `mountpoint`, call `on_ready`, and return after it was unmounted and all is closed.

    Before `on_ready`: ConfigError if a layer cannot be connected or the upper is held, OSError if the mount cannot be
    made; then nothing is left mounted. `tell_user` gets a line, before that too, for each layer without something that
    its user may count on. SIGTERM, SIGINT and SIGHUP unmount. Call it on the main thread.
    """
    require_channel(profile)
    _allow_open_files()
    use_one_heap()
    with ExitStack() as cleanup:
        layers, overlay = _open_overlay(profile, str(mountpoint), cleanup)
        stack = overlay.tree.stack
        settling = BackgroundSettling(overlay.settler)
        cleanup.callback(settling.stop)
        mounted = mount(str(mountpoint), _mount_options(profile, layers))
        settings = session_settings(profile, layers, stack)
        session = open_session(profile, mounted.device, overlay, settings)
        overlay.file_locks.drop_cached = lambda inode: session.notifier.invalidate_inode(inode.nodeid)
        overlay.validity.expire_name = lambda directory, name: session.notifier.expire_entry(directory.nodeid, name)
        with ExitStack() as until_served:
            until_served.callback(mounted.detach)
            control = control_server(profile, mounted.mountpoint, layers, session, overlay, settling)
            agreed = session.handshake()
            _let_inodes_go(overlay, session, agreed, mounted)
            if InitFlag.NO_OPENDIR_SUPPORT in agreed.flags and not stack.unchanging:
                overlay.validity.listings.start(session.notifier.invalidate_inode)
            _raise_read_ahead(mounted, settings.max_readahead)
            control.start()
            cleanup.callback(control.stop)
            _end_on_signals(session)
            logger.info("%s is mounted on %s", profile.name, mounted.mountpoint)
            _tell_limitations(layers, tell_user)
            _tell_about_locks(LockMode(profile.locks.mode), layers, tell_user)
            on_ready()
            until_served.pop_all()
        # What was imported and made up to here stays: no collection of garbage need look at it, which takes 15 ms each.
        gc.collect()
        gc.freeze()
        session.run(mounted.detach, GRACE_SECONDS)
        for layer in layers:
            layer.hang_up_if_away()
        logger.info("%s is unmounted from %s", profile.name, mounted.mountpoint)


def _let_inodes_go(overlay: Overlay, session: KernelSession, agreed: Negotiated, mounted: Mount) -> None:
    """Have the kernel forget files when there are too many: one by one, or before Linux 6.18, as root, all at once."""
    if agreed.can_prune:
        overlay.pruner.start(session.notifier.prune)
    elif mounted.can_shrink:
        overlay.pruner.start(lambda _: mounted.shrink())


def _raise_read_ahead(mounted: Mount, size: int) -> None:
    """To so much as one READ brings, eight times what the kernel does by itself."""
    try:
        mounted.raise_read_ahead(size)
    except OSError as error:
        logger.info("the kernel reads ahead as far as it does by default: %s", error.strerror)


def session_settings(profile: Profile, layers: list[ConnectedLayer], stack: LayerStack) -> SessionSettings:
    """What the kernel may do without asking, which is the more the fewer others use the layers."""
    upper = stack.upper
    mode = LockMode(profile.locks.mode)
    kernel_locks = all(keeping(mode, layer) is Keeping.TABLE for layer in layers)
    # What was written to an upper on a server is on its way until close(2), which has to tell of what failed.
    handleless = kernel_locks and stack.unchanging and (upper is None or upper.capabilities.local)
    return SessionSettings(
        auto_inval_data=not stack.unchanging,
        cache_symlinks=stack.lowers_unchanging,
        kernel_locks=kernel_locks,
        handleless=handleless,
        handleless_directories=_forgets_listings(stack),
        # Where the kernel opens files by itself, it reads them through its page cache.
        passthrough=not handleless and upper is not None and upper.capabilities.local and os.geteuid() == 0,
    )


def _forgets_listings(stack: LayerStack) -> bool:
    """Whether a listing that the kernel caches need not be dropped before it was believed for its time to live.

    What is listed of an upper on a server may be older than the answer; of lowers that change, too.
    """
    upper = stack.upper
    return stack.lowers_unchanging and (upper is None or (upper.capabilities.local and upper.ttl_ns != 0))


def check(profile: Profile) -> list[LayerReport]:
    """Connect to every layer, the upper first, and tell what it can do, or what is wrong with it.

    ConfigError if what the profile's channel needs is not installed.
    """
    require_channel(profile)
    reports = []
    for settings in _in_order(profile):
        with ExitStack() as cleanup:
            try:
                layer = _connect(profile, settings, None, _content_store(profile, cleanup), cleanup)
                if layer.is_upper and layer.capabilities.local:
                    layer_stack(profile, layer, [])
            except ConfigError as error:
                key, url = settings.key, str(settings.url)
                report = LayerReport(key=key, url=url, capabilities=None, problem=error.problem)
            else:
                table = capability_table(layer.capabilities)
                locks = in_words(LockMode(profile.locks.mode), layer, is_upper=layer.is_upper)
                report = LayerReport(key=settings.key, url=str(settings.url), capabilities=table, locks=locks)
            reports.append(report)
    return reports


def settle_unmounted(profile: Profile, show: Callable[[LazyStatus], object]) -> LazyStatus | None:
    """Settle the upper of a profile that is not mounted, as settle() says. ConfigError as serve()."""
    with ExitStack() as cleanup:
        _, overlay = _open_overlay(profile, f"netoverlay settle {profile.name}", cleanup)
        settling = BackgroundSettling(overlay.settler)
        cleanup.callback(settling.stop)
        settling.start()
        return follow(settling.status, show)


def _open_overlay(profile: Profile, mountpoint: str, cleanup: ExitStack) -> tuple[list[ConnectedLayer], Overlay]:
    """The overlay of a profile, whose upper is owned from then on for what is mounted at `mountpoint`."""
    layers = _connect_layers(profile, mountpoint, _content_store(profile, cleanup), cleanup)
    upper = next((layer for layer in layers if layer.is_upper), None)
    stack = layer_stack(profile, upper, [layer for layer in layers if not layer.is_upper])
    try:
        overlay = Overlay(stack, mountpoint, None if upper is None else upper.held, LockMode(profile.locks.mode))
    except UpperHeldError as error:
        raise ConfigError(profile.file, "upper.url", str(error.strerror)) from None
    cleanup.callback(overlay.close)
    return layers, overlay


def _allow_open_files() -> None:
    """Every file that is open in the mount is open here too: take as many descriptors as the system gives."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _content_store(profile: Profile, cleanup: ExitStack) -> DiskStore:
    store = DiskStore(str(profile.cache.directory))
    cleanup.callback(store.close)
    return store


def _mount_options(profile: Profile, layers: list[ConnectedLayer]) -> MountOptions:
    """ConfigError for what only root may ask for."""
    heeded = {}
    for key, ignored in (("suid", os.ST_NOSUID), ("dev", os.ST_NODEV)):
        asked: bool | None = getattr(profile.mount, key)
        if asked and os.geteuid() != 0:
            raise ConfigError(profile.file, f"mount.{key}", "only root may mount with it; remove it, or mount as root")
        heeded[key] = os.geteuid() == 0 and all(layer.counts(ignored) for layer in layers) if asked is None else asked
    return MountOptions(
        source=str(profile.lowers[0].url),
        allow_other=profile.mount.allow_other,
        read_only=profile.upper is None,
        nosuid=not heeded["suid"],
        nodev=not heeded["dev"],
    )


def _in_order(profile: Profile) -> tuple[LowerSettings | UpperSettings, ...]:
    """All layers, the upper first: it is at hand, and tells soonest if something is wrong."""
    return (*((profile.upper,) if profile.upper else ()), *profile.lowers)


def _connect(
    profile: Profile,
    settings: LowerSettings | UpperSettings,
    mountpoint: str | None,
    store: DiskStore,
    cleanup: ExitStack,
) -> ConnectedLayer:
    """`mountpoint`: None for a look only."""
    if isinstance(settings, UpperSettings):
        layer = connect_upper(profile, settings, mountpoint)
    else:
        layer = connect_lower(profile, settings, store, at_once=mountpoint is None)
    cleanup.callback(layer.backend.close)
    return layer


def _connect_layers(profile: Profile, mountpoint: str, store: DiskStore, cleanup: ExitStack) -> list[ConnectedLayer]:
    return [_connect(profile, settings, mountpoint, store, cleanup) for settings in _in_order(profile)]


def _tell_limitations(layers: list[ConnectedLayer], tell_user: Callable[[str], None]) -> None:
    """All that a layer lacks goes to the log, and what is missed to the user as well."""
    for layer in layers:
        name = f"{layer.settings.key} {layer.settings.url}"
        found = limitations(layer.capabilities, is_upper=layer.is_upper, is_root=os.geteuid() == 0)
        if line := in_one_line(name, found):
            logger.info("%s", line)
        if line := in_one_line(name, (limitation for limitation in found if limitation.missed)):
            tell_user(line)


def _tell_about_locks(mode: LockMode, layers: list[ConnectedLayer], tell_user: Callable[[str], None]) -> None:
    """Where locks do not reach those who could use the file, or are refused, the user is told."""
    if mode is not LockMode.DELEGATE:
        what = "kept by this mount, and nobody else sees them" if mode is LockMode.LOCAL else "refused (ENOLCK)"
        line = f'locks.mode = "{mode.value}": locks are {what}'
        logger.info("%s", line)
        tell_user(line)
        return
    for layer in layers:
        line = f"{layer.settings.key} {layer.settings.url}: locks are {in_words(mode, layer, is_upper=layer.is_upper)}"
        logger.info("%s", line)
        if keeping(mode, layer) is Keeping.NOWHERE:
            tell_user(line)


def _end_on_signals(session: KernelSession) -> None:
    for number in END_SIGNALS:
        signal.signal(number, lambda *_: session.request_stop())
