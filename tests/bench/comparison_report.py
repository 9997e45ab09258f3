"""Tables and plots of the section `compare`.

Figures are medians over the rounds of one run; ratios are of such medians.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from tests.bench.systems import OURS, PEERS

Found = Mapping[str, Any]

BASELINES = {"fastapi": "(a)", "litserve": "(c)", "naive": "(f)"}
PEERS_LACK = (
    "Peers have no authentication, write-behind queue, metrics, limits or fallback; they return "
    "the same diagnoses."
)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def rounded(value: float, digits: int = 0) -> str:
    """Return a number as text, empty for NaN."""
    return "" if value != value else f"{value:,.{digits}f}"


def medians(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[str, float]]:
    """Return the median over rounds of each figure, by system and point."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((str(row["system"]), str(row["point"])), []).append(row)
    names = ("throughput", "p50", "p95", "p99", "cpu_ms", "postgres_cpu_ms", "mean_batch")
    found: dict[tuple[str, str], dict[str, float]] = {}
    for key, group in grouped.items():
        found[key] = {
            name: statistics.median(
                [float(row[name]) for row in group if row[name] is not None] or [float("nan")]
            )
            for name in names
        }
        found[key]["errors"] = float(sum(sum(row["errors"].values()) for row in group))
    return found


def titles() -> dict[str, str]:
    """Return the systems' names for tables."""
    return {OURS: "Hydraulic Diagnostics (whole chain)"} | {
        name: peer.title for name, peer in PEERS.items()
    }


def comparison_tables(section: Found) -> list[str]:
    """Return the paragraphs and tables of a `compare` section."""
    by_point = medians(section["measured"])
    systems = list(dict.fromkeys(system for system, _ in by_point))
    points = list(dict.fromkeys(point for _, point in by_point))
    names = titles()
    limit = max(_best_raw(section["raw"]).values(), default=float("nan"))
    parts = ["## Peers"]
    for title, figure, digits in (
        ("Requests a second", "throughput", 0),
        ("Latency p50, ms", "p50", 1),
        ("Latency p95, ms", "p95", 1),
        ("Latency p99, ms", "p99", 1),
        ("CPU of the system, ms a request", "cpu_ms", 2),
        ("CPU of PostgreSQL, ms a request", "postgres_cpu_ms", 2),
        ("Mean batch size", "mean_batch", 1),
    ):
        missing = float("nan")
        rows = [
            [
                names[system],
                *(
                    rounded(by_point.get((system, point), {}).get(figure, missing), digits)
                    for point in points
                ),
            ]
            for system in systems
        ]
        if figure == "throughput":
            rows.append(
                [
                    "(e) network alone, graphs a second",
                    *([rounded(limit)] + [""] * (len(points) - 1)),
                ]
            )
        parts.append(f"**{title}**\n\n" + markdown_table(["system", *points], rows))
    errors = {
        names[system]: sum(by_point[system, point]["errors"] for point in points)
        for system in systems
    }
    parts.append(
        "Errors: "
        + (
            "none."
            if not any(errors.values())
            else f"{ {k: int(v) for k, v in errors.items() if v} }."
        )
    )
    if OURS in systems:
        rows = []
        for point in points:
            ours = by_point[OURS, point]
            ratios = [
                rounded(ours["throughput"] / by_point[peer, point]["throughput"], 2)
                if (peer, point) in by_point
                else ""
                for peer in BASELINES
            ]
            rows.append([point, *ratios, rounded(ours["throughput"] / limit, 2)])
        heads = [f"of {title}" for title in BASELINES.values()]
        parts.append(
            "**Throughput of the service as a share of**\n\n"
            + markdown_table(["load", *heads, "of (e)"], rows)
        )
    memory = _memory_by_system(section["starts"])
    rows = [
        [names[name], rounded(total), rounded(largest), str(count)]
        for name, (total, largest, count) in memory.items()
    ]
    parts.append(
        "**Memory after the loads**, MB of proportional shares\n\n"
        + markdown_table(["system", "all processes", "largest process", "processes"], rows)
    )
    raw = _best_raw(section["raw"])
    best = max(raw, key=lambda key: raw[key], default=None)
    if best is not None:
        cpu = statistics.median(
            row["cpu_ms"] for row in section["raw"] if (row["threads"], row["size"]) == best
        )
        parts.append(
            f"(e): best at batches of {best[1]} with {best[0]} thread(s), "
            f"{raw[best]:,.0f} graphs a second, {cpu:.2f} ms of CPU a graph."
        )
    tuned = [f"- {PEERS[name].title}: {PEERS[name].tuned}." for name in systems if name in PEERS]
    parts.append("How the peers were tuned. " + PEERS_LACK + "\n" + "\n".join(tuned))
    repeats = {names[row["system"]] for row in section["measured"] if row["repeats"]}
    if repeats:
        parts.append(
            f"So fast that some windows were requested twice: {', '.join(sorted(repeats))}."
        )
    return parts


def _best_raw(rows: Sequence[Found]) -> dict[tuple[int, int], float]:
    grouped: dict[tuple[int, int], list[float]] = {}
    for row in rows:
        grouped.setdefault((row["threads"], row["size"]), []).append(row["graphs_a_second"])
    return {key: statistics.median(values) for key, values in grouped.items()}


def _memory_by_system(starts: Sequence[Found]) -> dict[str, tuple[float, float, int]]:
    found: dict[str, tuple[float, float, int]] = {}
    for start in starts:
        sizes = [item["pss_mb"] for item in start["memory"]]
        if sizes:
            found[start["system"]] = (sum(sizes), max(sizes), len(sizes))
    return found


def plot_comparison(section: Found, output: Path) -> None:
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
