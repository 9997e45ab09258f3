"""Figures of a training as `metrics.json` and as a page to read, `report.md`.

Invariant: both say the same, and every figure is of windows whose configuration was held out.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from app.feature_spec import Limits
from train.config import TrainConfig
from train.evaluate import Calibration, ComponentScores


class Metrics(BaseModel):
    """`metrics.json`. Scores are by component; `network_alone` without the second opinion; `baselines` by name, then component."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: int
    warm_up_windows: int
    configurations: int
    folds: int
    weights: int
    training_s: float
    scores: Mapping[str, ComponentScores]
    network_alone: Mapping[str, ComponentScores]
    baselines: Mapping[str, Mapping[str, ComponentScores]]
    calibration: Mapping[str, Calibration]
    limits: Limits


class Heading(BaseModel):
    """What the report says of the run itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    command: str
    git_revision: str
    created: datetime
    start: datetime
    end: datetime


def write_report(heading: Heading, metrics: Metrics, config: TrainConfig) -> str:
    """Return the report as Markdown.

    Args:
        heading: of the run.
        metrics: its figures.
        config: its hyper-parameters.
    """
    written = (
        f"- written {heading.created:%Y-%m-%d %H:%M} UTC from git revision `{heading.git_revision}`, seed {config.seed}, "
        f"{config.workers} workers, in {timedelta(seconds=round(metrics.training_s))}"
    )
    data = (
        f"- readings and labels from {heading.start.isoformat()} to {heading.end.isoformat()}: {metrics.windows} windows in "
        f"{metrics.configurations} configurations, of which {metrics.warm_up_windows} are of a warm-up"
    )
    size = (
        f"- {metrics.weights} weights: hidden {config.hidden}, {config.attention_layers} attention layers, "
        f"{config.members} member{'s' if config.members > 1 else ''}; second opinion with weight {config.opinion_weight:g}"
    )
    method = (
        f"Every figure is of held-out windows: {metrics.folds} folds by configuration (all grades together), one window alone, "
        f"no smoothing. A fit sees at most {config.warm_up_windows} windows of a configuration's warm-up; warm-ups are scored "
        "apart. Baselines are linear discriminants on the same folds and statistics, each on the sensors whose evidence can "
        "reach its component; the second opinion is one of the normalised step statistics, inside the checkpoint."
    )
    lines = [
        f"# Checkpoint {heading.version}: {config.equipment}",
        "",
        "Made again by:",
        "",
        "```",
        heading.command,
        "```",
        "",
    ]
    lines += [written, data, size, "", method, "", "## Macro-F1", ""]
    lines += [
        "| component | this checkpoint | its network alone | "
        + " | ".join(f"discriminant, {name}" for name in metrics.baselines)
        + " |",
        "|---|---|---" + "|---" * len(metrics.baselines) + "|",
    ]
    for component, scores in metrics.scores.items():
        others = [f"{baseline[component].pooled.macro_f1:.3f}" for baseline in metrics.baselines.values()]
        alone = metrics.network_alone[component].pooled.macro_f1
        lines.append(f"| {component} | {scores.pooled.macro_f1:.3f} | {alone:.3f} | " + " | ".join(others) + " |")
    folds = range(1, metrics.folds + 1)
    lines += ["", "## Every fold", "", "Macro-F1 (accuracy).", ""]
    lines += [
        "| component | model | " + " | ".join(f"fold {fold}" for fold in folds) + " | pooled | warm-up accuracy |"
    ]
    lines += ["|---|---" + "|---" * (metrics.folds + 2) + "|"]
    for component, scores in metrics.scores.items():
        lines.append(_row(component, "this checkpoint", scores))
        lines.append(_row("", "its network alone", metrics.network_alone[component]))
        lines += [
            _row("", f"discriminant, {name}", baseline[component]) for name, baseline in metrics.baselines.items()
        ]
    lines += [
        "",
        "## Stated probabilities",
        "",
        "The interval states 90 %. The temperatures that check a fold come from the other folds.",
        "",
        "| component | temperature of the network | of the second opinion | true health in the interval | mean width | log-loss before | after |",
        "|---|---|---|---|---|---|---|",
    ]
    for component, found in metrics.calibration.items():
        lines.append(
            f"| {component} | {found.temperature:.2f} | {found.opinion_temperature:.2f} | {found.interval_coverage:.1%} | {found.interval_width:.2f} | "
            f"{found.nll_plain:.3f} | {found.nll_calibrated:.3f} |"
        )
    limit = (
        f"Of held-out windows without warm-ups 99.9 % leave the range of the training windows by at most "
        f"{metrics.limits.window:.4f} (mean over sensors, steps and statistics of the distance beyond, in spreads, each capped at "
        "1); further out the service abstains."
    )
    lines += ["", "## Range", "", limit]
    return "\n".join(lines) + "\n"


def _row(component: str, model: str, scores: ComponentScores) -> str:
    cells = [f"{score.macro_f1:.3f} ({score.accuracy:.3f})" for score in (*scores.folds, scores.pooled)]
    warm = "-" if scores.warm_up is None else f"{scores.warm_up.accuracy:.3f} of {scores.warm_up.windows}"
    return f"| {component} | {model} | " + " | ".join([*cells, warm]) + " |"
