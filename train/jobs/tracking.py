"""Log training runs to MLflow: parameters, curves, figures, report and checkpoint.

The store is local unless `MLFLOW_TRACKING_URI` names a server. Importing MLflow takes seconds, so
it is imported when a run is logged. Invariant: runs are logged after the checkpoint was written, so
a failure to log never costs a checkpoint.
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
from app.core.shared_storage import StoragePath
from train.evaluation.record import Evaluation, Metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from train.jobs.job import Outcome

SERVER = "MLFLOW_TRACKING_URI"
AT_ONCE = 900
"""Values of one request; servers accept 1000."""
LONGEST_VALUE = 6000
"""Characters of a parameter; servers limit them."""


class Run(NamedTuple):
    """A logged run: its id, its experiment and the address of the store."""

    run_id: str
    experiment: str
    store: str


class _Value(NamedTuple):
    name: str
    value: float
    step: int


def log_run(
    directory: Path,
    config: BaseModel,
    metrics: Metrics,
    local: Path,
    *,
    name: str,
    experiment: str,
    now: datetime,
    written: StoragePath | None = None,
    tags: Mapping[str, str] | None = None,
) -> Run:
    """Log one training as a run of MLflow.

    Args:
        directory: of the checkpoint, whose files become the run's artifacts under `checkpoint`.
        config: of the training; each field is a parameter.
        metrics: figures and curves.
        local: directory of the local store, used unless `MLFLOW_TRACKING_URI` names a server.
        name: of the run.
        experiment: of the run; created if it does not exist.
        now: when the run ended.
        written: where the checkpoint stays, for the message; None for the directory.
        tags: further tags of the run.

    Returns:
        The run.

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
            f"expected MLflow to log the run '{name}' to {shown}, found: "
            f"{without_passwords(error.message)}; the checkpoint in '{written or directory}' was "
            f"written: correct {SERVER}, or unset it for a local store"
        ) from error
    return Run(run_id, experiment, shown)


def track(outcome: "Outcome", config: BaseModel, directory: Path, written: StoragePath) -> Run:
    """Log the outcome of a training to the experiment of its first design; see `log_run`."""
    heading, evaluations = outcome.heading, [*outcome.designs.values()]
    return log_run(
        directory,
        config,
        outcome.metrics,
        Settings().var_dir / "mlflow",
        name=heading.version,
        experiment=evaluations[0].design,
        now=heading.created,
        written=written,
        tags={
            "equipment": ",".join(each.equipment_id for each in evaluations),
            "git_revision": heading.git_revision,
        },
    )


def local_store(local: Path) -> str:
    """Return the address of the local store, an SQLite file in a new or existing directory."""
    local.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{(local / 'mlflow.db').resolve()}"


def parameters(config: BaseModel) -> dict[str, str]:
    """Return the fields of a configuration as text by name, without those that are None."""
    return {
        key: str(value)[:LONGEST_VALUE]
        for key, value in config.model_dump(mode="json").items()
        if value is not None
    }


def flatten(evaluation: Evaluation, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the figures by which runs are compared, with names that MLflow accepts."""
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
    for component, uncertainty in evaluation.uncertainty.items():
        for quantity, interval in (("health", uncertainty.health), ("rul", uncertainty.rul)):
            if interval is not None:
                yield _name(prefix, "coverage", component, quantity), interval.coverage
    if evaluation.robustness is not None:
        for fault, figures in evaluation.robustness.faults.items():
            yield _name(prefix, "cost of one sensor", fault), figures.cost


def _values(metrics: Metrics) -> Iterator[_Value]:
    for fit, points in metrics.evaluation.learning.items():
        for point in points:
            yield _Value(_name("", "loss", fit), point.loss, point.epoch)
            if point.score is not None:
                yield _Value(_name("", "score", fit), point.score, point.epoch)
    for name, value in flatten(metrics.evaluation):
        yield _Value(name, value, 0)
    for design, further in metrics.further.items():
        for name, value in flatten(further, design):
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
