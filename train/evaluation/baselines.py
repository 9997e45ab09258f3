"""Classical baselines on the same folds: discriminants, extra trees, rules for remaining life.

Invariant: a baseline is fitted to windows of the part's `train_W` and to no others; memory is
bounded by the sample, not by the history.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from app.features.binning import Floats
from app.features.statistics import STATISTICS, Statistic, step_statistics
from train.data.labels import HOUR_US, Integers, WindowLabels
from train.data.windows import Windows
from train.evaluation.holdout import HoldoutPart
from train.evaluation.ordinal import ordinal_ridge
from train.evaluation.scores import life_runs
from train.evaluation.uncertainty import Answers

STEP_DISCRIMINANT = "discriminant, step statistics"
ORDINAL = "ordinal ridge, step statistics"
WINDOW_DISCRIMINANT = "discriminant, window statistics"
EXTRA_TREES = "extra trees, step statistics"
PERSISTENCE = "mean life less age"
CONSTANT = "mean remaining life"

MAX_TRAINING = 6000
"""Windows, drawn from those of the fit, that a baseline is fitted to at most."""
TREES = 200
MOST_COLUMNS = 2500
"""Columns of the step statistics of all sensors up to which trees of remaining life read them."""


class _Prediction(NamedTuple):
    """Probability of each grade and remaining life in hours, NaN where there is none."""

    probability_WVK: Floats
    rul_WV: Floats


def baselines(
    windows: Windows,
    parts: Sequence[HoldoutPart],
    statistics: tuple[Statistic, ...],
    seed: int = 0,
    *,
    trees: int = TREES,
) -> dict[str, Answers]:
    """Fit the baselines to each part's training windows and predict its held-out ones.

    Discriminants (Fisher, 1936; shrinkage of Ledoit and Wolf, 2004), extra trees (Geurts, Ernst
    and Wehenkel, 2006) and an ordinal ridge (`train.evaluation.ordinal`) read, for each graded
    component, the sensors whose evidence can reach it; "step statistics" are those of every step,
    as the network reads them, "window statistics" those of the whole window.

    Args:
        windows: all windows.
        parts: of the split.
        statistics: of a step.
        seed: of samples and trees.
        trees: of a forest.

    Returns:
        Answers for the held-out windows, part after part, without health and rate, by name; a
        baseline that cannot predict these labels is left out.
    """
    by_part = [_part(windows, part, statistics, seed, trees) for part in parts]
    names = list(dict.fromkeys(name for found in by_part for name in found))
    nothing = [_nothing(windows, len(part.holdout_W)) for part in parts]
    joined: dict[str, Answers] = {}
    for name in names:
        each_part = [found.get(name, empty) for found, empty in zip(by_part, nothing, strict=True)]
        probability_WVK, rul_WV = map(np.concatenate, zip(*each_part, strict=True))
        known_WV = np.isfinite(probability_WVK).any(-1)
        grade_WV = np.nan_to_num(probability_WVK, nan=-1.0).argmax(-1)
        nothing_WV = np.full(known_WV.shape, np.nan)
        joined[name] = Answers(
            grade_RV=np.where(known_WV, grade_WV, -1).astype(np.int64),
            probability_RVK=probability_WVK.astype(np.float64),
            health_RV=nothing_WV,
            spread_RV=nothing_WV,
            rul_RV=rul_WV.astype(np.float64),
            rul_spread_RV=nothing_WV,
            rate_RV=nothing_WV,
        )
    return joined


def _part(
    windows: Windows, part: HoldoutPart, statistics: tuple[Statistic, ...], seed: int, trees: int
) -> dict[str, _Prediction]:
    labels, steps = windows.labels, windows.equipment.steps
    statistics = tuple(name for name in statistics if name in STATISTICS)  # none of residuals
    fitted_W = _sample(part.train_W, seed)
    graded = [
        v
        for v in range(labels.grade_WV.shape[1])
        if len(np.unique(labels.grade_WV[fitted_W[labels.grade_WV[fitted_W, v] >= 0], v])) > 1
    ]
    living = [
        v for v in range(labels.rul_WV.shape[1]) if np.isfinite(labels.rul_WV[fitted_W, v]).any()
    ]
    found: dict[str, _Prediction] = {}
    if graded or living:
        train_step, holdout_step = (
            _statistics(windows, chosen_W, steps, statistics)
            for chosen_W in (fitted_W, part.holdout_W)
        )
    if graded:
        train_window, holdout_window = (
            _statistics(windows, chosen_W, 1, statistics) for chosen_W in (fitted_W, part.holdout_W)
        )
        for name, train, holdout in (
            (ORDINAL, train_step, holdout_step),
            (STEP_DISCRIMINANT, train_step, holdout_step),
            (WINDOW_DISCRIMINANT, train_window, holdout_window),
            (EXTRA_TREES, train_step, holdout_step),
        ):
            prediction = _nothing(windows, len(part.holdout_W))
            for v in graded:
                known_W = labels.grade_WV[fitted_W, v] >= 0
                sensors = windows.equipment.sensors_in_reach(v)
                x_WL, holdout_WL = _table(train[:, sensors], holdout[:, sensors])
                prediction.probability_WVK[:, v] = 0.0  # of a grade that the fit did not see
                if name == ORDINAL:
                    ordinal_W = fitted_W[known_W]
                    health_K = [each.health for each in windows.equipment.components[v].grades]
                    grade_K, found_WK = ordinal_ridge(
                        x_WL[known_W],
                        labels.grade_WV[ordinal_W, v],
                        windows.group_W[ordinal_W],
                        np.array(health_K),
                        holdout_WL,
                    )
                    prediction.probability_WVK[:, v, grade_K] = found_WK
                    continue
                model = (
                    ExtraTreesClassifier(trees, random_state=seed)
                    if name == EXTRA_TREES
                    else LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
                )
                model.fit(x_WL[known_W], labels.grade_WV[fitted_W, v][known_W])
                prediction.probability_WVK[:, v, model.classes_] = model.predict_proba(holdout_WL)
            found[name] = prediction
    if living:
        rul = {
            name: np.full((len(part.holdout_W), labels.rul_WV.shape[1]), np.nan, np.float32)
            for name in (PERSISTENCE, CONSTANT, EXTRA_TREES)
        }
        x_WL, holdout_WL = _table(_bounded(train_step), _bounded(holdout_step))
        for v in living:
            rul_W = labels.rul_WV[fitted_W, v]
            known_W = np.isfinite(rul_W)
            rul[PERSISTENCE][:, v] = life_less_age(labels, part.train_W, part.holdout_W, v)
            rul[CONSTANT][:, v] = rul_W[known_W].mean()
            forest = ExtraTreesRegressor(
                trees, min_samples_leaf=3, max_features=0.3, random_state=seed
            )
            rul[EXTRA_TREES][:, v] = forest.fit(x_WL[known_W], rul_W[known_W]).predict(holdout_WL)
        for name, rul_WV in rul.items():
            if np.isfinite(rul_WV).any():
                before = found.get(name) or _nothing(windows, len(part.holdout_W))
                found[name] = before._replace(rul_WV=rul_WV)
    return found


def life_less_age(
    labels: WindowLabels, train_W: Integers, holdout_W: Integers, component: int
) -> Floats:
    """Predict remaining life as the mean life of the training runs less the age, in [0, cap].

    Life and age begin with the run's first window, see `train.evaluation.scores.life_runs`: a
    replaced component is new again. The last training window of a run gives its failure, unless it
    is at the cap, the largest label.

    Args:
        labels: of all windows.
        train_W: positions of the training windows.
        holdout_W: positions of the windows to predict.
        component: position of the component that fails.

    Returns:
        Operating hours; NaN outside of a run to failure, and without a training run that fails.
    """
    rul_W, start_us_W = labels.rul_WV[:, component], labels.start_us_W
    rul_h_W = np.full(len(rul_W), np.nan, np.float32)
    is_fitted_W = np.zeros(len(rul_W), np.bool_)
    is_fitted_W[train_W] = True
    runs = life_runs(labels.machine_W, start_us_W, rul_W)
    if not runs:
        return rul_h_W[holdout_W]
    cap_h = np.nanmax(rul_W)
    lives: list[float] = []
    for run in runs:
        known = run[is_fitted_W[run]]
        if len(known) and rul_W[known[-1]] < cap_h:
            lives.append(
                (start_us_W[known[-1]] - start_us_W[run[0]]) / HOUR_US + float(rul_W[known[-1]])
            )
    if lives:
        for run in runs:
            age_h = (start_us_W[run] - start_us_W[run[0]]) / HOUR_US
            rul_h_W[run] = np.clip(np.mean(lives) - age_h, 0.0, cap_h)
    return rul_h_W[holdout_W]


def _nothing(windows: Windows, count: int) -> _Prediction:
    components = windows.equipment.components
    shape = (count, len(components), max(1, *(len(component.grades) for component in components)))
    return _Prediction(np.full(shape, np.nan, np.float32), np.full(shape[:2], np.nan, np.float32))


def _sample(train_W: Integers, seed: int) -> Integers:
    if len(train_W) <= MAX_TRAINING:
        return train_W
    return np.sort(np.random.default_rng(seed).choice(train_W, MAX_TRAINING, replace=False))


def _statistics(
    windows: Windows, chosen_W: Integers, steps: int, statistics: tuple[Statistic, ...]
) -> Floats:
    parts = [
        step_statistics(values_WSN, steps, statistics)[0].astype(np.float32)
        for _, values_WSN in windows.batches(chosen_W)
    ]
    sensors = len(windows.equipment.sensors)
    return (
        np.concatenate(parts)
        if parts
        else np.empty((0, sensors, steps, len(statistics)), np.float32)
    )


def _bounded(raw_WSTF: Floats) -> Floats:
    """Return mean and spread over the steps instead of every step, where there are many columns."""
    if raw_WSTF[0:1].size <= MOST_COLUMNS or not len(raw_WSTF):
        return raw_WSTF
    there_WST1 = np.isfinite(raw_WSTF[..., :1])
    count_WS1 = np.maximum(there_WST1.sum(2), 1)
    mean_WSF = np.where(there_WST1, raw_WSTF, 0.0).sum(2) / count_WS1
    away_WSTF = np.where(there_WST1, raw_WSTF - mean_WSF[:, :, None], 0.0)
    spread_WSF = np.sqrt((away_WSTF**2).sum(2) / count_WS1)
    both_WSTF: Floats = np.stack([mean_WSF, spread_WSF], 2).astype(np.float32)
    return both_WSTF


def _table(fitted_WSTF: Floats, holdout_WSTF: Floats) -> tuple[Floats, Floats]:
    """Flatten both; missing values become the mean of the training windows, or 0."""
    rows: Iterable[Floats] = (
        fitted_WSTF.reshape(len(fitted_WSTF), -1),
        holdout_WSTF.reshape(len(holdout_WSTF), -1),
    )
    fitted_WL, holdout_WL = (np.where(np.isfinite(each), each, np.nan) for each in rows)
    count_L = np.maximum(np.isfinite(fitted_WL).sum(0), 1)
    mean_L = (np.nan_to_num(fitted_WL).sum(0) / count_L).astype(np.float32)
    return np.where(np.isnan(fitted_WL), mean_L, fitted_WL), np.where(
        np.isnan(holdout_WL), mean_L, holdout_WL
    )
