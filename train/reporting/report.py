"""Write the figures of an evaluation as `metrics.json`, `report.html` and `model_card.md`.

The page and the card are Jinja2 templates in `templates/`. Invariant: all three files hold the same
figures, and page and card begin with a notice where the windows may have been in training.
"""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from app.checkpoint.manifest import METRICS, REPORT
from app.model.config import ModelConfig
from train.config import TrainConfig
from train.evaluation.record import THIS, Evaluation, Metrics
from train.reporting import plots, tables
from train.reporting.verdict import SEEN, SMOOTHING, contributions, headline, weaknesses

MODEL_CARD = "model_card.md"
BASELINES = (
    "Baselines are fitted to the training windows of the same folds, for each component on the "
    "sensors from which a directed path leads to it."
)
FAULTS = (
    "Sensor faults: frozen repeats the first reading of the window; offset adds one standard "
    "deviation of the sensor's readings; noisy adds white noise of one standard deviation. Faults "
    "that the service detects are masked as in service."
)


def write_report(metrics: Metrics, directory: Path) -> None:
    """Write `metrics.json`, `report.html` and `model_card.md` into a directory.

    Args:
        metrics: of a training or an evaluation.
        directory: where the files are written; created if it does not exist.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in documents(metrics).items():
        (directory / name).write_text(text, encoding="utf-8")


def documents(metrics: Metrics) -> dict[str, str]:
    """Return the text of each file of the report by its name; see `write_report`."""
    evaluation, heading = metrics.evaluation, metrics.heading
    environment = Environment(
        loader=PackageLoader("train.reporting"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["minute"] = lambda at: f"{at:%Y-%m-%d %H:%M} UTC"
    content = {
        "THIS": THIS,
        "SMOOTHING": SMOOTHING,
        "plots": plots,
        "build": tables,
        "heading": heading,
        "evaluation": evaluation,
        "studies": metrics.studies,
        "further": metrics.further,
        "designs": ", ".join([evaluation.design, *metrics.further]),
        "fleet": [] if metrics.fleet is None else tables.fleet_scores(metrics.fleet),
        "headline": headline(evaluation),
        "headline_of": headline,
        "contributions": contributions(evaluation, metrics.studies),
        "contributions_of": contributions,
        "weaknesses": weaknesses(evaluation, metrics.studies),
        "weaknesses_of": weaknesses,
        "models": tables.model_scores(evaluation),
        "method": _method(evaluation),
    }
    return {
        METRICS: metrics.model_dump_json(indent=1) + "\n",
        REPORT: environment.get_template("report.html.j2").render(content),
        MODEL_CARD: environment.get_template("model_card.md.j2").render(content),
    }


def network_sizes(config: ModelConfig | TrainConfig) -> str:
    """Return the sizes of a network in words."""
    return (
        f"hidden {config.hidden}, {config.attention_layers} attention layers, "
        f"{config.members} members"
    )


def _method(evaluation: Evaluation) -> list[str]:
    """Say in sentences how the figures were measured."""
    if evaluation.seen:
        held_out = f"{SEEN} Warm-ups are scored separately."
        calibrated = "Temperatures, intervals and thresholds are those of the checkpoint."
    else:
        held_out = (
            "Every figure is of windows that were held out of the scored fit. "
            "Warm-ups are scored separately."
        )
        calibrated = (
            "Temperatures, intervals and thresholds for a fold are calibrated on the other folds."
            if evaluation.cross_fitted
            else "Temperatures, intervals and thresholds are calibrated on the windows they are "
            "scored on."
        )
    lines = [
        held_out,
        calibrated,
        BASELINES,
        FAULTS,
        *evaluation.notes,
    ]
    if evaluation.limits is not None:
        lines.append(
            "Of the held-out windows, 99.9 % exceed the training range by at most "
            f"{evaluation.limits.window:.4f}; beyond that the service abstains."
        )
    return lines
