"""Residuals: what a sensor reads less what its neighbours make expected of the healthy machine.

Load, speed, oil temperature and operator change the readings of neighbouring sensors together;
wear changes how they depend on each other. So each sensor is regressed on the sensors of its own
component and of directly connected ones, a bin before, at the same time and a bin after, over the
baseline of the machine itself (analytical redundancy: Gertler, "Fault detection and diagnosis in
engineering systems", 1998). Two statistics of a step are those of residuals instead of readings.

Shapes: B or W windows, S sensors, N bins, D numbers of a row of a regression: the sensor, then its
neighbours before, at and after. Invariant: a residual needs all readings of its regression; it is
NaN where one is missing, at the ends of a window, and for a sensor without a regression.
"""

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
MOST_NEIGHBOURS = 32
"""Most neighbours of a sensor, those of its own component first: bounds the size of a baseline."""
LEAST_COVERAGE = 0.9
"""Least share of bins with readings, in the windows read at once, of a sensor in a regression."""
LEAST_ROWS = 1_000
LEAST_ROWS_A_NUMBER = 20
"""Fewest rows of a regression, in all and for each of its numbers."""
RIDGE = 1e-3
"""Added to the variance of each standardised neighbour (Hoerl and Kennard, "Ridge regression",
1970): neighbours that nearly determine each other get no large weights of opposite signs."""


@dataclass(frozen=True, slots=True)
class _Sums:
    """Count and mean [D] of rows, and the sums of products of their deviations, [D, D]."""

    count: int
    mean_D: Doubles
    product_DD: Doubles

    def merged(self, other: "_Sums") -> "_Sums":
        """Return the sums of both (Chan, Golub and LeVeque, "Updating formulae", 1979)."""
        count = self.count + other.count
        apart_D = other.mean_D - self.mean_D
        share = other.count / count
        product_DD = self.product_DD + other.product_DD
        product_DD += np.outer(apart_D, apart_D) * self.count * share
        return _Sums(count, self.mean_D + apart_D * share, product_DD)


_Columns = tuple[int, ...]
"""A sensor, then the neighbours that are read with it."""


@dataclass(frozen=True, slots=True)
class Products:
    """What windows have shown of the regressions of sensors, by the sensors that had readings."""

    sums: Mapping[_Columns, _Sums]

    def merged(self, other: Self) -> Self:
        """Return what both have shown."""
        sums = dict(self.sums)
        for columns, found in other.sums.items():
            sums[columns] = sums[columns].merged(found) if columns in sums else found
        return type(self)(sums)


def neighbours_of(equipment: Equipment) -> tuple[tuple[int, ...], ...]:
    """Return for each sensor those of its component and of directly connected ones, without itself.

    They are its own component's first, and at most `MOST_NEIGHBOURS`. None has any where the steps
    of the machine's windows are shorter than `LEAST_STEP_BINS`.
    """
    if equipment.bins < equipment.steps * LEAST_STEP_BINS:
        return ((),) * len(equipment.sensors)
    position = {each.component_id: v for v, each in enumerate(equipment.components)}
    connected: list[set[int]] = [set() for _ in equipment.components]
    for connection in equipment.connections:
        source, target = position[connection.source], position[connection.target]
        connected[source].add(target)
        connected[target].add(source)
    owner_S = [placed.component_index for placed in equipment.sensors]
    found = []
    for sensor, owner in enumerate(owner_S):
        own = [s for s, other in enumerate(owner_S) if other == owner and s != sensor]
        near = [s for s, other in enumerate(owner_S) if other in connected[owner] - {owner}]
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
        row_RD = np.concatenate(parts, 1).transpose(0, 2, 1).reshape(-1, 3 * len(columns) - 2)
        row_RD = row_RD[np.isfinite(row_RD).all(1)].astype(np.float64)
        if len(row_RD):
            mean_D = row_RD.mean(0)
            row_RD -= mean_D
            product_DD = np.asarray(row_RD.T @ row_RD, np.float64)
            sums[columns] = _Sums(len(row_RD), mean_D, product_DD)
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
        if sums.count < max(LEAST_ROWS, LEAST_ROWS_A_NUMBER * len(sums.mean_D)):
            continue
        weight_D1 = _ridge(sums)
        if weight_D1 is None:
            continue
        ids = equipment.sensor_ids
        found[ids[sensor]] = Regression(
            sensors=tuple(ids[s] for s in columns[1:]),
            weights=tuple(
                (_rounded(before), _rounded(at), _rounded(after))
                for before, at, after in weight_D1.reshape(3, -1).T.tolist()
            ),
            constant=_rounded(float(sums.mean_D[0] - sums.mean_D[1:] @ weight_D1)),
        )
    return found


def _ridge(sums: _Sums) -> Doubles | None:
    """Return the weights of the neighbours; None where nothing changes."""
    deviation_D = np.sqrt(np.diag(sums.product_DD) / sums.count)
    # a constant reading has only the rounding errors of its mean
    changes_D = deviation_D > 1e-9 * np.maximum(np.abs(sums.mean_D), 1e-30)
    if not changes_D[0] or not changes_D[1:].any():
        return None
    used = 1 + np.flatnonzero(changes_D[1:])
    scale_U = deviation_D[used]
    covariance_DD = sums.product_DD / sums.count
    correlation_UU = covariance_DD[np.ix_(used, used)] / np.outer(scale_U, scale_U)
    correlation_UU[np.diag_indices(len(used))] += RIDGE
    along_U = covariance_DD[used, 0] / scale_U
    weight_D1 = np.zeros(len(deviation_D) - 1)
    weight_D1[used - 1] = np.linalg.solve(correlation_UU, along_U) / scale_U
    return weight_D1


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")


@dataclass(frozen=True, slots=True)
class ResidualPlan:
    """The regressions of a machine as arrays; may have a leading axis of machines or windows.

    Args:
        weight_3SS: of each neighbour, a bin before, at and after: rows are the sensors expected.
        constant_S: of each regression.
        fitted_S: sensors with a regression.
        uses_SS: neighbours that a regression has, 1.0 or 0.0.
    """

    weight_3SS: Doubles
    constant_S: Doubles
    fitted_S: NDArray[np.bool_]
    uses_SS: Floats

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
    equipment: Equipment, regressions: Mapping[str, Regression] | None = None
) -> ResidualPlan:
    """Return the regressions of a machine as arrays.

    A regression that has a sensor which the machine no longer has is left out.

    Args:
        equipment: the machine.
        regressions: of its baseline; none for no residuals.
    """
    S = len(equipment.sensors)
    place = {sensor_id: s for s, sensor_id in enumerate(equipment.sensor_ids)}
    plan = ResidualPlan(
        np.zeros((3, S, S)), np.zeros(S), np.zeros(S, np.bool_), np.zeros((S, S), np.float32)
    )
    for sensor_id, regression in (regressions or {}).items():
        if sensor_id not in place or not place.keys() >= set(regression.sensors):
            continue
        sensor, near = place[sensor_id], [place[each] for each in regression.sensors]
        plan.weight_3SS[:, sensor, near] = np.array(regression.weights).T
        plan.constant_S[sensor] = regression.constant
        plan.fitted_S[sensor] = True
        plan.uses_SS[sensor, near] = 1.0
    return plan


def stack_residual_plans(plans: Sequence[ResidualPlan]) -> ResidualPlan:
    """Return the regressions of M machines of one topology, on a leading axis."""
    return ResidualPlan(
        np.stack([plan.weight_3SS for plan in plans]),
        np.stack([plan.constant_S for plan in plans]),
        np.stack([plan.fitted_S for plan in plans]),
        np.stack([plan.uses_SS for plan in plans]),
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
    expected_WSN = at_SS @ x_WSN + plan.constant_S[..., None]
    expected_WSN[..., 1:] += (before_SS @ x_WSN)[..., :-1]
    expected_WSN[..., :-1] += (after_SS @ x_WSN)[..., 1:]
    whole_WSN = known_WSN & plan.fitted_S[..., None]
    whole_WSN[..., [0, -1]] = False
    if not known_WSN.all():
        gap_WSN = ~known_WSN
        near_WSN = gap_WSN.copy()
        near_WSN[..., 1:] |= gap_WSN[..., :-1]
        near_WSN[..., :-1] |= gap_WSN[..., 1:]
        whole_WSN &= plan.uses_SS @ near_WSN.astype(np.float32) == 0
    residual_WSN = np.where(whole_WSN, x_WSN - expected_WSN, np.nan)
    return residual_WSN.astype(np.float32)
