"""Plots of a run: throughput and latency by concurrency, and batch sizes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from tests.bench.compare import medians, titles
from tests.bench.report import Found


def plot(section: Found, output: Path) -> None:
    """Write the plots of a `compare` section into a directory."""
    mpl.use("Agg")
    by_point, names = medians(section["measured"]), titles()
    systems = list(dict.fromkeys(system for system, _ in by_point))
    points = list(dict.fromkeys(point for _, point in by_point))
    closed = [point for point in points if point.startswith("c")]
    for figure, title, name in (
        ("throughput", "requests a second", "throughput"),
        ("cpu_ms", "CPU, ms a request", "cpu"),
    ):
        canvas, axes = plt.subplots(figsize=(8, 5))
        for system in systems:
            axes.plot(
                closed,
                [by_point[system, point][figure] for point in closed],
                marker="o",
                label=names[system],
            )
        axes.set(xlabel="connections", ylabel=title, yscale="log")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=7)
        canvas.savefig(output / f"{name}.png", dpi=120, bbox_inches="tight")
        plt.close(canvas)
    canvas, grid = plt.subplots(
        1, len(points), figsize=(4 * len(points), 4), squeeze=False, sharey=True
    )
    for axes, point in zip(grid[0], points, strict=True):
        for place, (figure, shade) in enumerate((("p99", 0.3), ("p95", 0.6), ("p50", 1.0))):
            axes.barh(
                systems,
                [by_point[system, point][figure] for system in systems],
                alpha=shade,
                color=f"C{place}",
                label=figure,
            )
        axes.set(title=point, xlabel="ms", xscale="log")
    grid[0][-1].legend(loc="lower right")
    canvas.savefig(output / "latency.png", dpi=120, bbox_inches="tight")
    plt.close(canvas)
    _plot_batches(section["measured"], output)


def _plot_batches(rows: Sequence[Found], output: Path) -> None:
    sizes: dict[str, Counter[int]] = {}
    for row in rows:
        if row["point"] == "c32" and row["batch_sizes"]:
            sizes.setdefault(row["system"], Counter()).update(
                {int(size): number for size, number in row["batch_sizes"].items()}
            )
    if not sizes:
        return
    canvas, grid = plt.subplots(1, len(sizes), figsize=(4 * len(sizes), 3.5), squeeze=False)
    for axes, (system, counted) in zip(grid[0], sizes.items(), strict=True):
        total = sum(size * number for size, number in counted.items())
        axes.bar(list(counted), [size * number / total for size, number in counted.items()])
        axes.set(title=f"{system}, 32 connections", xlabel="batch size", ylabel="share of requests")
    canvas.savefig(output / "batches.png", dpi=120, bbox_inches="tight")
    plt.close(canvas)
