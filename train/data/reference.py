"""Fit a feature spec: reference statistics of each sensor, by step if the machine repeats a cycle.

Each window is read once, in batches; memory does not depend on the number of windows.
Invariant: the spec depends only on the given windows, so the spec of a fold does not depend on its
holdout.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from app.features.baseline import SensorMoments
from app.features.binning import Floats
from app.features.normalisation import reference_of
from app.features.references import Observed, observe, sensor_moments
from app.features.spec import FeatureSpec, Limits
from app.schemas.equipment import COMPONENT_TYPES, MEDIA, QUANTITIES, Equipment
from train.config import TrainConfig
from train.data.fleet import Chosen, Fleet
from train.data.labels import Booleans, Integers
from train.data.machine_baselines import healthy_windows
from train.data.windows import Windows


class _Batch(NamedTuple):
    """Bins [B, S, N], and which of the windows are healthy and part of a baseline, [B]."""

    values_BSN: Floats
    is_healthy_B: Booleans
    is_baseline_B: Booleans


def fit_spec(windows: Windows, chosen_W: Integers, config: TrainConfig) -> FeatureSpec:
    """Fit the references of a design to windows.

    Args:
        windows: of machines of the design.
        chosen_W: positions of the training windows; at least one.
        config: gives the statistics, the clip, the floor of the spread and the normalisation.

    Returns:
        The feature spec; a sensor without readings in the windows has no reference.

    Raises:
        ValueError: no window was chosen.
    """
    is_healthy_W = healthy_windows(windows)
    machine_W = windows.labels.machine_W
    # also those whose baselines are outside of the fold: their windows are normalised by them
    with_baseline = np.unique(machine_W[windows.baseline_W])
    machines = len(np.intersect1d(machine_W[chosen_W], with_baseline))
    batches = (
        _Batch(values_BSN, is_healthy_W[position_B], windows.baseline_W[position_B])
        for position_B, values_BSN in windows.batches(chosen_W)
    )
    return _fitted(batches, windows.equipment, config, machines)


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
    by_design = {
        name: {design: each for spec in specs for design, each in getattr(spec, name).items()}
        for name in (
            "references",
            "grades",
            "healthy",
            "types",
            "life_scales",
            "baseline_machines",
        )
    }
    return specs[0].model_copy(update=by_design)


def spec_of(batches: Iterable[Floats], equipment: Equipment, config: TrainConfig) -> FeatureSpec:
    """Fit the references to bins [B, S, N] of healthy windows of one machine; see `fit_spec`."""
    marked = (
        _Batch(values, np.ones(len(values), np.bool_), np.ones(len(values), np.bool_))
        for values in batches
    )
    return _fitted(marked, equipment, config, machines=1)


def _fitted(
    batches: Iterable[_Batch], equipment: Equipment, config: TrainConfig, machines: int
) -> FeatureSpec:
    every: Observed | None = None
    healthy: Observed | None = None
    baselines: Observed | None = None
    is_by_machine = config.machine_baseline_h > 0
    has_baselines = is_by_machine and machines > 0
    for values_BSN, is_healthy_B, is_baseline_B in batches:
        every = _joined(every, values_BSN, equipment, config)
        if has_baselines:
            baselines = _joined(baselines, values_BSN[is_baseline_B], equipment, config)
        else:
            healthy = _joined(healthy, values_BSN[is_healthy_B], equipment, config)
    if every is None:
        raise ValueError(
            f"expected at least one window of '{equipment.design}' to fit references to, found none"
        )
    design, moments = equipment.design, _moments(every, equipment)
    scale = config.cap_h(design) / config.rul_cap_h
    own = moments if baselines is None else _of_baselines(moments, _moments(baselines, equipment))
    return FeatureSpec(
        statistics=config.statistics,
        clip=config.clip,
        quantities=tuple(QUANTITIES),
        component_types=COMPONENT_TYPES,
        media=MEDIA,
        references={
            design: {
                sensor.sensor_id: reference_of(
                    own[sensor.sensor_id],
                    sensor,
                    config.statistics,
                    config.statistics,
                    config.spread_floor,
                )
                for _, sensor in equipment.sensors
                if sensor.sensor_id in own
            }
        },
        grades={
            design: {
                component.component_id: component.grades
                for component in equipment.components
                if component.grades
            }
        },
        limits={},
        normalisation="machine" if is_by_machine else "design",
        spread_floor=config.spread_floor,
        healthy={design: {name: each.mean for name, each in _moments(healthy, equipment).items()}},
        types={design: {each.component_id: each.type for each in equipment.components}},
        life_scales={} if scale == 1.0 else {design: scale},
        baseline_machines={design: machines} if is_by_machine else {},
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


def _joined(
    observed: Observed | None, values_BSN: Floats, equipment: Equipment, config: TrainConfig
) -> Observed | None:
    """Add windows to what was observed, if there are any."""
    if not len(values_BSN):
        return observed
    found = observe(values_BSN, equipment, config.statistics)
    return found if observed is None else observed.merged(found)


def _moments(observed: Observed | None, equipment: Equipment) -> dict[str, SensorMoments]:
    return {} if observed is None else sensor_moments(observed, equipment)


def _of_baselines(
    every: Mapping[str, SensorMoments], baselines: Mapping[str, SensorMoments]
) -> dict[str, SensorMoments]:
    """Return the moments of all windows, with the statistics of those of baselines alone."""
    own = {"mean", "spread", "low", "high", "deviation"}
    return {
        name: moments.model_copy(update=baselines[name].model_dump(include=own))
        if name in baselines
        else moments
        for name, moments in every.items()
    }
