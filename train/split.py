"""Splits windows by configuration, never at random: windows of one configuration are near-duplicates.

Invariant: all windows of one configuration are in one fold.
"""

from itertools import combinations

import numpy as np

from train.labels import Booleans, Integers


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
    first_C = np.array([np.flatnonzero(configuration_W == number)[0] for number in range(count)])
    fold_C = np.zeros(count, np.int64)
    sizes = [0] * folds
    seen: list[dict[tuple[tuple[int, int], ...], int]] = [{} for _ in range(folds)]
    for number in np.random.default_rng(seed).permutation(count).tolist():
        grades = [
            (component, grade) for component, grade in enumerate(grade_WV[first_C[number]].tolist()) if grade >= 0
        ]
        traits = [*((grade,) for grade in grades), *combinations(grades, 2)]
        loads = [4 * sizes[fold] + 3 * sum(seen[fold].get(trait, 0) for trait in traits) for fold in range(folds)]
        fold = int(np.argmin(loads))
        fold_C[number] = fold
        sizes[fold] += 1
        for trait in traits:
            seen[fold][trait] = seen[fold].get(trait, 0) + 1
    return fold_C[configuration_W]


def training_windows(
    held_out_W: Booleans, warm_up_W: Booleans, configuration_W: Integers, warm_up_windows: int, seed: int
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
