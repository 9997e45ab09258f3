"""What a reader wants to know first, in words: is it better than the classical baseline, and where does it fail.

Pure. Invariant: every sentence states the figures that it rests on.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from train.evaluation.record import ALONE, NO_MESSAGES, THIS, TOGETHER, Evaluation, Scorecard

COVERED = (0.88, 0.92)
"""What intervals that state 90 % must cover."""
OWN = (THIS, ALONE, NO_MESSAGES)
SEEN = "These windows may have been in the training of this checkpoint: nothing here is held out, and no comparison with baselines is claimed."
"""What is said first of an evaluation that is `seen`."""
FIVE = "the labels say where the five start anew; the service itself does not smooth"


class Tile(NamedTuple):
    """One large number, what it is, and what it is to be compared with."""

    name: str
    value: str
    note: str


class Headline(NamedTuple):
    """The verdict in one sentence, and the numbers under it."""

    sentence: str
    tiles: tuple[Tile, ...]


def headline(evaluation: Evaluation) -> Headline:
    """Compare the checkpoint with the best of its classical baselines, unless its windows may have been in training."""
    tiles: list[Tile] = []
    sentences: list[str] = []
    this = evaluation.scorecards[THIS]
    if this.exact_match is not None:
        rival, best = _best(evaluation, _match)
        note = "no rival" if best is None else f"{rival}: {best:.1%}"
        tiles.append(Tile("all components right, one window", f"{this.exact_match.mean:.1%}", note))
        if this.exact_match_smoothed is not None:
            rival, smoothed = _best(evaluation, _smoothed_match)
            note = "no rival" if smoothed is None else f"{rival}: {smoothed:.1%}"
            tiles.append(
                Tile(
                    "from five windows", f"{this.exact_match_smoothed.mean:.1%}", f"{note}; {FIVE}"
                )
            )
        if best is not None:
            sentences.append(
                _than("all graded components right in", this.exact_match.mean, best, rival)
            )
    for component, life in this.life.items():
        rival, best = _best(evaluation, _error_of(component))
        note = "no rival" if best is None else f"{rival}: {-best:.1f} h"
        tiles.append(Tile(f"error of hours left, {component}", f"{life.mean_rmse_h:.1f} h", note))
        if best is not None:
            change = "smaller" if life.mean_rmse_h < -best else "larger"
            sentences.append(
                f"hours left of {component} with a root mean square error of {life.mean_rmse_h:.1f} h, {change} than that of the best "
                f"classical baseline ({rival}, {-best:.1f} h)"
            )
    coverages = [
        each.coverage
        for found in evaluation.certainty.values()
        for each in (found.health, found.rul)
        if each
    ]
    if coverages:
        note = "truth inside intervals that state 90 %"
        tiles.append(
            Tile(
                "coverage, lowest to highest", f"{min(coverages):.0%} to {max(coverages):.0%}", note
            )
        )
    if evaluation.robustness is not None:
        cost = evaluation.robustness.troubles["missing"].cost
        unit = (
            f"{100 * cost:.1f} points"
            if evaluation.robustness.measure == "exact match"
            else f"{cost:.1f} h"
        )
        tiles.append(
            Tile(
                "cost of one missing sensor",
                unit,
                f"mean over the sensors, {evaluation.robustness.measure}",
            )
        )
    if evaluation.seen:
        return Headline(SEEN, tuple(tiles))
    told = "; ".join(sentences) or "no classical baseline was fitted to compare with"
    return Headline(f"On held-out windows: {told}.", tuple(tiles))


def failures(evaluation: Evaluation, studies: Mapping[str, Evaluation]) -> tuple[str, ...]:
    """Say where the checkpoint is weakest, worst first within each kind."""
    found: list[str] = []
    this = evaluation.scorecards[THIS]
    if this.grades:
        component, figures = min(this.grades.items(), key=lambda item: item[1].mean_macro_f1)
        found.append(
            f"Weakest component: {component}, macro-F1 {figures.mean_macro_f1:.3f}{_confused(evaluation, component)}."
        )
        part, score = min(figures.parts.items(), key=lambda item: item[1].macro_f1)
        if len(figures.parts) > 1:
            found.append(f"Its weakest part is {part}: {score.macro_f1:.3f}.")
    for component in this.grades:
        rival, best = _best(evaluation, _f1_of(component))
        own = this.grades[component].mean_macro_f1
        if best is not None and own < best - 0.0005:
            found.append(f"{component}: {rival} is better, {best:.3f} against {own:.3f}.")
    for component, certainty in evaluation.certainty.items():
        for quantity, interval in (("health", certainty.health), ("hours left", certainty.rul)):
            if interval is not None and not COVERED[0] <= interval.coverage <= COVERED[1]:
                found.append(
                    f"Intervals of {component}'s {quantity} cover {interval.coverage:.1%} where they state 90 %."
                )
    found += [
        f"With sensors away the risk of {name} rises to {each.worst_ratio:.2f} times that with all of them."
        for name, each in evaluation.abstention.items()
        if not each.holds
        and each.worst_ratio is not None
        and (name == TOGETHER or each.least_confidence is None)
    ]
    if evaluation.robustness is not None:
        trouble, figures_of = max(
            evaluation.robustness.troubles.items(), key=lambda item: item[1].cost
        )
        cost = (
            f"{100 * figures_of.cost:.1f} points"
            if evaluation.robustness.measure == "exact match"
            else f"{figures_of.cost:.1f} h"
        )
        found.append(
            f"One {trouble} sensor costs {cost} of {evaluation.robustness.measure} on average, most with {figures_of.worst_sensor}."
        )
    for split, study in studies.items():
        grades = study.scorecards[THIS].grades
        if grades:
            component, figures = min(grades.items(), key=lambda item: item[1].pooled.macro_f1)
            rival, best = _best(study, _pooled_f1_of(component))
            beside = "" if best is None else f" ({rival}: {best:.3f})"
            found.append(
                f"{split}: {component} falls to macro-F1 {figures.pooled.macro_f1:.3f}{beside}."
            )
    return tuple(found) or ("Nothing that was measured is below its mark.",)


def _best(
    evaluation: Evaluation, figure: Callable[[Scorecard], float | None]
) -> tuple[str, float | None]:
    """Return the classical rival with the highest figure; none where the windows may have been in training."""
    if evaluation.seen:
        return "", None
    told = {
        name: value
        for name, each in evaluation.scorecards.items()
        if name not in OWN and (value := figure(each)) is not None
    }
    if not told:
        return "", None
    name = max(told, key=lambda each: told[each])
    return name, told[name]


def _match(scorecard: Scorecard) -> float | None:
    return None if scorecard.exact_match is None else scorecard.exact_match.mean


def _smoothed_match(scorecard: Scorecard) -> float | None:
    return None if scorecard.exact_match_smoothed is None else scorecard.exact_match_smoothed.mean


def _f1_of(component: str) -> Callable[[Scorecard], float | None]:
    return lambda each: each.grades[component].mean_macro_f1 if component in each.grades else None


def _pooled_f1_of(component: str) -> Callable[[Scorecard], float | None]:
    return lambda each: each.grades[component].pooled.macro_f1 if component in each.grades else None


def _error_of(component: str) -> Callable[[Scorecard], float | None]:
    return lambda each: -each.life[component].mean_rmse_h if component in each.life else None


def _than(what: str, own: float, best: float, rival: str) -> str:
    points = 100 * (own - best)
    change = f"{abs(points):.1f} points {'more' if points > 0 else 'fewer'} than"
    return (
        f"{what} {own:.1%} of windows, {change} the best classical baseline ({rival}, {best:.1%})"
    )


def _confused(evaluation: Evaluation, component: str) -> str:
    count_KK = np.array(evaluation.scorecards[THIS].grades[component].confusion)
    wrong_KK = count_KK * (1 - np.eye(len(count_KK), dtype=np.int64))
    if not wrong_KK.any():
        return ""
    true, told = np.unravel_index(int(wrong_KK.argmax()), wrong_KK.shape)
    names = evaluation.grades[component]
    return f"; most often {names[true]} is taken for {names[told]}, {wrong_KK[true, told]} of {count_KK[true].sum()} windows"
