"""The dashboard's panels, drawn from a run in the dashboard's own grid.

`python panels.py DATA.json DASHBOARD.json PICTURE.svg`: see `dashboard.py`.
"""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

# The legend names so many at most: those with the highest peaks.
NAMED = 6

INK = "#1f2933"
QUIET = "#9aa5b1"
BAND = "#f1f3f5"
BOARD = "#e4e7eb"
# Grafana's names of colours, and what a series without one gets, in turn.
COLOURS = {
    "green": "#56a64b",
    "blue": "#3274d9",
    "orange": "#ff780a",
    "red": "#e02f44",
    "yellow": "#f2cc0c",
    "purple": "#a352cc",
}
PALETTE = ["#3274d9", "#ff780a", "#56a64b", "#a352cc", "#e02f44", "#f2cc0c", "#37872d", "#806eb7"]

STYLE = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e7eb",
    "legend.fontsize": 7,
    # Points that a line would pass by within half a pixel are left out.
    "path.simplify_threshold": 0.5,
    # Text stays text, which is half of the size.
    "svg.fonttype": "none",
    # The same run gives the same file.
    "svg.hashsalt": "dashboard",
}


def say_seconds(value: float, _: object = None) -> str:
    """Return seconds as people say them."""
    return f"{value:g} s" if value >= 1 or value == 0 else f"{1000 * value:g} ms"


# What Grafana calls the units.
UNITS = {
    "s": say_seconds,
    "short": lambda value, _: f"{value:g}",
    "reqps": lambda value, _: f"{value:g}/s",
    "ops": lambda value, _: f"{value:g}/s",
    "percentunit": lambda value, _: f"{100 * value:g} %",
}


def values_of(points: Sequence[tuple[float, str]], begin: float, seconds: int) -> list[float]:
    """Return a value for each second, not a number where there is none."""
    values = [math.nan] * (seconds + 1)
    for when, value in points:
        values[min(seconds, round(when - begin))] = float(value)
    return values


def base_of(name: str) -> str:
    """Return what a series is about: the same for its p50 and its p99."""
    return re.sub(r"^p(50|99) ", "", name)


def options_of(panel: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return how a series is drawn; as in Grafana, what comes last counts."""
    config = panel["fieldConfig"]
    options = dict(config["defaults"]["custom"])
    for each in config["overrides"]:
        pattern = each["matcher"]["options"]
        regexp = each["matcher"]["id"] == "byRegexp"
        if re.search(pattern.strip("/"), name) if regexp else pattern == name:
            options |= {p["id"].removeprefix("custom."): p["value"] for p in each["properties"]}
    return options


def draw_panel(
    card: Any, panel: Mapping[str, Any], series: Mapping[str, list[float]], seconds: int
) -> Any:
    """Draw one panel, where p50 and p99 of a thing have one colour; return its axes."""
    axes = card.subplots()
    defaults = panel["fieldConfig"]["defaults"]
    options = {name: options_of(panel, name) for name in series}
    bases = list(dict.fromkeys(base_of(name) for name in series))
    colours = dict(zip(bases, PALETTE * len(bases), strict=False))
    for name in series:
        if "color" in options[name]:
            colours[base_of(name)] = COLOURS[options[name]["color"]["fixedColor"]]
    floor = [0.0] * (seconds + 1)
    for name, values in series.items():
        colour, dashed = colours[base_of(name)], "lineStyle" in options[name]
        style, width = ("--", 0.9) if dashed else ("-", 1.3)
        bottom, top = [0.0] * len(floor), values
        if options[name]["stacking"]["mode"] == "normal":
            heights, bottom = [0 if math.isnan(value) else value for value in values], floor
            floor = top = [low + height for low, height in zip(floor, heights, strict=True)]
            # What is nothing is no line on what is below.
            values = [b if b > a else math.nan for a, b in zip(bottom, top, strict=True)]
        axes.plot(range(seconds + 1), values, style, color=colour, linewidth=width)
        alpha = options[name]["fillOpacity"] / 100
        if alpha:
            axes.fill_between(range(seconds + 1), bottom, top, color=colour, alpha=alpha, lw=0)
    peaks = {
        base: max(
            (
                value
                for name, values in series.items()
                if base_of(name) == base
                for value in values
                if not math.isnan(value)
            ),
            default=0,
        )
        for base in bases
    }
    named = sorted(sorted(bases, key=lambda base: -peaks[base])[:NAMED], key=bases.index)
    handles: list[Artist] = [Patch(color=colours[base], label=base) for base in named]
    if any(name.startswith("p50 ") for name in series):
        handles += [
            Line2D([], [], color=INK, linestyle=style, linewidth=0.9, label=label)
            for style, label in (("-", "p99"), ("--", "p50"))
        ]
    card.legend(
        handles=handles,
        loc="outside lower left",
        frameon=False,
        ncols=2 if max(map(len, named), default=0) > 14 else 4,
        handlelength=1.4,
        handleheight=0.5,
        handletextpad=0.5,
        columnspacing=1.2,
        labelspacing=0.25,
        borderpad=0.2,
    )
    axes.set_title(panel["title"])
    axes.set_xlim(0, seconds)
    axes.set_ylim(0, defaults.get("max") or (None if series else 1))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(UNITS[defaults["unit"]]))
    axes.xaxis.set_major_locator(MultipleLocator(30))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x // 60:.0f}:{x % 60:02.0f}"))
    axes.tick_params(length=0)
    return axes


def draw(data: Mapping[str, Any], dashboard: Mapping[str, Any]) -> Figure:
    """Draw all panels where the dashboard has them."""
    phases = data["phases"]
    begin, end = phases[0]["begin"], phases[-1]["end"]
    seconds = round(end - begin)
    panels = dashboard["panels"]
    columns = max(panel["gridPos"]["x"] // panel["gridPos"]["w"] for panel in panels) + 1
    rows = max(panel["gridPos"]["y"] // panel["gridPos"]["h"] for panel in panels) + 1
    figure = Figure(figsize=(12.5, 2.7 * rows), layout="constrained", facecolor=BOARD)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    cards: Any = figure.subfigures(rows, columns, wspace=0.012, hspace=0.012)
    for panel in panels:
        place = panel["gridPos"]
        card = cards[place["y"] // place["h"]][place["x"] // place["w"]]
        card.set_facecolor("white")
        series = {
            each["name"]: values_of(each["points"], begin, seconds)
            for each in data["panels"][str(panel["id"])]
            if any(float(value) > 0 for _, value in each["points"])
        }
        axes = draw_panel(card, panel, series, seconds)
        for phase in filter(lambda phase: phase["name"], phases):
            left, right = phase["begin"] - begin, phase["end"] - begin
            axes.axvspan(left, right, color=BAND, zorder=0, linewidth=0)
            axes.annotate(
                phase["name"],
                ((left + right) / 2, 1),
                (0, 1),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=6.5,
                color="#66727f",
            )
    return figure


def shorten(svg: str) -> str:
    """Round what is drawn to a tenth of a point, and say no more than needed, a line a point."""

    def shorter(path: re.Match[str]) -> str:
        text = re.sub(r"-?\d+\.\d{2,}", lambda number: f"{round(float(number[0]), 1):g}", path[0])
        # After the first point others are what lines go to.
        return re.sub(r"\n\s*L ", "\n", text)

    svg = re.sub(r' d="[^"]*"', shorter, svg)
    # Where the font is missing, one of the same width.
    svg = re.sub("'DejaVu Sans',[^;]*;", "'DejaVu Sans', Verdana, sans-serif;", svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


def main() -> None:
    """Read, draw, write."""
    data, dashboard, picture = map(Path, sys.argv[1:])
    with matplotlib.rc_context(STYLE):
        figure = draw(json.loads(data.read_text()), json.loads(dashboard.read_text()))
        metadata = {"Date": None, "Creator": None}
        figure.savefig(picture, metadata=metadata if picture.suffix == ".svg" else None)
    if picture.suffix == ".svg":
        picture.write_text(shorten(picture.read_text()))


if __name__ == "__main__":
    main()
