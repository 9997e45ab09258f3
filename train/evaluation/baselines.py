"""Classical baselines on the same parts of the same split: linear discriminants, extra trees, and rules for remaining life.

Invariant: a rival is fitted to windows of the part's `train_W`, which the network's fit saw, and to no others; memory is bounded by the sample, not by the history.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from app.features.binning import Floats
from app.features.statistics import Statistic, step_statistics
from train.data.labels import HOUR_US, Integers, WindowLabels
from train.data.windows import Windows
from train.evaluation.holdout import HoldoutPart
from train.evaluation.scores import life_runs

STEP_DISCRIMINANT = "discriminant, step statistics"
WINDOW_DISCRIMINANT = "discriminant, window statistics"
EXTRA_TREES = "extra trees, step statistics"
PERSISTENCE = "mean life less age"
CONSTANT = "mean remaining life"

MOST_TRAINING = 6000
"""Windows that a rival is fitted to at most, drawn from those of the fit."""
TREES = 200


@dataclass(frozen=True, slots=True)
class BaselinePrediction:
    """What a rival says of the held-out windows, part after part: probability of each grade and operating hours left, NaN where none."""

    share_WVK: Floats
    rul_WV: Floats

    @property
    def grade_WV(self) -> Integers:
        """Return the most probable grade, -1 where none is told."""
        told_WV = np.isfinite(self.share_WVK).any(-1)
        return np.where(told_WV, np.nan_to_num(self.share_WVK, nan=-1.0).argmax(-1), -1).astype(
            np.int64
        )


def baselines(
    windows: Windows,
    parts: Sequence[HoldoutPart],
    statistics: tuple[Statistic, ...],
    seed: int = 0,
    *,
    trees: int = TREES,
) -> dict[str, BaselinePrediction]:
    """Fit the classical baselines to each part's training windows and ask them about its held-out ones.

    Discriminants (Fisher, 1936; shrinkage of Ledoit and Wolf, 2004) and extra trees (Geurts, Ernst and Wehenkel, 2006) read, for
    each graded component, the sensors whose evidence can reach it; "step statistics" are the network's own of every step,
    "window statistics" those of the window as a whole.

    Args:
        windows: all windows.
        parts: of the split.
        statistics: of a step.
        seed: of samples and trees.
        trees: of a forest.

    Returns:
        By the rival's name; one that can say nothing of these labels is not there.
    """
    by_part = [_part(windows, part, statistics, seed, trees) for part in parts]
    names = list(dict.fromkeys(name for found in by_part for name in found))
    nothing = [_nothing(windows, len(part.held_W)) for part in parts]
    joined: dict[str, BaselinePrediction] = {}
    for name in names:
        told = [found.get(name, empty) for found, empty in zip(by_part, nothing, strict=True)]
        joined[name] = BaselinePrediction(
            np.concatenate([each.share_WVK for each in told]),
            np.concatenate([each.rul_WV for each in told]),
        )
    return joined


def _part(
    windows: Windows, part: HoldoutPart, statistics: tuple[Statistic, ...], seed: int, trees: int
) -> dict[str, BaselinePrediction]:
    labels, steps = windows.labels, windows.equipment.steps
    seen_W = _sample(part.train_W, seed)
    graded = [
        v
        for v in range(labels.grade_WV.shape[1])
        if len(np.unique(_known(labels.grade_WV[seen_W, v]))) > 1
    ]
    living = [
        v for v in range(labels.rul_WV.shape[1]) if np.isfinite(labels.rul_WV[seen_W, v]).any()
    ]
    found: dict[str, BaselinePrediction] = {}
    if graded or living:
        seen_step, held_step = (
            _statistics(windows, chosen_W, steps, statistics) for chosen_W in (seen_W, part.held_W)
        )
    if graded:
        seen_window, held_window = (
            _statistics(windows, chosen_W, 1, statistics) for chosen_W in (seen_W, part.held_W)
        )
        for name, seen, held in (
            (STEP_DISCRIMINANT, seen_step, held_step),
            (WINDOW_DISCRIMINANT, seen_window, held_window),
            (EXTRA_TREES, seen_step, held_step),
        ):
            said = _nothing(windows, len(part.held_W))
            for v in graded:
                known_W = labels.grade_WV[seen_W, v] >= 0
                model = (
                    ExtraTreesClassifier(trees, random_state=seed)
                    if name == EXTRA_TREES
                    else LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
                )
                sensors = windows.equipment.sensors_in_reach(v)
                x_WL, asked_WL = _table(seen[:, sensors], held[:, sensors])
                model.fit(x_WL[known_W], labels.grade_WV[seen_W, v][known_W])
                said.share_WVK[:, v] = 0.0  # of a grade that the fit did not see
                said.share_WVK[:, v, model.classes_] = model.predict_proba(asked_WL)
            found[name] = said
    if living:
        told = {
            name: np.full((len(part.held_W), labels.rul_WV.shape[1]), np.nan, np.float32)
            for name in (PERSISTENCE, CONSTANT, EXTRA_TREES)
        }
        x_WL, asked_WL = _table(seen_step, held_step)
        for v in living:
            rul_W = labels.rul_WV[seen_W, v]
            known_W = np.isfinite(rul_W)
            told[PERSISTENCE][:, v] = life_less_age(labels, part.train_W, part.held_W, v)
            told[CONSTANT][:, v] = rul_W[known_W].mean()
            forest = ExtraTreesRegressor(
                trees, min_samples_leaf=3, max_features=0.3, random_state=seed
            )
            told[EXTRA_TREES][:, v] = forest.fit(x_WL[known_W], rul_W[known_W]).predict(asked_WL)
        for name, rul_WV in told.items():
            if not np.isfinite(rul_WV).any():
                continue
            found[name] = replace(
                found.get(name) or _nothing(windows, len(part.held_W)), rul_WV=rul_WV
            )
    return found


def life_less_age(
    labels: WindowLabels, train_W: Integers, asked_W: Integers, component: int
) -> Floats:
    """Tell remaining life by the calendar: mean life of the training runs less the age, at least 0, at most the largest label.

    Life and age are counted from the end of the run's first window, see `train.evaluation.scores.life_runs`: a component that was replaced
    is new again. The last training window of a run says when it fails; a run that is still at the cap there says nothing.

    Args:
        labels: of all windows.
        train_W: positions of the windows whose remaining life may be used.
        asked_W: positions of the windows that are asked about.
        component: that fails.

    Returns:
        Operating hours, NaN where the window is in no run to failure; NaN throughout where no training run says when it fails.
    """
    rul_W, start_us_W = labels.rul_WV[:, component], labels.start_us_W
    told_W = np.full(len(rul_W), np.nan, np.float32)
    is_seen_W = np.zeros(len(rul_W), np.bool_)
    is_seen_W[train_W] = True
    runs = life_runs(labels.machine_W, start_us_W, rul_W)
    if not runs:
        return told_W[asked_W]
    cap_h = np.nanmax(rul_W)
    lives: list[float] = []
    for run in runs:
        seen = run[is_seen_W[run]]
        if len(seen) and rul_W[seen[-1]] < cap_h:
            lives.append(
                (start_us_W[seen[-1]] - start_us_W[run[0]]) / HOUR_US + float(rul_W[seen[-1]])
            )
    if lives:
        for run in runs:
            age_h = (start_us_W[run] - start_us_W[run[0]]) / HOUR_US
            told_W[run] = np.clip(np.mean(lives) - age_h, 0.0, cap_h)
    return told_W[asked_W]


def _nothing(windows: Windows, count: int) -> BaselinePrediction:
    components = windows.equipment.components
    shape = (count, len(components), max(1, *(len(component.grades) for component in components)))
    return BaselinePrediction(
        np.full(shape, np.nan, np.float32), np.full(shape[:2], np.nan, np.float32)
    )


def _known(grade_W: Integers) -> Integers:
    return grade_W[grade_W >= 0]


def _sample(train_W: Integers, seed: int) -> Integers:
    if len(train_W) <= MOST_TRAINING:
        return train_W
    return np.sort(np.random.default_rng(seed).choice(train_W, MOST_TRAINING, replace=False))


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


def _table(seen_WSTF: Floats, asked_WSTF: Floats) -> tuple[Floats, Floats]:
    """Lay both out as rows; what is missing takes the mean of the seen windows, 0 where they have none."""
    rows: Iterable[Floats] = (
        seen_WSTF.reshape(len(seen_WSTF), -1),
        asked_WSTF.reshape(len(asked_WSTF), -1),
    )
    seen_WL, asked_WL = (np.where(np.isfinite(each), each, np.nan) for each in rows)
    count_L = np.maximum(np.isfinite(seen_WL).sum(0), 1)
    mean_L = (np.nan_to_num(seen_WL).sum(0) / count_L).astype(np.float32)
    return np.where(np.isnan(seen_WL), mean_L, seen_WL), np.where(
        np.isnan(asked_WL), mean_L, asked_WL
    )
