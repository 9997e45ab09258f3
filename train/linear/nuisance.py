"""How the features move with what says nothing of wear: an instrument that is off by a constant, and an oil that is warmer.

A linear reading that is trained on windows so disturbed has, to first order, the disturbances' covariance added to that of the
windows (Bishop, "Training with noise is equivalent to Tikhonov regularization", 1995). So none need be drawn: it is enough to know
in which direction each moves the features.
Invariant: features of a sensor that a disturbance does not touch do not move.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from app.features.binning import Doubles, Floats
from app.features.extraction import batch_features
from app.features.spec import FeaturePlan
from app.schemas.equipment import Equipment
from train.data.labels import Booleans
from train.evaluation.robustness import usual_spread

VISCOSITY_PER_K = 0.03
"""Share of its viscosity that a mineral oil loses for each kelvin at working temperature (ISO VG 46 around 50 degC)."""
LAMINAR_SHARE = 0.1
"""Share of a pressure that is laminar loss, which follows the viscosity."""
LEAKAGE_SHARE = 0.05
"""Share of a flow that leaks inside the pump, which goes against the viscosity."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """What disturbances take from the sensors: how much each varies in training, what it measures, and a kelvin in its unit."""

    scale_S: Doubles
    quantity_S: tuple[str, ...]
    kelvin_S: Doubles

    @classmethod
    def of(cls, equipment: Equipment, values_WSN: Floats) -> Self:
        """Measure them on training windows.

        Args:
            equipment: the machine; its sensors are S.
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
    warmer_k: float,
) -> Doubles:
    """Return how far each disturbance of one standard deviation moves the features, on average over windows.

    Args:
        values_WSN: bins of some training windows.
        features: plan of their features.
        instruments: of their sensors.
        offset: standard deviation of each sensor's own constant error, in standard deviations of its bins.
        warmer_k: standard deviation of a change of all temperatures together, kelvin, with what follows for pressures and flows.

    Returns:
        [D, S, T, F]: one row for each sensor's offset and one for the temperature, of those whose strength is not 0.
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
        # an error of one sensor moves its own features alone, so one pass tells of all sensors
        error_S1 = (offset * instruments.scale_S)[:, None].astype(np.float32)
        own_STF = moved(lambda values: values + error_S1)
        parts.append(np.eye(len(own_STF))[..., None, None] * own_STF)
    if warmer_k and instruments.measuring("temperature").any():
        parts.append(moved(lambda values: warmed(values, instruments, warmer_k))[None])
    return np.concatenate(parts)


def warmed(values_WSN: Floats, instruments: Instruments, warmer_k: float) -> Floats:
    """Return what the same machine would read with warmer oil.

    Warmer oil is thinner: laminar losses fall and internal leakage rises, each in proportion to the viscosity.

    Args:
        values_WSN: bins; not changed.
        instruments: of the windows' sensors.
        warmer_k: kelvin by which all temperatures rise.
    """
    viscosity = np.exp(-VISCOSITY_PER_K * warmer_k)
    factor_S = np.ones(len(instruments.scale_S))
    factor_S[instruments.measuring("pressure")] += LAMINAR_SHARE * (viscosity - 1.0)
    factor_S[instruments.measuring("flow")] -= LEAKAGE_SHARE * (1.0 / viscosity - 1.0)
    rise_S = warmer_k * instruments.measuring("temperature") / instruments.kelvin_S
    return values_WSN * factor_S[:, None].astype(np.float32) + rise_S[:, None].astype(np.float32)
