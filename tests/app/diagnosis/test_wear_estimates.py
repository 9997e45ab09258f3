"""Wear of a component: heads alone, trend alone, both, or neither with both reasons."""

import numpy as np
import pytest

from app.diagnosis.decoder import NO_WEAR_LABELS, DecodedComponent
from app.diagnosis.machine_trends import WindowTrends
from app.diagnosis.trend import JUMPED, NO_HISTORY, Estimate, Trend
from app.diagnosis.wear_estimates import wear_of

TREND = Trend(
    rate=Estimate(1.0, 0.8, 1.2), rul_h=Estimate(400.0, 300.0, 500.0), reason=None, points=40,
    since_us=1_767_225_600_000_000, first_h=10.0, last_h=90.0, level=0.5, sd=0.05,
)  # fmt: skip


def _decoded(**changes: object) -> DecodedComponent:
    nothing = DecodedComponent(
        "labels", 0.5, (0.4, 0.6), None, None, 0.05, np.nan, None, None, None, NO_WEAR_LABELS,
        None, None, NO_WEAR_LABELS,
    )  # fmt: skip
    return nothing._replace(**changes)  # type: ignore[arg-type]


HEADS = _decoded(
    rate=2.0, rate_interval=(1.8, 2.2), rate_reason=None,
    rul_h=200.0, rul_interval_h=(100.0, 300.0), rul_reason=None,
)  # fmt: skip


def _trends(of: Trend | None = TREND, hour: float = 90.0) -> WindowTrends:
    return WindowTrends(hour, "readings", {} if of is None else {"pump": of})


def test_without_trends_the_heads_stay_as_they_are() -> None:
    found = wear_of("pump", HEADS, None)
    assert (found.rate, found.rate_interval, found.rul_h) == (2.0, (1.8, 2.2), 200.0)
    assert found.trend is None


def test_trend_alone_answers_where_the_heads_have_no_labels() -> None:
    found = wear_of("pump", _decoded(), _trends())
    assert (found.rate, found.rate_interval, found.rate_reason) == (1.0, (0.8, 1.2), None)
    assert (found.rul_h, found.rul_interval_h, found.rul_reason) == (400.0, (300.0, 500.0), None)
    assert found.trend is not None
    assert found.trend.source == "trend"
    assert (found.trend.points, found.trend.span_h, found.trend.hours) == (40, 80.0, "readings")
    assert str(found.trend.since) == "2026-01-01 00:00:00+00:00"


def test_heads_and_trend_meet_by_their_intervals() -> None:
    found = wear_of("pump", HEADS, _trends())
    assert found.rate == pytest.approx(1.5)
    assert found.rul_h == pytest.approx(300.0)
    assert found.rul_interval_h is not None
    assert found.rul_interval_h[1] - found.rul_interval_h[0] == pytest.approx(200.0 / 2**0.5)
    assert found.trend is not None
    assert found.trend.source == "both"


def test_rate_of_the_heads_without_an_interval_gives_way() -> None:
    found = wear_of("pump", HEADS._replace(rate_interval=None), _trends())
    assert found.rate == 1.0
    assert found.trend is not None
    assert found.trend.source == "trend"


def test_heads_answer_where_the_trend_has_no_rate() -> None:
    found = wear_of("pump", HEADS, _trends(None))
    assert (found.rate, found.rul_h) == (2.0, 200.0)
    assert found.trend is not None
    assert (found.trend.source, found.trend.points) == ("heads", 0)
    assert found.trend.reason == NO_HISTORY


def test_neither_gives_both_reasons() -> None:
    found = wear_of("pump", _decoded(), _trends(None))
    assert (found.rate, found.rul_h) == (None, None)
    assert found.rate_reason == f"{NO_WEAR_LABELS}; by the stored diagnoses: {NO_HISTORY}"
    assert found.rul_reason == found.rate_reason
    assert found.trend is not None
    assert found.trend.source is None


def test_window_far_from_the_trend_has_none_of_it() -> None:
    found = wear_of("pump", _decoded(health=0.95), _trends())
    assert found.rate is None
    assert found.trend is not None
    assert found.trend.reason == JUMPED


def test_remaining_life_is_as_of_the_window() -> None:
    found = wear_of("pump", _decoded(health=0.49), _trends(hour=100.0))
    assert (found.rul_h, found.rul_interval_h) == (390.0, (290.0, 490.0))
    late = wear_of("pump", _decoded(health=0.0), _trends(hour=590.0))
    assert (late.rul_h, late.rul_interval_h) == (0.0, (0.0, 0.0))
