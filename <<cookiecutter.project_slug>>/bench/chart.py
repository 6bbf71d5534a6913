"""The chart: each route with its share of the reference, and the size of the pool."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def draw(outcome: Mapping[str, Any], path: Path) -> None:
    """Write the chart of `bench.json`; the path's suffix says in which format."""
    routes, sizes = outcome["routes"], outcome["pool_sizes"]
    rates = [row["rate"] for row in routes.values()]
    figure = Figure(figsize=(12, 3.5 + 0.3 * len(routes)), layout="constrained")
    left, right = figure.subplots(1, 2)
    texts = [f"{row['rate']:,.0f}  ({row['share']:.2f})" for row in routes.values()]
    left.bar_label(left.barh(list(routes), rates), texts, padding=4)
    left.set(title=f"{outcome['server']}, {outcome['clients']} clients", xlabel="requests a second")
    left.set_xlim(0, 1.35 * max(rates))
    left.invert_yaxis()
    right.plot(list(sizes), [row["rate"] for row in sizes.values()], marker="o")
    right.axvline(outcome["enough"], linestyle="--", label=f"enough: {outcome['enough']}")
    right.set(title="All routes by POOL_SIZE", xlabel="connections", ylabel="requests a second")
    right.set_ylim(bottom=0)
    right.legend()
    figure.savefig(path)
