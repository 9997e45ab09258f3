"""Disturbs training windows as hydraulic machines and their instruments do, so that a network bears it where it serves.

Each disturbance is a pure function of bins, [W, S, N] float32 with NaN where missing, which returns a new array; a strength of 0
changes nothing. Blends and noise on features act after `app.features`.
Invariant: a missing bin stays missing, and equal windows, strengths and generators give equal windows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from app.bins import Doubles, Floats
from app.model import GraphTensors
from app.schemas.equipment import Equipment
from train.config import TrainConfig
from train.labels import Booleans
from train.loss import Targets

Generator = np.random.Generator
Disturbance = Callable[[Floats], Floats]

VISCOSITY_PER_K = 0.03
"""Share of its viscosity that a mineral oil loses for each kelvin at working temperature (ISO VG 46 around 50 degC)."""
LAMINAR_SHARE = 0.1
"""Share of a pressure that is laminar loss, which follows the viscosity."""
LEAKAGE_SHARE = 0.05
"""Share of a flow that leaks inside the pump, which goes against the viscosity."""
NOISE_OF = {"temperature": 0.3, "level": 0.3, "vibration": 2.0, "flow": 1.5}
"""Noise of a quantity's instruments beside that of a pressure's: what a thermal mass or a tank smooths has less."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """What disturbances take from the sensors: how much each varies in training, what it measures, and how many bins a second has."""

    scale_S: Doubles
    quantity_S: tuple[str, ...]
    kelvin_S: Doubles
    bins_per_s: float

    @classmethod
    def of(cls, equipment: Equipment, values_WSN: Floats) -> Self:
        """Measure them on training windows.

        Args:
            equipment: the machine; its sensors are S.
            values_WSN: some of its training windows.
        """
        there_WSN = np.isfinite(values_WSN)
        count_S = np.maximum(there_WSN.sum((0, 2)), 1)
        mean_S = np.where(there_WSN, values_WSN, 0.0).sum((0, 2), dtype=np.float64) / count_S
        square_WSN = np.where(there_WSN, values_WSN - mean_S[:, None], 0.0) ** 2
        sensors = [sensor for _, sensor in equipment.sensors]
        return cls(
            scale_S=np.sqrt(square_WSN.sum((0, 2)) / count_S),
            quantity_S=tuple(sensor.quantity for sensor in sensors),
            kelvin_S=np.array([5 / 9 if sensor.unit in ("degF", "degR") else 1.0 for sensor in sensors]),
            bins_per_s=1.0 / equipment.grid_s,
        )

    def measuring(self, quantity: str) -> Booleans:
        """Return which sensors measure a quantity, [S]."""
        return np.array([each == quantity for each in self.quantity_S])


def augment(values_WSN: Floats, instruments: Instruments, config: TrainConfig, generator: Generator) -> Floats:
    """Disturb windows as a training asks for, each disturbance in its own share of them.

    Args:
        values_WSN: bins; not changed.
        instruments: of the windows' sensors.
        config: strengths, and the share of windows that each disturbance touches.
        generator: draws everything.

    Returns:
        Windows of the same shape.
    """
    some = config.augmented_share
    steps: tuple[tuple[float, float, Disturbance], ...] = (
        (config.operating_shift, some, lambda values: shift_operating_point(values, instruments, config.operating_shift, generator)),
        (config.time_shift_s, some, lambda values: shift_time(values, config.time_shift_s * instruments.bins_per_s, generator)),
        (config.gain, some, lambda values: miscalibrate_gain(values, config.gain, generator)),
        (config.offset, some, lambda values: miscalibrate_offset(values, instruments.scale_S, config.offset, generator)),
        (config.noise, some, lambda values: add_noise(values, instruments, config.noise, generator)),
        (config.frozen, some, lambda values: freeze(values, config.frozen, generator)),
        (config.history_cut, config.history_cut, lambda values: cut_history(values, generator)),
        (config.gap_share, config.gap_share, lambda values: cut_gaps(values, generator)),
        (config.sensor_dropout, some, lambda values: drop_sensors(values, config.sensor_dropout, generator)),
    )  # fmt: skip
    disturbed_WSN = values_WSN
    for strength, share, disturbance in steps:
        touched_W = generator.random(len(values_WSN)) < share if strength else np.zeros(0, np.bool_)
        if touched_W.any():
            disturbed_WSN = disturbed_WSN.copy() if disturbed_WSN is values_WSN else disturbed_WSN
            disturbed_WSN[touched_W] = disturbance(disturbed_WSN[touched_W])
    return disturbed_WSN


def drop_sensors(values_WSN: Floats, share: float, generator: Generator) -> Floats:
    """Lose a share of the sensors for the whole window."""
    lost_WS = generator.random(values_WSN.shape[:2]) < share
    return np.where(lost_WS[..., None], np.float32(np.nan), values_WSN)


def cut_history(values_WSN: Floats, generator: Generator) -> Floats:
    """Lose the beginning of every window in all sensors, at most 11 of 12 parts of it.

    A worn machine that is watched since a short time must not be taken for a new one.
    """
    W, _, N = values_WSN.shape
    since_W = generator.integers(0, max(1, 11 * N // 12) + 1, W)
    return np.where(np.arange(N) < since_W[:, None, None], np.float32(np.nan), values_WSN)


def freeze(values_WSN: Floats, share: float, generator: Generator) -> Floats:
    """Let a share of the sensors stay at the value of some bin from there on."""
    W, S, N = values_WSN.shape
    frozen_WS = generator.random((W, S)) < share
    since_WS1 = np.where(frozen_WS, generator.integers(0, N, (W, S)), N - 1)[..., None]
    held_WS1 = np.take_along_axis(values_WSN, since_WS1, -1)
    stuck_WSN = (np.arange(N) > since_WS1) & np.isfinite(values_WSN)
    return np.where(stuck_WSN, held_WS1, values_WSN)


def miscalibrate_offset(values_WSN: Floats, scale_S: Doubles, strength: float, generator: Generator) -> Floats:
    """Add a constant error to every sensor."""
    error_WS = strength * scale_S * generator.standard_normal(values_WSN.shape[:2])
    return values_WSN + error_WS[..., None].astype(np.float32)


def miscalibrate_gain(values_WSN: Floats, strength: float, generator: Generator) -> Floats:
    """Scale every sensor by a factor near 1."""
    factor_WS = 1.0 + strength * generator.standard_normal(values_WSN.shape[:2])
    return values_WSN * factor_WS[..., None].astype(np.float32)


def add_noise(values_WSN: Floats, instruments: Instruments, strength: float, generator: Generator) -> Floats:
    """Add white noise to every bin, by quantity."""
    relative_S = np.array([NOISE_OF.get(quantity, 1.0) for quantity in instruments.quantity_S])
    deviation_S1 = (strength * relative_S * instruments.scale_S)[:, None].astype(np.float32)
    return values_WSN + deviation_S1 * generator.standard_normal(values_WSN.shape, np.float32)


def shift_time(values_WSN: Floats, most_bins: float, generator: Generator) -> Floats:
    """Move windows against their cycle by whole bins; what comes in from outside is not known, so it is missing."""
    W, _, N = values_WSN.shape
    most = min(round(most_bins), N - 1)
    from_WN = np.arange(N) + generator.integers(-most, most + 1, (W, 1))
    moved_WSN = np.take_along_axis(values_WSN, from_WN.clip(0, N - 1)[:, None], -1)
    return np.where(((from_WN >= 0) & (from_WN < N))[:, None], moved_WSN, np.float32(np.nan))


def shift_operating_point(
    values_WSN: Floats, instruments: Instruments, strength: float, generator: Generator
) -> Floats:
    """Warm or cool the machine as a whole: all temperatures move together, and the oil's viscosity moves flows and pressures.

    Warmer oil is thinner: laminar losses fall and internal leakage rises, each in proportion to the viscosity.
    """
    warm_S = instruments.measuring("temperature")
    if not warm_S.any():
        return values_WSN
    usual_S = instruments.scale_S * warm_S
    warmer_W = (
        strength * generator.standard_normal(len(values_WSN)) * float((usual_S * instruments.kelvin_S)[warm_S].mean())
    )
    viscosity_W = np.exp(-VISCOSITY_PER_K * warmer_W)
    pressure_W = 1.0 + LAMINAR_SHARE * (viscosity_W - 1.0)
    flow_W = 1.0 - LEAKAGE_SHARE * (1.0 / viscosity_W - 1.0)
    pressure_S, flow_S = instruments.measuring("pressure"), instruments.measuring("flow")
    factor_WS = np.where(pressure_S, pressure_W[:, None], np.where(flow_S, flow_W[:, None], 1.0))
    rise_WS = warmer_W[:, None] * warm_S / instruments.kelvin_S
    return values_WSN * factor_WS[..., None].astype(np.float32) + rise_WS[..., None].astype(np.float32)


def cut_gaps(values_WSN: Floats, generator: Generator) -> Floats:
    """Lose one stretch of at most half of the bins in a third of the sensors, as a failing link leaves it."""
    W, S, N = values_WSN.shape
    start_WS = generator.integers(0, N, (W, S))
    length_WS = generator.integers(1, N // 2 + 1, (W, S)) * (generator.random((W, S)) < 1 / 3)
    bin_N = np.arange(N)
    lost_WSN = (bin_N >= start_WS[..., None]) & (bin_N < (start_WS + length_WS)[..., None])
    return np.where(lost_WSN, np.float32(np.nan), values_WSN)


def blend(
    graph: GraphTensors, targets: Targets, windows: int, share: float, generator: torch.Generator
) -> tuple[GraphTensors, Targets]:
    """Blend each window with another of the batch (Zhang et al., "mixup", 2018), which keeps the network from learning windows by heart.

    Args:
        graph: windows of one topology.
        targets: of these windows.
        windows: how many.
        share: weight of the window itself; its partner has the rest.
        generator: draws the partners.

    Returns:
        The blended graph, and the targets of the partners.
    """
    partner_W = torch.randperm(windows, generator=generator).to(graph.x_STF.device)

    def of_partner(values: Tensor) -> Tensor:
        return values.view(windows, -1, *values.shape[1:])[partner_W].view(values.shape)

    mask_ST = graph.mask_ST & of_partner(graph.mask_ST)
    x_STF = torch.lerp(of_partner(graph.x_STF), graph.x_STF, share) * mask_ST[..., None]
    return graph._replace(x_STF=x_STF, mask_ST=mask_ST), Targets(*(of_partner(values) for values in targets))


def with_feature_noise(graph: GraphTensors, strength: float, generator: torch.Generator) -> GraphTensors:
    """Add white noise to the features that are there, in spreads; coverage, the last, is exact."""
    noise_STF = strength * torch.randn(graph.x_STF.shape, generator=generator).to(graph.x_STF.device)
    noise_STF[..., -1] = 0.0
    return graph._replace(x_STF=(graph.x_STF + noise_STF) * graph.mask_ST[..., None])
