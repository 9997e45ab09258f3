"""Tune hyper-parameters with Ray Tune: `hydraulic train tune`.

Each trial is one fit in one process, scored on validation groups, or the end of a single group's
history, after every epoch; ASHA (Li et al., "A system for massively parallel hyperparameter
tuning", 2020) stops trials with low scores. Trials run in parallel, so no trial needs further
workers. Invariant: no trial is trained or scored on the holdout of the first fold. In a training
with the same split, folds and seed, the figures of that fold are of windows that the search did not
use; those of the other folds are slightly too good.
"""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import ray
from ray import tune as ray_tune
from ray.tune.schedulers import ASHAScheduler

from app.core.errors import InputError
from app.core.settings import Settings
from train.config import TrainConfig
from train.data.artifact_locks import SEARCH_LOCK, in_use
from train.data.fleet import Chosen, Fleet
from train.data.fleet_split import set_apart_in, split_fleet
from train.data.labels import Integers
from train.data.prepare import prepare
from train.data.session import ray_session
from train.fitting.batches import plan_batches
from train.fitting.progress import EpochRecord
from train.fitting.single_process import fit_single_process
from train.jobs.options import TuneOptions, config_of, option_name

SCORE = "score"
SPACE: Mapping[str, tuple[float, float] | tuple[int, ...]] = {
    "learning_rate": (1e-3, 3e-2),
    "weight_decay": (1e-4, 1e-1),
    "hidden": (16, 32, 48),
    "attention_layers": (1, 2, 3),
    "batch": (16, 32, 64),
    "mixup": (0.05, 1.0),
}
"""Search space: ends of a log-uniform range of real numbers, or numbers to choose from."""


class Trial(TypedDict):
    """Input of all trials."""

    fleet: Fleet
    train: Chosen
    validation: Chosen
    config: TrainConfig


def tune(options: TuneOptions) -> int:
    """Run a search, print its trials and the command of the best; return the exit status."""
    config = config_of(options, workers="1")
    settings = Settings().at(options.dsn)
    training = settings.var_dir / "training"
    with prepare(settings, training, config) as fleet:
        tried = search(fleet, config, options.trials, options.at_once, training / "tune")
    for score, epochs, chosen in tried:
        print(f"score {score:.3f} after {epochs:>3} epochs  {_options(chosen)}")
    print(f"train with the best: {command_of(config, tried[0][2])}")
    return 0


def command_of(config: TrainConfig, chosen: Mapping[str, float]) -> str:
    """Return the command of a training with a trial's hyper-parameters, without validation."""
    values = config.model_dump() | dict(chosen)
    words = ["hydraulic", "train", "start"]
    for name, field in TrainConfig.model_fields.items():
        if values[name] != field.default and name not in {"workers", "validation_share"}:
            words += [option_name(name), str(values[name])]
    return shlex.join(words)


def parted(fleet: Fleet, config: TrainConfig) -> tuple[list[Integers], list[Integers]]:
    """Return training and validation windows of the trials, without the holdout of the first fold.

    Raises:
        InputError: the windows can't be split as configured.
    """
    train = split_fleet(fleet, config)[0].train
    return set_apart_in(fleet, train, config.validation_share, config.seed)


def search(
    fleet: Fleet, config: TrainConfig, trials: int, at_once: int, storage: Path
) -> list[tuple[float, int, dict[str, float]]]:
    """Run trials on the training windows of the first fold.

    Args:
        fleet: windows of each design; all nodes must reach their directories.
        config: of all trials, except for the fields in `SPACE`.
        trials: number of trials.
        at_once: number of trials in parallel.
        storage: directory shared by all nodes, for Ray Tune's record of the search.

    Returns:
        Last score, epochs and hyper-parameters of each trial, the best score first.

    Raises:
        InputError: the windows can't be split as configured or do not fill a batch, or no trial has
            a score.
    """
    train, validation = parted(fleet, config)
    counts = [len(train_W) for train_W in train if len(train_W)]
    plan_batches(counts, config.model_copy(update={"batch": min(SPACE["batch"])}))
    given: Trial = {
        "fleet": fleet,
        "train": train,
        "validation": validation,
        "config": config,
    }
    storage.mkdir(parents=True, exist_ok=True)
    (storage / SEARCH_LOCK).touch()
    with in_use(storage / SEARCH_LOCK), ray_session(at_once):
        shared = ray.put(given)
        tuner = ray_tune.Tuner(
            ray_tune.with_resources(ray_tune.with_parameters(_try, shared=shared), {"cpu": 1}),
            param_space=_space(sum(counts)),
            tune_config=ray_tune.TuneConfig(
                metric=SCORE,
                mode="max",
                num_samples=trials,
                max_concurrent_trials=at_once,
                scheduler=ASHAScheduler(
                    time_attr="training_iteration",
                    max_t=config.epochs,
                    grace_period=max(1, config.epochs // 8),
                ),
            ),
            run_config=ray_tune.RunConfig(storage_path=str(storage.absolute()), verbose=0),
        )
        results = tuner.fit()
    found = [
        (
            float(result.metrics[SCORE]),
            int(result.metrics["training_iteration"]),
            dict(result.config or {}),
        )
        for result in (results[number] for number in range(len(results)))
        if result.metrics and SCORE in result.metrics and math.isfinite(result.metrics[SCORE])
    ]
    if not found:
        raise InputError(
            "expected a trial with a score, found none: "
            f"{next(iter(results.errors), 'no label to score on')}"
        )
    return sorted(found, key=lambda trial: -trial[0])


def _try(chosen: dict[str, float], shared: "ray.ObjectRef[Trial]") -> None:
    """Run one trial."""
    given = ray.get(shared) if isinstance(shared, ray.ObjectRef) else shared
    config = TrainConfig.model_validate(given["config"].model_dump() | chosen)

    def report(record: EpochRecord) -> None:
        ray_tune.report(
            {SCORE: float("nan") if record.score is None else record.score, "loss": record.loss}
        )

    fit_single_process(given["fleet"], given["train"], given["validation"], config, report)


def _space(windows: int) -> dict[str, object]:
    """Return Ray Tune's search space, without batches that the windows do not fill."""
    return {
        name: ray_tune.loguniform(*values)
        if isinstance(values[0], float)
        else ray_tune.choice([value for value in values if name != "batch" or value <= windows])
        for name, values in SPACE.items()
    }


def _options(chosen: Mapping[str, float]) -> str:
    return " ".join(f"{option_name(name)} {value:.4g}" for name, value in sorted(chosen.items()))
