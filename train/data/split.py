"""Parts labelled windows into those that a fit may see and those that are held out, so that what is held out is not seen in disguise.

Windows of one configuration, and neighbours of one machine, are near-duplicates; a split at random would score what was learned by heart.
Invariant: no window of a part's held-out group, machine, level or time is among the windows that its fit sees, and none that shares a
moment of its machine with one that is held out; but for a split that is asked for as leaky.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from app.core.errors import InputError
from train.config import KINDS
from train.data.labels import Booleans, Integers
from train.data.windows import Windows

LEAKY = "random-leaky"


@dataclass(frozen=True, slots=True)
class Part:
    """One fit's share of the windows: positions, rising, that it sees, and those that it is scored on."""

    name: str
    train_W: Integers
    holdout_W: Integers


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How windows are parted.

    Args:
        kind: one of `KINDS`.
        folds: parts of a split by group or machine.
        holdout_share: share of each machine's time that a split by time holds out.
        warm_up_windows: windows of a configuration's warm-up that a fit sees at most.
        seed: of every draw.
    """

    kind: str = "group"
    folds: int = 5
    holdout_share: float = 0.2
    warm_up_windows: int = 12
    seed: int = 0


def split(windows: Windows, plan: SplitPlan) -> list[Part]:
    """Part windows.

    - `group`: groups (configurations where windows are graded, else machines) are dealt to folds, see `split_folds`.
    - `machine`: machines are dealt to folds.
    - `time`: the last share of each machine's time is held out; the window before it is in neither part, so none overlaps.
    - `leave-level:C`: each grade of component C is held out in turn.
    - `leave-block:C+D`: each pair of grades of C and D is held out in turn.
    - `random-leaky`: windows are dealt to folds one by one. Neighbours are near-duplicates, so its figures are too good.

    Args:
        windows: labelled windows.
        plan: how.

    Returns:
        The parts. Of a warm-up a fit sees a few windows, see `training_windows`; of windows that overlap one that is held out, none,
        but for `random-leaky`.

    Raises:
        InputError: the kind is not known or refused, a component is not there or has no grades, or there is too little to part.
    """
    kind, _, named = plan.kind.partition(":")
    match kind:
        case "group":
            parts = list(_folds(windows, windows.group_W, plan, "groups"))
        case "machine":
            parts = list(_folds(windows, windows.labels.machine_W, plan, "machines"))
        case "time":
            parts = [_by_time(windows, plan.holdout_share)]
        case "leave-level":
            parts = list(_by_grades(windows, [named]))
        case "leave-block":
            parts = list(_by_grades(windows, named.split("+"), count=2))
        case "random-leaky":
            warnings.warn(
                "a random split leaks: neighbouring windows are near-duplicates, so the held-out figures are too good; use "
                f"one of {KINDS} for figures that hold",
                stacklevel=2,
            )
            parts = list(_folds(windows, np.arange(len(windows)), plan, "windows"))
        case "random":
            raise InputError(
                f"expected a split that keeps near-duplicates together ({KINDS}), found random, which scores what was learned "
                f"by heart: choose one of these, or ask for {LEAKY} by its name",
                "split",
            )
        case _:
            raise InputError(
                f"expected a split of {KINDS}, found '{plan.kind}': choose one of these", "split"
            )
    if kind != LEAKY:
        parts = [
            Part(part.name, not_overlapping(windows, part.train_W, part.holdout_W), part.holdout_W)
            for part in parts
        ]
    return [_with_little_warm_up(part, windows, plan) for part in parts]


def whole(windows: Windows, plan: SplitPlan) -> Part:
    """Return the part that holds out nothing."""
    held_out_W = np.zeros(len(windows), np.bool_)
    return _with_little_warm_up(_part("all", held_out_W, ~held_out_W), windows, plan)


def set_apart(
    windows: Windows, seen_W: Integers, share: float, seed: int
) -> tuple[Integers, Integers]:
    """Take whole groups out of the windows that a fit may see, to watch or to calibrate it.

    Args:
        windows: labelled windows.
        seen_W: positions of those that may be seen.
        share: of the groups that is taken; where it is above 0, at least one and at most half of them.
        seed: of the draw.

    Returns:
        Positions of the rest, without windows that overlap one that was taken, and of what was taken; both rising.

    Raises:
        InputError: there are fewer than two groups, so nothing would be left.
    """
    if share <= 0:
        return np.sort(seen_W), np.empty(0, np.int64)
    numbers = np.unique(windows.group_W[seen_W])
    if len(numbers) < 2:
        raise InputError(
            f"expected at least 2 groups of windows to set a share of {share:g} apart, found {len(numbers)}: import more "
            "configurations or machines, or set none apart",
            "validation_share",
        )
    count = min(max(1, round(share * len(numbers))), len(numbers) - 1)
    # dealt as folds are, so that what is taken has every grade if it can
    fold_W = split_folds(
        windows.labels.grade_WV[seen_W],
        np.searchsorted(numbers, windows.group_W[seen_W]),
        max(2, round(len(numbers) / count)),
        seed,
    )
    taken_W = np.sort(seen_W[fold_W == 0])
    return not_overlapping(windows, np.sort(seen_W[fold_W != 0]), taken_W), taken_W


def not_overlapping(windows: Windows, seen_W: Integers, holdout_W: Integers) -> Integers:
    """Leave out the windows that share a moment with a held-out window of the same machine: the two share bins.

    Windows of a run to failure overlap each other where the stride is shorter than a window, and those of intervals with grades.

    Args:
        windows: labelled windows.
        seen_W: positions of those that may be seen.
        holdout_W: positions of those that must not.

    Returns:
        Those of `seen_W` that overlap none of `holdout_W`, in their order.
    """
    start_us_W, machine_W = windows.labels.start_us_W, windows.labels.machine_W
    window_us = windows.equipment.bins * windows.equipment.grid_us
    is_apart_W = np.ones(len(seen_W), np.bool_)
    for machine in np.unique(machine_W[holdout_W]):
        held_us_W = np.sort(start_us_W[holdout_W[machine_W[holdout_W] == machine]])
        mine_W = machine_W[seen_W] == machine
        seen_us_W = start_us_W[seen_W[mine_W]]
        # the first held-out window that does not end before the seen one begins
        next_W = np.searchsorted(held_us_W, seen_us_W - window_us, side="right")
        next_us_W = np.append(held_us_W, np.iinfo(np.int64).max)[next_W]
        is_apart_W[mine_W] = next_us_W >= seen_us_W + window_us
    return seen_W[is_apart_W]


def split_folds(grade_WV: Integers, configuration_W: Integers, folds: int, seed: int) -> Integers:
    """Deal the configurations to folds so that every grade, and every pair of two components' grades, is spread over the folds.

    Configurations come in an order drawn by the seed; each goes to the fold that so far has the fewest of its grades, its
    pairs of grades and of configurations at all. A fold that lacks a grade could not be scored; one that holds all of a pair
    would ask for what training never showed.

    Args:
        grade_WV: -1 where no grade is known.
        configuration_W: number of each window's configuration, from 0.
        folds: how many folds.
        seed: of the order.

    Returns:
        [W] number of each window's fold.

    Raises:
        ValueError: there are fewer configurations than folds.
    """
    count = int(configuration_W.max(initial=-1)) + 1
    if count < folds:
        raise ValueError(
            f"expected at least {folds} configurations for {folds} folds, found {count}: ask for fewer folds"
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
    held_out_W: Booleans,
    warm_up_W: Booleans,
    configuration_W: Integers,
    warm_up_windows: int,
    seed: int,
) -> Integers:
    """Choose the windows that a fit sees: all that are not held out, but of each configuration's warm-up only a few.

    A warm-up is some hundred windows of one configuration; uncapped, it rules the loss.

    Args:
        held_out_W: true where the window must not be seen.
        warm_up_W: true in a warm-up.
        configuration_W: number of each window's configuration.
        warm_up_windows: how many of a configuration's warm-up are kept, drawn by the seed.
        seed: of the draw.

    Returns:
        Positions of the windows, rising.
    """
    chosen_W = ~held_out_W & ~warm_up_W
    generator = np.random.default_rng(seed)
    for number in np.unique(configuration_W[warm_up_W & ~held_out_W]):
        candidates = np.flatnonzero(warm_up_W & ~held_out_W & (configuration_W == number))
        kept = generator.permutation(candidates)[:warm_up_windows]
        chosen_W[kept] = True
    return np.flatnonzero(chosen_W).astype(np.int64)


def _folds(windows: Windows, group_W: Integers, plan: SplitPlan, what: str) -> Iterator[Part]:
    count = len(np.unique(group_W))
    if count < plan.folds:
        raise InputError(
            f"expected at least {plan.folds} {what} for {plan.folds} folds, found {count}: ask for fewer folds, or split by time",
            "folds",
        )
    fold_W = split_folds(
        windows.labels.grade_WV, np.unique(group_W, return_inverse=True)[1], plan.folds, plan.seed
    )
    for fold in range(plan.folds):
        yield _part(f"fold {fold + 1}/{plan.folds}", fold_W == fold, fold_W != fold)


def _by_time(windows: Windows, holdout_share: float) -> Part:
    holdout_W, seen_W = np.zeros(len(windows), np.bool_), np.zeros(len(windows), np.bool_)
    start_us_W, window_us = (
        windows.labels.start_us_W,
        windows.equipment.bins * windows.equipment.grid_us,
    )
    for machine in np.unique(windows.labels.machine_W):
        mine_W = windows.labels.machine_W == machine
        first_us, end_us = int(start_us_W[mine_W].min()), int(start_us_W[mine_W].max()) + window_us
        late_W = mine_W & (start_us_W >= end_us - round(holdout_share * (end_us - first_us)))
        if late_W.any():
            holdout_W |= late_W
            # a window's length lies between the end of what is seen and the start of what is held out
            seen_W |= mine_W & (start_us_W + 2 * window_us <= start_us_W[late_W].min())
        else:
            seen_W |= mine_W
    if not holdout_W.any() or not seen_W.any():
        raise InputError(
            f"expected windows before and after a gap of one window of {windows.equipment.window_s:g} s, found {int(seen_W.sum())} "
            f"before and {int(holdout_W.sum())} after it: change holdout_share, or import a longer history",
            "holdout_share",
        )
    return _part("time", holdout_W, seen_W)


def _by_grades(windows: Windows, names: Sequence[str], count: int = 1) -> Iterator[Part]:
    """Hold out each combination of grades that the named components have; a window without these grades is in no part."""
    graded = {
        each.component_id: place
        for place, each in enumerate(windows.equipment.components)
        if each.grades
    }
    if len(set(names)) != count or not set(names) <= graded.keys():
        raise InputError(
            f"expected {'two components with grades joined by +' if count == 2 else 'a component with grades'} of "
            f"{', '.join(graded) or 'none'}, found '{'+'.join(names)}': correct the split",
            "split",
        )
    grade_WG = windows.labels.grade_WV[:, [graded[name] for name in names]]
    known_W = (grade_WG >= 0).all(axis=1)
    levels = np.unique(grade_WG[known_W], axis=0)
    if len(levels) < 2:
        raise InputError(
            f"expected at least 2 grades of '{'+'.join(names)}' in the labels, found {len(levels)}: label more",
            "split",
        )
    for level_G in levels:
        holdout_W = (grade_WG == level_G).all(axis=1)
        said = [
            f"{name}={windows.equipment.components[graded[name]].grades[grade].name}"
            for name, grade in zip(names, level_G.tolist(), strict=True)
        ]
        yield _part("+".join(said), holdout_W, known_W & ~holdout_W)


def _part(name: str, held_out_W: Booleans, seen_W: Booleans) -> Part:
    return Part(
        name, np.flatnonzero(seen_W).astype(np.int64), np.flatnonzero(held_out_W).astype(np.int64)
    )


def _with_little_warm_up(part: Part, windows: Windows, plan: SplitPlan) -> Part:
    unseen_W = np.ones(len(windows), np.bool_)
    unseen_W[part.train_W] = False
    seen_W = training_windows(
        unseen_W, windows.warm_up_W, windows.configuration_W, plan.warm_up_windows, plan.seed
    )
    return Part(part.name, seen_W, part.holdout_W)
