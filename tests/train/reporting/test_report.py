"""The report stands alone, says what the figures say, and opens with the verdict."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.checkpoint.manifest import REPORT
from tests.small import graded_windows, small
from tests.train.evaluation.test_evaluate import CONFIG, halves, held, runs_to_failure
from train.evaluation.evaluate import evaluate_parts
from train.evaluation.holdout import hold_out
from train.evaluation.record import THIS, Evaluation, Heading, LearningPoint, Metrics
from train.reporting.report import MODEL_CARD, write_report
from train.reporting.verdict import failures, headline

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HEADING = Heading(
    version="7",
    command="python -m train --equipment press-1 --note '<b>'",
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
    return evaluate_parts(windows, held(windows, small()), CONFIG, split="group", learning=curve)


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    windows, machine = runs_to_failure(tmp_path_factory.mktemp("failing")), small()
    parts = [
        hold_out(
            machine.model, machine.spec, windows, name, train_W, held_W, probes=6, removal_probes=8
        )
        for name, train_W, held_W in halves(windows)
    ]
    return evaluate_parts(windows, parts, CONFIG, split="machine")


def test_page_needs_nothing_from_outside(graded: Evaluation, tmp_path: Path) -> None:
    write_report(graded, tmp_path / "out", HEADING, {"leave-level:pump": graded})
    page = (tmp_path / "out" / REPORT).read_text()
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert not re.search(r"url\((?!#)", page)
    assert (
        page.count("<svg") == 7
    )  # scorecards, confusions, reliability, removal, trajectories, attention, learning
    assert "--note &#x27;&lt;b&gt;&#x27;" in page
    assert "prefers-color-scheme: dark" in page


def test_metrics_read_back_as_they_were(graded: Evaluation, tmp_path: Path) -> None:
    write_report(graded, tmp_path, HEADING)
    text = (tmp_path / "metrics.json").read_text()
    assert Metrics.model_validate_json(text) == Metrics(heading=HEADING, evaluation=graded)
    assert (
        json.loads(text)["evaluation"]["scorecards"][THIS]["grades"]["pump"]["pooled"]["windows"]
        == 52
    )


def test_verdict_compares_with_the_best_rival(graded: Evaluation) -> None:
    told = headline(graded)
    assert told.sentence.startswith("On held-out windows: all graded components right in ")
    assert (
        "fewer than the best classical baseline" in told.sentence
    )  # the network was never trained
    assert told.tiles[0].name == "all components right, one window"
    lines = failures(graded, {"leave-level:pump": graded})
    assert lines[0].startswith("Weakest component: ")
    assert any(line.startswith("leave-level:pump: ") for line in lines)


def test_windows_that_may_have_been_in_training_are_not_called_held_out(
    graded: Evaluation, tmp_path: Path
) -> None:
    seen = graded.model_copy(update={"seen": True})
    told = headline(seen)
    assert told.sentence.startswith(
        "These windows may have been in the training of this checkpoint"
    )
    assert not any("discriminant" in tile.note or "trees" in tile.note for tile in told.tiles)
    assert not any(" is better, " in line for line in failures(seen, {"leave-level:pump": seen}))
    write_report(seen, tmp_path, HEADING)
    page, manifest = (tmp_path / REPORT).read_text(), (tmp_path / MODEL_CARD).read_text()
    assert manifest.splitlines()[2] == told.sentence
    for text in (page, manifest):
        assert "held-out windows:" not in text
        assert "never saw" not in text
        assert "Against the classical baselines" not in text


def test_smoothed_figures_say_where_their_reset_comes_from(
    graded: Evaluation, tmp_path: Path
) -> None:
    write_report(graded, tmp_path, HEADING)
    for name in (REPORT, MODEL_CARD):
        assert (
            "the labels say where the five start anew; the service itself does not smooth"
            in (tmp_path / name).read_text()
        )


def test_remaining_life_has_its_table_and_its_verdict(failing: Evaluation, tmp_path: Path) -> None:
    write_report(failing, tmp_path)
    page, manifest = (tmp_path / REPORT).read_text(), (tmp_path / MODEL_CARD).read_text()
    assert "PHM08" in page
    assert "mean life less age" in page
    assert "root mean square error" in headline(failing).sentence
    assert "| this checkpoint | pump |" in manifest


def test_card_names_use_data_figures_limits_and_command(graded: Evaluation, tmp_path: Path) -> None:
    write_report(graded, tmp_path, HEADING)
    manifest = (tmp_path / MODEL_CARD).read_text()
    for heading in (
        "Intended use",
        "Data and split",
        "Figures beside baselines",
        "Limits",
        "Made again by",
    ):
        assert f"## {heading}" in manifest
    assert HEADING.command in manifest
    assert "discriminant, step statistics" in manifest
