"""Keeps runs in MLflow: parameters, curves, figures, report and checkpoint; in a local store unless a server is named.

Serving never imports this, nor MLflow. MLflow is imported when a run is kept: it takes seconds and training must not wait for it.
Invariant: a checkpoint does not depend on it; what can't be kept is an error of its own, after the checkpoint was written.
"""

import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel

from app.core.errors import StoreUnavailable
from app.core.settings import Settings, without_passwords
from train.evaluation.record import Evaluation, Metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from train.jobs.job import Outcome

SERVER = "MLFLOW_TRACKING_URI"
AT_ONCE = 900
"""Values of one request, which servers limit to 1000."""
LONGEST_VALUE = 6000
"""Characters of a parameter, which servers limit."""


class Kept(NamedTuple):
    """Where a run is kept: its id, its experiment and the store."""

    run_id: str
    experiment: str
    store: str


class _Value(NamedTuple):
    name: str
    value: float
    step: int


def keep_run(
    directory: Path,
    config: BaseModel,
    metrics: Metrics,
    local: Path,
    *,
    name: str,
    experiment: str,
    now: datetime,
    tags: Mapping[str, str] | None = None,
) -> Kept:
    """Keep one training as a run of MLflow.

    Args:
        directory: of the checkpoint, whose files become the run's artifacts under `checkpoint`.
        config: of the training; each field is a parameter.
        metrics: figures and curves.
        local: directory of the local store, made if it is not there; used where `MLFLOW_TRACKING_URI` names no server.
        name: of the run.
        experiment: of the run; made if it is not there.
        now: when the run ended.
        tags: further words to find the run by.

    Returns:
        Where it is kept.

    Raises:
        StoreUnavailable: MLflow's store can't be reached or refuses.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    store = os.environ.get(SERVER) or local_store(local)
    shown = without_passwords(store)
    stamp = round(now.timestamp() * 1000)
    try:
        client = MlflowClient(tracking_uri=store)
        run = client.create_run(
            _experiment(client, experiment, local, is_local=not os.environ.get(SERVER)),
            start_time=stamp,
            run_name=name,
            tags={"version": name, "design": metrics.evaluation.design, **(tags or {})},
        )
        run_id: str = run.info.run_id
        client.log_batch(
            run_id, params=[Param(key, value) for key, value in parameters(config).items()]
        )
        values = [Metric(each.name, each.value, stamp, each.step) for each in _values(metrics)]
        for first in range(0, len(values), AT_ONCE):
            client.log_batch(run_id, metrics=values[first : first + AT_ONCE])
        client.log_artifacts(run_id, str(directory), "checkpoint")
        client.set_terminated(run_id, "FINISHED", stamp)
    except MlflowException as error:
        raise StoreUnavailable(
            f"expected MLflow to keep the run '{name}' at {shown}, found: {without_passwords(error.message)}; the checkpoint in '{directory}' is "
            f"written all the same: correct {SERVER}, or unset it for a local store"
        ) from error
    return Kept(run_id, experiment, shown)


def track(outcome: "Outcome", config: BaseModel, directory: Path) -> Kept:
    """Keep what a training gave, in an experiment named like its design; see `keep_run`.

    Args:
        outcome: of `train.jobs.job.run_job`.
        config: of the training.
        directory: of the checkpoint that was written.

    Returns:
        Where it is kept: `var/mlflow` unless a server is named.

    Raises:
        StoreUnavailable: MLflow's store can't be reached or refuses.
    """
    heading, evaluation = outcome.heading, outcome.evaluation
    return keep_run(
        directory,
        config,
        Metrics(heading=heading, evaluation=evaluation, studies=outcome.studies),
        Settings().var_dir / "mlflow",
        name=heading.version,
        experiment=evaluation.design,
        now=heading.created,
        tags={"equipment": evaluation.equipment_id, "git_revision": heading.git_revision},
    )


def local_store(local: Path) -> str:
    """Return the address of the local store, an SQLite file in a directory, which is made if it is not there."""
    local.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{(local / 'mlflow.db').resolve()}"


def parameters(config: BaseModel) -> dict[str, str]:
    """Return a configuration's fields as text by name, None left out."""
    return {
        key: str(value)[:LONGEST_VALUE]
        for key, value in config.model_dump(mode="json").items()
        if value is not None
    }


def flatten(evaluation: Evaluation, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the figures that runs are compared by, each by a name that MLflow takes."""
    for name, each in evaluation.scorecards.items():
        for component, grades in each.grades.items():
            yield _name(prefix, name, component, "macro_f1"), grades.mean_macro_f1
        for component, grades in each.smoothed.items():
            yield _name(prefix, name, component, "macro_f1_of_five"), grades.mean_macro_f1
        if each.exact_match is not None:
            yield _name(prefix, name, "exact_match"), each.exact_match.mean
        if each.exact_match_smoothed is not None:
            yield _name(prefix, name, "exact_match_of_five"), each.exact_match_smoothed.mean
        for component, life in each.life.items():
            yield _name(prefix, name, component, "rul_rmse_h"), life.mean_rmse_h
            yield _name(prefix, name, component, "phm08"), life.pooled.phm08
    for component, certainty in evaluation.certainty.items():
        for quantity, interval in (("health", certainty.health), ("rul", certainty.rul)):
            if interval is not None:
                yield _name(prefix, "coverage", component, quantity), interval.coverage
    if evaluation.robustness is not None:
        for trouble, figures in evaluation.robustness.troubles.items():
            yield _name(prefix, "cost of one sensor", trouble), figures.cost


def _values(metrics: Metrics) -> Iterator[_Value]:
    for fit, points in metrics.evaluation.learning.items():
        for point in points:
            yield _Value(_name("", "loss", fit), point.loss, point.epoch)
            if point.score is not None:
                yield _Value(_name("", "score", fit), point.score, point.epoch)
    for name, value in flatten(metrics.evaluation):
        yield _Value(name, value, 0)
    for split, study in metrics.studies.items():
        for name, value in flatten(study, split):
            yield _Value(name, value, 0)
    heading = metrics.heading
    if heading is not None and heading.training_s is not None:
        yield _Value("training_s", heading.training_s, 0)
    if heading is not None and heading.weights is not None:
        yield _Value("weights", float(heading.weights), 0)


def _name(*parts: str) -> str:
    return "/".join(re.sub(r"[^\w\-. ]", " ", part).strip() for part in parts if part)


def _experiment(client: "MlflowClient", name: str, local: Path, *, is_local: bool) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    artifacts = (local / "artifacts").resolve().as_uri() if is_local else None
    return str(client.create_experiment(name, artifact_location=artifacts))
