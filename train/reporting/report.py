"""The figures of a training as `metrics.json`, as a page to look at, `report.html`, and as a short card, `model_card.md`.

The page stands alone: plots are SVG inside it, there is no script, and nothing is fetched.
Invariant: all three say the same figures, and say first where these are of windows that may have been in training.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from app.checkpoint.manifest import METRICS, REPORT
from train.evaluation.record import THIS, Evaluation, Heading, Metrics, Scorecard
from train.evaluation.scores import Score
from train.reporting import plots
from train.reporting.model_card import model_card
from train.reporting.style import CSS
from train.reporting.verdict import FIVE, SEEN, failures, headline

MODEL_CARD = "model_card.md"


def write_report(
    evaluation: Evaluation,
    directory: Path,
    heading: Heading | None = None,
    studies: Mapping[str, Evaluation] | None = None,
) -> None:
    """Write `metrics.json`, `report.html` and `model_card.md` into a directory, which is made if it is not there.

    Args:
        evaluation: of the training's split.
        directory: where the files go.
        heading: of the run.
        studies: of other splits by name, such as leave-one-level-out.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in documents(evaluation, heading, studies).items():
        (directory / name).write_text(text, encoding="utf-8")


def documents(
    evaluation: Evaluation,
    heading: Heading | None = None,
    studies: Mapping[str, Evaluation] | None = None,
) -> dict[str, str]:
    """Return the text of each of the report's files by name, as `app.checkpoint.files.save` takes them; see `write_report`."""
    metrics = Metrics(heading=heading, evaluation=evaluation, studies=studies or {})
    return {
        METRICS: metrics.model_dump_json(indent=1) + "\n",
        REPORT: page(metrics),
        MODEL_CARD: model_card(metrics),
    }


def page(metrics: Metrics) -> str:
    """Return the report as one HTML document."""
    evaluation = metrics.evaluation
    version = "evaluation" if metrics.heading is None else f"checkpoint {metrics.heading.version}"
    sections = [
        _first_screen(metrics),
        _section(
            "Beside classical baselines, which did not see these windows"
            if evaluation.seen
            else "Against the classical baselines",
            _figures(evaluation),
        ),
        _section("What a grouped split hides", _studies(metrics.studies)),
        _section("Which conditions are taken for which", _confusions(evaluation)),
        _section("Whether it is met what is stated", _certainty(evaluation)),
        _section("When evidence is missing", _abstention(evaluation)),
        _section("When a sensor is broken", _robustness(evaluation)),
        _section(
            "Over time",
            plots.trajectories(evaluation.trajectories) if evaluation.trajectories else "",
        ),
        _section(
            "Where attention goes",
            plots.attention(evaluation.listening) if evaluation.listening else "",
        ),
        _section(
            "How it learned",
            plots.learning(evaluation.learning) if any(evaluation.learning.values()) else "",
        ),
        _section("How it was measured", _method(evaluation)),
    ]
    title = f"{version} of {evaluation.equipment_id}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _first_screen(metrics: Metrics) -> str:
    evaluation, heading = metrics.evaluation, metrics.heading
    version = "Evaluation" if heading is None else f"Checkpoint {heading.version}"
    parts = [
        f'<header><p class="eyebrow">{escape(evaluation.equipment_id)}, design {escape(evaluation.design)}</p>',
        f"<h1>{escape(version)}</h1>",
    ]
    told = headline(evaluation)
    parts.append(f'<p class="lead">{escape(told.sentence)}</p></header>')
    tiles = "".join(
        f'<div class="tile"><p class="name">{escape(tile.name)}</p><p class="value">{escape(tile.value)}</p>'
        f'<p class="note">{escape(tile.note)}</p></div>'
        for tile in told.tiles
    )
    parts.append(f'<div class="tiles">{tiles}</div>')
    parts.append('<div class="columns">')
    rows = [
        (
            "windows scored",
            f"{evaluation.windows - evaluation.warm_up_windows} in {evaluation.groups} groups",
        ),
        (
            "split",
            f"{evaluation.split}, {len(evaluation.parts)} part{'s' if len(evaluation.parts) > 1 else ''}",
        ),
    ]
    if heading is not None:
        rows += [
            ("readings", f"{heading.start:%Y-%m-%d %H:%M} to {heading.end:%Y-%m-%d %H:%M} UTC"),
            ("network", _network(heading)),
            ("trained", f"{heading.created:%Y-%m-%d %H:%M} UTC{_duration(heading)}"),
            ("revision", heading.git_revision),
        ]
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    parts.append(f"<div><h2>What was trained</h2><dl>{listed}</dl></div>")
    weak = "".join(f"<li>{escape(line)}</li>" for line in failures(evaluation, metrics.studies))
    parts.append(f"<div><h2>Where it fails</h2><ul>{weak}</ul></div></div>")
    if heading is not None:
        parts.append(f"<pre>{escape(heading.command)}</pre>")
    return "".join(parts)


def _network(heading: Heading) -> str:
    weights = "" if heading.weights is None else f"{heading.weights} weights"
    return (
        "; ".join(part for part in (weights, heading.shape or "") if part)
        or "see model_config.json"
    )


def _duration(heading: Heading) -> str:
    return "" if heading.training_s is None else f" in {heading.training_s / 60:.1f} min"


def _figures(evaluation: Evaluation) -> str:
    found = evaluation.scorecards
    graded = list(evaluation.grades)
    parts: list[str] = []
    if any(each.grades for each in found.values()):
        parts.append(plots.scorecards(found))
        head = ["macro-F1, mean of the parts", *graded, "exact match"]
        for caption, smoothed in (("One window", False), (f"Five windows: {FIVE}", True)):
            rows = [
                [
                    name,
                    *(_f1(each, component, smoothed=smoothed) for component in graded),
                    _exact(each, smoothed=smoothed),
                ]
                for name, each in found.items()
                if each.grades
            ]
            parts.append(_table(caption, head, rows))
        near = ["macro-F1 (within one grade), pooled", *graded, "exact match"]
        parts.append(
            _table("What is answered, all sensors there", near, _where_answered(evaluation))
        )
        for component in graded:
            rows = [
                [name, *(_cell(figures.parts, part) for part in evaluation.parts), f"{figures.pooled.macro_f1:.3f}",
                 f"{figures.pooled.accuracy:.3f}", f"{figures.pooled.within_one:.3f}",
                 f"{each.warm_up[component].accuracy:.3f}" if component in each.warm_up else "-"]
                for name, each in found.items()
                if (figures := each.grades.get(component)) is not None
            ]  # fmt: skip
            head = [
                component,
                *evaluation.parts,
                "pooled",
                "accuracy",
                "within one grade",
                "warm-up accuracy",
            ]
            parts.append(_details(f"Every part: {component}", _table("Macro-F1", head, rows)))
    for component in dict.fromkeys(name for each in found.values() for name in each.life):
        rows = [
            [name, f"{life.mean_rmse_h:.2f}", f"{life.pooled.rmse_h:.2f}", f"{life.pooled.bias_h:+.2f}", f"{life.pooled.phm08:.0f}",
             "-" if life.pooled.sign_right is None else f"{life.pooled.sign_right:.1%}", str(life.pooled.windows)]
            for name, each in found.items()
            if (life := each.life.get(component)) is not None
        ]  # fmt: skip
        head = [
            component,
            "RMSE, mean of parts",
            "RMSE",
            "mean error",
            "PHM08",
            "rate's sign right",
            "windows",
        ]
        parts.append(_table(f"Hours left, cut at {evaluation.cap_h:g}", head, rows))
    errors = {component: f"{value:.3f}" for component, value in found[THIS].health_mae.items()}
    if errors:
        parts.append(_table("Mean absolute error of health", list(errors), [list(errors.values())]))
    return "".join(parts)


def _studies(studies: Mapping[str, Evaluation]) -> str:
    parts: list[str] = []
    for split, evaluation in studies.items():
        graded = list(evaluation.grades)
        rows = [
            [
                name,
                *(_pooled(each, component) for component in graded),
                _exact(each, smoothed=False),
            ]
            for name, each in evaluation.scorecards.items()
            if each.grades
        ]
        head = ["macro-F1 (within one grade), pooled", *graded, "exact match"]
        parts.append(_table(split, head, [*rows, *_where_answered(evaluation)]))
    return "".join(parts)


def _confusions(evaluation: Evaluation) -> str:
    figures = evaluation.scorecards[THIS].grades
    return plots.confusions(figures, evaluation.grades) if figures else ""


def _certainty(evaluation: Evaluation) -> str:
    rows: list[Sequence[str]] = []
    for component, each in evaluation.certainty.items():
        for quantity, found in (("health", each.health), ("hours left", each.rul)):
            if found is None:
                continue
            lowest, highest = min(found.parts.values()), max(found.parts.values())
            rows.append([component, quantity, f"{found.coverage:.1%}", f"{lowest:.1%} to {highest:.1%}", f"{found.width:.3g}", f"{found.reach:.2f}", str(found.windows)])  # fmt: skip
    parts = []
    if rows:
        head = [
            "component",
            "of",
            "truth inside",
            "over the parts",
            "mean width",
            "reach in spreads",
            "windows",
        ]
        parts.append(_table("Intervals that state 90 %", head, rows))
    stated = [
        [component, f"{each.temperature:.2f}", f"{each.opinion_temperature:.2f}", f"{each.nll_plain:.3f}", f"{each.nll_calibrated:.3f}"]
        for component, each in evaluation.certainty.items()
        if each.temperature is not None and each.nll_plain is not None
    ]  # fmt: skip
    if stated:
        parts.append(plots.reliability(evaluation.certainty))
        head = ["component", "temperature", "of the second opinion", "log-loss before", "after"]
        parts.append(_table("Stated probabilities", head, stated))
    return "".join(parts)


def _abstention(evaluation: Evaluation) -> str:
    if not evaluation.abstention:
        return ""
    rows = [
        [name, "-" if each.least_confidence is None else f"{each.least_confidence:.3f}", "-" if each.most_spread is None else f"{each.most_spread:.3f}",
         f"{each.levels[0].answered:.1%}", f"{each.full_risk:.2%}", "-" if each.worst_ratio is None else f"{each.worst_ratio:.2f}",
         "yes" if each.holds else "within chance" if each.holds_beyond_chance else "no"]
        for name, each in evaluation.abstention.items()
    ]  # fmt: skip
    head = [
        "component",
        "least confidence",
        "most spread",
        "answered with all sensors",
        "risk with all sensors",
        "worst risk by it",
        "at most 1.2",
    ]
    return plots.removal(evaluation.abstention) + _table(
        "Sensors taken away at random, one after the other", head, rows
    )


def _robustness(evaluation: Evaluation) -> str:
    found = evaluation.robustness
    if found is None:
        return ""
    exact = found.measure == "exact match"
    sensors = list(next(iter(found.troubles.values())).sensors)
    head = ["one sensor at a time", "mean", "cost", "worst", *sensors]
    rows = [
        [trouble, _amount(each.mean, exact=exact), f"{100 * each.cost:.1f} points" if exact else f"{each.cost:.2f} h", each.worst_sensor,
         *(_amount(each.sensors[sensor], exact=exact) for sensor in sensors)]
        for trouble, each in found.troubles.items()
    ]  # fmt: skip
    what = "Exact match" if exact else "RMSE of hours left"
    return _table(
        f"{what}; clean {_amount(found.clean, exact=exact)} of {found.windows} windows", head, rows
    )


def _method(evaluation: Evaluation) -> str:
    lines = [
        f"{SEEN} Warm-ups are scored apart."
        if evaluation.seen
        else "Every figure is of windows that the fit which is scored never saw; warm-ups are scored apart.",
        "Temperatures, intervals and thresholds are those that the checkpoint states."
        if evaluation.seen
        else "Temperatures, intervals and thresholds that judge a part come from the other parts."
        if evaluation.cross_fitted
        else "Temperatures, intervals and thresholds were judged by the windows that chose them.",
        "Baselines are fitted to the training windows of the same parts, each on the sensors whose evidence can reach its component.",
        (
            "Frozen: the window's first reading throughout. Offset: one standard deviation of the sensor's readings. Noisy: white noise of one "
            "standard deviation. Faults that the service finds by itself are masked as in service."
        ),
        *evaluation.notes,
    ]
    if evaluation.limits is not None:
        lines.append(
            f"Of held-out windows 99.9 % leave the training range by at most {evaluation.limits.window:.4f}; further out the service abstains."
        )
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _where_answered(evaluation: Evaluation) -> list[list[str]]:
    """Return the rows of what a service would answer, and of how many windows."""
    found = [evaluation.answered.get(component) for component in evaluation.grades]
    if not any(found):
        return []
    told = ["-" if each is None or each.score is None else f"{each.score.macro_f1:.3f} ({each.score.within_one:.3f})" for each in found]  # fmt: skip
    shares = ["-" if each is None else f"{each.share:.1%}" for each in found]
    return [["where it is answered", *told, "-"], ["share of the windows", *shares, "-"]]


def _f1(scorecard: Scorecard, component: str, *, smoothed: bool) -> str:
    figures = (scorecard.smoothed if smoothed else scorecard.grades).get(component)
    return "-" if figures is None else f"{figures.mean_macro_f1:.3f}"


def _pooled(scorecard: Scorecard, component: str) -> str:
    figures = scorecard.grades.get(component)
    return (
        "-"
        if figures is None
        else f"{figures.pooled.macro_f1:.3f} ({figures.pooled.within_one:.3f})"
    )


def _exact(scorecard: Scorecard, *, smoothed: bool) -> str:
    found = scorecard.exact_match_smoothed if smoothed else scorecard.exact_match
    return "-" if found is None else f"{found.mean:.3f}"


def _cell(parts: Mapping[str, Score], name: str) -> str:
    score = parts.get(name)
    return "-" if score is None else f"{score.macro_f1:.3f}"


def _amount(value: float, *, exact: bool) -> str:
    return f"{value:.3f}" if exact else f"{value:.2f}"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _details(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr{' class=this' if row and row[0] == THIS else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
