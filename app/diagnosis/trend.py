"""The trend of a component's stored health over operating hours: its rate and remaining life.

Pure. Only diagnoses since the last change point count: recorded maintenance, or a rise of health
(`change_points`). Their path of wear is fitted by `wear_path`; its intervals are widened by factors
that held-out simulated machines gave. Invariant: a trend without a rate says why.

Shapes: P points.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from app.diagnosis.change_points import MIN_RISE, rises
from app.diagnosis.wear_path import Doubles, Integers, Quantiles, fit_path

MIN_POINTS = 12
"""Least diagnoses since the last change point."""
MIN_SPAN_H = 24.0
"""Least operating hours that they span."""
CERTAIN = 0.95
"""Least probability of wear for a rate to be stated."""
RATE_WIDENING = 1.6
RUL_WIDENING = 1.3
"""Factors of the intervals' two sides, such that 90 % hold the truth; `python -m tests.bench.trend`
fits them on simulated machines of odd numbers and checks them on those of even numbers."""
JUMP_SDS = 4.0

ChangePoint = Literal["maintenance", "rise"]

NO_HISTORY = "no earlier diagnosis of this component by labels is stored"
NOT_DEGRADING = "its health has not fallen over the stored diagnoses"
SIGN_UNCERTAIN = (
    "the fall of its health over the stored diagnoses is too small to tell from their scatter"
)
JUMPED = (
    "its health in this window is far from the trend of the stored diagnoses: record the "
    "maintenance if there was any"
)


class Estimate(NamedTuple):
    """A number with the interval that holds the truth with the stated coverage."""

    value: float
    low: float
    high: float


class HealthSeries(NamedTuple):
    """The stored healths of one component, by time.

    Args:
        time_us_P: ends of the windows, microseconds since 1970.
        hour_P: operating hours of the machine then; never falling.
        health_P: in [0, 1].
        version_P: number of the model version of each.
    """

    time_us_P: Integers
    hour_P: Doubles
    health_P: Doubles
    version_P: Integers


class Trend(NamedTuple):
    """The trend of one component's health at its last point.

    Args:
        rate: health lost per 1000 operating hours; None where unknown.
        rul_h: remaining life in operating hours from `last_h`; None where unknown.
        reason: why there is neither; None where there are both.
        points: diagnoses since the change point.
        since_us: time of the first of them; None without any.
        first_h: operating hours then.
        last_h: operating hours at the last.
        change_point: what the series begins with; None for the first stored diagnosis.
        level: health by the trend at `last_h`.
        sd: standard deviation of one health about the trend.
    """

    rate: Estimate | None = None
    rul_h: Estimate | None = None
    reason: str | None = NO_HISTORY
    points: int = 0
    since_us: int | None = None
    first_h: float = 0.0
    last_h: float = 0.0
    change_point: ChangePoint | None = None
    level: float = 1.0
    sd: float = 0.0

    def at(self, hour: float, health: float | None) -> "Trend":
        """Return the trend carried to another hour; without a rate where health left it.

        Args:
            hour: operating hours of a window.
            health: of the component in that window; None where unknown.
        """
        if self.rate is None or self.rul_h is None:
            return self
        ahead_h = max(0.0, hour - self.last_h)
        level = self.level - self.rate.value * ahead_h / 1000.0
        if health is not None and abs(health - level) > max(MIN_RISE, JUMP_SDS * self.sd):
            return self._replace(rate=None, rul_h=None, reason=JUMPED)
        rul_h = Estimate(*(max(0.0, each - ahead_h) for each in self.rul_h))
        return self._replace(rul_h=rul_h)


UNKNOWN = Trend()


def fit_trend(
    series: HealthSeries, maintained_us: Sequence[int] = (), end_us: int | None = None
) -> Trend:
    """Fit the trend of one component.

    Args:
        series: its stored healths, by time.
        maintained_us: times of its recorded maintenance, microseconds since 1970.
        end_us: only earlier maintenance counts; None for that up to the last diagnosis.
    """
    if not len(series.health_P):
        return UNKNOWN
    first = 0
    change_point: ChangePoint | None = None
    before_us = int(series.time_us_P[-1]) + 1 if end_us is None else end_us
    past = [at for at in maintained_us if at < before_us]
    if past:
        first = int(np.searchsorted(series.time_us_P, max(past), side="right"))
        change_point = "maintenance"
    later = rises(series.hour_P[first:], series.health_P[first:])
    if later:
        first, change_point = first + later[-1], "rise"
    hour_P, health_P = series.hour_P[first:], series.health_P[first:]
    if not len(health_P):
        return UNKNOWN._replace(change_point=change_point)
    found = Trend(
        points=len(health_P),
        since_us=int(series.time_us_P[first]),
        first_h=float(hour_P[0]),
        last_h=float(hour_P[-1]),
        change_point=change_point,
    )
    span_h = found.last_h - found.first_h
    if found.points < MIN_POINTS or span_h < MIN_SPAN_H:
        return found._replace(reason=_too_little(found.points, span_h))
    third = max(1, found.points // 3)
    if health_P[-third:].mean() >= health_P[:third].mean():
        return found._replace(reason=NOT_DEGRADING)
    path = fit_path(hour_P, health_P, series.version_P[first:])
    if path.worn < CERTAIN:
        reason = NOT_DEGRADING if path.worn < 0.5 else SIGN_UNCERTAIN
        return found._replace(reason=reason)
    return found._replace(
        rate=_widened(Quantiles(*(1000.0 * each for each in path.rate)), RATE_WIDENING),
        rul_h=_widened(path.rul_h, RUL_WIDENING),
        reason=None,
        level=path.level,
        sd=path.sd,
    )


def merged(head: Estimate | None, trend: Estimate | None) -> Estimate | None:
    """Return the mean of two estimates by the inverse squares of their intervals' widths."""
    if head is None or trend is None:
        return head or trend
    weight_head, weight_trend = (1.0 / _half(each) ** 2 for each in (head, trend))
    share = weight_head / (weight_head + weight_trend)
    value = share * head.value + (1.0 - share) * trend.value
    half = (weight_head + weight_trend) ** -0.5
    return Estimate(value, value - half, value + half)


def _half(estimate: Estimate) -> float:
    return max(1e-9, (estimate.high - estimate.low) / 2.0)


def _widened(found: Quantiles, factor: float) -> Estimate:
    return Estimate(
        found.median,
        max(0.0, found.median - factor * (found.median - found.low)),
        found.median + factor * (found.high - found.median),
    )


def _too_little(points: int, span_h: float) -> str:
    return (
        f"expected at least {MIN_POINTS} stored diagnoses over {MIN_SPAN_H:g} operating hours "
        f"since the last change point, found {points} over {span_h:.3g}: diagnose it more often "
        "or wait"
    )
