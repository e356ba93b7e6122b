"""The plot of what `python -m bench.rows --json FILE` has measured: python -m bench.rows.plot FILE OUTPUT.svg

One bar for each row: how many times as fast the better of netoverlay's is as the best of the others. Needs the extra
`bench` (matplotlib).
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import matplotlib as mpl
import matplotlib.pyplot as plt

from bench.rows.__main__ import Measured, ratio

FASTER, SLOWER = "#2a7f5f", "#b5533c"


def ratios(measured: Path) -> tuple[float, dict[str, float]]:
    """Milliseconds of a round trip; and the ratio of each row that has one."""
    found = json.loads(measured.read_text())
    rows = {}
    for name, stacks in found["rows"].items():
        compared = ratio({stack: Measured(**each) for stack, each in stacks.items()})
        if compared is not None:
            rows[name] = compared
    return found["milliseconds"], rows


@click.command(help=__doc__)
@click.argument("measured", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
def main(measured: Path, output: Path) -> None:
    milliseconds, rows = ratios(measured)
    mpl.rcParams["svg.hashsalt"] = "netoverlay"  # the same numbers give the same file
    figure, axes = plt.subplots(figsize=(9, 0.34 * len(rows) + 1), layout="constrained")
    names = list(reversed(rows))
    values = [rows[name] for name in names]
    bars = axes.barh(names, values, left=0, color=[FASTER if value >= 1 else SLOWER for value in values])
    axes.bar_label(bars, labels=[f" {value:.1f}x" for value in values])
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"times as fast as the best of sshfs and rclone, over a round trip of {milliseconds:g} ms")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(output, metadata={"Date": None})


if __name__ == "__main__":
    main()
