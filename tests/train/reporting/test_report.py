"""The report needs no other file, holds the figures, and begins with the result."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.checkpoint.manifest import REPORT
from tests.small import graded_windows, small
from tests.train.evaluation.test_evaluate import CONFIG, halves, holdouts, runs_to_failure
from train.evaluation.evaluate import evaluate_parts
from train.evaluation.holdout import predict_holdout
from train.evaluation.record import (
    DEEP,
    THIS,
    WIDE,
    Evaluation,
    Heading,
    LearningPoint,
    Metrics,
    Scorecard,
)
from train.reporting.report import MODEL_CARD, write_report
from train.reporting.verdict import SMOOTHING, contributions, headline, weaknesses

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HEADING = Heading(
    version="7",
    command="hydraulic train start --equipment press-1 --note '<b>'",
    git_revision="f" * 40,
    created=NOW,
    start=NOW,
    end=NOW,
    weights=1234,
    training_s=90.0,
    shape="hidden 8",
)


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    windows = graded_windows(tmp_path_factory.mktemp("graded"))
    curve = {
        "part a": (
            LearningPoint(epoch=1, loss=1.0, score=0.5),
            LearningPoint(epoch=2, loss=0.5, score=0.6),
        )
    }
    return evaluate_parts(
        windows, holdouts(windows, small()), CONFIG, split="group", learning=curve
    )


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    windows, machine = runs_to_failure(tmp_path_factory.mktemp("failing")), small()
    parts = [
        predict_holdout(
            machine.model,
            machine.spec,
            windows,
            name,
            train_W,
            holdout_W,
            probes=6,
            removal_probes=8,
        )
        for name, train_W, holdout_W in halves(windows)
    ]
    return evaluate_parts(windows, parts, CONFIG, split="machine")


def test_page_needs_nothing_from_outside(graded: Evaluation, tmp_path: Path) -> None:
    write_report(
        Metrics(heading=HEADING, evaluation=graded, studies={"leave-level:pump": graded}),
        tmp_path / "out",
    )
    page = (tmp_path / "out" / REPORT).read_text()
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert not re.search(r"url\((?!#)", page)
    assert (
        page.count("<svg") == 7
    )  # scorecards, confusions, reliability, removal, trajectories, attention, learning
    assert "--note &#39;&lt;b&gt;&#39;" in page
    assert "prefers-color-scheme: dark" in page


def test_metrics_are_read_as_written(graded: Evaluation, tmp_path: Path) -> None:
    write_report(Metrics(heading=HEADING, evaluation=graded), tmp_path)
    text = (tmp_path / "metrics.json").read_text()
    assert Metrics.model_validate_json(text) == Metrics(heading=HEADING, evaluation=graded)
    assert (
        json.loads(text)["evaluation"]["contenders"][THIS]["grades"]["pump"]["pooled"]["windows"]
        == 52
    )


def test_headline_compares_with_the_best_baseline(graded: Evaluation) -> None:
    found = headline(graded)
    assert found.sentence.startswith("On held-out windows: all graded components correct in ")
    assert (
        "fewer than the best classical baseline" in found.sentence
    )  # the network was never trained
    assert found.tiles[0].name == "all components correct, one window"
    lines = weaknesses(graded, {"leave-level:pump": graded})
    assert lines[0].startswith("Weakest component: ")
    assert any(line.startswith("leave-level:pump: ") for line in lines)


def test_report_says_what_the_graph_adds_to_the_skip(graded: Evaluation, tmp_path: Path) -> None:
    def scored(macro_f1: float) -> Scorecard:
        grades = {
            component: each.model_copy(
                update={"pooled": each.pooled.model_copy(update={"macro_f1": macro_f1})}
            )
            for component, each in graded.scorecards[THIS].grades.items()
        }
        return Scorecard(grades=grades, health_mae={"tank": macro_f1 / 10})

    cards = {THIS: scored(0.9), WIDE: scored(0.85), DEEP: scored(0.5)}
    both = graded.model_copy(update={"scorecards": graded.scorecards | cards})
    (line,) = contributions(both, {})
    assert line.startswith(
        "group: the graph adds +0.050 of macro-F1 on pump (0.900; skip alone 0.850, network alone "
        "0.500); +0.050 of macro-F1 on valve"
    )
    assert line.endswith(
        "+0.0050 of mean absolute error of tank's health (0.0900; skip alone 0.0850, network alone "
        "0.0500)."
    )
    assert contributions(both, {"leave-level:pump": both})[1].startswith("leave-level:pump: ")
    assert contributions(graded, {}) == ()  # a network without a skip
    write_report(Metrics(heading=HEADING, evaluation=both), tmp_path)
    for name in (REPORT, MODEL_CARD):
        text = (tmp_path / name).read_text().replace("&#39;", "'")
        assert "What the graph adds to the linear skip" in text
        assert line in text


def test_windows_that_may_have_been_in_training_are_not_called_held_out(
    graded: Evaluation, tmp_path: Path
) -> None:
    seen = graded.model_copy(update={"seen": True})
    found = headline(seen)
    assert found.sentence.startswith(
        "These windows may have been in the training of this checkpoint"
    )
    assert not any("discriminant" in tile.note or "trees" in tile.note for tile in found.tiles)
    assert not any(" is better, " in line for line in weaknesses(seen, {"leave-level:pump": seen}))
    write_report(Metrics(heading=HEADING, evaluation=seen), tmp_path)
    page, card = (tmp_path / REPORT).read_text(), (tmp_path / MODEL_CARD).read_text()
    assert card.splitlines()[2] == found.sentence
    for text in (page, card):
        assert "held-out windows:" not in text
        assert "were held out" not in text
        assert "Comparison with classical baselines" not in text


def test_report_explains_the_figures_from_five_windows(graded: Evaluation, tmp_path: Path) -> None:
    write_report(Metrics(heading=HEADING, evaluation=graded), tmp_path)
    for name in (REPORT, MODEL_CARD):
        assert SMOOTHING in (tmp_path / name).read_text()


def test_remaining_life_has_a_table_and_a_headline(failing: Evaluation, tmp_path: Path) -> None:
    write_report(Metrics(heading=None, evaluation=failing), tmp_path)
    page, card = (tmp_path / REPORT).read_text(), (tmp_path / MODEL_CARD).read_text()
    assert "PHM08" in page
    assert "mean life less age" in page
    assert "root mean square error" in headline(failing).sentence
    assert "| this checkpoint | pump |" in card


def test_card_has_use_data_metrics_limitations_and_command(
    graded: Evaluation, tmp_path: Path
) -> None:
    write_report(Metrics(heading=HEADING, evaluation=graded), tmp_path)
    card = (tmp_path / MODEL_CARD).read_text()
    for heading in (
        "Intended use",
        "Data and split",
        "Metrics and baselines",
        "Limitations",
        "Reproduction",
    ):
        assert f"## {heading}" in card
    assert HEADING.command in card
    assert "discriminant, step statistics" in card
