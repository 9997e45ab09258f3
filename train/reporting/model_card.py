"""A checkpoint's short card for people who decide whether to use it (Mitchell et al., "Model cards for model reporting", 2019).

Invariant: it says nothing that `metrics.json` does not hold.
"""

from train.evaluation.record import THIS, Evaluation, Metrics
from train.reporting.verdict import FIVE, failures, headline


def model_card(metrics: Metrics) -> str:
    """Return the manifest as Markdown."""
    evaluation, heading = metrics.evaluation, metrics.heading
    told = headline(evaluation)
    components = ", ".join(evaluation.certainty) or "none"
    lines = [
        f"# Model card: {evaluation.design}"
        + ("" if heading is None else f", checkpoint {heading.version}"),
        "",
        told.sentence,
        "",
        "## Intended use",
        "",
        (
            f"Tells condition and health of machines of design `{evaluation.design}` from windows of their sensors' readings, for maintenance "
            f"engineers who then look at the machine. Components with labels in training: {components}. It was not made for machines of "
            "other designs, for other conditions than those of its grades, or to stop a machine by itself."
        ),
        "",
        "## Data and split",
        "",
        f"- {evaluation.windows} labelled windows in {evaluation.groups} groups; {evaluation.warm_up_windows} of a warm-up are scored apart",
    ]
    if heading is not None:
        lines.append(f"- readings from {heading.start.isoformat()} to {heading.end.isoformat()}")
    lines += [
        f"- split `{evaluation.split}`: "
        + ", ".join(f"{name} {size.train} / {size.held}" for name, size in evaluation.parts.items())
        + (
            " windows that baselines saw / scored"
            if evaluation.seen
            else " windows seen / held out"
        ),
        "",
        "## Figures beside baselines"
        + (", which did not see these windows" if evaluation.seen else ""),
        "",
        *_grades(evaluation),
        *_life(evaluation),
        *_intervals(evaluation),
    ]
    for split, study in metrics.studies.items():
        lines += [f"Split `{split}`:", "", *_grades(study), *_life(study)]
    lines += ["## Limits", "", *(f"- {line}" for line in failures(evaluation, metrics.studies))]
    lines += [*(f"- {note}" for note in evaluation.notes), ""]
    if heading is not None:
        lines += [
            "## Made again by",
            "",
            "```",
            heading.command,
            "```",
            "",
            f"Git revision `{heading.git_revision}`"
            + ("" if heading.weights is None else f"; {heading.weights} weights")
            + ("" if heading.shape is None else f" ({heading.shape})")
            + ("." if heading.training_s is None else f"; {heading.training_s / 60:.1f} minutes."),
            "",
        ]
    return "\n".join(lines)


def _grades(evaluation: Evaluation) -> list[str]:
    graded = list(evaluation.grades)
    rows = [
        f"| {name} | "
        + " | ".join(
            f"{each.grades[c].mean_macro_f1:.3f}" if c in each.grades else "-" for c in graded
        )
        + f" | {'-' if each.exact_match is None else f'{each.exact_match.mean:.3f}'} |"
        for name, each in evaluation.scorecards.items()
        if each.grades
    ]
    if not rows:
        return []
    head = ["macro-F1, one window, mean of the parts", *graded, "exact match"]
    near = [
        "-"
        if (found := evaluation.answered.get(c)) is None or found.score is None
        else f"{found.score.macro_f1:.3f}, {found.score.within_one:.3f} of {found.share:.1%}"
        for c in graded
    ]
    told = (
        f"| answered, pooled: macro-F1, within one grade, of the windows | {' | '.join(near)} | - |"
    )
    table = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows, told, ""]
    smoothed = evaluation.scorecards[THIS].exact_match_smoothed
    return (
        table
        if smoothed is None
        else [*table, f"Exact match from five windows: {smoothed.mean:.3f}; {FIVE}.", ""]
    )


def _life(evaluation: Evaluation) -> list[str]:
    rows = [
        f"| {name} | {component} | {life.mean_rmse_h:.2f} | {life.pooled.phm08:.0f} | "
        f"{'-' if life.pooled.sign_right is None else f'{life.pooled.sign_right:.1%}'} |"
        for name, each in evaluation.scorecards.items()
        for component, life in each.life.items()
    ]
    if not rows:
        return []
    head = [
        "hours left",
        "component",
        "RMSE, mean of the parts",
        "PHM08",
        "rate's sign right in the last half of life",
    ]
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows, ""]


def _intervals(evaluation: Evaluation) -> list[str]:
    rows = [
        f"| {component} | {quantity} | {found.coverage:.1%} | {found.width:.3g} |"
        for component, each in evaluation.certainty.items()
        for quantity, found in (("health", each.health), ("hours left", each.rul))
        if found is not None
    ]
    error = evaluation.scorecards[THIS].health_mae
    lines = (
        [
            "| intervals that state 90 % | of | truth inside | mean width |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
        if rows
        else []
    )
    if error:
        told = ", ".join(f"{component} {value:.3f}" for component, value in error.items())
        lines += [f"Mean absolute error of health: {told}.", ""]
    return lines
