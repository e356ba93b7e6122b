"""Faults on purpose, and the proof that nothing came of them: `python -m tests.chaos PART ...` (scripts/chaos)."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.chaos.cuts import Faulty
from tests.chaos.faults import CUTS, RESTARTS, Fault
from tests.chaos.kills import Kills
from tests.chaos.sites import KINDS, REMOTE_KINDS, Site, started, started_behind_proxy
from tests.chaos.soak import Soak
from tests.chaos.summary import Summary, say
from tests.chaos.told import DEADLINE

_KILLS = 500
_CUTS = 200
_RESTARTS = 50
_OPERATIONS = 10_000_000
_PROCESSES = 3
_UPPERS = ("local", "private", *REMOTE_KINDS)
"""Of a long load: a directory of this machine, which others could use as well, or which nobody else uses; on a server,
where nobody else uses it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of fault."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Path], Summary]


def _kills_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--upper", choices=KINDS, required=True, help="where the upper is")
    parser.add_argument("--count", type=int, default=_KILLS, help="how many kills")


def _kills(arguments: argparse.Namespace, place: Path) -> Summary:
    with started(arguments.upper, place) as site:
        return Kills(site, place, arguments.seed).run(arguments.count)


def _cuts_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=REMOTE_KINDS, required=True, help="of the server that has base and upper")
    parser.add_argument("--count", type=int, default=_CUTS, help="how many faults")


def _restarts_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=REMOTE_KINDS, required=True, help="of the server that has base and upper")
    parser.add_argument("--count", type=int, default=_RESTARTS, help="how many restarts")


def _soak_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=KINDS, required=True, help="of the server that has the base")
    parser.add_argument("--upper", choices=_UPPERS, default=_UPPERS[0], help="where the upper is")
    parser.add_argument("--operations", type=int, default=_OPERATIONS, help="how many, of all programs together")
    parser.add_argument("--processes", type=int, default=_PROCESSES, help="how many programs")


def _soak(arguments: argparse.Namespace, place: Path) -> Summary:
    with started(arguments.kind, place) as site, _soak_upper(arguments.upper, site, place) as (upper, keys):
        return Soak(site, place, arguments.seed, arguments.processes, upper, keys).run(arguments.operations)


@contextmanager
def _soak_upper(upper: str, site: Site, place: Path) -> Iterator[tuple[Path, list[str]]]:
    """Its directory, and the keys of its table; on the server that has the base if that is of the same kind."""
    kind = upper if upper in REMOTE_KINDS else "local"
    private = f"private = {str(upper != _UPPERS[0]).lower()}"
    if kind == site.kind:
        directory = place / "served" / "upper"
        yield directory, [*site.keys(directory), private]
        return
    with started(kind, place / "beside") as other:
        directory = place / "beside" / "served" / "upper"
        yield directory, [*other.keys(directory), private]


def _faulty(kinds: tuple[Fault, ...], arguments: argparse.Namespace, place: Path) -> Summary:
    with started_behind_proxy(arguments.kind, place, DEADLINE) as site:
        return Faulty(site, place, arguments.seed, kinds).run(arguments.count)


PARTS = {
    "cuts": Part("cut connections under programs, and compare", _cuts_arguments, partial(_faulty, CUTS)),
    "restarts": Part("restart the server under programs, and compare", _restarts_arguments, partial(_faulty, RESTARTS)),
    "kills": Part("kill the daemon in copy-ups and renames, mount again, and compare", _kills_arguments, _kills),
    "soak": Part("do everything for a long time, compare, and see what grows", _soak_arguments, _soak),
}


def main() -> int:
    """1 if anything is not as it may be. Then what is left of it stays, in a directory that is named."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, part in PARTS.items():
        sub = parts.add_parser(name, help=part.help)
        sub.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of all that is random")
        part.add_arguments(sub)
    arguments = parser.parse_args()
    say(f"{arguments.part}, seed {arguments.seed}")
    place = Path(tempfile.mkdtemp(prefix="netoverlay-chaos."))
    began = time.monotonic()
    summary = PARTS[arguments.part].run(arguments, place)
    say(summary.text())
    say(f"seconds: {time.monotonic() - began:.0f}")
    if summary.differences:
        say(f"what is left of it: {place}")
        return 1
    shutil.rmtree(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
