"""The chart: each route with where its time goes, and the size of the pool."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw(outcome: dict[str, Any], path: Path) -> None:
    """Write the chart of `bench.json`; the path's suffix says in which format."""
    routes, sizes, enough = outcome["routes"], outcome["pool_sizes"], outcome["enough"]
    figure = Figure(figsize=(12, 3.5 + 0.3 * len(routes)), layout="constrained")
    left, right = figure.subplots(1, 2)
    ends = [0.0] * len(routes)
    for part in ("waiting", "database", "rest"):
        widths = [row["rate"] * row[part] for row in routes.values()]
        bars = left.barh(list(routes), widths, left=ends, label=part)
        ends = [bar.get_x() + bar.get_width() for bar in bars]
    left.set(title=outcome["server"], xlabel="requests a second")
    left.invert_yaxis()
    left.legend(title="time of a request")
    right.plot(list(sizes), [row["rate"] for row in sizes.values()], marker="o")
    right.axvline(enough, linestyle="--", label=f"enough: {enough}")
    right.set(title="All routes", xlabel="POOL_SIZE", ylabel="requests a second", ylim=(0, None))
    right.legend()
    figure.savefig(path)
