"""Searches hyper-parameters with Ray Tune: `python -m train tune`.

Each trial is one fit in one process, scored on validation groups after every epoch; ASHA (Li et al., "A system for massively parallel
hyperparameter tuning", 2020) ends those that lag behind. Trials run side by side, so no trial needs workers of its own.
Invariant: no trial sees the windows that `train.split` holds out for figures beyond those it is scored on.
"""

import argparse
import math
import sys
from collections.abc import Mapping
from typing import TypedDict

import numpy as np
import ray
from pydantic import ValidationError
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from app.errors import HydraulicDiagnosticsError, InputError
from app.settings import Settings
from train.config import TrainConfig
from train.labels import Integers
from train.plain import fit_plainly
from train.prepare import prepare
from train.progress import EpochRecord
from train.session import ray_session
from train.split import set_apart
from train.windows import Windows

SCORE = "score"
SPACE: Mapping[str, tuple[float, float] | tuple[int, ...]] = {
    "learning_rate": (1e-3, 3e-2),
    "weight_decay": (1e-4, 1e-1),
    "hidden": (16, 32, 48),
    "attention_layers": (1, 2, 3),
    "batch": (16, 32, 64),
    "mixup": (0.05, 1.0),
}
"""What is searched: the ends of a range of real numbers, by their logarithm, or the numbers to choose from."""


class Trial(TypedDict):
    """What a trial is given beside its hyper-parameters."""

    windows: Windows
    train_W: Integers
    validation_W: Integers
    config: TrainConfig


def main(arguments: list[str]) -> int:
    """Run a search, print its trials best first and the options that repeat the best; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        config = TrainConfig(
            equipment=options.equipment,
            design=options.design,
            epochs=options.epochs,
            members=options.members,
            seed=options.seed,
            validation_share=options.validation_share,
            workers="1",
        )
        windows = prepare(Settings().at(options.dsn), config)
        tried = search(windows, config, options.trials, options.at_once)
    except ValidationError as error:
        print(f"error: the search can't run so: {error}", file=sys.stderr)
        return 1
    except HydraulicDiagnosticsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    for score, epochs, chosen in tried:
        print(f"score {score:.3f} after {epochs:>3} epochs  {_options(chosen)}")
    print(
        f"train with the best: python -m train --equipment {options.equipment or options.design} {_options(tried[0][2])}"
    )
    return 0


def search(
    windows: Windows, config: TrainConfig, trials: int, at_once: int
) -> list[tuple[float, int, dict[str, float]]]:
    """Try hyper-parameters.

    Args:
        windows: of machines of one topology; every node must see their directory.
        config: of all trials but for what `SPACE` holds.
        trials: how many.
        at_once: how many side by side.

    Returns:
        Last score, epochs and hyper-parameters of each trial, the best score first.

    Raises:
        InputError: no trial came to a score.
    """
    train_W, validation_W = set_apart(windows, np.arange(len(windows)), config.validation_share, config.seed)
    given: Trial = {"windows": windows, "train_W": train_W, "validation_W": validation_W, "config": config}
    with ray_session(at_once):
        held = ray.put(given)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_try, held=held), {"cpu": 1}),
            param_space=_space(),
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                num_samples=trials,
                max_concurrent_trials=at_once,
                scheduler=ASHAScheduler(
                    time_attr="training_iteration", max_t=config.epochs, grace_period=max(1, config.epochs // 8)
                ),
            ),
            run_config=tune.RunConfig(verbose=0),
        )
        results = tuner.fit()
    found = [
        (float(result.metrics[SCORE]), int(result.metrics["training_iteration"]), dict(result.config or {}))
        for result in (results[number] for number in range(len(results)))
        if result.metrics and SCORE in result.metrics and math.isfinite(result.metrics[SCORE])
    ]
    if not found:
        raise InputError(
            f"expected a trial with a score, found none: {next(iter(results.errors), 'no label to score on')}"
        )
    return sorted(found, key=lambda trial: -trial[0])


def _try(chosen: dict[str, float], held: "ray.ObjectRef[Trial]") -> None:
    """Run one trial."""
    given = ray.get(held) if isinstance(held, ray.ObjectRef) else held
    config = TrainConfig.model_validate(given["config"].model_dump() | chosen)

    def hear(record: EpochRecord) -> None:
        tune.report({SCORE: float("nan") if record.score is None else record.score, "loss": record.loss})

    fit_plainly(given["windows"], given["train_W"], given["validation_W"], config, hear)


def _space() -> dict[str, object]:
    return {
        name: tune.loguniform(*values) if isinstance(values[0], float) else tune.choice(list(values))
        for name, values in SPACE.items()
    }


def _options(chosen: Mapping[str, float]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value:.4g}" for name, value in sorted(chosen.items()))


def _parser() -> argparse.ArgumentParser:
    # abbreviations are off, as in `python -m train`: `--ds` would carry a password past what looks for `--dsn`
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m train tune", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    about = parser.add_mutually_exclusive_group(required=True)
    about.add_argument("--equipment", metavar="ID", help="machine whose readings and labels are in the store")
    about.add_argument("--design", help="all machines of this design")
    parser.add_argument("--dsn", help="database; without it HYDRAULIC_DSN, or the local one")
    parser.add_argument("--trials", type=int, default=16, help="default 16")
    parser.add_argument("--at-once", type=int, default=2, help="trials side by side, default 2")
    parser.add_argument("--epochs", type=int, default=16, help="of a trial that is not ended early, default 16")
    parser.add_argument("--members", type=int, default=1, help="networks of a trial, default 1")
    parser.add_argument("--validation-share", type=float, default=0.2, help="of the groups, default 0.2")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    return parser
