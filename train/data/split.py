"""Split labelled windows into training and holdout without leakage.

Windows of one configuration, and neighbours on one machine, are near-duplicates; a random split
would score memorised windows. Invariant, except for the split that is named leaky: no training
window of a part has its group, machine, level or time in the holdout, and none overlaps a holdout
window of its machine.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from app.core.errors import InputError
from train.config import AUTO, KINDS, TrainConfig
from train.data.labels import Booleans, Integers
from train.data.windows import Windows

LEAKY = "random-leaky"


@dataclass(frozen=True, slots=True)
class Part:
    """Windows of one fit: rising positions of its training and its holdout."""

    name: str
    train_W: Integers
    holdout_W: Integers


def split(windows: Windows, config: TrainConfig) -> list[Part]:
    """Split windows into training and holdout.

    - `auto`: `group`, or `time` where there are fewer groups than folds, see `choose_split`.
    - `group`: groups (configurations where windows are graded, else machines) are assigned to
      folds, see `split_folds`.
    - `machine`: machines are assigned to folds.
    - `holdout`: one part, which holds out a share of the groups.
    - `time`: the last share of each machine's history is held out; a gap of one window precedes it.
    - `leave-level:C`: each grade of component C is held out in turn.
    - `leave-block:C+D`: each pair of grades of C and D is held out in turn.
    - `leave-design:D`: only in a training on several designs, see `train.data.fleet_split`.
    - `random-leaky`: windows are assigned to folds one by one. Neighbours are near-duplicates, so
      its figures are too good.

    Args:
        windows: labelled windows.
        config: gives kind, folds, share of the holdout, cap of warm-ups, and seed.

    Returns:
        The parts. Training has a few windows of each warm-up, see `training_windows`, and, except
        for `random-leaky`, none that overlaps the holdout.

    Raises:
        InputError: the kind is unknown or refused, a component is unknown or has no grades, or
            there are too few windows.
    """
    config, _ = choose_split(windows, config)
    kind, _, named = config.split.partition(":")
    match kind:
        case "group":
            parts = list(_folds(windows, windows.group_W, config, "groups"))
        case "machine":
            parts = list(_folds(windows, windows.labels.machine_W, config, "machines"))
        case "holdout":
            parts = [_by_share(windows, config)]
        case "time":
            every_W = np.arange(len(windows))
            parts = [Part("time", *_late(windows, every_W, config.holdout_share, "holdout_share"))]
        case "leave-level":
            parts = list(_by_grades(windows, [named]))
        case "leave-block":
            parts = list(_by_grades(windows, named.split("+"), count=2))
        case "random-leaky":
            warnings.warn(
                "a random split leaks: neighbouring windows are near-duplicates, so the figures "
                f"are too good; use one of {KINDS} for valid figures",
                stacklevel=2,
            )
            parts = list(_folds(windows, np.arange(len(windows)), config, "windows"))
        case "random":
            raise InputError(
                f"expected a split that never divides near-duplicates ({KINDS}), found random, "
                f"which scores memorised windows: choose one of these, or {LEAKY} by its full name",
                "split",
            )
        case _:
            raise InputError(
                f"expected a split of {KINDS}, found '{config.split}': choose one of these", "split"
            )
    if kind != LEAKY:
        parts = [
            Part(part.name, not_overlapping(windows, part.train_W, part.holdout_W), part.holdout_W)
            for part in parts
        ]
    return [_cap_warm_up(part, windows, config) for part in parts]


def choose_split(windows: Windows, config: TrainConfig) -> tuple[TrainConfig, str]:
    """Decide an `auto` split.

    Returns:
        The settings with the decided split, and why it is by time; the reason is empty where the
        settings name the split or there are enough groups.
    """
    if config.split != AUTO:
        return config, ""
    groups = len(np.unique(windows.group_W))
    kind, reason = "group", ""
    if groups < config.folds:
        kind = "time"
        reason = (
            f"Split by time: the last {config.holdout_share:.0%} of each machine's history are "
            f"held out, since {config.folds} folds need as many groups of windows (combinations of "
            f"grades, or machines) and there {'is' if groups == 1 else 'are'} {groups}."
        )
    return config.model_copy(update={"split": kind}), reason


def graded_components(windows: Windows) -> dict[str, int]:
    """Return the positions of the components with grades by id."""
    return {
        each.component_id: place
        for place, each in enumerate(windows.equipment.components)
        if each.grades
    }


def whole(windows: Windows, config: TrainConfig) -> Part:
    """Return the part without a holdout."""
    holdout_W = np.zeros(len(windows), np.bool_)
    return _cap_warm_up(_part("all", holdout_W, ~holdout_W), windows, config)


def set_apart(
    windows: Windows, train_W: Integers, share: float, seed: int
) -> tuple[Integers, Integers]:
    """Divide training windows into training and validation by whole groups, or by time.

    Args:
        windows: labelled windows.
        train_W: positions of the training windows.
        share: share of the groups for validation; above 0 at least one group and at most half of
            them. Of a single group, the last share of each machine's training windows.
        seed: of the draw.

    Returns:
        Rising positions for training, without windows that overlap validation, and for validation.

    Raises:
        InputError: there is one group, whose history is too short.
    """
    if share <= 0:
        return np.sort(train_W), np.empty(0, np.int64)
    numbers = np.unique(windows.group_W[train_W])
    if len(numbers) < 2:
        return _late(windows, np.sort(train_W), share, "validation_share")
    count = min(max(1, round(share * len(numbers))), len(numbers) - 1)
    # assigned as folds are, so that validation has every grade if possible
    fold_W = split_folds(
        windows.labels.grade_WV[train_W],
        np.searchsorted(numbers, windows.group_W[train_W]),
        max(2, round(len(numbers) / count)),
        seed,
    )
    validation_W = np.sort(train_W[fold_W == 0])
    return not_overlapping(windows, np.sort(train_W[fold_W != 0]), validation_W), validation_W


def not_overlapping(windows: Windows, train_W: Integers, holdout_W: Integers) -> Integers:
    """Remove training windows that share bins with a holdout window of the same machine.

    Windows of a run to failure overlap each other where the stride is shorter than a window, and
    may overlap windows of graded intervals.

    Args:
        windows: labelled windows.
        train_W: positions of the training windows.
        holdout_W: positions of the holdout.

    Returns:
        The positions of `train_W` that overlap none of `holdout_W`, in their order.
    """
    start_us_W, machine_W = windows.labels.start_us_W, windows.labels.machine_W
    window_us = windows.equipment.bins * windows.equipment.grid_us
    is_apart_W = np.ones(len(train_W), np.bool_)
    for machine in np.unique(machine_W[holdout_W]):
        holdout_us_W = np.sort(start_us_W[holdout_W[machine_W[holdout_W] == machine]])
        own_W = machine_W[train_W] == machine
        train_us_W = start_us_W[train_W[own_W]]
        # the first holdout window that does not end before the training window begins
        next_W = np.searchsorted(holdout_us_W, train_us_W - window_us, side="right")
        next_us_W = np.append(holdout_us_W, np.iinfo(np.int64).max)[next_W]
        is_apart_W[own_W] = next_us_W >= train_us_W + window_us
    return train_W[is_apart_W]


def split_folds(grade_WV: Integers, configuration_W: Integers, folds: int, seed: int) -> Integers:
    """Assign configurations to folds so that grades and their pairs are spread over the folds.

    In an order drawn by the seed, each configuration joins the fold that so far has the fewest of
    its grades, its pairs of grades and of configurations. A fold that lacks a grade could not be
    scored; a fold with all of a pair would need what its training does not have.

    Args:
        grade_WV: -1 where unknown.
        configuration_W: number of each window's configuration, from 0.
        folds: number of folds.
        seed: of the order.

    Returns:
        [W] number of each window's fold.

    Raises:
        ValueError: there are fewer configurations than folds.
    """
    count = int(configuration_W.max(initial=-1)) + 1
    if count < folds:
        raise ValueError(
            f"expected at least {folds} configurations for {folds} folds, found {count}: use fewer "
            "folds"
        )
    first_C = np.full(count, len(configuration_W), np.int64)
    np.minimum.at(first_C, configuration_W, np.arange(len(configuration_W)))
    fold_C = np.zeros(count, np.int64)
    sizes = [0] * folds
    seen: list[dict[tuple[tuple[int, int], ...], int]] = [{} for _ in range(folds)]
    for number in np.random.default_rng(seed).permutation(count).tolist():
        grades = [
            (component, grade)
            for component, grade in enumerate(grade_WV[first_C[number]].tolist())
            if grade >= 0
        ]
        traits = [*((grade,) for grade in grades), *combinations(grades, 2)]
        loads = [
            4 * sizes[fold] + 3 * sum(seen[fold].get(trait, 0) for trait in traits)
            for fold in range(folds)
        ]
        fold = int(np.argmin(loads))
        fold_C[number] = fold
        sizes[fold] += 1
        for trait in traits:
            seen[fold][trait] = seen[fold].get(trait, 0) + 1
    return fold_C[configuration_W]


def training_windows(
    holdout_W: Booleans,
    warm_up_W: Booleans,
    configuration_W: Integers,
    warm_up_windows: int,
    seed: int,
) -> Integers:
    """Return the training windows: all outside the holdout, with a few of each warm-up.

    A warm-up has some hundred windows of one configuration; without a cap it dominates the loss.

    Args:
        holdout_W: true in the holdout.
        warm_up_W: true in a warm-up.
        configuration_W: number of each window's configuration.
        warm_up_windows: windows to keep of a configuration's warm-up, drawn by the seed.
        seed: of the draw.

    Returns:
        Rising positions of the windows.
    """
    chosen_W = ~holdout_W & ~warm_up_W
    generator = np.random.default_rng(seed)
    for number in np.unique(configuration_W[warm_up_W & ~holdout_W]):
        candidates = np.flatnonzero(warm_up_W & ~holdout_W & (configuration_W == number))
        kept = generator.permutation(candidates)[:warm_up_windows]
        chosen_W[kept] = True
    return np.flatnonzero(chosen_W).astype(np.int64)


def _folds(windows: Windows, group_W: Integers, config: TrainConfig, what: str) -> Iterator[Part]:
    count = len(np.unique(group_W))
    if count < config.folds:
        raise InputError(
            f"expected at least {config.folds} {what} for {config.folds} folds, found {count}: use "
            "fewer folds, or split by time",
            "folds",
        )
    fold_W = split_folds(
        windows.labels.grade_WV,
        np.unique(group_W, return_inverse=True)[1],
        config.folds,
        config.seed,
    )
    for fold in range(config.folds):
        yield _part(f"fold {fold + 1}/{config.folds}", fold_W == fold, fold_W != fold)


def _by_share(windows: Windows, config: TrainConfig) -> Part:
    everything = np.arange(len(windows))
    train_W, holdout_W = set_apart(windows, everything, config.holdout_share, config.seed)
    return Part("holdout", train_W, holdout_W)


def _late(
    windows: Windows, among_W: Integers, share: float, option: str
) -> tuple[Integers, Integers]:
    """Divide windows by time: the last share of each machine's history, and what is before it.

    Args:
        windows: labelled windows.
        among_W: rising positions of those to divide.
        share: of the history.
        option: that states the share, for messages.

    Returns:
        Rising positions of the earlier windows, one window apart from the later, and of the later.

    Raises:
        InputError: one of them has no windows.
    """
    start_us_W, machine_W = windows.labels.start_us_W[among_W], windows.labels.machine_W[among_W]
    window_us = windows.equipment.bins * windows.equipment.grid_us
    late_W, early_W = np.zeros(len(among_W), np.bool_), np.zeros(len(among_W), np.bool_)
    for machine in np.unique(machine_W):
        own_W = machine_W == machine
        first_us, end_us = int(start_us_W[own_W].min()), int(start_us_W[own_W].max()) + window_us
        own_late_W = own_W & (start_us_W >= end_us - round(share * (end_us - first_us)))
        if own_late_W.any():
            late_W |= own_late_W
            # one window of gap between the end of the early and the start of the late windows
            early_W |= own_W & (start_us_W + 2 * window_us <= start_us_W[own_late_W].min())
        else:
            early_W |= own_W
    if not late_W.any() or not early_W.any():
        raise InputError(
            f"expected windows before and after a gap of one window of "
            f"{windows.equipment.window_s:g} s, found {int(early_W.sum())} before and "
            f"{int(late_W.sum())} after it: change {option}, or import a longer history",
            option,
        )
    return among_W[early_W].astype(np.int64), among_W[late_W].astype(np.int64)


def _by_grades(windows: Windows, names: Sequence[str], count: int = 1) -> Iterator[Part]:
    """Hold out each combination of the components' grades; windows without one are in no part."""
    graded = graded_components(windows)
    if len(set(names)) != count or not set(names) <= graded.keys():
        raise InputError(
            f"expected {'a component' if count == 1 else 'two components, joined by +,'} "
            f"with grades of {', '.join(graded) or 'none'}, found '{'+'.join(names)}': correct "
            "the split",
            "split",
        )
    grade_WG = windows.labels.grade_WV[:, [graded[name] for name in names]]
    known_W = (grade_WG >= 0).all(axis=1)
    levels = np.unique(grade_WG[known_W], axis=0)
    if len(levels) < 2:
        raise InputError(
            f"expected at least 2 grades of '{'+'.join(names)}' in the labels, found "
            f"{len(levels)}: label more windows",
            "split",
        )
    for level_G in levels:
        holdout_W = (grade_WG == level_G).all(axis=1)
        level = [
            f"{name}={windows.equipment.components[graded[name]].grades[grade].name}"
            for name, grade in zip(names, level_G.tolist(), strict=True)
        ]
        yield _part("+".join(level), holdout_W, known_W & ~holdout_W)


def _part(name: str, holdout_W: Booleans, train_W: Booleans) -> Part:
    return Part(
        name, np.flatnonzero(train_W).astype(np.int64), np.flatnonzero(holdout_W).astype(np.int64)
    )


def _cap_warm_up(part: Part, windows: Windows, config: TrainConfig) -> Part:
    excluded_W = np.ones(len(windows), np.bool_)
    excluded_W[part.train_W] = False
    train_W = training_windows(
        excluded_W, windows.warm_up_W, windows.configuration_W, config.warm_up_windows, config.seed
    )
    return Part(part.name, train_W, part.holdout_W)
