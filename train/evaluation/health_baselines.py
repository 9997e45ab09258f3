"""Baselines of labelled health on the same folds: extra trees, and a rule without any reading.

Where machines have baselines, the trees read the same statistics as the network, as distances from
those of the machine's own baseline, but the readings of faulty sensors too. Invariant: a baseline
is fitted to windows of the part's `train_W` and to no others.
Shapes: W windows, M machines, S sensors, T steps, F statistics, V components, L columns.
"""

import os
from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor

from app.features.baseline import SensorMoments
from app.features.binning import Floats
from app.features.normalisation import RESIDUAL_FLOOR
from app.features.residuals import plan_residuals, residuals, stack_residual_plans
from app.features.statistics import OF_RESIDUALS, Statistic, step_statistics
from train.data.labels import Integers
from train.data.windows import Windows
from train.evaluation.holdout import HoldoutPart
from train.evaluation.uncertainty import Answers

HEALTH_TREES = "extra trees, health"
AS_NEW = "as new"
"""Persistence of the health at commissioning: 1 for every component."""
TREES = 100
CLIP = 10.0
"""Largest distance of a column from its machine's baseline, in spreads."""


def health_baselines(
    windows: Windows,
    parts: Sequence[HoldoutPart],
    statistics: tuple[Statistic, ...],
    seed: int = 0,
) -> dict[str, Answers]:
    """Predict the health of components that have labels of health and no grades.

    The columns of the trees are the mean and the spread over the steps of each statistic of each
    sensor, since the steps of a machine without a fixed cycle are interchangeable.

    Args:
        windows: all windows.
        parts: of the split.
        statistics: of a step.
        seed: of the trees.

    Returns:
        Answers for the held-out windows, part after part, with health alone; empty where no
        component has such labels.
    """
    labels = windows.labels
    is_labelled_V = np.isfinite(labels.health_WV).any(0) & ~(labels.grade_WV >= 0).any(0)
    # health that follows from a capped remaining life is scored as remaining life
    is_labelled_V &= np.isnan(labels.rul_WV).any(0)
    chosen = np.flatnonzero(is_labelled_V)
    if not len(chosen):
        return {}
    found = []
    for part in parts:
        health_WV = np.full((len(part.holdout_W), labels.health_WV.shape[1]), np.nan)
        forest = ExtraTreesRegressor(
            TREES, min_samples_leaf=2, max_features=0.2, random_state=seed, n_jobs=os.cpu_count()
        )
        fitted_WV = labels.health_WV[np.ix_(part.train_W, chosen)]
        known_W = np.isfinite(fitted_WV).all(1)
        targets = fitted_WV[known_W] if len(chosen) > 1 else fitted_WV[known_W, 0]
        forest.fit(_columns(windows, part.train_W[known_W], statistics), targets)
        predicted = forest.predict(_columns(windows, part.holdout_W, statistics))
        health_WV[:, chosen] = predicted.reshape(len(health_WV), len(chosen))
        found.append(health_WV)
    health_RV = np.concatenate(found)
    new_RV = np.where(is_labelled_V, 1.0, np.full(health_RV.shape, np.nan))
    return {HEALTH_TREES: _answers(health_RV), AS_NEW: _answers(new_RV)}


def _answers(health_RV: np.ndarray) -> Answers:
    nothing_RV = np.full(health_RV.shape, np.nan)
    return Answers(
        grade_RV=np.full(health_RV.shape, -1, np.int64),
        probability_RVK=np.full((*health_RV.shape, 1), np.nan),
        health_RV=health_RV,
        spread_RV=nothing_RV,
        rul_RV=nothing_RV,
        rul_spread_RV=nothing_RV,
        rate_RV=nothing_RV,
    )


def _columns(windows: Windows, chosen_W: Integers, statistics: tuple[Statistic, ...]) -> Floats:
    """Return the mean and the spread over the steps of each normalised statistic, [W, L]."""
    mean_MSF, spread_MSF = _references(windows, statistics)
    plans = stack_residual_plans(
        [
            plan_residuals(windows.equipment, baseline.regressions) if baseline else None
            for baseline in windows.baselines or [None] * len(windows.machines)
        ]
    )
    blocks = []
    for position_B, values_BSN in windows.batches(np.sort(chosen_W)):
        machine_B = windows.labels.machine_W[position_B]
        residual_BSN = None if plans is None else residuals(values_BSN, plans.rows(machine_B))
        steps = windows.equipment.steps
        raw_BSTF, coverage_BST = step_statistics(values_BSN, steps, statistics, residual_BSN)
        there_BST1 = coverage_BST[..., None] > 0
        z_BSTF = (raw_BSTF - mean_MSF[machine_B, :, None]) / spread_MSF[machine_B, :, None]
        z_BSTF = np.nan_to_num(np.clip(z_BSTF, -CLIP, CLIP))
        count_BS1 = np.maximum(there_BST1.sum(2), 1)
        level_BSF = z_BSTF.sum(2) / count_BS1
        away_BSTF = np.where(there_BST1, z_BSTF - level_BSF[:, :, None], 0.0)
        spread_BSF = np.sqrt((away_BSTF**2).sum(2) / count_BS1)
        both_BL = np.concatenate([level_BSF, spread_BSF], -1).reshape(len(values_BSN), -1)
        blocks.append(both_BL.astype(np.float32))
    return np.concatenate(blocks)


def _references(windows: Windows, statistics: tuple[Statistic, ...]) -> tuple[Floats, Floats]:
    """Return the mean and the spread that each machine's statistics are measured by."""
    sensors = windows.equipment.sensors
    shape = (len(windows.machines), len(sensors), len(statistics))
    mean_MSF, spread_MSF = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    floor_F = np.array([1e-4 * (RESIDUAL_FLOOR if n in OF_RESIDUALS else 1.0) for n in statistics])
    for m, baseline in enumerate(windows.baselines):
        if baseline is None:
            continue
        places = [baseline.statistics.index(name) for name in statistics]
        for s, (_, sensor) in enumerate(sensors):
            moments: SensorMoments | None = baseline.sensors.get(sensor.sensor_id)
            if moments is None:
                continue
            low, high = sensor.range
            mean_MSF[m, s] = np.asarray(moments.mean).mean(0)[places]
            usual_F = np.asarray(moments.spread).mean(0)[places]
            spread_MSF[m, s] = np.maximum(usual_F, floor_F * (high - low))
    return mean_MSF, spread_MSF
