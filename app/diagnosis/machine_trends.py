"""The trends of a machine's components from its stored diagnoses, as of any window.

Pure. Operating hours are those of the machine's counter where it was read twice, else the hours
that have readings. A new version goes on with the history of the one before: each version has its
own bias in the fit, so only the change of health within versions counts.
Shapes: P samples.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from app.diagnosis.trend import HealthSeries, Trend, fit_trend
from app.diagnosis.wear_path import Doubles, Integers
from app.store.history import HealthHistory

HOUR_US = 3_600_000_000.0
MIN_SHARE = 0.01
"""Least share of hours that count as operating: samples without readings still have an order."""

HoursSource = Literal["counter", "readings"]


class OperatingHours:
    """Operating hours of a machine at any time.

    Args:
        history: of the machine.
    """

    def __init__(self, history: HealthHistory) -> None:
        self.source: HoursSource = "counter" if len(history.counters) > 1 else "readings"
        if self.source == "counter":
            times, hours = zip(*history.counters, strict=True)
            self._time_us_P = np.array(times, np.float64)
            # a counter that was replaced begins anew; hours never fall
            self._hour_P = np.concatenate([[0.0], np.cumsum(np.maximum(np.diff(hours), 0.0))])
        else:
            has_readings = np.array(history.has_readings or [True], np.float64)
            self._time_us_P = np.linspace(
                history.first_us, max(history.last_us, history.first_us + 1), len(has_readings) + 1
            )
            share = np.maximum(has_readings, MIN_SHARE)
            step_h = np.diff(self._time_us_P) / HOUR_US
            self._hour_P = np.concatenate([[0.0], np.cumsum(share * step_h)])
        span_us = self._time_us_P[-1] - self._time_us_P[0]
        self._rate = float(self._hour_P[-1] / span_us)

    def at(self, time_us_P: Integers) -> Doubles:
        """Return the operating hours at times; beyond what is known, at the mean rate."""
        first_us, last_us = self._time_us_P[0], self._time_us_P[-1]
        beyond_P = np.minimum(time_us_P - first_us, 0.0) + np.maximum(time_us_P - last_us, 0.0)
        inside_P = np.interp(time_us_P, self._time_us_P, self._hour_P)
        found_P: Doubles = inside_P + self._rate * beyond_P
        return found_P


class WindowTrends(NamedTuple):
    """The trends of a machine's components as of one window.

    Args:
        hour: operating hours at its end.
        hours: what they are from.
        of: trends by component id.
    """

    hour: float
    hours: HoursSource
    of: Mapping[str, Trend]


class MachineTrends:
    """The trends of one machine; each is fitted when it is needed first.

    Args:
        history: of the machine.
    """

    def __init__(self, history: HealthHistory) -> None:
        self._hours = OperatingHours(history)
        self._time_us = [each.time_us for each in history.samples]
        self._maintenance = history.maintenance
        self._maintained_us = [time_us for time_us, _ in history.maintenance]
        self._fitted: dict[tuple[int, int], Mapping[str, Trend]] = {}
        times = np.array(self._time_us, np.int64)
        numbers = {each: n for n, each in enumerate({item.version for item in history.samples})}
        version_P = np.array([numbers[each.version] for each in history.samples], np.int64)
        hour_P = self._hours.at(times)
        self._series: dict[str, HealthSeries] = {}
        for component_id in {name for each in history.samples for name in each.health}:
            health_P = np.array([each.health.get(component_id, np.nan) for each in history.samples])
            known_P = np.isfinite(health_P)
            self._series[component_id] = HealthSeries(
                times[known_P], hour_P[known_P], health_P[known_P], version_P[known_P]
            )

    def is_fitted(self, end_us: int) -> bool:
        """Return whether `before` has the trends of this window's end already."""
        return self._place(end_us) in self._fitted

    def before(self, end_us: int) -> WindowTrends:
        """Return the trends of the diagnoses of windows that ended before a window's end.

        Args:
            end_us: of the window, microseconds since 1970.
        """
        place = self._place(end_us)
        if place not in self._fitted:
            self._fitted[place] = self._fit(end_us)
        hour = float(self._hours.at(np.array([end_us]))[0])
        return WindowTrends(hour, self._hours.source, self._fitted[place])

    def _place(self, end_us: int) -> tuple[int, int]:
        """Return how many samples and pieces of maintenance lie before a time."""
        return bisect_left(self._time_us, end_us), bisect_left(self._maintained_us, end_us)

    def _fit(self, end_us: int) -> dict[str, Trend]:
        found: dict[str, Trend] = {}
        for component_id, series in self._series.items():
            count = int(np.searchsorted(series.time_us_P, end_us))
            maintained_us = _of_component(self._maintenance, component_id)
            before = HealthSeries(
                series.time_us_P[:count], series.hour_P[:count], series.health_P[:count],
                series.version_P[:count],
            )  # fmt: skip
            found[component_id] = fit_trend(before, maintained_us, end_us)
        return found


def _of_component(maintenance: Sequence[tuple[int, str]], component_id: str) -> list[int]:
    return [time_us for time_us, name in maintenance if name in ("", component_id)]
