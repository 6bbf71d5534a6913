"""The chart: each route with where its time goes, and the size of the pool."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw(outcome: Mapping[str, Any], path: Path) -> None:
    """Write the chart of `bench.json`; the path's suffix says in which format."""
    routes, sizes = outcome["routes"], outcome["pool_sizes"]
    figure = Figure(figsize=(12, 3.5 + 0.3 * len(routes)), layout="constrained")
    left, right = figure.subplots(1, 2)
    ends = [0.0] * len(routes)
    for part in ("waiting", "database", "rest"):
        widths = [row["rate"] * row[part] for row in routes.values()]
        bars = left.barh(list(routes), widths, left=ends, label=part)
        ends = [bar.get_x() + bar.get_width() for bar in bars]
    texts = [f"{row['rate']:,.0f}  ({row['share']:.2f})" for row in routes.values()]
    left.bar_label(bars, texts, padding=4)
    left.set(title=outcome["server"], xlabel="requests a second", xlim=(0, 1.35 * max(ends)))
    left.invert_yaxis()
    left.legend(title="time of a request")
    right.plot(list(sizes), [row["rate"] for row in sizes.values()], marker="o")
    right.axvline(outcome["enough"], linestyle="--", label=f"enough: {outcome['enough']}")
    right.set(title="All routes by POOL_SIZE", xlabel="connections", ylabel="requests a second")
    right.set_ylim(bottom=0)
    right.legend()
    waits = right.twinx()
    waits.plot(list(sizes), [100 * row["waiting"] for row in sizes.values()], color="tab:red")
    waits.set(ylim=(0, 100), ylabel="% of a request's time that it waits for a connection")
    figure.savefig(path)
