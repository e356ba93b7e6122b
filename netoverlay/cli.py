"""The command line: what the commands and their options are, and which function does each.

What only some commands need is imported by those, for it takes longer than the others run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, Any

import click

from netoverlay import logs
from netoverlay.config.errors import ConfigError, error_line


class _FailureError(click.ClickException):
    """Ends a command with status 1 and one line on standard error."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"netoverlay: {self.message}", file=file, err=file is None)


class _Commands(click.Group):
    """Shows the errors that a user can do something about as one line; others are bugs, and keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (click's own signature)
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ConfigError, OSError) as error:
            raise _FailureError(error_line(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="netoverlay", message="%(prog)s %(version)s", prog_name="netoverlay")
def main() -> None:
    """Mount a read-only base on a server, and a writable local layer over it, as one file system.

    A PROFILE is a file of that path (with a slash, or ending in .toml), or else
    $XDG_CONFIG_HOME/netoverlay/PROFILE.toml or /etc/netoverlay/PROFILE.toml.
    """
    for stream in (sys.stdout, sys.stderr):
        # Paths may hold bytes that no terminal shows.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")


@main.command()
@click.argument("profile")
@click.argument("mountpoint", required=False, type=click.Path(path_type=Path))
@click.option("--foreground", is_flag=True, help="Stay in the foreground, and log to the terminal.")
@click.option("--log-file", type=click.Path(path_type=Path, resolve_path=True), help="Log to this file.")
@click.option("--log-level", type=click.Choice(logs.LEVELS), default=logs.DEFAULT_LEVEL, show_default=True)
def mount(profile: str, mountpoint: Path | None, foreground: bool, log_file: Path | None, log_level: str) -> None:
    """Mount PROFILE on MOUNTPOINT, or on the one that it names, and go to the background."""
    from netoverlay.config.load import load_profile
    from netoverlay.mountpoint import checked_mountpoint

    settings = load_profile(profile)
    target = mountpoint or settings.mountpoint
    if target is None:
        message = f"{settings.file} names no mountpoint; give one after the profile"
        raise click.UsageError(message, click.get_current_context())
    target = checked_mountpoint(settings, target, log_file)
    logs.configure(log_level, file=log_file, foreground=foreground)
    on_ready = _nothing
    if not foreground:
        from netoverlay.background import continue_in_child

        on_ready = continue_in_child()
    from netoverlay.daemon import serve

    log_on_terminal = foreground and log_file is None
    with logs.failures_logged(to_terminal_already=log_on_terminal):
        serve(settings, target, on_ready=on_ready, tell_user=_log_has_it if log_on_terminal else _tell_at_terminal)


def _nothing() -> None:
    """In the foreground nobody waits for the mount to be ready."""


def _log_has_it(line: str) -> None:
    """What is logged where the user looks need not be told again."""


def _tell_at_terminal(line: str) -> None:
    """To a person, not to a script or a service manager, to whom it would look like a failure."""
    if sys.stderr.isatty():
        click.echo(f"netoverlay: {line}", err=True)


@main.command()
@click.argument("mountpoint")
@click.option("--lazy", is_flag=True, help="Detach it now, and let it end when nothing uses it any more.")
def umount(mountpoint: str, lazy: bool) -> None:
    """Unmount MOUNTPOINT, and return when everything is flushed."""
    from netoverlay.unmounting import unmount_and_wait

    unmount_and_wait(mountpoint, lazy=lazy)


@main.command()
@click.argument("mountpoint", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/status.md).")
@click.option("--locks", is_flag=True, help="Show the locks on files instead: who holds, or waits for, which.")
def status(mountpoint: str | None, as_json: bool, locks: bool) -> None:
    """Show what is mounted (at MOUNTPOINT), its layers, and what they have been asked."""
    from netoverlay.status.overview import overview_json, report_all, report_one
    from netoverlay.status.rendering import print_locks, print_mounts

    reports = report_all() if mountpoint is None else [report_one(mountpoint)]
    if as_json:
        click.echo(overview_json(reports))
    elif locks:
        print_locks(reports, sys.stdout)
    else:
        print_mounts(reports, sys.stdout)


@main.command()
@click.argument("target", metavar="PROFILE|MOUNTPOINT")
@click.pass_context
def settle(context: click.Context, target: str) -> None:
    """Bring to the upper what its lazily copied files still have in the base only.

    Then the upper is whole without the base, and can be given to other programs. It may be in use meanwhile.
    """
    from netoverlay.settle import settle as settle_target
    from netoverlay.status.rendering import lazy_line, settling_shown

    with settling_shown(sys.stderr) as show:
        left = settle_target(target, show)
    if left is None:
        click.echo("nothing to settle: no file is copied lazily there")
        return
    for file in left.unsettled:
        _FailureError(f"{file.path or target}: {file.reason}").show()
    if left.files or left.unsettled:
        click.echo(lazy_line(left))
        context.exit(1)
    click.echo("settled: the upper is whole")


@main.command()
def profiles() -> None:
    """List the profiles that can be mounted by name."""
    from netoverlay.config.find import list_profiles
    from netoverlay.status.rendering import print_table

    print_table(("profile", "file"), [(name, str(path)) for name, path in list_profiles()], sys.stdout)


@main.command()
@click.argument("profile")
@click.pass_context
def check(context: click.Context, profile: str) -> None:
    """Connect to every layer of PROFILE, and show what it can do and what is wrong, without mounting."""
    from netoverlay.channels import lacks
    from netoverlay.config.load import load_profile
    from netoverlay.daemon import check as connect_layers
    from netoverlay.status.rendering import print_layer_reports

    settings = load_profile(profile)
    reports = connect_layers(settings)
    print_layer_reports(reports, sys.stdout)
    for lack in lacks(settings.mount.channel):
        click.echo(f"channel {settings.mount.channel}: {lack.value}")
    problems = [ConfigError(settings.file, report.key, report.problem) for report in reports if report.problem]
    for problem in problems:
        _FailureError(str(problem)).show()
    context.exit(1 if problems else 0)


@main.command()
@click.argument("profile")
@click.argument("globs", metavar="[GLOB]...", nargs=-1)
@click.pass_context
def prefetch(context: click.Context, profile: str, globs: tuple[str, ...]) -> None:
    """Fetch from the servers of PROFILE what is not in the caches yet, so that it is there without them.

    Of an immutable layer that is the listings of its directories and the content of its files; of another one the
    content alone. A GLOB says which files: it matches a path from the root of the layer ("*" also matches slashes), or
    a directory, for all that is in it. Without one it is everything. The profile may be mounted or not, and a prefetch
    that was interrupted goes on where it was.
    """
    from netoverlay.config.load import load_profile
    from netoverlay.prefetching import prefetch as fill_caches
    from netoverlay.status.prefetch_view import prefetch_line, prefetch_shown, problem_lines

    settings = load_profile(profile)
    with prefetch_shown(sys.stderr) as show:
        reports = fill_caches(settings, globs, show)
    if not reports:
        click.echo("nothing to prefetch: no lower layer is on a server")
    for layer, progress in reports:
        click.echo(prefetch_line(str(layer.url), progress))
        for line in problem_lines(progress):
            _FailureError(line).show()
    context.exit(1 if any(progress.missed or progress.left_out for _, progress in reports) else 0)


class _FsckFailureError(_FailureError):
    exit_code = 8


class _FsckCancelledError(_FailureError):
    exit_code = 32


class _FsckUsageError(click.UsageError):
    exit_code = 16


class _FsckCommand(click.Command):
    """Fails with the exit codes of fsck(8)."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise _FsckUsageError(error.format_message(), error.ctx) from error

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (click's own signature)
        try:
            return super().invoke(ctx)
        except (ConfigError, OSError) as error:
            raise _FsckFailureError(error_line(error)) from error
        except (KeyboardInterrupt, click.Abort) as error:
            raise _FsckCancelledError("cancelled") from error


@main.command(cls=_FsckCommand)
@click.argument("profile")
@click.option("--repair", "-y", "repair", is_flag=True, help="Repair what can be, without asking.")
@click.option("--dry-run", "-n", "dry_run", is_flag=True, help="Change nothing. The default if nobody can be asked.")
@click.pass_context
def fsck(context: click.Context, profile: str, repair: bool, dry_run: bool) -> None:
    """Check the upper of PROFILE, which is not mounted, and repair or explain what is wrong (docs/fsck.md).

    The exit status is that of fsck(8): 0 if nothing is wrong, 1 if all that was is corrected, 4 if some of it is left,
    8 if the upper could not be checked, 16 for a wrong use, and 32 if it was cancelled.
    """
    from netoverlay.checking.findings import ExitCode
    from netoverlay.config.load import load_profile
    from netoverlay.fsck import Repairs, summary
    from netoverlay.fsck import fsck as check_profile

    if repair and dry_run:
        raise _FsckUsageError("--repair and --dry-run exclude each other", context)
    repairs = Repairs.ALL if repair else Repairs.ASKED if sys.stdin.isatty() and not dry_run else Repairs.NONE
    tally = check_profile(load_profile(profile), repairs, click.echo, click.confirm)
    for line in summary(profile, tally):
        click.echo(line)
    context.exit(ExitCode.CLEAN if tally is None else tally.exit_code)


@main.group()
def cache() -> None:
    """What is kept of remote layers on local disk."""


@cache.command()
@click.argument("profile")
def drop(profile: str) -> None:
    """Remove what is kept of the lower layers of PROFILE, as after a change of a base that is called immutable.

    A mount that is there still remembers what it has seen: mount it again. Other layers keep theirs.
    """
    from netoverlay.config.load import load_profile
    from netoverlay.prefetching import drop as drop_kept
    from netoverlay.status.rendering import in_units

    click.echo(f"{in_units(drop_kept(load_profile(profile)))} freed")
