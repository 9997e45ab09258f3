"""Fit the sensor model of `app.features.sensor_model`: covariance, limits and signatures of faults.

Closed form, from summaries of training windows with and without faulty components, and of those
without any wear. Invariant: the limits are measured on windows of groups that are not in the
covariance that scores them.
Shapes: R windows of the fit, S sensors, Y numbers of a summary, J = S x Y, V components, Q tests, A
axes of a signature.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from app.features.binning import Doubles
from app.features.sensor_model import (
    FEWEST_SENSORS,
    AsNewModel,
    JointPlan,
    SensorModel,
    packed,
    plan_joint,
)
from app.features.sensor_tests import squares, where_rest_is_new
from app.features.spec import FeatureSpec
from app.features.window_summary import BLOCK, floors, summarise
from train.data.fleet import Chosen, Fleet
from train.data.labels import Booleans, Integers, evenly_spaced
from train.data.machine_baselines import plan_machines
from train.data.windows import Windows

MOST_WINDOWS = 5_000
"""Most windows of a fit, evenly sampled."""
FEWEST_WINDOWS = 200
FLOOR_WINDOWS = 64
BATCH = 64
FOLDS = 5
SHRINKAGE = 0.02
"""Added to the variances of the correlation: 1 is that of a summary's number in training."""
ACCUSED_SHARE = 0.0075
"""Share of held-out windows in which a Gaussian accuses any sensor, of the windows with wear as of
those without, where there are `FEWEST_WINDOWS` of either."""
TAIL_SHARE = 0.02
FEWEST_IN_TAIL = 10
LEAST_LIMITS = np.array([22.0, 18.0, 11.0])
"""Squares of 6, 4 and 1 normal deviations that one of a thousand exceeds."""
LEAST_SPREAD = 1e-6
AS_NEW = 0.95
"""Health from which a component counts as new."""
UNWORN = 0.999
"""Least health of all labelled components of the windows of the Gaussian of machines as new."""
NEW_SHRINKAGE = 0.05
"""Added to the variances of its correlation."""
LEAST_NEW_SHARE = 0.02
"""Least spread of a number in it, in parts of its spread in training."""
REST_SHARE = 0.9
"""Part of the held-out windows without wear in which the sensors beside one look as new."""
ILL = 0.85
"""Health below which a window tells what the fault of a component looks like."""
FEWEST_ILL = 8
AXES = 4
"""Axes of a signature: a component has up to a few faults."""
WITHIN_SHRINKAGE = 0.1
LEAST_SHARE = 0.1
"""Least spread of a number on the axes of signatures, in parts of its spread in training."""


def with_sensor_models(spec: FeatureSpec, fleet: Fleet, chosen: Chosen, seed: int) -> FeatureSpec:
    """Return a spec with the sensor models of the designs whose windows suffice for one.

    Args:
        spec: with the references of the designs.
        fleet: windows of each design.
        chosen: positions of the training windows.
        seed: of the folds.
    """
    models: dict[str, SensorModel] = {}
    for windows, chosen_W in zip(fleet.designs, chosen, strict=True):
        model = fit_sensor_model(windows, chosen_W, spec, seed)
        if model is not None:
            models[windows.equipment.design] = model
    return spec.model_copy(update={"sensor_models": models})


def fit_sensor_model(
    windows: Windows, chosen_W: Integers, spec: FeatureSpec, seed: int
) -> SensorModel | None:
    """Fit the sensor model of one design.

    Args:
        windows: of the design.
        chosen_W: positions of the training windows.
        spec: has the references of the design.
        seed: of the folds.

    Returns:
        The model; None with too few windows, groups, sensors or bins.
    """
    equipment = windows.equipment
    references = spec.references.get(equipment.design, {})
    place_S = np.array([s for s, each in enumerate(equipment.sensor_ids) if each in references])
    rising_W = np.sort(chosen_W)
    taken_W = evenly_spaced(rising_W[~windows.warm_up_W[rising_W]], MOST_WINDOWS)
    if (
        len(place_S) < FEWEST_SENSORS
        or len(taken_W) < FEWEST_WINDOWS
        or equipment.bins < 2 * BLOCK + 2
        or "mean" not in spec.statistics
    ):
        return None
    sensor_ids = tuple(equipment.sensor_ids[s] for s in place_S)
    plan, machine_W = plan_machines(windows, spec), windows.labels.machine_W
    range_S = np.array([high - low for low, high in (s.range for _, s in equipment.sensors)])
    some_WSN = windows.values(evenly_spaced(taken_W, FLOOR_WINDOWS))[:, place_S]
    floor_S = floors(some_WSN, range_S[place_S])
    summaries, coverages = [], []
    for position_B, values_BSN in windows.batches(taken_W, BATCH):
        known_BSN = values_BSN[:, place_S]
        usual_ST = plan.rows(machine_W[position_B]).usual_ST[..., place_S, :]
        summaries.append(summarise(known_BSN, usual_ST, floor_S))
        coverages.append(np.isfinite(known_BSN).mean(-1))
    summary_WSY, coverage_WS = np.concatenate(summaries), np.concatenate(coverages)
    whole_W = np.isfinite(summary_WSY).all((1, 2))
    kept_W = taken_W[whole_W]
    fit = fit_summaries(
        summary_WSY[whole_W],
        windows.labels.health_WV[kept_W].astype(np.float64),
        windows.group_W[kept_W],
        seed,
    )
    if fit is None:
        return None
    component_ids = [component.component_id for component in equipment.components]
    return SensorModel(
        sensor_ids=sensor_ids,
        floor=packed(floor_S),
        coverage=packed(np.median(coverage_WS, axis=0)),
        centre=packed(fit.centre_SY),
        scale=packed(fit.scale_SY),
        correlation=packed(fit.correlation_JJ),
        limits=packed(fit.limit_SQ),
        healthy=packed(fit.healthy_J),
        whitening=packed(fit.whitening_JJ),
        signatures={component_ids[v]: packed(each) for v, each in fit.signatures.items()},
        as_new=None
        if fit.as_new is None
        else AsNewModel(
            centre=packed(fit.as_new.centre_J),
            covariance=packed(fit.as_new.covariance_JJ),
            limits=packed(fit.as_new.limit_SQ),
            rest=packed(fit.as_new.rest_S),
        ),
    )


class AsNewFit(NamedTuple):
    """The arrays of the Gaussian of machines as new, see `AsNewModel`."""

    centre_J: Doubles
    covariance_JJ: Doubles
    limit_SQ: Doubles
    rest_S: Doubles


class SummaryFit(NamedTuple):
    """The arrays of a sensor model, see `SensorModel`; signatures by the component's position."""

    centre_SY: Doubles
    scale_SY: Doubles
    correlation_JJ: Doubles
    limit_SQ: Doubles
    healthy_J: Doubles
    whitening_JJ: Doubles
    signatures: Mapping[int, Doubles]
    as_new: AsNewFit | None


def fit_summaries(
    summary_RSY: Doubles, health_RV: Doubles, group_R: Integers, seed: int
) -> SummaryFit | None:
    """Fit a sensor model to summaries without gaps.

    Args:
        summary_RSY: of the training windows.
        health_RV: of the components, NaN where unknown.
        group_R: number of each window's group, which a fold never divides.
        seed: of the folds.

    Returns:
        The fit; None with fewer than `FEWEST_WINDOWS` windows or `FOLDS` groups.
    """
    groups, number_R = np.unique(group_R, return_inverse=True)
    if len(summary_RSY) < FEWEST_WINDOWS or len(groups) < FOLDS:
        return None
    fold_R = np.random.default_rng(seed).permutation(len(groups))[number_R.reshape(-1)] % FOLDS
    labelled_V = np.isfinite(health_RV).any(0)
    unworn_R = np.asarray((health_RV[:, labelled_V] >= UNWORN).all(1), np.bool_)
    unworn_R &= labelled_V.any()
    least = min(int((unworn_R & (fold_R != fold)).sum()) for fold in range(FOLDS))
    has_new = least >= FEWEST_WINDOWS
    square_RSQ = np.empty((*summary_RSY.shape[:2], len(LEAST_LIMITS)))
    new_RSQ, total_R = np.empty_like(square_RSQ), np.empty(len(summary_RSY))
    evidence_R = np.empty(len(summary_RSY))
    for fold in range(FOLDS):
        held_R = fold_R == fold
        centre_SY, scale_SY, correlation_JJ = _moments(summary_RSY[~held_R])
        deviation_RJ = _deviations(summary_RSY, centre_SY, scale_SY)
        pooled = plan_joint(np.zeros(deviation_RJ.shape[1]), correlation_JJ, LEAST_LIMITS, None)
        square_RSQ[held_R], _ = _squares(deviation_RJ[held_R], pooled)
        if has_new:
            of_new = _new_moments(deviation_RJ[~held_R & unworn_R])
            joint = plan_joint(*of_new, LEAST_LIMITS, None)
            new_RSQ[held_R], total_R[held_R] = _squares(deviation_RJ[held_R], joint)
            signatures = _signatures(deviation_RJ[~held_R], health_RV[~held_R])
            evidence_R[held_R] = _evidence(deviation_RJ[held_R], *signatures)
    centre_SY, scale_SY, correlation_JJ = _moments(summary_RSY)
    deviation_RJ = _deviations(summary_RSY, centre_SY, scale_SY)
    as_new = None
    if has_new:
        rest_RS = total_R[:, None] - new_RSQ[..., 0]
        rest_S = np.quantile(rest_RS[unworn_R], REST_SHARE, axis=0)
        tested_RSQ = where_rest_is_new(new_RSQ, total_R, rest_S, evidence_R)
        limit_SQ = _limits_of_both(tested_RSQ, unworn_R)
        as_new = AsNewFit(*_new_moments(deviation_RJ[unworn_R]), limit_SQ, rest_S)
    return SummaryFit(
        centre_SY,
        scale_SY,
        correlation_JJ,
        _limits_of_both(square_RSQ, unworn_R),
        *_signatures(deviation_RJ, health_RV),
        as_new,
    )


def _deviations(summary_RSY: Doubles, centre_SY: Doubles, scale_SY: Doubles) -> Doubles:
    return ((summary_RSY - centre_SY) / scale_SY).reshape(len(summary_RSY), -1)


def _moments(summary_RSY: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return centre, scale and the shrunk correlation."""
    centre_SY = summary_RSY.mean(0)
    scale_SY = summary_RSY.std(0) + LEAST_SPREAD
    deviation_RJ = _deviations(summary_RSY, centre_SY, scale_SY)
    correlation_JJ = deviation_RJ.T @ deviation_RJ / len(deviation_RJ)
    correlation_JJ[np.diag_indices_from(correlation_JJ)] += SHRINKAGE
    return centre_SY, scale_SY, correlation_JJ


def _new_moments(deviation_RJ: Doubles) -> tuple[Doubles, Doubles]:
    """Return mean and shrunk covariance of deviations of machines as new."""
    centre_J = deviation_RJ.mean(0)
    apart_RJ = deviation_RJ - centre_J
    variance_J = np.maximum(apart_RJ.var(0), LEAST_NEW_SHARE**2)
    covariance_JJ = apart_RJ.T @ apart_RJ / len(apart_RJ)
    covariance_JJ[np.diag_indices_from(covariance_JJ)] = (1.0 + NEW_SHRINKAGE) * variance_J
    return centre_J, covariance_JJ


def _squares(deviation_RJ: Doubles, joint: JointPlan) -> tuple[Doubles, Doubles]:
    """Return the squares of each sensor, [R, S, Q], and of all of a window, [R]."""
    apart_RJ = deviation_RJ - joint.centre_J
    force_RJ = apart_RJ @ joint.precision_JJ
    force_RSY = force_RJ.reshape(len(force_RJ), len(joint.level_S), -1)
    square_RSQ = squares(force_RSY, joint.weight_SYY, joint.shape_SYY, joint.level_S)
    return square_RSQ, np.einsum("rj,rj->r", force_RJ, apart_RJ)


def _evidence(
    deviation_RJ: Doubles,
    healthy_J: Doubles,
    whitening_JJ: Doubles,
    signatures: Mapping[int, Doubles],
) -> Doubles:
    """Return twice the largest logarithm of the odds of a component's fault, at least 0."""
    found_R = np.zeros(len(deviation_RJ))
    white_RJ = (deviation_RJ - healthy_J) @ whitening_JJ
    for table in signatures.values():
        variance_A = table[-1]
        along_RA = white_RJ @ table[:-1]
        explained_RA = variance_A / (1.0 + variance_A) * along_RA**2
        np.maximum(found_R, (explained_RA - np.log1p(variance_A)).sum(1), out=found_R)
    return found_R


def _limits_of_both(square_RSQ: Doubles, unworn_R: Booleans) -> Doubles:
    """Return limits that hold for windows without wear as for the others, if there are enough."""
    parts = [rows_R for rows_R in (unworn_R, ~unworn_R) if rows_R.sum() >= FEWEST_WINDOWS]
    limits = [_limits(square_RSQ[rows_R]) for rows_R in parts] or [_limits(square_RSQ)]
    found_SQ: Doubles = np.max(limits, axis=0)
    return found_SQ


def _limits(square_RSQ: Doubles) -> Doubles:
    """Return the limits of the sensors' squares by those of held-out windows, [S, Q].

    Each sensor has the limit that its own tail exceeds in an equal part of the allowed windows,
    extrapolated by Hill's estimator ("A simple general approach to inference about the tail of a
    distribution", 1975); a factor, the same for all, then makes the allowed part of the windows
    have any sensor beyond its limit.
    """
    R, S, Q = square_RSQ.shape
    tail = max(FEWEST_IN_TAIL, int(TAIL_SHARE * R))
    # far below the least limit nothing matters: a constant sensor has only zeros, and a test that
    # applies in few windows has few other squares
    top_KSQ = np.sort(square_RSQ, axis=0)[-tail - 1 :]
    counts_KSQ = top_KSQ > 0.1 * LEAST_LIMITS
    lowest_SQ = np.where(counts_KSQ, top_KSQ, np.inf).min(0)
    begin_SQ = np.where(np.isfinite(lowest_SQ), lowest_SQ, LEAST_LIMITS)
    count_SQ = np.maximum(counts_KSQ.sum(0) - 1, 1)
    logarithm_KSQ = np.log(np.where(counts_KSQ, top_KSQ, begin_SQ) / begin_SQ)
    heaviness_SQ = logarithm_KSQ.sum(0) / count_SQ
    beyond_SQ = count_SQ / R * S * Q / ACCUSED_SHARE
    limit_SQ = np.maximum(begin_SQ * beyond_SQ**heaviness_SQ, LEAST_LIMITS)
    most_R = (square_RSQ / limit_SQ).max((1, 2))
    factor = float(np.quantile(most_R, 1.0 - ACCUSED_SHARE))
    found_SQ: Doubles = np.maximum(limit_SQ * factor, LEAST_LIMITS)
    return found_SQ


def _signatures(
    deviation_RJ: Doubles, health_RV: Doubles
) -> tuple[Doubles, Doubles, dict[int, Doubles]]:
    """Return the deviation of a machine as new, the whitening, and the signatures of components.

    The covariance within a condition is that of machines as new and of what a linear and a square
    term of each component's lost health leave over; both halves.
    """
    J = deviation_RJ.shape[1]
    lost_RV = np.nan_to_num(1.0 - health_RV)
    worst_R = lost_RV.max(1, initial=0.0)
    new_R = worst_R <= 1.0 - AS_NEW
    if new_R.sum() < FEWEST_ILL:
        return np.zeros(J), np.eye(J), {}
    healthy_J = deviation_RJ[new_R].mean(0)
    unit_J = np.maximum(deviation_RJ[new_R].std(0), LEAST_SHARE)
    apart_RJ = (deviation_RJ - healthy_J) / unit_J
    terms_RX = np.concatenate([lost_RV, lost_RV**2], axis=1)
    gram_XX = terms_RX.T @ terms_RX + np.eye(terms_RX.shape[1])
    rest_RJ = apart_RJ - terms_RX @ np.linalg.solve(gram_XX, terms_RX.T @ apart_RJ)
    within_JJ = 0.5 * np.cov(apart_RJ[new_R].T) + 0.5 * np.cov(rest_RJ.T)
    variance_J, axis_JJ = eigh(within_JJ + WITHIN_SHRINKAGE * np.eye(J))
    whitening_JJ = axis_JJ / np.sqrt(variance_J)
    white_RJ = apart_RJ @ whitening_JJ
    signatures = {}
    for component in range(health_RV.shape[1]):
        lost_R = lost_RV[:, component]
        ill_R: Booleans = (lost_R > 1.0 - ILL) & (lost_R >= 0.7 * worst_R)
        if ill_R.sum() >= FEWEST_ILL:
            signatures[component] = _signature(white_RJ[ill_R])
    return healthy_J, whitening_JJ / unit_J[:, None], signatures


def _signature(white_RJ: Doubles) -> Doubles:
    """Return the axes of the most variance, and below them what exceeds 1 of it, [J + 1, A]."""
    J = white_RJ.shape[1]
    axes = min(AXES, J)
    moment_JJ = white_RJ.T @ white_RJ / len(white_RJ)
    variance_A, axis_JA = eigh(moment_JJ, subset_by_index=(J - axes, J - 1))
    return np.concatenate([axis_JA, np.maximum(variance_A - 1.0, 1e-3)[None]])
