"""Fits a feature spec to training windows: what each sensor showed, per step where the machine repeats a cycle.

Invariant: the spec depends only on the windows given, so a fold's spec has seen nothing of what the fold holds out.
"""

from collections.abc import Mapping

import numpy as np

from app.bins import Floats, flatness, roughness, step_statistics
from app.feature_spec import FeatureSpec, Limits, Reference
from app.schemas.equipment import COMPONENT_TYPES, MEDIA, QUANTITIES, Equipment
from train.config import TrainConfig


def fit_spec(
    values_WSN: Floats, equipment: Equipment, config: TrainConfig, limits: Mapping[str, Limits] | None = None
) -> FeatureSpec:
    """Fit the references of an equipment's design.

    Args:
        values_WSN: bins of the training windows, NaN where missing; at least one window.
        equipment: the machine.
        config: names the statistics, the clip and the floor of the spread.
        limits: how far held-out windows left the range, where that is known.

    Returns:
        The feature spec; a sensor without any reading in the windows has no reference.
    """
    raw_WSTF = np.stack(
        [step_statistics(values_SN, equipment.steps, config.statistics)[0] for values_SN in values_WSN]
    ).astype(np.float64)
    if equipment.cycle_s is None:
        W, S, T, F = raw_WSTF.shape
        raw_WSTF = raw_WSTF.transpose(0, 2, 1, 3).reshape(W * T, S, 1, F)
    flat_WS = np.stack([flatness(values_SN) for values_SN in values_WSN])
    rough_WS = np.stack([roughness(values_SN) for values_SN in values_WSN])
    references: dict[str, Reference] = {}
    for index, (_, sensor) in enumerate(equipment.sensors):
        raw_WTF, bins_WN = raw_WSTF[:, index], values_WSN[:, index].astype(np.float64)
        if not np.isfinite(raw_WTF).any(axis=0).all():
            continue
        low, high = sensor.range
        floor = max(config.spread_floor * float(np.nanstd(bins_WN)), 1e-4 * (high - low))
        references[sensor.sensor_id] = Reference(
            quantity=sensor.quantity,
            unit=sensor.unit,
            mean=_table(np.nanmean(raw_WTF, axis=0)),
            spread=_table(np.maximum(np.nanstd(raw_WTF, axis=0), floor)),
            low=_table(np.nanmin(raw_WTF, axis=0)),
            high=_table(np.nanmax(raw_WTF, axis=0)),
            flat=float(np.nanmax(flat_WS[:, index], initial=0.0)),
            roughness=float(rough_WS[:, index].max()),
        )
    return FeatureSpec(
        statistics=config.statistics,
        clip=config.clip,
        quantities=tuple(QUANTITIES),
        component_types=COMPONENT_TYPES,
        media=MEDIA,
        references={equipment.design: references},
        grades={
            equipment.design: {
                component.component_id: component.grades for component in equipment.components if component.grades
            }
        },
        limits=limits or {},
    )


def fit_limits(excess_WS: Floats, equipment: Equipment, share: float = 0.999) -> Limits:
    """Measure how far windows that a spec has not seen leave its range.

    Args:
        excess_WS: `range_excess` of each sensor in held-out windows, NaN where there is none.
        equipment: the machine; its sensors are S.
        share: of the windows that stay within the limits.

    Returns:
        The limits of the whole window and of each sensor.
    """
    known_WS = np.where(np.isfinite(excess_WS), excess_WS, np.nan).astype(np.float64)
    window_W = np.nanmean(known_WS, axis=1)
    return Limits(
        window=float(np.quantile(window_W, share)),
        sensors={
            sensor_id: float(np.nanquantile(known_WS[:, index], share))
            for index, sensor_id in enumerate(equipment.sensor_ids)
            if np.isfinite(known_WS[:, index]).any()
        },
    )


def _table(values_RF: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[tuple[float, ...], ...]:
    """Round to 7 significant digits, what a float32 reading carries."""
    return tuple(tuple(float(f"{value:.7g}") for value in row) for row in values_RF.tolist())
