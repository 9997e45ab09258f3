"""Measure how disturbances unrelated to wear move the features: sensor bias and warmer oil.

Fitting a linear model to disturbed windows adds, to first order, the covariance of the
disturbances to that of the windows (Bishop, "Training with noise is equivalent to Tikhonov
regularization", 1995). So no disturbance needs to be drawn: the direction in which each one moves
the features is enough. Invariant: without residuals, a disturbance moves only features of the
sensors that it changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from app.features.binning import Doubles, Floats
from app.features.extraction import batch_features
from app.features.spec import FeaturePlan, FeatureSpec
from app.schemas.equipment import Equipment
from train.config import TrainConfig
from train.data.labels import Booleans, Integers, evenly_spaced
from train.data.machine_baselines import plan_machines
from train.data.windows import Windows
from train.evaluation.robustness import usual_spread

NUISANCE_WINDOWS = 64
"""Windows, evenly sampled, on which the effect of disturbances is measured."""
VISCOSITY_PER_K = 0.03
"""Relative loss of viscosity of a mineral oil per kelvin (ISO VG 46 at about 50 degC)."""
LAMINAR_SHARE = 0.1
"""Share of a pressure that is laminar loss, proportional to the viscosity."""
LEAKAGE_SHARE = 0.05
"""Share of a flow that is internal leakage, inverse to the viscosity."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """Scale of each sensor in training, its quantity, and the size of its unit in kelvin."""

    scale_S: Doubles
    quantity_S: tuple[str, ...]
    kelvin_S: Doubles

    @classmethod
    def of(cls, equipment: Equipment, values_WSN: Floats) -> Self:
        """Return the instruments of a machine, with scales from training windows.

        Args:
            equipment: the machine with sensors S.
            values_WSN: some of its training windows.
        """
        sensors = [sensor for _, sensor in equipment.sensors]
        return cls(
            scale_S=usual_spread(values_WSN),
            quantity_S=tuple(sensor.quantity for sensor in sensors),
            kelvin_S=np.array(
                [5 / 9 if sensor.unit in ("degF", "degR") else 1.0 for sensor in sensors]
            ),
        )

    def measuring(self, quantity: str) -> Booleans:
        """Return which sensors measure a quantity, [S]."""
        return np.array([each == quantity for each in self.quantity_S])


def directions(
    values_WSN: Floats,
    features: FeaturePlan,
    instruments: Instruments,
    offset: float,
    warming_k: float,
) -> Doubles:
    """Return the mean change of the features by each disturbance of one standard deviation.

    Args:
        values_WSN: bins of some training windows.
        features: plan of their features.
        instruments: of their sensors.
        offset: standard deviation of the bias of a sensor, in standard deviations of its bins.
        warming_k: standard deviation of a change of all temperatures, in kelvin, with its effect on
            pressures and flows.

    Returns:
        [D, S, T, F]: one row for the bias of each sensor and one for the temperature, unless 0.
    """
    usual = batch_features(values_WSN, features)

    def moved(disturb: Callable[[Floats], Floats]) -> Doubles:
        found = batch_features(disturb(values_WSN), features)
        both_WST1 = (usual.mask_WST & found.mask_WST)[..., None]
        apart_WSTF = np.where(both_WST1, found.x_WSTF - usual.x_WSTF, 0.0)
        mean_STF: Doubles = apart_WSTF.sum(0, dtype=np.float64) / np.maximum(both_WST1.sum(0), 1)
        return mean_STF

    parts = [np.empty((0, *usual.x_WSTF.shape[1:]))]
    if offset:
        error_SS1 = np.diag(offset * instruments.scale_S)[..., None].astype(np.float32)
        parts += [moved(partial(np.add, error_S1))[None] for error_S1 in error_SS1]
    if warming_k and instruments.measuring("temperature").any():
        parts.append(moved(lambda values: warmed(values, instruments, warming_k))[None])
    return np.concatenate(parts)


def warmed(values_WSN: Floats, instruments: Instruments, warming_k: float) -> Floats:
    """Return the readings of the same machine with warmer oil.

    Warmer oil is thinner: laminar losses fall and internal leakage rises with the viscosity.

    Args:
        values_WSN: bins; not changed.
        instruments: of the windows' sensors.
        warming_k: rise of all temperatures, in kelvin.
    """
    viscosity = np.exp(-VISCOSITY_PER_K * warming_k)
    factor_S = np.ones(len(instruments.scale_S))
    factor_S[instruments.measuring("pressure")] += LAMINAR_SHARE * (viscosity - 1.0)
    factor_S[instruments.measuring("flow")] -= LEAKAGE_SHARE * (1.0 / viscosity - 1.0)
    rise_S = warming_k * instruments.measuring("temperature") / instruments.kelvin_S
    return values_WSN * factor_S[:, None].astype(np.float32) + rise_S[:, None].astype(np.float32)


def nuisances(
    windows: Windows, chosen_W: Integers, spec: FeatureSpec, config: TrainConfig
) -> Doubles:
    """Return the effect of a training's disturbances on the features, measured on some windows."""
    taken_W = evenly_spaced(chosen_W, NUISANCE_WINDOWS)
    values_WSN = windows.values(taken_W)
    instruments = Instruments.of(windows.equipment, values_WSN)
    features = plan_machines(windows, spec).rows(windows.labels.machine_W[taken_W])
    return directions(values_WSN, features, instruments, config.sensor_offset, config.oil_warming_k)
