"""Build the tables of report and model card as text cells, from the figures of an evaluation.

Both documents render the same `Table`, so they cannot disagree. A figure that does not exist is
shown as "-".
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from train.evaluation.record import (
    THIS,
    Evaluation,
    FleetFigures,
    GradeFigures,
    Scorecard,
    ShareFigures,
)
from train.evaluation.scores import Score

MATCH = "exact match"


class Table(NamedTuple):
    """A caption, the column names, and one sequence of cells per row."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def model_scores(evaluation: Evaluation) -> list[Table]:
    """Compare the models by macro-F1 from one and from five windows; show the share answered."""
    graded = list(evaluation.grades)
    cards = {name: card for name, card in evaluation.scorecards.items() if card.grades}
    if not cards:
        return []
    head = ["macro-F1, mean of the folds", *graded, MATCH]
    one = [
        [name, *(_mean_f1(card.grades, c) for c in graded), _mean(card.exact_match)]
        for name, card in cards.items()
    ]
    five = [
        [name, *(_mean_f1(card.smoothed, c) for c in graded), _mean(card.exact_match_smoothed)]
        for name, card in cards.items()
    ]
    return [
        Table("One window", head, one),
        Table("Five windows", head, five),
        *_optional(
            "Answered windows, all sensors present", _pooled_head(evaluation), _answered(evaluation)
        ),
    ]


def fleet_scores(found: FleetFigures) -> list[Table]:
    """Compare the models on each design, on the mean of the designs and on all windows."""
    head = (
        "model",
        "macro-F1, mean of the components",
        MATCH,
        "mean absolute error of health",
        "RMSE of remaining life in hours",
        "windows",
    )
    captions = {
        **{f"Design {design}": each for design, each in found.designs.items()},
        "Mean of the designs": found.mean,
        "All windows": found.pooled,
    }
    return [
        Table(
            caption,
            head,
            [
                [
                    name,
                    _number(each.macro_f1),
                    _number(each.exact_match),
                    _number(each.health_mae, ".4f"),
                    _number(each.rul_rmse_h, ".2f"),
                    str(each.windows),
                ]
                for name, each in models.items()
            ],
        )
        for caption, models in captions.items()
    ]


def fold_scores(evaluation: Evaluation, component: str) -> Table:
    """Show macro-F1 of one component in every fold."""
    rows = []
    for name, card in evaluation.scorecards.items():
        if (grades := card.grades.get(component)) is not None:
            pooled, warm_up = grades.pooled, card.warm_up.get(component)
            folds = (grades.parts.get(fold) for fold in evaluation.parts)
            rows.append(
                [
                    name,
                    *(_number(None if score is None else score.macro_f1) for score in folds),
                    *map(_number, (pooled.macro_f1, pooled.accuracy, pooled.within_one)),
                    _number(None if warm_up is None else warm_up.accuracy),
                ]
            )
    last = ("pooled", "accuracy", "within one grade", "warm-up accuracy")
    return Table(f"{component}: macro-F1", ["model", *evaluation.parts, *last], rows)


def remaining_life(evaluation: Evaluation) -> list[Table]:
    """Show the errors of remaining useful life, in operating hours."""
    rows = [
        [
            name,
            component,
            _number(life.mean_rmse_h, ".2f"),
            _number(life.pooled.rmse_h, ".2f"),
            _number(life.pooled.bias_h, "+.2f"),
            _number(life.pooled.phm08, ".0f"),
            _number(life.pooled.sign_right, ".1%"),
            str(life.pooled.windows),
        ]
        for name, card in evaluation.scorecards.items()
        for component, life in card.life.items()
    ]
    head = ("model", "component", "RMSE, mean of the folds", "RMSE", "mean error", "PHM08")
    more = ("correct sign of the rate in the last half of life", "windows")
    cap = "" if evaluation.cap_h is None else f", capped at {evaluation.cap_h:g}"
    return _optional(f"Remaining useful life in hours{cap}", (*head, *more), rows)


def health(evaluation: Evaluation) -> list[Table]:
    """Show the error of health, the states that follow from it, and contradicted conditions."""
    card = evaluation.scorecards[THIS]
    rows = []
    for component, error in card.health_mae.items():
        state, answered = card.states.get(component), evaluation.answered.get(component)
        contradicting = None if answered is None else answered.contradicting
        rows.append(
            [
                component,
                _number(error, ".4f"),
                *(
                    ("-", "-")
                    if state is None
                    else (f"{state.accuracy:.1%}", f"{state.within_one:.1%}")
                ),
                _number(contradicting, ".2%"),
                _number(card.ranking.get(component)),
            ]
        )
    head = ("component", "mean absolute error", "correct state", "at most one state off")
    more = ("answers with a health nearer to another grade", "worn ranked below healthy (AUROC)")
    return _optional("Health", (*head, *more), rows)


def study_scores(split: str, evaluation: Evaluation) -> Table:
    """Show the pooled scores of all models on another split."""
    rows = [
        [name, *(_pooled_f1(_pooled(card, c)) for c in evaluation.grades), _mean(card.exact_match)]
        for name, card in evaluation.scorecards.items()
        if card.grades
    ]
    return Table(split, _pooled_head(evaluation), [*rows, *_answered(evaluation)])


def intervals(evaluation: Evaluation) -> list[Table]:
    """Show how often the truth lies inside the 90 % prediction intervals."""
    rows = [
        [
            component,
            quantity,
            f"{found.coverage:.1%}",
            f"{min(found.parts.values()):.1%} to {max(found.parts.values()):.1%}",
            f"{found.width:.3g}",
            f"{found.reach:.2f}",
            str(found.windows),
        ]
        for component, each in evaluation.uncertainty.items()
        for quantity, found in (("health", each.health), ("remaining life", each.rul))
        if found is not None
    ]
    head = ("component", "quantity", "coverage", "range over the folds", "mean width")
    return _optional("90 % prediction intervals", (*head, "half-width in spreads", "windows"), rows)


def probabilities(evaluation: Evaluation) -> list[Table]:
    """Show temperatures and the log loss before and after temperature scaling."""
    rows = [
        [
            component,
            _number(each.temperature, ".2f"),
            _number(each.nll_plain),
            _number(each.nll_calibrated),
        ]
        for component, each in evaluation.uncertainty.items()
        if each.temperature is not None and each.nll_plain is not None
    ]
    head = ("component", "temperature", "log loss before scaling", "after")
    return _optional("Probabilities of the grades", head, rows)


def missing_sensors(evaluation: Evaluation) -> list[Table]:
    """Show the risk of the answered windows while sensors are removed."""
    rows = [
        [
            name,
            _number(each.least_confidence),
            _number(each.most_spread),
            f"{each.levels[0].answered:.1%}",
            f"{each.full_risk:.2%}",
            _number(each.worst_ratio, ".2f"),
            "yes" if each.holds else "within chance" if each.holds_beyond_chance else "no",
        ]
        for name, each in evaluation.abstention.items()
    ]
    head = (
        "component",
        "confidence threshold",
        "spread threshold",
        "answered, all sensors",
        "risk, all sensors",
        "worst risk ratio",
        "at most 1.2",
    )
    return _optional("Sensors removed at random, one after the other", head, rows)


def faulty_sensors(evaluation: Evaluation) -> list[Table]:
    """Show what one faulty sensor costs, for every kind of fault and every sensor."""
    found = evaluation.robustness
    if found is None:
        return []
    is_match = found.measure == MATCH
    spec = ".3f" if is_match else ".2f"
    sensors = list(next(iter(found.faults.values())).sensors)
    rows = [
        [
            fault,
            _number(each.mean, spec),
            f"{100 * each.cost:.1f} points" if is_match else f"{each.cost:.2f} h",
            each.worst_sensor,
            *(_number(each.sensors[sensor], spec) for sensor in sensors),
        ]
        for fault, each in found.faults.items()
    ]
    measure = "Exact match" if is_match else "RMSE of remaining life in hours"
    clean = f"{found.clean:{spec}} without a fault, {found.windows} windows"
    head = ("fault of one sensor", "mean", "cost", "worst sensor", *sensors)
    return [Table(f"{measure}; {clean}", head, rows)]


def _optional(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Table]:
    return [Table(caption, head, rows)] if rows else []


def _pooled_head(evaluation: Evaluation) -> list[str]:
    return ["macro-F1 (within one grade), pooled", *evaluation.grades, MATCH]


def _answered(evaluation: Evaluation) -> list[list[str]]:
    """Return the scores of the answered windows, and the share of windows they are."""
    found = [evaluation.answered.get(component) for component in evaluation.grades]
    if not any(found):
        return []
    scores = [_pooled_f1(None if each is None else each.score) for each in found]
    shares = [_number(None if each is None else each.share, ".1%") for each in found]
    return [["answered windows", *scores, "-"], ["share of all windows", *shares, "-"]]


def _number(value: float | None, spec: str = ".3f") -> str:
    return "-" if value is None else format(value, spec)


def _mean(share: ShareFigures | None) -> str:
    return _number(None if share is None else share.mean)


def _mean_f1(figures: Mapping[str, GradeFigures], component: str) -> str:
    found = figures.get(component)
    return _number(None if found is None else found.mean_macro_f1)


def _pooled(scorecard: Scorecard, component: str) -> Score | None:
    figures = scorecard.grades.get(component)
    return None if figures is None else figures.pooled


def _pooled_f1(score: Score | None) -> str:
    return "-" if score is None else f"{score.macro_f1:.3f} ({score.within_one:.3f})"
