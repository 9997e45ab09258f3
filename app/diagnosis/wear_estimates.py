"""The degradation rate and the remaining life of a component: the heads' and the trend's as one.

Pure. Two estimates become their mean by the inverse squares of their intervals' widths; one alone
stays as it is. Invariant: what neither knows is null, and the reason names both.
"""

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from app.diagnosis.decoder import DIGITS, DecodedComponent
from app.diagnosis.machine_trends import WindowTrends
from app.diagnosis.trend import UNKNOWN, Estimate, Trend, merged
from app.schemas.diagnosis import TrendOfHealth

Source = Literal["heads", "trend", "both"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Wear(NamedTuple):
    """The wear of one component, as a diagnosis states it; fields as in `ComponentDiagnosis`."""

    rate: float | None
    rate_interval: tuple[float, float] | None
    rate_reason: str | None
    rul_h: float | None
    rul_interval_h: tuple[float, float] | None
    rul_reason: str | None
    trend: TrendOfHealth | None = None


def wear_of(component_id: str, decoded: DecodedComponent, trends: WindowTrends | None) -> Wear:
    """Return the wear of a component that does not abstain.

    Args:
        component_id: of the component.
        decoded: of its window.
        trends: of the machine as of this window; None where they are not used.
    """
    heads = Wear(
        decoded.rate,
        decoded.rate_interval,
        decoded.rate_reason,
        decoded.rul_h,
        decoded.rul_interval_h,
        decoded.rul_reason,
    )
    if trends is None:
        return heads
    trend = trends.of.get(component_id, UNKNOWN).at(trends.hour, decoded.health)
    found, source = heads, _source(heads, trend)
    unknown = f"; by the stored diagnoses: {trend.reason}"
    if trend.rate is not None:
        rate, interval = _rounded(merged(_estimate(heads.rate, heads.rate_interval), trend.rate))
        found = found._replace(rate=rate, rate_interval=interval, rate_reason=None)
    elif heads.rate is None:
        found = found._replace(rate_reason=f"{heads.rate_reason}{unknown}")
    if trend.rul_h is not None:
        rul_h, (low_h, high_h) = _rounded(
            merged(_estimate(heads.rul_h, heads.rul_interval_h), trend.rul_h)
        )
        interval_h = max(0.0, low_h), high_h
        found = found._replace(rul_h=max(0.0, rul_h), rul_interval_h=interval_h, rul_reason=None)
    elif heads.rul_h is None:
        found = found._replace(rul_reason=f"{heads.rul_reason}{unknown}")
    return found._replace(trend=_stated(source, trend, trends))


def _source(heads: Wear, trend: Trend) -> Source | None:
    """Return what the rate rests on; a head's rate without an interval can't be weighted."""
    if trend.rate is None:
        return None if heads.rate is None else "heads"
    return "trend" if heads.rate is None or heads.rate_interval is None else "both"


def _estimate(value: float | None, interval: tuple[float, float] | None) -> Estimate | None:
    return None if value is None or interval is None else Estimate(value, *interval)


def _rounded(found: Estimate | None) -> tuple[float, tuple[float, float]]:
    assert found is not None
    value, low, high = (round(each, DIGITS) for each in found)
    return value, (low, high)


def _stated(source: Source | None, trend: Trend, trends: WindowTrends) -> TrendOfHealth:
    since = None if trend.since_us is None else EPOCH + timedelta(microseconds=trend.since_us)
    return TrendOfHealth(
        source=source,
        points=trend.points,
        span_h=round(trend.last_h - trend.first_h, 3),
        since=since,
        change_point=trend.change_point,
        hours=trends.hours,
        reason=trend.reason,
    )
