"""Residuals: a sensor's reading minus its prediction from neighbouring sensors.

Load, speed, oil temperature and operator change the readings of neighbouring sensors together;
wear changes how they depend on each other. So each sensor is regressed on the sensors of its own
component and of those whose evidence reaches it directly, a bin before, at the same time and a bin
after, over the baseline of the machine itself (analytical redundancy: Gertler, "Fault detection and
diagnosis in engineering systems", 1998). Two statistics of a step are those of residuals instead of
readings.

Shapes: B or W windows, S sensors, N bins, R rows of a regression, X numbers of a row: the sensor,
then its neighbours before, at and after; U numbers of neighbours that vary.
Invariant: a residual needs all readings of its regression; it is NaN where one is missing, at the
ends of a window, and for a sensor without a regression.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.features.baseline import Regression
from app.features.binning import Doubles, Floats
from app.schemas.equipment import Equipment

LEAST_STEP_BINS = 8
"""Fewest bins of a step: of fewer, a spread says little."""
MOST_NEIGHBOURS = 20
"""Most neighbours of a sensor, those of its own component first."""
MOST_SENSORS = 512
"""Most sensors of a machine with residuals: of more, sums and plans would take too much memory."""
MOST_SETS = 4
"""Most sets of neighbours for which the sums of a sensor are kept."""
LEAST_WEIGHT = 1e-3
"""A neighbour whose weights move the prediction by less than this share of the sensor's deviation
is left out, so that its gaps do not matter."""
LEAST_COVERAGE = 0.9
"""Least share of bins with readings, in the windows read at once, of a sensor in a regression."""
LEAST_ROWS = 1_000
LEAST_ROWS_PER_NUMBER = 20
"""Fewest rows of a regression, in all and for each of its numbers."""
RIDGE = 1e-3
"""Added to the variance of each standardised neighbour (Hoerl and Kennard, "Ridge regression",
1970): neighbours that nearly determine each other get no large weights of opposite signs."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """Count and mean [X] of rows, and the sums of products of their deviations, [X, X]."""

    count: int
    mean_X: Doubles
    product_XX: Doubles

    def merged(self, other: "_Sums") -> "_Sums":
        """Return the sums of both (Chan, Golub and LeVeque, "Updating formulae", 1979)."""
        count = self.count + other.count
        apart_X = other.mean_X - self.mean_X
        share = other.count / count
        product_XX = self.product_XX + other.product_XX
        product_XX += np.outer(apart_X, apart_X) * self.count * share
        return _Sums(count, self.mean_X + apart_X * share, product_XX)


_Columns = tuple[int, ...]
"""A sensor, then the neighbours that are read with it."""


@dataclass(frozen=True, slots=True)
class Products:
    """Sums of the regressions of sensors, by sensor and the neighbours that had readings."""

    sums: Mapping[_Columns, _Sums]

    def merged(self, other: Self) -> Self:
        """Return the sums of both; of a sensor with many sets of neighbours, of the first ones."""
        sums = dict(self.sums)
        sets = Counter(columns[0] for columns in sums)
        for columns, found in other.sums.items():
            if columns in sums:
                sums[columns] = sums[columns].merged(found)
            elif sets[columns[0]] < MOST_SETS:
                sums[columns] = found
                sets[columns[0]] += 1
        return type(self)(sums)


def neighbours_of(equipment: Equipment) -> tuple[tuple[int, ...], ...]:
    """Return for each sensor those of its component and of components that are evidence for it.

    Only evidence along one connection counts (`Equipment.evidence_sources`). The sensors of its own
    component are first, without itself, and there are at most `MOST_NEIGHBOURS`. None has any where
    the steps of the machine's windows are shorter than `LEAST_STEP_BINS`, or with more than
    `MOST_SENSORS`.
    """
    return equipment.once("neighbours", lambda: _neighbours(equipment))


def _neighbours(equipment: Equipment) -> tuple[tuple[int, ...], ...]:
    sensors = equipment.sensors
    if equipment.bins < equipment.steps * LEAST_STEP_BINS or len(sensors) > MOST_SENSORS:
        return ((),) * len(sensors)
    sensors_of: dict[int, list[int]] = {}
    for sensor, placed in enumerate(sensors):
        sensors_of.setdefault(placed.component_index, []).append(sensor)
    found = []
    for sensor, placed in enumerate(sensors):
        owner = placed.component_index
        others = equipment.evidence_sources[owner] - {owner}
        near = sorted(s for other in others for s in sensors_of.get(other, ()))
        own = [s for s in sensors_of[owner] if s != sensor]
        found.append(tuple((own + near)[:MOST_NEIGHBOURS]))
    return tuple(found)


def products_of(values_BSN: Floats, neighbours: Sequence[Sequence[int]]) -> Products:
    """Sum the products of neighbouring readings of healthy windows.

    Args:
        values_BSN: bins in the sensors' units, NaN where missing.
        neighbours: of each sensor, from `neighbours_of`.
    """
    there_BSN = np.isfinite(values_BSN)
    read_S = there_BSN.mean((0, 2)) >= LEAST_COVERAGE
    sums = {}
    for sensor, near in enumerate(neighbours):
        columns = (sensor, *(s for s in near if read_S[s]))
        if not read_S[sensor] or len(columns) == 1:
            continue
        lags = slice(0, -2), slice(1, -1), slice(2, None)
        parts = [values_BSN[:, sensor : sensor + 1, 1:-1]]
        parts += [values_BSN[:, columns[1:], lag] for lag in lags]
        row_RX = np.concatenate(parts, 1).transpose(0, 2, 1).reshape(-1, 3 * len(columns) - 2)
        row_RX = row_RX[np.isfinite(row_RX).all(1)].astype(np.float64)
        if len(row_RX):
            mean_X = row_RX.mean(0)
            row_RX -= mean_X
            sums[columns] = _Sums(len(row_RX), mean_X, np.asarray(row_RX.T @ row_RX, np.float64))
    return Products(sums)


def fit_regressions(products: Products, equipment: Equipment) -> dict[str, Regression]:
    """Fit the regression of each sensor with enough rows, on the set of neighbours with the most.

    Args:
        products: of healthy windows of one machine.
        equipment: the machine.

    Returns:
        Regressions by sensor id. A sensor that never changes has none, and one whose neighbours
        never do.
    """
    most: dict[int, _Columns] = {}
    for columns, sums in products.sums.items():
        best = most.get(columns[0])
        if best is None or sums.count > products.sums[best].count:
            most[columns[0]] = columns
    found = {}
    for sensor, columns in sorted(most.items()):
        sums = products.sums[columns]
        if sums.count < max(LEAST_ROWS, LEAST_ROWS_PER_NUMBER * len(sums.mean_X)):
            continue
        weight_X = _ridge(sums)
        if weight_X is None:
            continue
        near, weight_3X = np.array(columns[1:]), weight_X.reshape(3, -1)
        kept = np.flatnonzero(weight_3X.any(0))
        mean_3X = sums.mean_X[1:].reshape(3, -1)
        found[equipment.sensor_ids[sensor]] = Regression(
            sensors=tuple(equipment.sensor_ids[s] for s in near[kept].tolist()),
            weights=tuple(
                (_rounded(before), _rounded(at), _rounded(after))
                for before, at, after in weight_3X[:, kept].T.tolist()
            ),
            constant=_rounded(float(sums.mean_X[0] - (weight_3X * mean_3X).sum())),
        )
    return found


def _ridge(sums: _Sums) -> Doubles | None:
    """Return the weights of the neighbours, before, at and after; None where nothing varies."""
    covariance_XX = sums.product_XX / sums.count
    deviation_X = np.sqrt(np.diag(covariance_XX))
    # a constant reading has only the rounding errors of its mean
    varies_X = deviation_X > 1e-9 * np.maximum(np.abs(sums.mean_X), 1e-30)
    if not varies_X[0] or not varies_X[1:].any():
        return None
    used_U = 1 + np.flatnonzero(varies_X[1:])
    deviation_U = deviation_X[used_U]
    correlation_UU = covariance_XX[np.ix_(used_U, used_U)] / np.outer(deviation_U, deviation_U)
    correlation_UU[np.diag_indices(len(used_U))] += RIDGE
    along_U = covariance_XX[used_U, 0] / deviation_U
    moves_X = np.zeros(len(deviation_X) - 1)
    moves_X[used_U - 1] = np.linalg.solve(correlation_UU, along_U)
    moves_3X = moves_X.reshape(3, -1)
    moves_3X[:, np.abs(moves_3X).max(0) < LEAST_WEIGHT * deviation_X[0]] = 0.0
    if not moves_3X.any():
        return None
    weight_X: Doubles = moves_3X.reshape(-1) / np.where(varies_X[1:], deviation_X[1:], 1.0)
    return weight_X


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")


@dataclass(frozen=True, slots=True)
class ResidualPlan:
    """The regressions of a machine as arrays; may have a leading axis of machines or windows.

    Args:
        weight_3SS: of each neighbour, a bin before, at and after: a row for each sensor predicted.
        constant_S: of each regression.
        fitted_S: sensors with a regression.
        uses_SS: neighbours that a regression has, 1.0 or 0.0.
    """

    weight_3SS: Doubles
    constant_S: Doubles
    fitted_S: NDArray[np.bool_]
    uses_SS: Floats

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.weight_3SS.nbytes + self.constant_S.nbytes + self.uses_SS.nbytes

    def rows(self, chosen: slice | NDArray[np.int64]) -> Self:
        """Return the regressions of some windows; without a leading axis they are those of all."""
        if self.fitted_S.ndim == 1:
            return self
        return type(self)(
            self.weight_3SS[chosen],
            self.constant_S[chosen],
            self.fitted_S[chosen],
            self.uses_SS[chosen],
        )


def plan_residuals(
    equipment: Equipment, regressions: Mapping[str, Regression]
) -> ResidualPlan | None:
    """Return the regressions of a machine as arrays; None without any.

    A regression that has a sensor which the machine no longer has is left out.

    Args:
        equipment: the machine.
        regressions: of its baseline.
    """
    S = len(equipment.sensors)
    place = {sensor_id: s for s, sensor_id in enumerate(equipment.sensor_ids)}
    usable = {
        place[sensor_id]: each
        for sensor_id, each in regressions.items()
        if place.keys() >= {sensor_id, *each.sensors}
    }
    if not usable:
        return None
    plan = _nothing(S)
    for sensor, regression in usable.items():
        near = [place[each] for each in regression.sensors]
        plan.weight_3SS[:, sensor, near] = np.array(regression.weights).T
        plan.constant_S[sensor] = regression.constant
        plan.fitted_S[sensor] = True
        plan.uses_SS[sensor, near] = 1.0
    return plan


def _nothing(S: int) -> ResidualPlan:
    return ResidualPlan(
        np.zeros((3, S, S)), np.zeros(S), np.zeros(S, np.bool_), np.zeros((S, S), np.float32)
    )


def stack_residual_plans(plans: Sequence[ResidualPlan | None]) -> ResidualPlan | None:
    """Return the regressions of M machines of one topology, on a leading axis; None without any."""
    some = next((plan for plan in plans if plan is not None), None)
    if some is None:
        return None
    all_plans = [plan or _nothing(len(some.constant_S)) for plan in plans]
    return ResidualPlan(
        np.stack([plan.weight_3SS for plan in all_plans]),
        np.stack([plan.constant_S for plan in all_plans]),
        np.stack([plan.fitted_S for plan in all_plans]),
        np.stack([plan.uses_SS for plan in all_plans]),
    )


def residuals(values_WSN: Floats, plan: ResidualPlan) -> Floats:
    """Return the residuals of windows in the sensors' units, float32, NaN where unknown.

    Args:
        values_WSN: bins, NaN where missing.
        plan: of the windows' topology, for all windows or with a row for each.
    """
    known_WSN = np.isfinite(values_WSN)
    x_WSN = np.where(known_WSN, values_WSN, np.float32(0.0)).astype(np.float64)
    before_SS, at_SS, after_SS = (plan.weight_3SS[..., lag, :, :] for lag in range(3))
    predicted_WSN = at_SS @ x_WSN + plan.constant_S[..., None]
    predicted_WSN[..., 1:] += (before_SS @ x_WSN)[..., :-1]
    predicted_WSN[..., :-1] += (after_SS @ x_WSN)[..., 1:]
    whole_WSN = known_WSN & plan.fitted_S[..., None]
    whole_WSN[..., [0, -1]] = False
    if not known_WSN.all():
        gap_WSN = ~known_WSN
        near_WSN = gap_WSN.copy()
        near_WSN[..., 1:] |= gap_WSN[..., :-1]
        near_WSN[..., :-1] |= gap_WSN[..., 1:]
        whole_WSN &= plan.uses_SS @ near_WSN.astype(np.float32) == 0
    residual_WSN = np.where(whole_WSN, x_WSN - predicted_WSN, np.nan)
    with np.errstate(over="ignore"):  # readings near the end of float32 are out of any range
        return residual_WSN.astype(np.float32)
