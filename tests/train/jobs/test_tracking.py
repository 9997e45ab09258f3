"""Runs are logged to a local store: parameters, curves, figures and files."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from mlflow import MlflowClient

from app.core.errors import StoreUnavailable
from tests.small import graded_windows, small
from tests.train.evaluation.test_evaluate import CONFIG, holdouts
from train.evaluation.evaluate import evaluate_parts
from train.evaluation.record import LearningPoint, Metrics
from train.jobs.tracking import SERVER, flatten, log_run, parameters

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CURVE = {"part a": (LearningPoint(epoch=1, loss=1.0, score=0.5), LearningPoint(epoch=2, loss=0.5))}


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    windows = graded_windows(tmp_path_factory.mktemp("graded"))
    found = evaluate_parts(
        windows,
        holdouts(windows, small()),
        CONFIG,
        split="group",
        learning=CURVE,
        with_baselines=False,
    )
    return Metrics(heading=None, evaluation=found, studies={"leave-level:pump": found})


def test_run_is_logged_with_parameters_curves_figures_and_files(
    metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SERVER, raising=False)
    checkpoint = tmp_path / "7"
    checkpoint.mkdir()
    (checkpoint / "metrics.json").write_text("{}")
    kept = log_run(
        checkpoint, CONFIG, metrics, tmp_path / "runs", name="7", experiment="press", now=NOW
    )
    client = MlflowClient(tracking_uri=kept.store)
    run = client.get_run(kept.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == parameters(CONFIG)
    assert [point.value for point in client.get_metric_history(kept.run_id, "loss/part a")] == [
        1.0,
        0.5,
    ]
    exact = metrics.evaluation.scorecards["this checkpoint"].exact_match
    assert exact is not None
    assert run.data.metrics["this checkpoint/exact_match"] == exact.mean
    assert run.data.metrics["leave-level pump/this checkpoint/exact_match"] == exact.mean
    assert [each.path for each in client.list_artifacts(kept.run_id, "checkpoint")] == [
        "checkpoint/metrics.json"
    ]
    again = log_run(
        checkpoint, CONFIG, metrics, tmp_path / "runs", name="8", experiment="press", now=NOW
    )
    assert client.get_run(again.run_id).info.experiment_id == run.info.experiment_id


def test_names_are_accepted_by_servers(metrics: Metrics) -> None:
    names = [name for name, _ in flatten(metrics.evaluation)]
    assert len(names) == len(set(names))
    assert all("," not in name and ":" not in name for name in names)


def test_refusing_store_is_an_error_after_the_checkpoint_was_written(
    metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVER, "no-such-kind-of-store://here")
    with pytest.raises(StoreUnavailable, match="was written"):
        log_run(tmp_path, CONFIG, metrics, tmp_path / "runs", name="7", experiment="press", now=NOW)


def test_password_of_a_server_is_not_shown(
    metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVER, "http://ann:secret@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StoreUnavailable, match=r"http://127\.0\.0\.1:1") as caught:
        log_run(tmp_path, CONFIG, metrics, tmp_path / "runs", name="7", experiment="press", now=NOW)
    assert "secret" not in caught.value.message
