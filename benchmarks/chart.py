"""The chart: requests a second on the left, times on the right."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from compare import CEILING, CLIENTS, Result, Size
from matplotlib.figure import Figure
from report import LABELS, Outcome

INK = "#1f2933"
QUIET = "#9aa5b1"
MINE = "#009485"
P99 = "#d9822b"
THOUSANDS = "{x:,.0f}"

STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    # The same figures give the same file.
    "svg.hashsalt": "bench",
}


def colour(variant: str) -> str:
    """Return the colour of a variant's bar."""
    return {"service": MINE, CEILING: INK}.get(variant, QUIET)


def legend_beside_title(axes: Any) -> None:
    """Put the legend where no curve can be."""
    axes.legend(
        frameon=False,
        loc="lower right",
        bbox_to_anchor=(1.02, 0.99),
        ncols=2,
        columnspacing=1,
        handletextpad=0.4,
    )


def draw_rates(axes: Any, results: Sequence[Result]) -> None:
    """Draw requests a second, a bar for each variant."""
    bars = axes.barh(
        [LABELS[result.variant] for result in results],
        [result.figures["rate"] for result in results],
        color=[colour(result.variant) for result in results],
        height=0.62,
    )
    texts = [f"{result.figures['rate']:,.0f}  ({result.ratio:.2f})" for result in results]
    axes.bar_label(bars, texts, padding=5)
    axes.xaxis.set_major_formatter(THOUSANDS)
    axes.set(
        title="Throughput, and its share of the bare driver's",
        xlabel="requests a second",
        xlim=(0, 1.3 * max(result.figures["rate"] for result in results)),
    )
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def draw_times(axes: Any, results: Sequence[Result]) -> None:
    """Draw how long answers take, two dots for each variant."""
    rows = range(len(results))
    p50 = [result.figures["p50"] for result in results]
    p99 = [result.figures["p99"] for result in results]
    axes.hlines(rows, p50, p99, color=QUIET, linewidth=2, zorder=1)
    axes.scatter(p50, rows, s=70, color=MINE, label="p50", zorder=2)
    axes.scatter(p99, rows, s=70, color=P99, label="p99", zorder=2)
    for y, time in zip(rows, p99, strict=True):
        axes.annotate(f"{time:,.0f}", (time, y), (9, 0), textcoords="offset points", va="center")
    axes.set(title="Time to an answer", xlabel="milliseconds, log scale", xscale="log")
    axes.xaxis.set_major_formatter(THOUSANDS)
    axes.xaxis.set_minor_formatter("")
    axes.margins(x=0.15)
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.grid(axis="x")
    legend_beside_title(axes)


def draw_size_axis(axes: Any, sizes: Sequence[Size]) -> None:
    """Name each size that was tried, on a scale that gives them room; finish the panel."""
    axes.set_xscale("log")
    axes.set_xticks([size.pool_size for size in sizes])
    axes.set_xticklabels([str(size.pool_size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="POOL_SIZE: connections of the worker")
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    axes.yaxis.set_major_formatter(THOUSANDS)
    axes.grid(axis="y")
    legend_beside_title(axes)


def draw_pool_rates(axes: Any, outcome: Outcome) -> None:
    """Draw requests a second by the size of the pool, with where more stops helping."""
    numbers = [size.pool_size for size in outcome.sizes]
    axes.plot(
        numbers,
        [size.figures["rate"] for size in outcome.sizes],
        color=MINE,
        linewidth=2.5,
        marker="o",
        label="this service",
    )
    axes.axvline(
        outcome.enough,
        color=INK,
        linestyle="--",
        linewidth=1.2,
        label=f"enough: {outcome.enough}",
    )
    axes.set(title="Throughput by pool size", ylabel="requests a second")
    draw_size_axis(axes, outcome.sizes)


def draw_pool_times(axes: Any, outcome: Outcome) -> None:
    """Draw how long answers take by the size of the pool."""
    numbers = [size.pool_size for size in outcome.sizes]
    p99 = [size.figures["p99"] for size in outcome.sizes]
    p50 = [size.figures["p50"] for size in outcome.sizes]
    axes.plot(numbers, p99, color=P99, linewidth=2.5, marker="o", label="p99")
    axes.plot(numbers, p50, color=MINE, linewidth=2.5, marker="o", label="p50")
    axes.set(title="Time to an answer by pool size", ylabel="milliseconds")
    draw_size_axis(axes, outcome.sizes)


def title(outcome: Outcome) -> str:
    """Return what was measured, in one line."""
    server = outcome.server.partition(" (")[0]
    return (
        f"GET /users/{{id}} on {server}: one worker, {CLIENTS} clients,"
        f" POOL_SIZE={outcome.pool_size}\n"
    )


def draw(outcome: Outcome, path: Path) -> None:
    """Write the chart; the path's suffix says in which format."""
    reads = [result for result in outcome.results if result.request == "read"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 8.2), layout="constrained", facecolor="white")
        halves: Any = figure.subfigures(2, 1, height_ratios=[1.12, 1], hspace=0.06)
        top, bottom = halves
        top.suptitle(title(outcome), fontsize=15, fontweight="bold")
        rates, times = top.subplots(1, 2, width_ratios=[1.1, 1])
        draw_rates(rates, reads)
        draw_times(times, reads)
        times.set_ylim(rates.get_ylim())
        rates, times = bottom.subplots(1, 2)
        draw_pool_rates(rates, outcome)
        draw_pool_times(times, outcome)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
