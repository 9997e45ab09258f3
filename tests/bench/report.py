"""Turns the JSON of a run into Markdown tables.

Ratios are of medians over the rounds of one run. A section or figure that the run does not have is
left out.
"""

import statistics
from collections import Counter
from collections.abc import Sequence

from tests.bench.comparison_report import Found, comparison_tables, markdown_table, rounded
from tests.bench.rig_report import rig_tables

LEAST_CPU_MS = 0.01
MOST_LIBRARIES = 8


def summary(found: Found) -> str:
    """Return the tables of a run as Markdown.

    Args:
        found: sections by name, as their modules return them, and `facts`.
    """
    facts = found["facts"]
    parts = [
        "# Measured",
        (
            f"{facts['time']}, {facts['cores']} cores ({facts['cpu']}), load before the start "
            f"{', '.join(f'{value:.2f}' for value in facts['load_before'])}, "
            f"Python {facts['python']}; `{facts['command']}`. "
            "Medians of rounds in which the systems took turns. Ratios carry over to other "
            "machines, milliseconds do not."
        ),
    ]
    writers = {
        "compare": comparison_tables,
        "cold_start": _cold_start,
        "fleet": _fleet,
        "cache": _cache,
        "memory": _memory,
        "scale": _scale,
        "observability": _observability,
        "overload": _overload,
        "profile": _profile,
        "shadow": _shadow,
        "stream": _stream,
        "store_read": _store_read,
        "verdict": _verdict,
        "releases": _releases,
        "simulation": _simulation,
        "fresh_machines": _fresh_machines,
        "trend": _trend,
        "rig": rig_tables,
    }
    parts += [
        part for name, write in writers.items() if name in found for part in write(found[name])
    ]
    return "\n\n".join(parts) + "\n"


def _fresh_machines(section: Found) -> list[str]:
    rows = section["rows"]

    def percent(value: float) -> str:
        return f"{100 * value:.1f} %"

    health = [
        [
            row["design"],
            name,
            f"{row[part]['mae']:.3f}",
            f"{row[part]['mae_even_severities']:.3f}",
            percent(row[part]["coverage"]),
            percent(row[part]["coverage_worn"]),
            percent(row[part]["coverage_said_worn"]),
            percent(row[part]["severe_said_healthy"]),
        ]
        for row in rows
        for name, part in (
            ("with its baseline", "health"),
            ("without", "health_without_baseline"),
        )
    ]
    causes = [
        [
            row["design"],
            str(row["root_cause"]["windows"]),
            *(f"{row['root_cause'][key]:.2f}" for key in ("rank_1", "rank_3")),
            f"{row['root_cause']['mean_reciprocal_rank']:.2f}",
            percent(row["sensors"]["accused"]),
            percent(row["sensors"]["component_faults_with_an_accused_sensor"]),
        ]
        for row in rows
    ]
    kinds = list(rows[0]["sensor_faults"])
    faults = [
        [
            row["design"],
            *(
                f"{row['sensor_faults'][kind]['found']:.2f}, "
                f"{row['sensor_faults'][kind]['named']:.2f}"
                for kind in kinds
            ),
        ]
        for row in rows
    ]
    return [
        "## Machines that no training saw",
        (
            f"Version 1 on single windows of {section['machines']} simulated machines of each "
            f"design, {section['windows_of_a_machine']} windows each, of a seed that neither "
            "training nor any fit used: no component worn, one or two, of even severities. An "
            "earlier run on them prompted the separate reach of answers below .95, which was "
            "fitted on others. "
            "The mean error of health is over all components, and over the worn ones with each "
            "severity counted alike; intervals are of 90 %. The last column is the share of "
            "components with a severity above .4 whose interval says that it is below. Without a "
            "baseline the service does not answer; the figures show what it would say."
        ),
        markdown_table(
            [
                "design",
                "machine",
                "health error",
                "worn",
                "intervals right",
                "of worn",
                "of those said worn",
                "severe said healthy",
            ],
            health,
        ),
        (
            "Rank of the worn component among the root causes, where its severity is above .4 (the "
            "better one of two), and sensors that are accused although none has a fault."
        ),
        markdown_table(
            [
                "design",
                "windows",
                "first",
                "among three",
                "mean reciprocal rank",
                "sensors accused",
                "component faults with an accused sensor",
            ],
            causes,
        ),
        "Share of sensor faults found, and named rightly, by kind.",
        markdown_table(["design", *kinds], faults),
    ]


def _stream(section: Found) -> list[str]:
    names = ["items", "seconds", "longest_wait_s", "diagnosed", "failed"]
    rows = [[f"{row[name]:g}" for name in names] for row in section["rows"]]
    return [
        "## Long batches",
        (
            f"Batches with `explain`; a request that is no stream may take {section['limit_s']:g} "
            "s. Each item has a line, and the last line counts them."
        ),
        markdown_table([name.replace("_", " ") for name in names], rows),
    ]


def _simulation(section: Found) -> list[str]:
    rows = [
        [
            str(row["design"]),
            str(row["sensors"]),
            f"{row['times_real_time']:,.0f}",
            str(row["faults"]),
            *(
                f"{row[name]:.2f}"
                for name in (
                    "found_by_thresholds",
                    "named_by_discriminant",
                    "named_by_extra_trees",
                )
            ),
        ]
        for row in section["rows"]
    ]
    head = ["design", "sensors", "times real time", "faults", "thresholds", "discriminant", "trees"]
    return [
        "## Simulated machines",
        (
            f"{section['machines']} machines of each design, one core. Thresholds: share of faults "
            "of severity .3 found by one pair of thresholds per sensor, on means of a minute of "
            f"{section['healthy_hours']:.0f} healthy machine-hours. Discriminant: share of faults "
            "of severity .2 to .5 whose component a linear discriminant names from the means of "
            "a window; trees: extra trees on more statistics. Machines are held out in five "
            "folds.\n\n" + markdown_table(head, rows)
        ),
    ]


def _trend(section: Found) -> list[str]:
    names = (
        "rate_within_20",
        "rate_within_20_persistence",
        "sign_right",
        "healthy_with_rate",
        "rate_coverage",
        "rul_coverage",
    )
    hours = (
        "rul_median_error_h",
        "rul_median_error_last_slope_h",
        "rul_median_error_mean_life_h",
    )
    rows = [
        [
            str(row["design"]),
            str(row["wearing"]),
            *(f"{row[name]:.3f}" for name in names),
            *(f"{row[name]:.0f}" for name in hours),
        ]
        for row in section["rows"]
    ]
    head = [
        "design", "wearing", "rate within 20 %", "by last slope", "sign right",
        "healthy with a rate", "rate covered", "RUL covered", "RUL error, h", "by last slope",
        "by mean life",
    ]  # fmt: skip
    return [
        "## Trends of stored health",
        (
            f"{section['machines']} machines of each design, up to {section['points']} diagnoses "
            "of a component with the errors of a model added to the true health; components that "
            "wear and have lost a quarter of their life, on machines that fitted no constant. "
            "Errors of remaining life are medians. For 90 % coverage the intervals would need "
            f"{section['rate_factor']:.2f} (rate) and {section['rul_factor']:.2f} (RUL) times "
            "their width.\n\n" + markdown_table(head, rows)
        ),
    ]


def _cold_start(section: Found) -> list[str]:
    names = list(dict.fromkeys(name for row in section["rows"] for name in row))
    rows = [
        [name, f"{statistics.median(row[name] for row in section['rows'] if name in row):.1f}"]
        for name in names
    ]
    return [
        "## Cold start",
        "Seconds from `serve run` to each mark.\n\n" + markdown_table(["mark", "s"], rows),
    ]


def _fleet(section: Found) -> list[str]:
    rows, limit = section["rows"], section["limit"]
    speed, first, cpu = (
        statistics.median(row[name] for row in rows)
        for name in ("graphs_a_second", "first_line_ms", "cpu_ms")
    )
    return [
        "## A fleet in one batch",
        (
            f"{rows[0]['items']:,} machines: {speed:,.0f} graphs a second, "
            f"{speed / limit:.2f} of the network alone ({limit:,.0f}); "
            f"first line after {first:.0f} ms; {cpu:.2f} ms of CPU a graph; "
            f"{sum(row['errors'] for row in rows):.0f} errors."
        ),
    ]


def _verdict(section: Found) -> list[str]:
    parts = ["## The verdict on two versions"]
    for decider in ("by_window", "by_condition"):
        rows = []
        for noise, found in section.items():
            trial, took = found[decider], found[decider]["diagnoses_least_median_most"]
            rows.append(
                [
                    noise,
                    ", ".join(
                        f"{name} {right:.1%}" for name, right in found["right_of_worse"].items()
                    ),
                    f"{trial['right']} of {trial['trials']}",
                    str(trial["wrong"]),
                    "" if took is None else " / ".join(f"{count:.0f}" for count in took),
                    f"{trial['equal_by_window_called_different']} of {trial['equal_trials']}",
                    f"{trial['equal_by_condition_called_different']} of {trial['equal_trials']}",
                ]
            )
        head = [
            "noise",
            "worse version right in",
            "called worse",
            "called wrongly",
            "diagnoses, least / median / most",
            "equal by window, called different",
            "equal by condition, called different",
        ]
        parts.append(
            f"**{decider}**, read after every 50 diagnoses\n\n" + markdown_table(head, rows)
        )
    return parts


def _cache(section: Found) -> list[str]:
    new, repeated = section["new"], section["repeated"]
    counters = (
        ", ".join(f"{name} {value:,.0f}" for name, value in section["counters"].items()) or "none"
    )
    return [
        "## Repeated windows",
        (
            f"{repeated['throughput']:,.0f} requests a second of repeated windows, "
            f"{new['throughput']:,.0f} of new ones "
            f"(ratio {repeated['throughput'] / new['throughput']:.1f}); "
            f"CPU {repeated['cpu_ms']:.2f} and {new['cpu_ms']:.2f} ms a request. "
            f"Cache counters: {counters}."
        ),
    ]


def _memory(section: Found) -> list[str]:
    last = section["rows"][-1]
    rows = [
        [item["name"], rounded(item["pss_mb"]), rounded(item["uss_mb"])]
        for item in section["processes"][:12]
    ]
    return [
        "## Memory",
        f"{last['diagnoses']:,} diagnoses: all processes {last['pss_mb']:,.0f} MB, "
        f"slope {section['slope_bytes']:,.0f} bytes a diagnosis; "
        f"{last['errors']} errors.\n\n" + markdown_table(["process", "PSS MB", "USS MB"], rows),
    ]


def _scale(section: Found) -> list[str]:
    def median(rows: Sequence[Found], key: str, value: int, figure: str) -> float:
        return statistics.median(row[figure] for row in rows if row[key] == value)

    machines, components = section["machines"], section["components"]
    first = [
        [
            f"{number:,}",
            f"{median(machines, 'machines', number, 'p50'):.1f}",
            f"{median(machines, 'machines', number, 'p95'):.1f}",
        ]
        for number in dict.fromkeys(row["machines"] for row in machines)
    ]
    second = [
        [
            str(number),
            f"{median(components, 'components', number, 'cpu_ms'):.2f}",
            f"{median(components, 'components', number, 'p50'):.1f}",
        ]
        for number in dict.fromkeys(row["components"] for row in components)
    ]
    return [
        "## Growth",
        markdown_table(["machines in the store", "p50 ms at 50/s", "p95 ms at 50/s"], first),
        markdown_table(["components of the machine", "CPU ms a diagnosis", "p50 ms at c4"], second),
    ]


def _observability(section: Found) -> list[str]:
    return [
        "## Metrics, access lines and spans",
        (
            f"With metrics and access lines {section['ratio']:.3f} of the throughput and "
            f"{section['cpu_ratio']:.3f} of the CPU a request without them, at 32 connections. "
            f"With spans of one request in a hundred too, {section['traced_ratio']:.3f} and "
            f"{section['traced_cpu_ratio']:.3f}; {section['spans']} spans received."
        ),
    ]


def _overload(section: Found) -> list[str]:
    names = ("load", "requests a second", "answered", "p95 ms", "refused", "their p95 ms")
    rows = [
        f"| {' | '.join((*names, 'other errors', 'MB'))} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in section["rows"]:
        other = sum(row["errors"].values()) - row["refused"]
        rows.append(
            f"| {row['name']} | {row['sent'] / row['seconds']:.0f} | {row['throughput']:.0f}/s "
            f"| {row['p95']:.1f} | {row['refused']} | {row['refused_p95']:.1f} | {other} "
            f"| {row['pss_mb']:.0f} |"
        )
    return ["## Overload and a noisy key", section["text"], "\n".join(rows)]


def _profile(section: Found) -> list[str]:
    loads = list(section["cpu"])
    spent: dict[str, float] = {}
    for by_process in section["cpu"].values():
        for name, ms in by_process.items():
            spent[name] = max(spent.get(name, 0.0), ms)
    names = sorted(spent, key=lambda name: -section["cpu"][loads[-1]].get(name, 0.0))
    cpu = [
        [
            name,
            *(rounded(section["cpu"][load].get(name, 0.0), 2) for load in loads),
            rounded(section["idle"].get(name, 0.0), 3),
        ]
        for name in names
        if spent[name] >= LEAST_CPU_MS
    ]
    samples = [
        [
            load,
            replica,
            ", ".join(
                f"{library} {share:.0%}" for library, share in list(shares.items())[:MOST_LIBRARIES]
            ),
        ]
        for load, replicas in section["samples"].items()
        for replica, shares in replicas.items()
    ]
    return [
        "## Where the time goes",
        "**CPU of each process, ms a request, and cores without requests**\n\n"
        + markdown_table(["process", *loads, "idle"], cpu),
        "**Samples by library that held the GIL**\n\n"
        + markdown_table(["load", "replica", "share of samples"], samples),
    ]


def _shadow(section: Found) -> list[str]:
    groups: dict[tuple[str, str], list[Found]] = {}
    for row in section["rows"]:
        groups.setdefault((row["shadow"], row["point"]), []).append(row)
    rows = []
    for (shadow, point), group in groups.items():
        figures = [
            statistics.median(row[name] for row in group)
            for name in ("throughput", "p50", "p95", "cpu_ms")
        ]
        copies: Counter[str] = Counter()
        for row in group:
            copies.update(row["copies"])
        errors = sum(sum(row["errors"].values()) for row in group)
        outcomes = (
            ", ".join(f"{outcome} {count:,.0f}" for outcome, count in copies.items() if count)
            or "none"
        )
        rows.append(
            [shadow, point, *(rounded(value, 1) for value in figures), str(errors), outcomes]
        )
    head = [
        "shadow",
        "load",
        "a second",
        "p50 ms",
        "p95 ms",
        "CPU ms a request",
        "errors",
        "copies",
    ]
    return ["## Cost of shadows for callers", markdown_table(head, rows)]


def _store_read(section: Found) -> list[str]:
    rows = [
        [
            f"{row['others']:,}",
            f"{row['naive_ms']:.0f} ms",
            f"{row['grid_ms']:.1f} ms",
            f"{row['ratio']:.0f}",
        ]
        for row in section["runs"]
    ]
    return [
        "## Reading 60 minutes of 20 sensors at 1 Hz",
        markdown_table(
            [
                "other machines in the table",
                "rows to a pandas pivot",
                "grid bytes to numpy",
                "ratio",
            ],
            rows,
        ),
    ]


def _releases(section: Found) -> list[str]:
    rows = [
        [
            row["step"],
            str(row["status"]),
            f"{row['seconds']:.2f}",
            ", ".join(map(str, row["in_force_s"])),
        ]
        for row in section["steps"]
    ]
    totals = (
        f"{section['requests']:,} requests in {section['seconds']} s, "
        f"{len(section['failed'])} failed, {section['fallbacks']} answered by a fallback version"
    )
    return [
        "## Releases under load",
        totals,
        markdown_table(["step", "status", "s", "weights in force after, s"], rows),
    ]
