"""Measures the moments of sensors over windows: what references and baselines are made from.

Windows are read in batches; memory does not depend on their number. A baseline reads them twice:
the statistics of residuals need the regressions. Training and the service call the same functions.
Shapes: B windows of a batch, S sensors, N bins, T steps, F statistics, R observations, C = T + 1
numbers of steps with readings, X any shape.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.features.baseline import Baseline, Regression, SensorMoments, Table, WindowLayout
from app.features.binning import Doubles, Floats
from app.features.residuals import (
    Products,
    ResidualPlan,
    fit_regressions,
    neighbours_of,
    plan_residuals,
    products_of,
    residuals,
)
from app.features.statistics import (
    ALL_STATISTICS,
    OF_RESIDUALS,
    Statistic,
    flatness,
    roughness,
    step_coverage,
    step_statistics,
)
from app.schemas.equipment import Equipment

FEW_STEPS_SHARE = 0.001
"""Share of a sensor's windows in which at least so few steps with readings are usual."""
LEAST_WINDOWS = 24
"""Fewest windows of a baseline, and fewest with readings of a sensor that it has."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean, sum of squared deviations, minimum and maximum of finite numbers, each [X]."""

    count_X: Doubles
    mean_X: Doubles
    square_X: Doubles
    low_X: Doubles
    high_X: Doubles

    @classmethod
    def of(cls, values_RX: Doubles) -> Self:
        """Return the moments over the first axis."""
        finite_RX = np.isfinite(values_RX)
        count_X = finite_RX.sum(0).astype(np.float64)
        mean_X = np.where(finite_RX, values_RX, 0.0).sum(0) / np.maximum(count_X, 1.0)
        return cls(
            count_X=count_X,
            mean_X=mean_X,
            square_X=(np.where(finite_RX, values_RX - mean_X, 0.0) ** 2).sum(0),
            low_X=np.where(finite_RX, values_RX, np.inf).min(0, initial=np.inf),
            high_X=np.where(finite_RX, values_RX, -np.inf).max(0, initial=-np.inf),
        )

    def merged(self, other: Self) -> Self:
        """Return the moments of both (Chan, Golub and LeVeque, "Updating formulae", 1979)."""
        count_X = self.count_X + other.count_X
        share_X = other.count_X / np.maximum(count_X, 1.0)
        apart_X = other.mean_X - self.mean_X
        return type(self)(
            count_X=count_X,
            mean_X=self.mean_X + apart_X * share_X,
            square_X=self.square_X + other.square_X + apart_X**2 * self.count_X * share_X,
            low_X=np.minimum(self.low_X, other.low_X),
            high_X=np.maximum(self.high_X, other.high_X),
        )

    @property
    def spread_X(self) -> Doubles:
        """Population standard deviation; 0 without finite numbers."""
        spread_X: Doubles = np.sqrt(self.square_X / np.maximum(self.count_X, 1.0))
        return spread_X


@dataclass(frozen=True, slots=True)
class Observed:
    """What the windows read so far have shown of the sensors.

    Args:
        names: of the statistics.
        statistics: moments of the statistics, [S, T, F], where T is 1 without a cycle.
        bins: moments of the bins, [S].
        flat_S: largest flatness of a window.
        roughness_S: largest roughness of a window.
        windows_SC: windows that had readings in 0, 1, ... T of their steps.
    """

    names: tuple[Statistic, ...]
    statistics: Moments
    bins: Moments
    flat_S: Doubles
    roughness_S: Doubles
    windows_SC: NDArray[np.int64]

    def merged(self, other: Self) -> Self:
        """Return what both have shown."""
        return type(self)(
            names=self.names,
            statistics=self.statistics.merged(other.statistics),
            bins=self.bins.merged(other.bins),
            flat_S=np.fmax(self.flat_S, other.flat_S),
            roughness_S=np.maximum(self.roughness_S, other.roughness_S),
            windows_SC=self.windows_SC + other.windows_SC,
        )


def observe(
    values_BSN: Floats,
    equipment: Equipment,
    statistics: tuple[Statistic, ...] = ALL_STATISTICS,
    plan: ResidualPlan | None = None,
) -> Observed:
    """Measure windows of a topology.

    Args:
        values_BSN: bins in the order of `Equipment.sensors`, NaN where missing; at least a window.
        equipment: gives the steps, and whether they are apart.
        statistics: to measure.
        plan: of the residuals; the statistics of residuals of a sensor without any are 0.
    """
    residual_BSN = None if plan is None else residuals(values_BSN, plan)
    lacks_S = np.ones(len(equipment.sensors), np.bool_) if plan is None else ~plan.fitted_S
    steps = equipment.steps
    raw_BSTF = step_statistics(values_BSN, steps, statistics, residual_BSN)[0].astype(np.float64)
    for place, name in enumerate(statistics):
        if name in OF_RESIDUALS:
            raw_BSTF[:, lacks_S, :, place] = 0.0
    B, S, T, F = raw_BSTF.shape
    C = T + 1
    place_BS = (step_coverage(values_BSN, steps) > 0).sum(-1) + C * np.arange(S)
    if equipment.cycle_s is None:
        raw_BSTF = raw_BSTF.transpose(0, 2, 1, 3).reshape(B * T, S, 1, F)
    return Observed(
        names=statistics,
        statistics=Moments.of(raw_BSTF),
        bins=Moments.of(values_BSN.astype(np.float64).transpose(0, 2, 1).reshape(-1, S)),
        flat_S=np.fmax.reduce(flatness(values_BSN), axis=0),
        roughness_S=roughness(values_BSN).max(0),
        windows_SC=np.bincount(place_BS.reshape(-1), minlength=S * C).reshape(S, C),
    )


def sensor_moments(
    observed: Observed, equipment: Equipment, least_windows: int = 1
) -> dict[str, SensorMoments]:
    """Return the moments of each sensor that has readings in all rows of its tables.

    Statistics of residuals are 0 in a row without any.

    Args:
        observed: windows of the topology.
        equipment: the topology.
        least_windows: fewest windows with readings of a sensor.
    """
    found, deviation_S = observed.statistics, observed.bins.spread_X
    some_STF = found.count_X > 0
    is_own_F = np.array([name not in OF_RESIDUALS for name in observed.names])
    mean_STF, spread_STF, low_STF, high_STF = (
        np.where(some_STF, each_STF, 0.0)
        for each_STF in (found.mean_X, found.spread_X, found.low_X, found.high_X)
    )
    windows_S = observed.windows_SC[:, 1:].sum(1)
    moments: dict[str, SensorMoments] = {}
    for index, (_, sensor) in enumerate(equipment.sensors):
        if windows_S[index] < least_windows or not some_STF[index][:, is_own_F].all():
            continue
        moments[sensor.sensor_id] = SensorMoments(
            quantity=sensor.quantity,
            unit=sensor.unit,
            mean=table(mean_STF[index]),
            spread=table(spread_STF[index]),
            low=table(low_STF[index]),
            high=table(high_STF[index]),
            deviation=_rounded(float(deviation_S[index])),
            flat=float(np.nan_to_num(observed.flat_S[index])),
            roughness=float(observed.roughness_S[index]),
            steps=_least_steps(observed.windows_SC[index]) / equipment.steps,
            windows=int(windows_S[index]),
        )
    return moments


class BaselineMeasurement:
    """Measures the baseline of a machine in two passes over its healthy windows.

    Args:
        equipment: the machine.
    """

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment
        self._products = Products({})
        self._regressions: dict[str, Regression] = {}
        self._plan: ResidualPlan | None = None
        self._observed: Observed | None = None

    def relate(self, values_BSN: Floats) -> None:
        """Read windows for the regressions: the first pass."""
        found = products_of(values_BSN, neighbours_of(self._equipment))
        self._products = self._products.merged(found)

    def observe(self, values_BSN: Floats) -> Observed:
        """Read the same windows for the moments: the second pass; return those of these."""
        if self._observed is None:
            self._regressions = fit_regressions(self._products, self._equipment)
            self._plan = plan_residuals(self._equipment, self._regressions)
        found = observe(values_BSN, self._equipment, plan=self._plan)
        self._observed = found if self._observed is None else self._observed.merged(found)
        return found

    def baseline(self) -> Baseline | None:
        """Return the baseline; None without a window."""
        if self._observed is None:
            return None
        return baseline_of(self._observed, self._equipment, self._regressions)


def measure_baseline(read: Callable[[], Iterable[Floats]], equipment: Equipment) -> Baseline | None:
    """Measure the baseline of a machine from its healthy windows.

    Args:
        read: reads the windows, [B, S, N] at once; called twice.
        equipment: the machine.

    Returns:
        None without a window.
    """
    measurement = BaselineMeasurement(equipment)
    for values_BSN in read():
        measurement.relate(values_BSN)
    for values_BSN in read():
        measurement.observe(values_BSN)
    return measurement.baseline()


def baseline_of(
    observed: Observed, equipment: Equipment, regressions: Mapping[str, Regression] | None = None
) -> Baseline:
    """Return the baseline of a machine from what its healthy windows have shown.

    Args:
        observed: the windows, with all statistics.
        equipment: the machine.
        regressions: by which the residuals were observed; none without residuals. The baseline has
            those whose sensors all have moments, and residuals in all rows of their tables.
    """
    moments = sensor_moments(observed, equipment, LEAST_WINDOWS)
    some_STF = observed.statistics.count_X > 0
    whole = {name for name, has in zip(equipment.sensor_ids, some_STF, strict=True) if has.all()}
    return Baseline(
        statistics=ALL_STATISTICS,
        layout=WindowLayout.of(equipment),
        sensors=moments,
        regressions={
            name: each
            for name, each in (regressions or {}).items()
            if name in whole and moments.keys() >= {name, *each.sensors}
        },
    )


def table(values_RF: Doubles) -> Table:
    """Round to 7 significant digits, the precision of a float32 reading."""
    return tuple(tuple(map(_rounded, row)) for row in values_RF.tolist())


def _least_steps(windows_C: NDArray[np.int64]) -> int:
    """Return the fewest steps that `FEW_STEPS_SHARE` of the windows with readings had."""
    total_C = windows_C[1:].cumsum()
    return 1 + int(np.argmax(total_C >= FEW_STEPS_SHARE * total_C[-1]))


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")
