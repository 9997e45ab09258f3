"""Summarise an evaluation in sentences: comparison with the best baseline, and weaknesses.

Pure. Invariant: every sentence states the figures behind it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from train.evaluation.record import (
    DEEP,
    NO_MESSAGES,
    THIS,
    TOGETHER,
    WIDE,
    Evaluation,
    Robustness,
    Scorecard,
)

COVERAGE = (0.88, 0.92)
"""Range in which the coverage of 90 % intervals is not reported as a weakness."""
OWN = (THIS, WIDE, DEEP, NO_MESSAGES)
"""Scorecards that are no baselines."""
SEEN = (
    "These windows may have been in the training of this checkpoint: they are not held out, and no "
    "comparison with baselines is made."
)
"""First sentence of an evaluation that is `seen`."""
SMOOTHING = (
    "Figures from five windows average their probabilities and restart where the labels change; "
    "the service itself does not smooth."
)
LEAST_DIFFERENCE = 0.0005
"""Difference of macro-F1 below which a baseline does not count as better."""


class Tile(NamedTuple):
    """One large number, its name, and the figure to compare it with."""

    name: str
    value: str
    note: str


class Headline(NamedTuple):
    """The result in one sentence, and the numbers below it."""

    sentence: str
    tiles: tuple[Tile, ...]


class _Best(NamedTuple):
    """A baseline and its figure."""

    name: str
    value: float


def headline(evaluation: Evaluation) -> Headline:
    """Compare the checkpoint with its best baseline, unless windows may have been in training."""
    tiles: list[Tile] = []
    sentences: list[str] = []
    this = evaluation.scorecards[THIS]
    if this.exact_match is not None:
        own, best = this.exact_match.mean, _best(evaluation, _match)
        tiles.append(_tile("all components correct, one window", f"{own:.1%}", best, ".1%"))
        if best is not None:
            more = "more" if own > best.value else "fewer"
            sentences.append(
                f"all graded components correct in {own:.1%} of windows, "
                f"{100 * abs(own - best.value):.1f} points {more} than the best classical baseline "
                f"({best.name}, {best.value:.1%})"
            )
    if this.exact_match_smoothed is not None:
        best = _best(evaluation, _smoothed_match)
        own = this.exact_match_smoothed.mean
        tiles.append(_tile("all components correct, five windows", f"{own:.1%}", best, ".1%"))
    for component, life in this.life.items():
        own, best = life.mean_rmse_h, _best(evaluation, _life_error(component), smallest=True)
        tiles.append(
            _tile(f"RMSE of remaining life, {component}", f"{own:.1f} h", best, ".1f", " h")
        )
        if best is not None:
            sentences.append(
                f"remaining life of {component} with a root mean square error of {own:.1f} h, "
                f"{'smaller' if own < best.value else 'larger'} than that of the best classical "
                f"baseline ({best.name}, {best.value:.1f} h)"
            )
    coverages = [
        interval.coverage
        for found in evaluation.uncertainty.values()
        for interval in (found.health, found.rul)
        if interval
    ]
    if coverages:
        span = f"{min(coverages):.0%} to {max(coverages):.0%}"
        tiles.append(Tile("coverage of 90 % intervals", span, "lowest to highest"))
    if evaluation.robustness is not None:
        cost = _cost(evaluation.robustness, evaluation.robustness.faults["missing"].cost)
        note = f"mean over the sensors, {evaluation.robustness.measure}"
        tiles.append(Tile("cost of one missing sensor", cost, note))
    if evaluation.seen:
        return Headline(SEEN, tuple(tiles))
    compared = "; ".join(sentences) or "no classical baseline was fitted for comparison"
    return Headline(f"On held-out windows: {compared}.", tuple(tiles))


def contributions(evaluation: Evaluation, studies: Mapping[str, Evaluation]) -> tuple[str, ...]:
    """Say what the graph network adds to the linear skip on each split, one sentence each.

    The figure is macro-F1 of network and skip together less that of the skip alone, pooled over the
    held-out windows; for components without grades the error of their health.
    """
    found = []
    for split, each in ((evaluation.split, evaluation), *studies.items()):
        if WIDE not in each.scorecards:
            continue
        parts = [*_added_f1(each), *_added_health(each)]
        if parts:
            found.append(f"{split}: the graph adds {'; '.join(parts)}.")
    return tuple(found)


def _added_f1(evaluation: Evaluation) -> Iterator[str]:
    both, wide, deep = (evaluation.scorecards[name].grades for name in (THIS, WIDE, DEEP))
    for component, figures in both.items():
        own, skip, network = (
            each.pooled.macro_f1 for each in (figures, wide[component], deep[component])
        )
        yield (
            f"{own - skip:+.3f} of macro-F1 on {component} ({own:.3f}; skip alone {skip:.3f}, "
            f"network alone {network:.3f})"
        )


def _added_health(evaluation: Evaluation) -> Iterator[str]:
    both, wide, deep = (evaluation.scorecards[name] for name in (THIS, WIDE, DEEP))
    for component, own in both.health_mae.items():
        if component not in both.grades:
            skip, network = wide.health_mae[component], deep.health_mae[component]
            yield (
                f"{own - skip:+.4f} of mean absolute error of {component}'s health ({own:.4f}; "
                f"skip alone {skip:.4f}, network alone {network:.4f})"
            )


def weaknesses(evaluation: Evaluation, studies: Mapping[str, Evaluation]) -> tuple[str, ...]:
    """Name the weakest figures of an evaluation and of those on other splits, one sentence each."""
    found = (*_own_weaknesses(evaluation), *_study_weaknesses(studies))
    return found or ("No measured figure is below its threshold.",)


def _own_weaknesses(evaluation: Evaluation) -> Iterator[str]:
    grades = evaluation.scorecards[THIS].grades
    if grades:
        component, figures = min(grades.items(), key=lambda item: item[1].mean_macro_f1)
        yield (
            f"Weakest component: {component}, macro-F1 {figures.mean_macro_f1:.3f}"
            f"{_confused(evaluation, component)}."
        )
        if len(figures.parts) > 1:
            fold, score = min(figures.parts.items(), key=lambda item: item[1].macro_f1)
            yield f"Its weakest fold is {fold}: {score.macro_f1:.3f}."
    for component, figures in grades.items():
        best, own = _best(evaluation, _mean_f1(component)), figures.mean_macro_f1
        if best is not None and own < best.value - LEAST_DIFFERENCE:
            yield f"{component}: {best.name} is better, {best.value:.3f} against {own:.3f}."
    for component, each in evaluation.uncertainty.items():
        for quantity, interval in (("health", each.health), ("remaining life", each.rul)):
            if interval is not None and not COVERAGE[0] <= interval.coverage <= COVERAGE[1]:
                yield f"90 % intervals of {component}'s {quantity} cover {interval.coverage:.1%}."
    for name, level in evaluation.abstention.items():
        is_deciding = name == TOGETHER or level.least_confidence is None
        if not level.holds and level.worst_ratio is not None and is_deciding:
            yield (
                f"With sensors missing, the risk of {name} rises to {level.worst_ratio:.2f} times "
                "the risk with all sensors."
            )
    robustness = evaluation.robustness
    if robustness is not None:
        fault, found = max(robustness.faults.items(), key=lambda item: item[1].cost)
        yield (
            f"One {fault} sensor costs {_cost(robustness, found.cost)} of {robustness.measure} on "
            f"average; the most costly one is {found.worst_sensor}."
        )


def _study_weaknesses(studies: Mapping[str, Evaluation]) -> Iterator[str]:
    for split, study in studies.items():
        grades = study.scorecards[THIS].grades
        if grades:
            component, figures = min(grades.items(), key=lambda item: item[1].pooled.macro_f1)
            best = _best(study, _pooled_f1(component))
            beside = "" if best is None else f" ({best.name}: {best.value:.3f})"
            score = figures.pooled.macro_f1
            yield f"{split}: macro-F1 of {component} falls to {score:.3f}{beside}."


def _best(
    evaluation: Evaluation, figure: Callable[[Scorecard], float | None], *, smallest: bool = False
) -> _Best | None:
    """Return the baseline with the best figure; None if the windows may have been in training."""
    found = [
        _Best(name, value)
        for name, each in evaluation.scorecards.items()
        if name not in OWN and (value := figure(each)) is not None
    ]
    if evaluation.seen or not found:
        return None
    return min(found, key=lambda each: each.value if smallest else -each.value)


def _tile(name: str, value: str, best: _Best | None, spec: str, unit: str = "") -> Tile:
    note = "no baseline" if best is None else f"{best.name}: {best.value:{spec}}{unit}"
    return Tile(name, value, note)


def _cost(robustness: Robustness, cost: float) -> str:
    return f"{100 * cost:.1f} points" if robustness.measure == "exact match" else f"{cost:.1f} h"


def _match(scorecard: Scorecard) -> float | None:
    return None if scorecard.exact_match is None else scorecard.exact_match.mean


def _smoothed_match(scorecard: Scorecard) -> float | None:
    return None if scorecard.exact_match_smoothed is None else scorecard.exact_match_smoothed.mean


def _mean_f1(component: str) -> Callable[[Scorecard], float | None]:
    return lambda each: each.grades[component].mean_macro_f1 if component in each.grades else None


def _pooled_f1(component: str) -> Callable[[Scorecard], float | None]:
    return lambda each: each.grades[component].pooled.macro_f1 if component in each.grades else None


def _life_error(component: str) -> Callable[[Scorecard], float | None]:
    return lambda each: each.life[component].mean_rmse_h if component in each.life else None


def _confused(evaluation: Evaluation, component: str) -> str:
    """Name the most frequent confusion of a component's grades; empty without any."""
    count_KK = np.array(evaluation.scorecards[THIS].grades[component].confusion)
    wrong_KK = count_KK * (1 - np.eye(len(count_KK), dtype=np.int64))
    if not wrong_KK.any():
        return ""
    true, predicted = np.unravel_index(int(wrong_KK.argmax()), wrong_KK.shape)
    names = evaluation.grades[component]
    return (
        f"; most often {names[true]} is predicted as {names[predicted]}, "
        f"{wrong_KK[true, predicted]} of {count_KK[true].sum()} windows"
    )
