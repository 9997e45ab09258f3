"""Plots of the report as SVG text, drawn in the text colour of the page that includes them.

Invariant: the SVG contains no script and fetches nothing; equal figures give equal SVG.
"""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.evaluation.record import (
    Abstention,
    AttentionWeights,
    GradeFigures,
    LearningPoint,
    Scorecard,
    Trajectory,
    Uncertainty,
)

INK = "#010203"
"""Placeholder of the page's text colour; replaced by `currentColor`."""
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999")
"""Distinct for colour-blind readers, on light and dark pages (Tol, "Colour schemes", 2021:
bright)."""
STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 9,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "hydraulic-diagnostics",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
COLUMNS = 3


@rc_context(STYLE)
def confusions(figures: Mapping[str, GradeFigures], grades: Mapping[str, Sequence[str]]) -> str:
    """Draw a confusion matrix for each component, shaded by the share of the true grade."""
    figure, axes = _panels(len(figures), height=2.7)
    for axis, (component_id, found) in zip(axes, figures.items(), strict=True):
        count_KK = np.array(found.confusion, np.float64)
        share_KK = count_KK / np.maximum(count_KK.sum(1, keepdims=True), 1)
        names = grades[component_id]
        for row, column in itertools.product(range(len(names)), repeat=2):
            colour = COLOURS[0] if row == column else COLOURS[1]
            axis.fill_between(
                (column - 0.48, column + 0.48),
                row - 0.48,
                row + 0.48,
                color=colour,
                alpha=0.75 * share_KK[row, column],
                lw=0,
            )
            axis.text(column, row, f"{count_KK[row, column]:.0f}", ha="center", va="center")
        axis.set(
            title=component_id, xlabel="predicted", ylabel="true", xlim=(-0.5, len(names) - 0.5)
        )
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xticks(range(len(names)), names)
        axis.set_yticks(range(len(names)), names)
        axis.set_aspect("equal")
    return _svg(figure, "confusion")


@rc_context(STYLE)
def scorecards(found: Mapping[str, Scorecard]) -> str:
    """Draw macro-F1 of every model, one line for each component."""
    components = list(dict.fromkeys(name for each in found.values() for name in each.grades))
    figure = Figure(figsize=(7.6, 0.55 + 0.42 * len(components)), layout="constrained")
    axis = figure.add_subplot()
    for number, (name, each) in enumerate(found.items()):
        points = [
            (each.grades[c].mean_macro_f1, row)
            for row, c in enumerate(components)
            if c in each.grades
        ]
        if points:
            x, y = zip(*points, strict=True)
            axis.scatter(
                x,
                [value + 0.09 * (number - len(found) / 2) for value in y],
                s=46 if number == 0 else 22,
                marker="D" if number == 0 else "o",
                color=COLOURS[number % len(COLOURS)],
                label=name,
            )
    axis.set_yticks(range(len(components)), components)
    axis.set(xlabel="macro-F1, one window, mean of the folds", ylim=(len(components) - 0.4, -0.6))
    axis.grid(axis="x", color=INK, alpha=0.15)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _svg(figure, "scorecards")


@rc_context(STYLE)
def reliability(found: Mapping[str, Uncertainty]) -> str:
    """Draw accuracy by stated confidence."""
    figure = Figure(figsize=(4.4, 3.2), layout="constrained")
    axis = figure.add_subplot()
    axis.plot((0, 1), (0, 1), color=INK, alpha=0.4, lw=1, ls="--")
    for colour, (component_id, uncertainty) in zip(
        itertools.cycle(COLOURS), found.items(), strict=False
    ):
        if uncertainty.reliability:
            confidence, accuracy, _ = zip(*uncertainty.reliability, strict=True)
            axis.plot(confidence, accuracy, marker="o", ms=3, color=colour, label=component_id)
    lowest = min((point[0] for each in found.values() for point in each.reliability), default=0.0)
    axis.set(xlabel="stated confidence", ylabel="accuracy", xlim=(lowest - 0.02, 1.01))
    axis.set_ylim(bottom=max(0.0, lowest - 0.15))
    axis.legend()
    return _svg(figure, "reliability")


@rc_context(STYLE)
def removal(found: Mapping[str, Abstention]) -> str:
    """Draw share answered and risk by sensors removed, and the risk-coverage curve."""
    figure = Figure(figsize=(10.2, 3.0), layout="constrained")
    answered, risk, curve = figure.subplots(1, 3)
    for colour, (name, each) in zip(itertools.cycle(COLOURS), found.items(), strict=False):
        away = [level.away for level in each.levels]
        answered.plot(
            away,
            [level.answered for level in each.levels],
            color=colour,
            marker="o",
            ms=3,
            label=name,
        )
        known = [(level.away, level.risk) for level in each.levels if level.risk is not None]
        if known:
            risk.plot(*zip(*known, strict=True), color=colour, marker="o", ms=3)
        risk.axhline(1.2 * each.full_risk, color=colour, lw=1, ls=":")
        if each.curve:
            curve.plot(*zip(*each.curve, strict=True), color=colour)
    answered.set(xlabel="sensors removed", ylabel="share answered", ylim=(-0.02, 1.05))
    answered.legend()
    risk.set(
        xlabel="sensors removed",
        ylabel="risk of the answers",
        title="dotted: 1.2 x risk with all sensors",
    )
    curve.set(xlabel="share answered, most confident first", ylabel="risk", title="all sensors")
    return _svg(figure, "removal")


@rc_context(STYLE)
def learning(found: Mapping[str, Sequence[LearningPoint]]) -> str:
    """Draw loss and validation score of every fit by epoch."""
    has_score = any(point.score is not None for points in found.values() for point in points)
    figure = Figure(figsize=(9.0 if has_score else 5.2, 2.9), layout="constrained")
    axes = figure.subplots(1, 2 if has_score else 1, squeeze=False)[0]
    for colour, (name, points) in zip(itertools.cycle(COLOURS), found.items(), strict=False):
        axes[0].plot(
            [each.epoch for each in points],
            [each.loss for each in points],
            color=colour,
            label=name,
        )
        scored = [(each.epoch, each.score) for each in points if each.score is not None]
        if scored:
            axes[1].plot(*zip(*scored, strict=True), color=colour)
    axes[0].set(xlabel="epoch", ylabel="loss")
    axes[0].legend(ncols=2)
    if has_score:
        axes[1].set(xlabel="epoch", ylabel="validation score")
    return _svg(figure, "learning")


@rc_context(STYLE)
def trajectories(found: Sequence[Trajectory]) -> str:
    """Draw truth, prediction and interval over time, one panel for each component of a machine."""
    figure, axes = _panels(len(found), height=2.2, width=3.6)
    for axis, each in zip(axes, found, strict=True):
        axis.fill_between(
            each.hours, each.low, each.high, color=COLOURS[0], alpha=0.25, lw=0, label="90 %"
        )
        axis.plot(each.hours, each.predicted, color=COLOURS[0], lw=1, label="predicted")
        axis.plot(each.hours, each.true, color=COLOURS[1], lw=1, label="true")
        quantity = "health" if each.quantity == "health" else "remaining life, h"
        axis.set(title=f"{each.machine}: {each.component_id}", xlabel="hours", ylabel=quantity)
    if axes:
        axes[0].legend(ncols=3, loc="upper right")
    return _svg(figure, "trajectories")


@rc_context(STYLE)
def attention(found: Sequence[AttentionWeights]) -> str:
    """Draw the attention weight of every edge, mean of the layers, on a circle of components."""
    names = list(dict.fromkeys(name for each in found for name in (each.source, each.target)))
    angle = {name: 2 * np.pi * place / len(names) + np.pi / 2 for place, name in enumerate(names)}
    at = {name: np.array((1.5 * np.cos(each), np.sin(each))) for name, each in angle.items()}
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.add_subplot()
    for each in found:
        weight = float(np.mean(each.weights))
        axis.annotate(
            "",
            xy=tuple(at[each.target] + 0.13 * (at[each.source] - at[each.target])),
            xytext=tuple(at[each.source] + 0.13 * (at[each.target] - at[each.source])),
            arrowprops={
                "arrowstyle": "-|>",
                "connectionstyle": "arc3,rad=0.12",
                "color": COLOURS[0],
                "alpha": 0.15 + 0.85 * weight,
                "lw": 0.6 + 3.4 * weight,
            },
        )
        middle = 0.62 * at[each.target] + 0.38 * at[each.source]
        across = np.array(
            (at[each.target][1] - at[each.source][1], at[each.source][0] - at[each.target][0])
        )
        place = middle + 0.08 * across / max(float(np.linalg.norm(across)), 1e-9)
        axis.text(
            float(place[0]),
            float(place[1]),
            f"{weight:.2f}",
            ha="center",
            va="center",
            fontsize=7,
        )
    for name, place in at.items():
        axis.text(
            float(place[0]), float(place[1]), name, ha="center", va="center", fontweight="bold"
        )
    axis.set(xlim=(-1.9, 1.9), ylim=(-1.25, 1.25))
    axis.axis("off")
    return _svg(figure, "attention")


def _panels(count: int, height: float, width: float = 3.1) -> tuple[Figure, list[Axes]]:
    columns = min(COLUMNS, max(1, count))
    rows = -(-max(1, count) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element; `name` makes its ids unique in the page."""
    written = io.StringIO()
    figure.patch.set_alpha(0.0)
    for axis in figure.axes:
        axis.patch.set_alpha(0.0)
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    text = written.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
