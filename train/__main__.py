"""Train networks, evaluate checkpoints and tune hyper-parameters: `python -m train [COMMAND]`.

Without a command it trains: it prepares windows from the store, makes every fit in one Ray session,
and writes the checkpoint with its report. Invariant: no Ray process that it started outlives it,
and a checkpoint is written whole or not at all.
"""

import argparse
import importlib
import shlex
import sys
from pathlib import Path

from app.checkpoint import manifest as files
from app.core.errors import InputError
from app.core.settings import Settings
from train.config import TrainConfig
from train.jobs.options import (
    add_database,
    add_settings,
    command_parser,
    config_of,
    run_command,
    without,
    without_secrets,
)

COMMANDS = {
    "labels": "train.jobs.label_command",
    "evaluate": "train.jobs.evaluate_command",
    "tune": "train.jobs.tune",
    "prune": "train.jobs.prune",
}
"""Modules with `main(arguments)`, imported on use: importing Ray Train and PyTorch takes
seconds."""


def main(arguments: list[str]) -> int:
    """Run a command and return the exit status: 0 done, 1 failed, 130 interrupted."""
    if arguments and arguments[0] in COMMANDS:
        status: int = importlib.import_module(COMMANDS[arguments[0]]).main(arguments[1:])
        return status
    options = _parser().parse_args(arguments)
    return run_command(
        lambda: _run(options, arguments),
        "no checkpoint was written; the same command resumes the training",
    )


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    config = config_of(options)
    if options.address is None:
        command = shlex.join(["python", "-m", "train", *without_secrets(arguments)])
        return _train(options, config, command)
    if options.out and not options.out.is_absolute():
        raise InputError(
            "expected --out with --address to be an absolute path on a disk that the cluster "
            f"shares, found '{options.out}'",
            "out",
        )
    from train.jobs.submit import submit

    return submit(options.address, without(arguments, "--dsn", "--address"), options.dsn)


def _train(options: argparse.Namespace, config: TrainConfig, command: str) -> int:
    from train.data.prepare import prepare
    from train.data.session import ray_session
    from train.fitting.progress import Progress
    from train.jobs.job import Job, check_free, run_job, storage_of
    from train.jobs.tracking import track

    settings = Settings().at(options.dsn)
    if options.out:
        check_free(options.out)
    with (
        ray_session(config.max_workers),
        Progress() as progress,
        prepare(settings, config) as windows,
    ):
        design, machines = windows.equipment.design, windows.machines
        name = design if config.design or len(machines) > 1 else machines[0]
        out: Path = options.out or next_directory(settings.var_dir / "checkpoints" / name)
        progress.say(
            f"{len(windows)} windows of {len(machines)} machines of design {design}, "
            f"{windows.group_W.max() + 1} groups, {int(windows.warm_up_W.sum())} warm-up windows, "
            f"split {config.split}, {config.workers} workers"
        )
        storage = storage_of(settings.var_dir / "training" / "jobs", windows, config)
        job = Job(windows, config, out, options.version or out.name, command, storage)
        outcome = run_job(job, progress)
    if not options.untracked:
        run = track(outcome, config, out)
        print(f"logged run {run.run_id} of experiment {run.experiment} to {run.store}")
    print(f"wrote {out}: see {out / files.REPORT} and {out / 'model_card.md'}")
    return 0


def next_directory(parent: Path) -> Path:
    """Return the directory in `parent` whose number follows the highest one there."""
    numbers = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
    return parent / str(max(numbers, default=0) + 1)


def _parser() -> argparse.ArgumentParser:
    epilog = f"Further commands, each with its own --help: {', '.join(COMMANDS)}."
    parser = command_parser("", __doc__, epilog)
    parser.add_argument(
        "--out",
        type=Path,
        help="directory of the checkpoint; default the next number in var/checkpoints/ID",
    )
    parser.add_argument("--version", help="name of the checkpoint; default the last part of --out")
    add_database(parser)
    parser.add_argument(
        "--address",
        metavar="URL",
        help="dashboard of a running Ray cluster on which to run the training",
    )
    parser.add_argument("--untracked", action="store_true", help="log no run to MLflow")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
