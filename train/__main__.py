"""Trains networks on labelled history, scores checkpoints and searches settings: `python -m train [COMMAND]`; without a command it trains.

Training prepares windows from the store, makes every fit in one start of Ray, and writes the checkpoint's directory with its report.
Invariant: however it ends, no process of Ray is left that it started, and a directory is written whole or not at all.
"""

import argparse
import importlib
import shlex
import sys
from pathlib import Path
from typing import get_args, get_origin

from pydantic import ValidationError

from app.checkpoint import manifest as files
from app.core.errors import HydraulicDiagnosticsError, InputError
from app.core.settings import Settings
from app.features.binning import Statistic
from train.config import TrainConfig

COMMANDS = {
    "labels": "train.jobs.label_command",
    "evaluate": "train.jobs.evaluate_command",
    "tune": "train.jobs.tune",
    "prune": "train.jobs.prune",
}
"""Modules with `main(arguments)`, each imported when it is asked for: what trains needs seconds to import."""


def main(arguments: list[str]) -> int:
    """Run a command and return the exit status: 0 done, 1 failed with a message, 130 interrupted."""
    if arguments and arguments[0] in COMMANDS:
        status: int = importlib.import_module(COMMANDS[arguments[0]]).main(arguments[1:])
        return status
    options = _parser().parse_args(arguments)
    try:
        config = config_of(options)
        if options.address:
            if options.out and not options.out.is_absolute():
                raise InputError(
                    f"expected --out with --address to be absolute and on a disk that the cluster shares, found '{options.out}'",
                    "out",
                )
            from train.jobs.submit import submit

            return submit(options.address, without(arguments, "--dsn", "--address"), options.dsn)
        return _train(options, config, shlex.join(["python", "-m", "train", *without_secrets(arguments)]))
    except HydraulicDiagnosticsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written, and the same command goes on where it was", file=sys.stderr)
        return 130


def _train(options: argparse.Namespace, config: TrainConfig, command: str) -> int:
    from train.data.prepare import prepare
    from train.data.session import ray_session
    from train.fitting.progress import Progress
    from train.jobs.job import Job, check_free, run_job, storage_of
    from train.jobs.tracking import track

    settings = Settings().at(options.dsn)
    if options.out:
        check_free(options.out)
    with ray_session(config.max_workers), Progress() as progress, prepare(settings, config) as windows:
        name = windows.equipment.design if config.design or len(windows.machines) > 1 else windows.machines[0]
        out: Path = options.out or next_directory(settings.var_dir / "checkpoints" / name)
        progress.say(
            f"{len(windows)} windows of {len(windows.machines)} machines of design {windows.equipment.design}, "
            f"{windows.group_W.max() + 1} groups, {int(windows.warm_up_W.sum())} windows of a warm-up, "
            f"split {config.split}, {config.workers} workers"
        )
        storage = storage_of(settings.var_dir / "training" / "jobs", windows, config)
        outcome = run_job(Job(windows, config, out, options.version or out.name, command, storage), progress)
    if not options.untracked:
        kept = track(outcome, config, out)
        print(f"kept as run {kept.run_id} of experiment {kept.experiment} in {kept.store}")
    print(f"wrote {out}: see {out / files.REPORT} and {out / 'model_card.md'}")
    return 0


def next_directory(parent: Path) -> Path:
    """Return the directory under a parent whose number follows the highest there."""
    numbers = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
    return parent / str(max(numbers, default=0) + 1)


def without_secrets(arguments: list[str]) -> list[str]:
    """Return a command's arguments without the database's address, which may hold a password."""
    return without(arguments, "--dsn")


def without(arguments: list[str], *options: str) -> list[str]:
    """Return a command's arguments without some options and their values."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument.partition("=")[0] in options:
            skip = not skip and argument in options
        else:
            kept.append(argument)
    return kept


def config_of(options: argparse.Namespace) -> TrainConfig:
    """Make a training's config of what was given on the command line.

    Raises:
        InputError: a value is not one that the config takes.
    """
    given = {
        name: value for name, value in vars(options).items() if name in TrainConfig.model_fields and value is not None
    }
    try:
        return TrainConfig(**given)
    except ValidationError as error:
        found = "; ".join(f"--{'.'.join(map(str, item['loc'])) or 'options'}: {item['msg']}" for item in error.errors())
        raise InputError(f"the training can't run so: {found}") from error


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every field of `TrainConfig`, told by the field's own description; values are checked by the config."""
    for name, field in TrainConfig.model_fields.items():
        told = (field.description or "").replace("%", "%%")
        many = get_origin(field.annotation) is tuple
        shown = " ".join(map(str, field.default)) if many else field.default
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            nargs="*" if many else None,
            choices=get_args(Statistic) if name == "statistics" else None,
            metavar=name.rpartition("_")[2].upper(),
            help=f"{told} Default: {shown}." if shown not in (None, "") else told,
        )


def _parser() -> argparse.ArgumentParser:
    # abbreviations are off: `--ds` would carry a password past `without_secrets` into the card
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m train",
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
        epilog="Further commands, each with its --help: " + ", ".join(COMMANDS) + ".",
    )
    parser.add_argument(
        "--out", type=Path, help="directory of the checkpoint; without it the next number under var/checkpoints/ID"
    )
    parser.add_argument("--version", help="name of the checkpoint; without it the last part of --out")
    parser.add_argument(
        "--dsn", help="database; without it HYDRAULIC_DSN, which no other user can see, or the local one"
    )
    parser.add_argument(
        "--address", metavar="URL", help="dashboard of a running Ray cluster that the training is handed to"
    )
    parser.add_argument("--untracked", action="store_true", help="keep no run in MLflow")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
