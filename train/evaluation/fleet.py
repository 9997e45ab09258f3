"""Evaluate the fits of a training on several designs: each design, and figures over all of them.

Invariant: the evaluation of a single design is that of `evaluate_parts`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from app.checkpoint.calibration import Calibration, ComponentCalibration
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.split import choose_split
from train.evaluation.evaluate import evaluate_parts, held_out_residuals
from train.evaluation.holdout import HoldoutPart
from train.evaluation.intervals import COVERAGE, Residuals, pooled_calibration
from train.evaluation.record import (
    Evaluation,
    FleetFigures,
    Heading,
    LearningPoint,
    Metrics,
    PooledFigures,
    Scorecard,
)

UNSEEN = (
    "No fit of this split was trained on this design: its grades are not predicted, its sensors "
    "are scaled by their ranges, and the service would abstain."
)


class DesignParts(NamedTuple):
    """Held-out predictions of a design in all parts of a split, with and without messages."""

    parts: Sequence[HoldoutPart]
    without_messages: Sequence[HoldoutPart] | None = None


class FleetEvaluation(NamedTuple):
    """Evaluations of the designs that have held-out windows, and the calibration of all designs."""

    designs: Mapping[str, Evaluation]
    calibration: Calibration


def evaluate_fleet(
    fleet: Fleet,
    designs: Sequence[DesignParts],
    config: TrainConfig,
    *,
    split: str | None = None,
    learning: Mapping[str, Sequence[LearningPoint]] | None = None,
    temperatures: Mapping[str, Mapping[str, float]] | None = None,
) -> FleetEvaluation:
    """Evaluate each design that has held-out windows; see `evaluate_parts`.

    A component with too few windows for a quantile of its own gets the reach of the intervals of
    the other designs, and so does a design without held-out windows.

    Args:
        fleet: all windows.
        designs: predictions for the held-out windows of each design.
        config: of the training.
        split: name of the split; None for that of the settings.
        learning: epochs of each fit by its name; shown with the first design.
        temperatures: by design and component id, of the training's own split; None to fit them.

    Raises:
        ValueError: no design has held-out windows.
    """
    held_out = [any(len(part.holdout_W) for part in found.parts) for found in designs]
    if not any(held_out):
        raise ValueError("expected parts that hold out windows, found none: use another split")
    residuals = [
        held_out_residuals(windows, _holding(found.parts), config)
        if has_any and len(designs) > 1
        else Residuals()
        for windows, found, has_any in zip(fleet.designs, designs, held_out, strict=True)
    ]
    evaluations: dict[str, Evaluation] = {}
    components: dict[str, Mapping[str, ComponentCalibration]] = {}
    for number, (windows, found) in enumerate(zip(fleet.designs, designs, strict=True)):
        design = windows.equipment.design
        elsewhere = Residuals.joined([*residuals[:number], *residuals[number + 1 :]])
        if not held_out[number]:
            components[design] = pooled_calibration(windows, elsewhere, config.cap_h(design))
            continue
        parts, without = _holding(found.parts), found.without_messages
        evaluation = evaluate_parts(
            windows,
            parts,
            config,
            split=split or choose_split(windows, config)[0].split,
            without_messages=None if without is None else _holding(without),
            learning=None if evaluations else learning,
            cap_h=config.cap_h(design),
            elsewhere=elsewhere,
            temperatures=None if temperatures is None else temperatures.get(design, {}),
        )
        if not any(len(part.train_W) for part in parts):
            evaluation = evaluation.model_copy(update={"notes": (UNSEEN, *evaluation.notes)})
        evaluations[design] = evaluation
        components |= evaluation.calibration.components
    return FleetEvaluation(evaluations, Calibration(coverage=COVERAGE, components=components))


def metrics_of(
    heading: Heading | None, designs: Mapping[str, Evaluation], studies: Mapping[str, Evaluation]
) -> Metrics:
    """Return the content of `metrics.json`.

    Args:
        heading: of the run.
        designs: evaluations by design, at least one.
        studies: evaluations of other splits by name.
    """
    (_, first), *others = designs.items()
    return Metrics(
        heading=heading,
        evaluation=first,
        studies=studies,
        further=dict(others),
        fleet=fleet_figures(designs),
    )


def fleet_figures(evaluations: Mapping[str, Evaluation]) -> FleetFigures | None:
    """Return the figures over several designs; None for a single one."""
    if len(evaluations) < 2:
        return None
    designs = {
        design: {name: _figures(evaluation, card) for name, card in evaluation.scorecards.items()}
        for design, evaluation in evaluations.items()
    }
    names = dict.fromkeys(name for found in designs.values() for name in found)
    by_model = {
        name: [found[name] for found in designs.values() if name in found] for name in names
    }
    return FleetFigures(
        designs=designs,
        mean={name: _averaged(found, [1] * len(found)) for name, found in by_model.items()},
        pooled={
            name: _averaged(found, [each.windows for each in found])
            for name, found in by_model.items()
        },
    )


def _holding(parts: Sequence[HoldoutPart]) -> list[HoldoutPart]:
    """Return the parts that hold out windows of the design, or all of them if none does."""
    return [part for part in parts if len(part.holdout_W)] or list(parts)


def _figures(evaluation: Evaluation, card: Scorecard) -> PooledFigures:
    grades, lives = [*card.grades.values()], [*card.life.values()]
    match = card.exact_match
    return PooledFigures(
        macro_f1=_mean([each.pooled.macro_f1 for each in grades]),
        exact_match=None if match is None else match.pooled,
        health_mae=_mean([*card.health_mae.values()]),
        rul_rmse_h=_root_mean([each.pooled.rmse_h for each in lives]),
        windows=evaluation.windows - evaluation.warm_up_windows,
    )


def _averaged(found: Sequence[PooledFigures], weights: Sequence[int]) -> PooledFigures:
    def average(name: str) -> float | None:
        pairs = [
            (value, weight)
            for each, weight in zip(found, weights, strict=True)
            if (value := getattr(each, name)) is not None and weight
        ]
        if not pairs:
            return None
        values, weights_D = map(np.array, zip(*pairs, strict=True))
        if name == "rul_rmse_h":
            return float(np.sqrt(np.average(values**2, weights=weights_D)))
        return float(np.average(values, weights=weights_D))

    names: Iterator[str] = (each for each in PooledFigures.model_fields if each != "windows")
    return PooledFigures(
        **{name: average(name) for name in names}, windows=sum(each.windows for each in found)
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _root_mean(values: Sequence[float]) -> float | None:
    return float(np.sqrt(np.mean(np.square(values)))) if values else None
