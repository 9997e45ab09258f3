"""Searches hyper-parameters with Ray Tune: `python -m train tune`.

Each trial is one fit in one process, scored on validation groups after every epoch; ASHA (Li et al., "A system for massively parallel
hyperparameter tuning", 2020) ends those that lag behind. Trials run side by side, so no trial needs workers of its own.
Invariant: no trial learns from or is scored on what the first part of the split holds out. Of a training with the same split, folds and
seed, the figures of that part are of windows that the search never saw; those of its other parts are not, and are a little too good.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from app.core.errors import HydraulicDiagnosticsError, InputError
from app.core.settings import Settings
from train.config import TrainConfig
from train.data.artifact_locks import SEARCHES, in_use
from train.data.labels import Integers
from train.data.prepare import prepare
from train.data.session import ray_session
from train.data.split import SplitPlan, set_apart, split
from train.data.windows import Windows
from train.fitting.batches import count_steps
from train.fitting.progress import EpochRecord
from train.fitting.single_process import fit_single_process
from train.jobs.options import config_of

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
        config = config_of(options)
        for name in ("trials", "at_once"):
            if getattr(options, name) < 1:
                raise InputError(
                    f"the search can't run so: expected --{name.replace('_', '-')} of at least 1, found {getattr(options, name)}",
                    name,
                )
        settings = Settings().at(options.dsn)
        with prepare(settings, config) as windows:
            tried = search(
                windows,
                config,
                options.trials,
                options.at_once,
                settings.var_dir / "training" / "tune",
            )
    except HydraulicDiagnosticsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the trials so far are under var/training/tune", file=sys.stderr)
        return 130
    for score, epochs, chosen in tried:
        print(f"score {score:.3f} after {epochs:>3} epochs  {_options(chosen)}")
    print(f"train with the best: {command_of(config, tried[0][2])}")
    return 0


def command_of(config: TrainConfig, chosen: Mapping[str, float]) -> str:
    """Return the command of a training with the hyper-parameters of a trial; it learns from all windows and is watched on none."""
    said = config.model_dump() | dict(chosen)
    given = {
        name: str(said[name])
        for name, field in TrainConfig.model_fields.items()
        if said[name] != field.default and name not in {"workers", "validation_share"}
    }
    return shlex.join(
        [
            "python",
            "-m",
            "train",
            *(word for name, value in given.items() for word in (_option(name), value)),
        ]
    )


def parted(windows: Windows, config: TrainConfig) -> tuple[Integers, Integers]:
    """Return what trials learn from and what they are scored on: nothing of what the split's first part holds out.

    Raises:
        InputError: the windows can't be split as asked.
    """
    plan = SplitPlan(
        config.split, config.folds, config.holdout_share, config.warm_up_windows, config.seed
    )
    return set_apart(windows, split(windows, plan)[0].train_W, config.validation_share, config.seed)


def search(
    windows: Windows, config: TrainConfig, trials: int, at_once: int, storage: Path
) -> list[tuple[float, int, dict[str, float]]]:
    """Try hyper-parameters on what the first part of the split lets a fit see, of a warm-up a few windows.

    Args:
        windows: of machines of one topology; every node must see their directory.
        config: of all trials but for what `SPACE` holds.
        trials: how many.
        at_once: how many side by side.
        storage: directory that all nodes see, for Ray Tune's record of the search.

    Returns:
        Last score, epochs and hyper-parameters of each trial, the best score first.

    Raises:
        InputError: the windows can't be split as asked or do not fill a batch, or no trial came to a score.
    """
    train_W, validation_W = parted(windows, config)
    count_steps(len(train_W), config.model_copy(update={"batch": min(SPACE["batch"])}))
    given: Trial = {
        "windows": windows,
        "train_W": train_W,
        "validation_W": validation_W,
        "config": config,
    }
    storage.mkdir(parents=True, exist_ok=True)
    (storage / SEARCHES).touch()
    with in_use(storage / SEARCHES), ray_session(at_once):
        held = ray.put(given)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_try, held=held), {"cpu": 1}),
            param_space=_space(len(train_W)),
            tune_config=tune.TuneConfig(
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
            run_config=tune.RunConfig(storage_path=str(storage.absolute()), verbose=0),
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
            f"expected a trial with a score, found none: {next(iter(results.errors), 'no label to score on')}"
        )
    return sorted(found, key=lambda trial: -trial[0])


def _try(chosen: dict[str, float], held: "ray.ObjectRef[Trial]") -> None:
    """Run one trial."""
    given = ray.get(held) if isinstance(held, ray.ObjectRef) else held
    config = TrainConfig.model_validate(given["config"].model_dump() | chosen)

    def hear(record: EpochRecord) -> None:
        tune.report(
            {SCORE: float("nan") if record.score is None else record.score, "loss": record.loss}
        )

    fit_single_process(given["windows"], given["train_W"], given["validation_W"], config, hear)


def _space(windows: int) -> dict[str, object]:
    """Return what Ray Tune draws from, without batches that the windows do not fill."""
    return {
        name: tune.loguniform(*values)
        if isinstance(values[0], float)
        else tune.choice([value for value in values if name != "batch" or value <= windows])
        for name, values in SPACE.items()
    }


def _options(chosen: Mapping[str, float]) -> str:
    return " ".join(f"{_option(name)} {value:.4g}" for name, value in sorted(chosen.items()))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parser() -> argparse.ArgumentParser:
    # abbreviations are off, as in `python -m train`: `--ds` would carry a password past what looks for `--dsn`
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m train tune",
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
    )
    about = parser.add_mutually_exclusive_group(required=True)
    about.add_argument(
        "--equipment", metavar="ID", help="machine whose readings and labels are in the store"
    )
    about.add_argument("--design", help="all machines of this design")
    parser.add_argument("--dsn", help="database; without it HYDRAULIC_DSN, or the local one")
    parser.add_argument("--trials", type=int, default=16, help="default 16")
    parser.add_argument("--at-once", type=int, default=2, help="trials side by side, default 2")
    parser.add_argument(
        "--epochs", default=16, help="of a trial that is not ended early, default 16"
    )
    parser.add_argument("--members", default=1, help="networks of a trial, default 1")
    parser.add_argument(
        "--validation-share", default=0.2, help="of the groups that trials may see, default 0.2"
    )
    parser.add_argument(
        "--split",
        default="group",
        help="as of the training; its first part is held out, default group",
    )
    parser.add_argument("--folds", default=5, help="as of the training, default 5")
    parser.add_argument("--seed", default=0, help="default 0")
    parser.set_defaults(workers="1")
    return parser
