"""The report has a table for each section that a run has, from the keys that the sections write."""

from dataclasses import asdict

from tests.bench.compare import Measurement
from tests.bench.report import summary
from tests.bench.systems import OURS

FACTS = {
    "time": "2026-01-01T00:00:00+00:00",
    "cores": 2,
    "cpu": "a processor",
    "load_before": [0.1, 0.2, 0.3],
    "python": "3.11",
    "command": "python -m tests.bench",
}


def measurement(system: str, point: str, throughput: float, repeats: int = 0) -> dict[str, object]:
    return asdict(
        Measurement(
            system=system,
            point=point,
            round=0,
            seconds=8.0,
            throughput=throughput,
            p50=10.0,
            p95=20.0,
            p99=30.0,
            sent=100,
            errors={"503": 2},
            cpu_ms=4.0,
            cpu_ms_of={"Ingress": 4.0},
            postgres_cpu_ms=1.0,
            load_cpu_ms=0.1,
            late_ms=0.0,
            batch_sizes={8: 3},
            mean_batch=None,
            repeats=repeats,
        )
    )


def test_run_without_sections_has_facts_only() -> None:
    text = summary({"facts": FACTS})
    assert "2 cores (a processor), load before the start 0.10, 0.20, 0.30" in text
    assert "##" not in text.removeprefix("# ")


def test_comparison_has_medians_ratios_and_memory() -> None:
    section = {
        "measured": [
            *(measurement(OURS, "c8", throughput) for throughput in (90.0, 100.0, 400.0)),
            measurement("fastapi", "c8", 80.0, repeats=1),
        ],
        "raw": [{"threads": 1, "size": 32, "graphs_a_second": 200.0, "cpu_ms": 0.5}],
        "starts": [{"system": OURS, "memory": [{"pss_mb": 200.0}, {"pss_mb": 50.0}]}],
    }
    text = summary({"facts": FACTS, "compare": section})
    assert "| Hydraulic Diagnostics (whole chain) | 100 |" in text  # the median of three rounds
    assert "| c8 | 1.25 |  |  | 0.50 |" in text  # of (a), (c), (f) and (e)
    assert "| Hydraulic Diagnostics (whole chain) | 250 | 200 | 2 |" in text
    assert "'Hydraulic Diagnostics (whole chain)': 6" in text  # errors
    assert "requested twice: (a) FastAPI, micro-batching, 1 process." in text


def test_every_other_section_has_its_figures() -> None:
    row = measurement(OURS, "c32", 100.0)
    trial = {
        "trials": 20,
        "right": 19,
        "wrong": 0,
        "diagnoses_least_median_most": [50.0, 100.0, 150.0],
        "equal_by_window_called_different": 1,
        "equal_by_condition_called_different": 2,
        "equal_trials": 100,
    }
    noise = {"right_of_worse": {"valve": 0.97}, "by_window": trial, "by_condition": trial}
    step = {"step": "deploy 3", "status": 0, "seconds": 1.5, "in_force_s": [1.25]}
    fleet_row = {
        "items": 1000,
        "errors": 0,
        "graphs_a_second": 50.0,
        "first_line_ms": 9.0,
        "cpu_ms": 2.0,
    }
    found = {
        "facts": FACTS,
        "cold_start": {"rows": [{"ready": 12.0}, {"ready": 14.0}]},
        "fleet": {"rows": [fleet_row], "limit": 100.0},
        "cache": {
            "new": row,
            "repeated": measurement(OURS, "c32", 250.0),
            "counters": {"response_cache_total": 5.0},
        },
        "memory": {
            "rows": [{"diagnoses": 20_000, "pss_mb": 700.0, "errors": 0}],
            "slope_bytes": 12.0,
            "processes": [{"name": "Ingress", "pss_mb": 200.0, "uss_mb": 150.0}],
        },
        "scale": {
            "machines": [{"machines": 10_000, **row}],
            "components": [{"components": 200, **row}],
        },
        "observability": {
            "ratio": 0.97,
            "cpu_ratio": 1.02,
            "traced_ratio": 0.95,
            "traced_cpu_ratio": 1.05,
            "spans": 7,
        },
        "profile": {
            "cpu": {"c1": {"Ingress": 1.0}, "c32": {"Ingress": 0.5, "load": 0.001}},
            "idle": {"Ingress": 0.002},
            "samples": {"c1": {"Ingress (7)": {"asyncpg": 0.6, "other": 0.4}}},
        },
        "shadow": {"rows": [{"shadow": "sleeps", "copies": {"timeout": 4.0}} | row]},
        "store_read": {
            "runs": [{"others": 1000, "naive_ms": 900.0, "grid_ms": 9.0, "ratio": 100.0}]
        },
        "verdict": {"0.3": noise},
        "releases": {
            "requests": 6025,
            "seconds": 301,
            "failed": [],
            "fallbacks": 3,
            "steps": [step],
        },
    }
    text = summary(found)
    for expected in (
        "| ready | 13.0 |",
        "1,000 machines: 50 graphs a second, 0.50 of the network alone (100)",
        "(ratio 2.5)",
        "slope 12 bytes a diagnosis",
        "| 10,000 | 10.0 | 20.0 |",
        "| 200 | 4.00 | 10.0 |",
        "0.970 of the throughput",
        "| Ingress | 1.00 | 0.50 | 0.002 |",
        "| c1 | Ingress (7) | asyncpg 60%, other 40% |",
        "| sleeps | c32 | 100.0 | 10.0 | 20.0 | 4.0 | 2 | timeout 4 |",
        "| 1,000 | 900 ms | 9.0 ms | 100 |",
        "| 0.3 | valve 97.0% | 19 of 20 | 0 | 50 / 100 / 150 | 1 of 100 | 2 of 100 |",
        "0 failed, 3 answered by a fallback version",
        "| deploy 3 | 0 | 1.50 | 1.25 |",
    ):
        assert expected in text, expected
