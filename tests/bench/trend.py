"""Measures rates and remaining lives by trend on machines that no constant was fitted on.

`python -m tests.bench.trend OUT.json` writes the JSON; `make bench` has it as a section. Lives are
those of the simulated machines of all designs, and of the engines of C-MAPSS FD001 where a folder
with its files is given. A history is the true health with the error of a model: a constant bias of
standard deviation .03, and noise of .03 to .07 of which half the deviation is autocorrelated over
.5 to 5 % of the history. The intervals' factors are fitted on machines of odd numbers and checked
on those of even numbers. Beside the trend is a persistence rule: the slope over the last third of
the history, and for remaining life the mean life of the odd machines less the age, or health over
the slope.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.demo.cmapss.files import read_engines
from app.demo.simulation.machine import machine_files, read_machine
from app.demo.simulation.wear import WearPlan, draw_plan
from app.diagnosis.trend import Estimate, HealthSeries, Trend, fit_trend
from app.diagnosis.wear_path import Doubles
from tests.bench.compare import Bench

HOURS = 2_000.0
POINTS = 96
WEARING = 3.0
CAP_H = 125.0
"""Cycles before failure at which the health of an engine begins to fall (Heimes, 2008)."""
HOUR_US = 3_600_000_000
FEWEST_POINTS = 12


class Case(NamedTuple):
    """A component at the end of a history: its truth, and what trend and persistence say.

    Args:
        machine: number of it; odd ones fit.
        share: of the life of its furthest fault that has gone; below 0 before the onset.
        rate: true, health per 1000 operating hours.
        rul_h: true.
        age_h: operating hours since the last repair.
        trend: of the history.
        slope: over the last third, health lost per 1000 operating hours.
        health: mean of the last sixth.
    """

    machine: int
    share: float
    rate: float
    rul_h: float
    age_h: float
    trend: Trend
    slope: float
    health: float


def measure(_: Bench) -> dict[str, object]:
    """Measure the simulated machines, as a section of `make bench`."""
    return measure_designs(machines=60, engines=None)


def measure_designs(machines: int, engines: Path | None) -> dict[str, object]:
    """Return a row for each design, and one for the engines if there is a folder of C-MAPSS."""
    of_design = {
        name: list(_simulated(name, number, machines))
        for number, name in enumerate(machine_files())
    }
    if engines is not None:
        of_design["C-MAPSS FD001"] = list(_engines(engines))
    pooled = [case for name in machine_files() for case in of_design[name]]
    return {
        "machines": machines,
        "points": POINTS,
        "rate_factor": _factor([(each.trend.rate, each.rate) for each in _wearing(pooled, odd=1)]),
        "rul_factor": _factor([(each.trend.rul_h, each.rul_h) for each in _wearing(pooled, odd=1)]),
        "rows": [_row(name, cases) for name, cases in of_design.items()],
    }


def _simulated(name: str, number: int, machines: int) -> Iterator[Case]:
    modes = read_machine(name).circuit.modes
    components = sorted({mode.component for mode in modes})
    for machine in range(machines):
        random = np.random.default_rng([number, machine])
        plan = draw_plan(modes, HOURS, WEARING, random)
        now_h = float(random.uniform(0.3, 1.0)) * HOURS
        hour_P = np.sort(random.uniform(0.0, now_h, POINTS))
        for component in components:
            repaired = [each.hour for each in plan.repairs if each.component == component]
            begin_h = max((hour for hour in repaired if hour < hour_P[-1]), default=0.0)
            since_P = hour_P[hour_P >= begin_h]
            if len(since_P) < FEWEST_POINTS:
                continue
            truth = plan.condition(component, since_P[-1])
            health_P = np.array([plan.condition(component, hour).health for hour in since_P])
            share = _share_of_life(plan, component, since_P[-1])
            age_h = since_P[-1] - begin_h
            yield _case(
                machine, share, truth.degradation_rate, truth.rul_h, age_h, since_P, health_P,
                random,
            )  # fmt: skip


def _engines(directory: Path) -> Iterator[Case]:
    for engine in read_engines(directory / "train_FD001.txt"):
        random = np.random.default_rng([99, engine.unit])
        life_h = float(len(engine.values_CR))
        last_h = float(np.floor(random.uniform(30.0, life_h)))
        hour_P = np.arange(1.0, last_h + 1.0)
        health_P = np.minimum(1.0, (life_h - hour_P) / CAP_H)
        share = 1.0 - (life_h - last_h) / CAP_H
        rate = 1_000.0 / CAP_H if share > 0.0 else 0.0
        yield _case(engine.unit, share, rate, life_h - last_h, last_h, hour_P, health_P, random)


def _share_of_life(plan: WearPlan, component: str, hour: float) -> float:
    return max(
        (hour - each.onset_h) / each.life_h
        for each in plan.trajectories
        if plan.modes[each.mode].component == component and hour < each.repaired_h
    )


def _case(
    machine: int, share: float, rate: float, rul_h: float, age_h: float, hour_P: Doubles,
    health_P: Doubles, random: np.random.Generator,
) -> Case:  # fmt: skip
    seen_P = _with_errors(hour_P, health_P, random)
    versions = np.zeros(len(hour_P), np.int64)
    series = HealthSeries((hour_P * HOUR_US).astype(np.int64), hour_P, seen_P, versions)
    third, sixth = len(hour_P) // 3, max(1, len(hour_P) // 6)
    slope = -1_000.0 * float(np.polyfit(hour_P[-third:], seen_P[-third:], 1)[0])
    health = float(seen_P[-sixth:].mean())
    return Case(machine, share, rate, rul_h, age_h, fit_trend(series), slope, health)


def _with_errors(hour_P: Doubles, health_P: Doubles, random: np.random.Generator) -> Doubles:
    """Return health as a model would estimate it."""
    memory_h = (hour_P[-1] - hour_P[0]) * random.uniform(0.005, 0.05)
    sd = random.uniform(0.03, 0.07)
    kept_P = np.exp(-np.diff(hour_P, prepend=hour_P[0]) / memory_h)
    slow_P = np.empty(len(hour_P))
    last = random.standard_normal()
    for point, kept in enumerate(kept_P):
        last = kept * last + (1.0 - kept**2) ** 0.5 * random.standard_normal()
        slow_P[point] = last
    noise_P = 0.5 * slow_P + 0.75**0.5 * random.standard_normal(len(hour_P))
    found: Doubles = np.clip(health_P + random.normal(0.0, 0.03) + sd * noise_P, 0.0, 1.0)
    return found


def _wearing(cases: Sequence[Case], odd: int) -> list[Case]:
    return [each for each in cases if 0.25 <= each.share < 1.0 and each.machine % 2 == odd]


def _misses(pairs: Sequence[tuple[Estimate | None, float]]) -> Doubles:
    """Return how far the truth is from each estimate, in the interval's side towards it."""
    return np.array(
        [
            abs(true - each.value)
            / max(1e-9, each.high - each.value if true > each.value else each.value - each.low)
            for each, true in pairs
            if each is not None
        ]
    )


def _factor(pairs: Sequence[tuple[Estimate | None, float]]) -> float:
    """Return the factor of the intervals in use with which they would hold 90 %."""
    misses = np.sort(_misses(pairs))
    return float(misses[min(len(misses) - 1, int(np.ceil(0.9 * (len(misses) + 1))) - 1)])


def _row(name: str, cases: Sequence[Case]) -> dict[str, object]:
    wearing = _wearing(cases, odd=0)
    healthy = [each for each in cases if each.share < 0.0 and each.machine % 2 == 0]
    answered = [each for each in wearing if each.trend.rate is not None]
    mean_life_h = float(np.mean([each.age_h + each.rul_h for each in _wearing(cases, odd=1)]))
    true_h = np.array([each.rul_h for each in answered])
    said_h = np.array([each.trend.rul_h.value for each in answered if each.trend.rul_h])
    by_life_h = np.array([max(0.0, mean_life_h - each.age_h) for each in answered])
    by_slope_h = np.array([1_000.0 * each.health / max(each.slope, 1e-2) for each in answered])
    return {
        "design": name,
        "wearing": len(wearing),
        "answered": len(answered),
        "rate_within_20": np.mean(
            [
                each.trend.rate is not None and _is_near(each.trend.rate.value, each.rate)
                for each in wearing
            ]
        ).item(),
        "rate_within_20_persistence": np.mean(
            [_is_near(each.slope, each.rate) for each in wearing]
        ).item(),
        "sign_right": np.mean(
            [each.trend.rate is not None and each.trend.rate.value > 0 for each in wearing]
        ).item(),
        "sign_right_persistence": np.mean([each.slope > 0 for each in wearing]).item(),
        "healthy_with_rate": np.mean([each.trend.rate is not None for each in healthy]).item(),
        "healthy_with_rate_persistence": np.mean([each.slope > 0 for each in healthy]).item(),
        "rate_coverage": float(
            np.mean(_misses([(each.trend.rate, each.rate) for each in wearing]) <= 1.0)
        ),
        "rul_coverage": float(
            np.mean(_misses([(each.trend.rul_h, each.rul_h) for each in wearing]) <= 1.0)
        ),
        "rul_median_error_h": float(np.median(np.abs(said_h - true_h))),
        "rul_median_error_mean_life_h": float(np.median(np.abs(by_life_h - true_h))),
        "rul_median_error_last_slope_h": float(np.median(np.abs(by_slope_h - true_h))),
    }


def _is_near(found: float, true: float) -> bool:
    return abs(found - true) <= 0.2 * true


def main() -> None:
    """Measure and write JSON."""
    from tests.bench.__main__ import facts  # it imports this module

    parser = argparse.ArgumentParser(prog="python -m tests.bench.trend")
    parser.add_argument("out", type=Path)
    parser.add_argument("--machines", type=int, default=60)
    parser.add_argument("--cmapss", type=Path, help="folder with train_FD001.txt")
    given = parser.parse_args()
    found = {
        "facts": facts() | {"command": " ".join(["python -m tests.bench.trend", *sys.argv[1:]])},
        "trend": measure_designs(given.machines, given.cmapss),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
