"""Fit the OOD detector of `app.model.ood_detector`: a Mahalanobis distance and its limit.

Closed form, on the features of the sensors whose evidence reaches a component. Invariants: the
limit is measured on windows of groups that are not in the covariance that scores them; only
training windows of a fit are read, and a bounded number of them.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse.linalg import eigsh

from app.features.binning import Doubles
from app.features.spec import FeatureSpec
from app.model.config import ModelConfig
from app.model.graph import build_topology
from app.model.ood_detector import OodDetector, OodTables
from train.config import TrainConfig
from train.data.fleet import Chosen, Fleet
from train.data.labels import Booleans, Integers, evenly_spaced
from train.data.windows import Windows
from train.evaluation.ordinal import OrdinalMoments, covariance, measure
from train.linear.features import read_features
from train.linear.nuisance import nuisances

MOST_WINDOWS = 5_000
"""Most windows of a fit, evenly sampled."""
MOST_INPUTS = 8_192
"""Most inputs of a component: features of its sensors over all steps; more give no distance."""
AXES = 48
"""Most principal axes with own variances. On the rig, 16, 96 or all axes rank conditions alike."""
FOLDS = 5
LIMIT_SCORE = 3.5
"""Modified z-score of the logarithm of the distance above which a window is an outlier (Iglewicz
and Hoaglin, "How to detect and handle outliers", 1993)."""
FEWEST_AXES = 8
MOST_BYTES = 32_000_000
"""Size of the tables of all grade sets; those of the rig take 1.6 MB."""
USUAL_SHARE = 0.95
"""Share of held-out windows within the limit in any case: where most are alike, more are
outliers."""
LEAST_VARIANCE = 1e-4
"""Smallest variance of features, in units of their spread; less is rounding."""
MAD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""


class DistanceFit(NamedTuple):
    """Means of the grades, principal axes and their variances, other variance, and limit."""

    mean_KL: Doubles
    axes_LC: Doubles
    variance_C: Doubles
    rest: float
    limit: float


def most_axes(sets: int, places: int, inputs: int, grades: int) -> int:
    """Return the number of principal axes that fit a network's tables, 0 for no detector."""
    size = 4 * sets * places * inputs
    fitting = MOST_BYTES // size - grades if size else 0
    return min(AXES, fitting) if fitting >= FEWEST_AXES else 0


def most_sensors(spec: FeatureSpec, steps: int) -> int:
    """Return the largest number of sensors that the detector of a component reads."""
    most = max((len(references) for references in spec.references.values()), default=0)
    return min(most, MOST_INPUTS // max(1, steps * spec.features))


def fit_ood_detector(
    model: ModelConfig, spec: FeatureSpec, fleet: Fleet, chosen: Chosen, config: TrainConfig
) -> OodDetector | None:
    """Fit the OOD detector of a model; None where the model has none.

    Each graded component has a distance on the normalised features of the sensors from which a
    directed path leads to it, fitted to windows with all of them. A component with labels of only
    one grade has none, nor has a design whose windows have other steps than the tables.

    Args:
        model: sizes of the tables.
        spec: of the model's features.
        fleet: windows of each design.
        chosen: positions of the training windows.
        config: gives the disturbances to ignore: sensor bias and oil temperature.
    """
    if not (model.ood_axes and model.ood_steps and model.ood_sensors):
        return None
    tables = OodTables.empty(model)
    for windows, chosen_W in zip(fleet.designs, chosen, strict=True):
        if windows.equipment.steps == model.ood_steps:
            _fit_design(model, spec, windows, chosen_W, config, tables)
    return OodDetector(tables)


def absent_distances(model: ModelConfig, fleet: Fleet) -> tuple[str, ...]:
    """Say why designs of a training on several have no OOD distance, a sentence for each."""
    if len(fleet.designs) < 2 or not model.ood_steps:
        return ()
    found = []
    for windows in fleet.designs:
        design, steps = windows.equipment.design, windows.equipment.steps
        reason = ""
        if not (windows.labels.grade_WV >= 0).any():
            reason = "its labels have no grades"
        elif steps != model.ood_steps:
            reason = f"its windows have {steps} steps and the detector reads {model.ood_steps}"
        if reason:
            found.append(f"Design {design} has no OOD distance: {reason}.")
    return tuple(found)


def _fit_design(
    model: ModelConfig,
    spec: FeatureSpec,
    windows: Windows,
    chosen_W: Integers,
    config: TrainConfig,
    tables: OodTables,
) -> None:
    """Write the distances of a design's grade sets to the tables."""
    equipment = windows.equipment
    rising_W = np.sort(chosen_W)
    graded_W = rising_W[(windows.labels.grade_WV[rising_W] >= 0).any(1)]
    if not len(graded_W):
        return
    taken_W = evenly_spaced(graded_W, MOST_WINDOWS)
    x_WSTF, present_WS = read_features(windows, taken_W, spec)
    nuisance_DSTF = nuisances(windows, taken_W, spec, config)
    topology = build_topology(equipment, spec)
    slot_S = topology.sensor_slot_S
    for index, number in enumerate(topology.grade_set_V.tolist()):
        sensors = [place for place in equipment.sensors_in_reach(index) if slot_S[place] >= 0]
        grade_W = windows.labels.grade_WV[taken_W, index]
        known_W = (grade_W >= 0) & present_WS[:, sensors].all(1)
        inputs = len(sensors) * x_WSTF.shape[2] * x_WSTF.shape[3]
        if number < 0 or not 0 < inputs <= MOST_INPUTS or len(np.unique(grade_W[known_W])) < 2:
            continue
        x_WL = x_WSTF[known_W][:, sensors].reshape(int(known_W.sum()), -1).astype(np.float64)
        health_K = np.array([grade.health for grade in equipment.components[index].grades])
        nuisance_DL = nuisance_DSTF[:, sensors].reshape(-1, inputs)
        group_W = windows.group_W[taken_W][known_W]
        fit = fit_distance(
            x_WL,
            grade_W[known_W],
            group_W,
            health_K,
            nuisance_DL,
            ~windows.warm_up_W[taken_W][known_W],
            model.ood_axes,
            config.seed,
        )
        if fit is not None:
            grade_K = np.unique(grade_W[known_W])
            set_distance(tables, number, fit, slot_S[sensors], grade_K)


def fit_distance(
    x_WL: Doubles,
    grade_W: Integers,
    group_W: Integers,
    health_K: Doubles,
    nuisance_DL: Doubles,
    is_scored_W: Booleans,
    axes: int,
    seed: int,
) -> DistanceFit | None:
    """Fit the distance of one component.

    Args:
        x_WL: inputs.
        grade_W: grade of each window.
        group_W: number of each window's group, which a split never divides.
        health_K: health of the component's grades.
        nuisance_DL: change of the inputs by disturbances.
        is_scored_W: false in a warm-up, whose distances are unusual.
        axes: largest number of principal axes.
        seed: of the folds.

    Returns:
        The fit; None with fewer than `FOLDS` groups, which give no limit.
    """
    axes = min(axes, x_WL.shape[1] // 2)
    groups, number_W = np.unique(group_W, return_inverse=True)
    if len(groups) < FOLDS or not axes:
        return None
    fold_W = np.random.default_rng(seed).permutation(len(groups))[number_W.reshape(-1)] % FOLDS
    held_out: list[Doubles] = []
    for fold in range(FOLDS):
        train_W, holdout_W = fold_W != fold, (fold_W == fold) & is_scored_W
        if not holdout_W.any() or len(np.unique(grade_W[train_W])) < 2:
            continue
        found = _fit(
            measure(x_WL[train_W], grade_W[train_W], group_W[train_W], health_K, nuisance_DL),
            axes,
        )
        held_out.append(distances(x_WL[holdout_W], found))
    if not held_out:
        return None
    log_R = np.log(np.maximum(np.concatenate(held_out), 1e-12))
    middle = float(np.median(log_R))
    deviation = MAD * float(np.median(np.abs(log_R - middle)))
    limit = max(
        float(np.exp(middle + LIMIT_SCORE * deviation)),
        float(np.exp(np.quantile(log_R, USUAL_SHARE))),
    )
    moments = measure(x_WL, grade_W, group_W, health_K, nuisance_DL)
    return _fit(moments, axes)._replace(limit=limit)


def distances(x_WL: Doubles, fit: DistanceFit) -> Doubles:
    """Return the squared distance from the nearest grade divided by the number of inputs, [W]."""
    square_KW = []
    for mean_L in fit.mean_KL:
        delta_WL = x_WL - mean_L
        along_WC = (delta_WL @ fit.axes_LC) ** 2
        rest_W = (delta_WL**2).sum(1) - along_WC.sum(1)
        square_KW.append((along_WC / fit.variance_C).sum(1) + rest_W / fit.rest)
    nearest_W: Doubles = np.min(square_KW, axis=0) / x_WL.shape[1]
    return nearest_W


def set_distance(
    tables: OodTables, number: int, fit: DistanceFit, slot_S: Integers, grade_K: Integers
) -> None:
    """Write a fit to the tables of a grade set.

    Args:
        tables: of the detector.
        number: of the grade set.
        fit: of its component.
        slot_S: reference slots of the sensors of the inputs, in their order.
        grade_K: numbers of the grades of the means.
    """
    L, (S, A) = tables.map_GQLC.shape[2], (len(slot_S), fit.axes_LC.shape[1])
    axes = tables.variance_GX.shape[1] - 1
    tables.map_GQLC[number, :S, :, :A] = fit.axes_LC.reshape(S, L, A)
    mean_SLK = np.moveaxis(fit.mean_KL.reshape(-1, S, L), 0, -1)
    tables.map_GQLC[number, :S][..., axes + grade_K] = mean_SLK
    tables.occurs_GK[number] = np.isin(np.arange(tables.occurs_GK.shape[1]), grade_K)
    tables.variance_GX[number] = fit.rest  # also of unused axes
    tables.variance_GX[number, :A] = fit.variance_C
    tables.limit_G[number] = fit.limit
    tables.place_GR[number, slot_S] = np.arange(S)


def _fit(moments: OrdinalMoments, axes: int) -> DistanceFit:
    inputs = len(moments.middle_L)
    covariance_LL = covariance(moments, np.arange(inputs))
    # a fixed start makes the iteration deterministic
    variance_C, axes_LC = eigsh(covariance_LL, k=axes, v0=np.ones(inputs))
    rest = max(
        (float(covariance_LL.trace()) - float(variance_C.sum())) / (inputs - axes), LEAST_VARIANCE
    )
    return DistanceFit(
        moments.middle_L + moments.apart_KL,
        axes_LC,
        np.maximum(variance_C, rest),
        rest,
        float("inf"),
    )
