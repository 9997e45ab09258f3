"""Fit a feature spec: reference statistics of each sensor, by step if the machine repeats a cycle.

Each window is read once, in batches; memory does not depend on the number of windows.
Invariant: the spec depends only on the given windows, so the spec of a fold does not depend on its
holdout.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from app.checkpoint.masking import SHOWN_SHARE
from app.features.binning import Doubles, Floats
from app.features.spec import FeatureSpec, Limits, Reference
from app.features.statistics import flatness, roughness, step_statistics
from app.schemas.equipment import COMPONENT_TYPES, MEDIA, QUANTITIES, Equipment
from train.config import TrainConfig
from train.data.fleet import Chosen, Fleet
from train.data.labels import Integers
from train.data.windows import Windows


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
class _Observed:
    """Statistics of the windows read so far.

    Moments of the statistics are [S, T, F], where T is 1 without a cycle, and of the bins [S].
    `windows_SC` counts the windows that had readings in 0, 1, ... T of their steps, C = T + 1.
    """

    statistics: Moments
    bins: Moments
    flat_S: Doubles
    roughness_S: Doubles
    windows_SC: Integers

    def merged(self, other: Self) -> Self:
        return type(self)(
            statistics=self.statistics.merged(other.statistics),
            bins=self.bins.merged(other.bins),
            flat_S=np.fmax(self.flat_S, other.flat_S),
            roughness_S=np.maximum(self.roughness_S, other.roughness_S),
            windows_SC=self.windows_SC + other.windows_SC,
        )


def fit_spec(windows: Windows, chosen_W: Integers, config: TrainConfig) -> FeatureSpec:
    """Fit the references of a design to windows.

    Args:
        windows: of machines of the design.
        chosen_W: positions of the training windows; at least one.
        config: gives the statistics, the clip and the floor of the spread.

    Returns:
        The feature spec; a sensor without readings in the windows has no reference.

    Raises:
        ValueError: no window was chosen.
    """
    return spec_of((values for _, values in windows.batches(chosen_W)), windows.equipment, config)


def fit_fleet_spec(fleet: Fleet, chosen: Chosen, config: TrainConfig) -> FeatureSpec:
    """Fit the references of all designs: each design has its own, and its own grade sets.

    Args:
        fleet: windows of the designs.
        chosen: positions of the training windows; at least one of each design.
        config: as in `fit_spec`.
    """
    specs = [
        fit_spec(windows, chosen_W, config)
        for windows, chosen_W in zip(fleet.designs, chosen, strict=True)
    ]
    references = {design: each for spec in specs for design, each in spec.references.items()}
    grades = {design: each for spec in specs for design, each in spec.grades.items()}
    return specs[0].model_copy(update={"references": references, "grades": grades})


def spec_of(batches: Iterable[Floats], equipment: Equipment, config: TrainConfig) -> FeatureSpec:
    """Fit the references to batches of bins [B, S, N]; see `fit_spec`."""
    observed: _Observed | None = None
    for values_BSN in batches:
        if len(values_BSN):
            found = _observe(values_BSN, equipment, config)
            observed = found if observed is None else observed.merged(found)
    if observed is None:
        raise ValueError(
            f"expected at least one window of '{equipment.design}' to fit references to, found none"
        )
    return FeatureSpec(
        statistics=config.statistics,
        clip=config.clip,
        quantities=tuple(QUANTITIES),
        component_types=COMPONENT_TYPES,
        media=MEDIA,
        references={equipment.design: _references(observed, equipment, config)},
        grades={
            equipment.design: {
                component.component_id: component.grades
                for component in equipment.components
                if component.grades
            }
        },
        limits={},
    )


def fit_limits(exceedance_WS: Floats, equipment: Equipment, share: float = 0.999) -> Limits:
    """Return how far held-out windows exceed the range of a spec.

    Args:
        exceedance_WS: `range_exceedance` of each sensor in held-out windows, NaN where missing.
        equipment: the machine; its sensors are S.
        share: share of the windows within the limits.

    Returns:
        Limits of the mean over a window and of each sensor.
    """
    known_WS = np.where(np.isfinite(exceedance_WS), exceedance_WS, np.nan).astype(np.float64)
    window_W = np.nanmean(known_WS, axis=1)
    return Limits(
        window=float(np.quantile(window_W, share)),
        sensors={
            sensor_id: float(np.nanquantile(known_WS[:, index], share))
            for index, sensor_id in enumerate(equipment.sensor_ids)
            if np.isfinite(known_WS[:, index]).any()
        },
    )


def _observe(values_BSN: Floats, equipment: Equipment, config: TrainConfig) -> _Observed:
    raw_BSTF = step_statistics(values_BSN, equipment.steps, config.statistics)[0].astype(np.float64)
    B, S, T, F = raw_BSTF.shape
    C = T + 1
    place_BS = np.isfinite(raw_BSTF[..., 0]).sum(-1) + C * np.arange(S)
    if equipment.cycle_s is None:
        raw_BSTF = raw_BSTF.transpose(0, 2, 1, 3).reshape(B * T, S, 1, F)
    return _Observed(
        statistics=Moments.of(raw_BSTF),
        bins=Moments.of(values_BSN.astype(np.float64).transpose(0, 2, 1).reshape(-1, S)),
        flat_S=np.fmax.reduce(flatness(values_BSN), axis=0),
        roughness_S=roughness(values_BSN).max(0),
        windows_SC=np.bincount(place_BS.reshape(-1), minlength=S * C).reshape(S, C),
    )


def _references(
    observed: _Observed, equipment: Equipment, config: TrainConfig
) -> dict[str, Reference]:
    references: dict[str, Reference] = {}
    found, spread_STF, bin_spread_S = (
        observed.statistics,
        observed.statistics.spread_X,
        observed.bins.spread_X,
    )
    for index, (_, sensor) in enumerate(equipment.sensors):
        if not (found.count_X[index] > 0).all():
            continue
        low, high = sensor.range
        floor = max(config.spread_floor * float(bin_spread_S[index]), 1e-4 * (high - low))
        references[sensor.sensor_id] = Reference(
            quantity=sensor.quantity,
            unit=sensor.unit,
            mean=_table(found.mean_X[index]),
            spread=_table(np.maximum(spread_STF[index], floor)),
            low=_table(found.low_X[index]),
            high=_table(found.high_X[index]),
            flat=float(np.nan_to_num(observed.flat_S[index])),
            roughness=float(observed.roughness_S[index]),
            steps=_least_steps(observed.windows_SC[index]) / equipment.steps,
        )
    return references


def _least_steps(windows_C: Integers) -> int:
    """Return the fewest steps that at least `SHOWN_SHARE` of the windows with readings had."""
    total_C = windows_C[1:].cumsum()
    return 1 + int(np.argmax(total_C >= SHOWN_SHARE * total_C[-1]))


def _table(values_RF: Doubles) -> tuple[tuple[float, ...], ...]:
    """Round to 7 significant digits, the precision of a float32 reading."""
    return tuple(tuple(float(f"{value:.7g}") for value in row) for row in values_RF.tolist())
