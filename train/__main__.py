"""Trains networks on labelled history, scores checkpoints and searches settings: `python -m train [COMMAND]`; without a command it trains.

Training prepares windows from the store, makes every fit in one start of Ray, and writes the checkpoint's directory with its report.
Invariant: however it ends, no process of Ray is left that it started, and a directory is written whole or not at all.
"""

import argparse
import importlib
import shlex
import sys
from pathlib import Path

from app.checkpoint import manifest as files
from app.core.errors import HydraulicDiagnosticsError, InputError
from app.core.settings import Settings
from train.config import TrainConfig
from train.jobs.options import add_settings, config_of, without, without_secrets

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
        return _train(
            options, config, shlex.join(["python", "-m", "train", *without_secrets(arguments)])
        )
    except HydraulicDiagnosticsError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; nothing was written, and the same command goes on where it was",
            file=sys.stderr,
        )
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
    with (
        ray_session(config.max_workers),
        Progress() as progress,
        prepare(settings, config) as windows,
    ):
        name = (
            windows.equipment.design
            if config.design or len(windows.machines) > 1
            else windows.machines[0]
        )
        out: Path = options.out or next_directory(settings.var_dir / "checkpoints" / name)
        progress.say(
            f"{len(windows)} windows of {len(windows.machines)} machines of design {windows.equipment.design}, "
            f"{windows.group_W.max() + 1} groups, {int(windows.warm_up_W.sum())} windows of a warm-up, "
            f"split {config.split}, {config.workers} workers"
        )
        storage = storage_of(settings.var_dir / "training" / "jobs", windows, config)
        outcome = run_job(
            Job(windows, config, out, options.version or out.name, command, storage), progress
        )
    if not options.untracked:
        kept = track(outcome, config, out)
        print(f"kept as run {kept.run_id} of experiment {kept.experiment} in {kept.store}")
    print(f"wrote {out}: see {out / files.REPORT} and {out / 'model_card.md'}")
    return 0


def next_directory(parent: Path) -> Path:
    """Return the directory under a parent whose number follows the highest there."""
    numbers = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
    return parent / str(max(numbers, default=0) + 1)


def _parser() -> argparse.ArgumentParser:
    # abbreviations are off: `--ds` would carry a password past `without_secrets` into the manifest
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m train",
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
        epilog="Further commands, each with its --help: " + ", ".join(COMMANDS) + ".",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="directory of the checkpoint; without it the next number under var/checkpoints/ID",
    )
    parser.add_argument(
        "--version", help="name of the checkpoint; without it the last part of --out"
    )
    parser.add_argument(
        "--dsn",
        help="database; without it HYDRAULIC_DSN, which no other user can see, or the local one",
    )
    parser.add_argument(
        "--address",
        metavar="URL",
        help="dashboard of a running Ray cluster that the training is handed to",
    )
    parser.add_argument("--untracked", action="store_true", help="keep no run in MLflow")
    add_settings(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
