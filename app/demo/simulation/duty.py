"""Draws the commands and loads of a machine over time from its duty cycle.

Cycles of the programs follow each other at the operator's pace, with pauses; the amplitude of each
signal varies over machines, jobs and cycles.
"""

from dataclasses import dataclass

import numpy as np

from app.demo.simulation.layout import Floats
from app.demo.simulation.machine import Duty

OPERATORS = 3
"""Operators of a machine, one for each shift."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a machine is used: factors of each signal U, pace of each operator."""

    amplitude_U: Floats
    pace: tuple[float, ...]


def draw_style(duty: Duty, random: np.random.Generator) -> Style:
    """Draw how one machine is used."""
    spread_U = np.array([_spread(duty, name)[0] for name in duty.rest])
    amplitude_U = np.exp(spread_U * random.standard_normal(len(spread_U)))
    pace = np.exp(duty.pace * random.standard_normal(OPERATORS))
    return Style(amplitude_U, tuple(float(each) for each in pace))


def timeline(
    duty: Duty,
    style: Style,
    operator: int,
    seconds: float,
    random: np.random.Generator,
    before_U: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Draw one job.

    Args:
        duty: of the design.
        style: of the machine.
        operator: number of the shift's operator.
        seconds: to fill.
        random: source of chance.
        before_U: signals just before, when the job continues; None to begin inside a cycle.

    Returns:
        Knots, float64[K], increasing and ending at or after `seconds`; signals, float64[K, U].
    """
    names = list(duty.rest)
    rest_U = np.array(list(duty.rest.values()))
    job_U = np.exp([_spread(duty, name)[1] for name in names] * random.standard_normal(len(names)))
    cycle_spread_U = np.array([_spread(duty, name)[2] for name in names])
    programs = list(duty.programs.values())
    weight_N = np.array([program.weight for program in programs])
    weight_N = weight_N / weight_N.sum()
    pace = style.pace[operator % OPERATORS]

    chosen = int(random.choice(len(programs), p=weight_N))
    now, rows = 0.0, [rest_U if before_U is None else before_U]
    if before_U is None:
        now = -float(random.uniform(0.0, programs[chosen].seconds[-1]))
    knots = [now]
    while now < seconds:
        if random.uniform() > duty.persistence:
            chosen = int(random.choice(len(programs), p=weight_N))
        program = programs[chosen]
        cycle_U = np.exp(cycle_spread_U * random.standard_normal(len(names)))
        factor_U = style.amplitude_U * job_U * cycle_U
        stretch = pace * float(np.exp(0.03 * random.standard_normal()))
        for index, second in enumerate(program.seconds):
            value_U = rest_U.copy()
            for place, name in enumerate(names):
                if name in program.signals:
                    value_U[place] = program.signals[name][index]
            knots.append(now + stretch * (second - program.seconds[0]) + 0.5)
            rows.append(rest_U + (value_U - rest_U) * factor_U)
        now = knots[-1] + float(random.uniform(0.0, duty.pause_s))
    knots.append(now + 1.0)
    rows.append(rows[-1])
    return np.array(knots), np.stack(rows)


def together(drawn: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """Pad timelines to one length: float64[M, K] and float64[M, K, U]."""
    longest = max(len(knots) for knots, _ in drawn)
    knots_MK, signals_MKU = [], []
    for knots, signals in drawn:
        missing = longest - len(knots)
        later = knots[-1] + np.arange(1, missing + 1)
        knots_MK.append(np.concatenate([knots, later]))
        signals_MKU.append(np.concatenate([signals, np.repeat(signals[-1:], missing, axis=0)]))
    return np.stack(knots_MK), np.stack(signals_MKU)


def _spread(duty: Duty, name: str) -> tuple[float, float, float]:
    varies = duty.varies.get(name)
    return (0.0, 0.0, 0.0) if varies is None else (varies.machine, varies.job, varies.cycle)
