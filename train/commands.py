"""`hydraulic train`: trains networks, evaluates checkpoints, tunes hyper-parameters.

The modules that do the work are imported on use: importing Ray Train and PyTorch takes seconds.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.core.command_line import WRONG_USE, Dsn, command_group, with_groups
from app.core.errors import InputError
from train.jobs.options import (
    ConfigOptions,
    EvaluateOptions,
    StartOptions,
    TuneOptions,
    UniversalOptions,
    command_of,
    config_of,
    run_command,
    universal_config_of,
    words_of,
)

commands = command_group(
    "Train networks, evaluate checkpoints, tune hyper-parameters and label history."
)
Checkpoint = Annotated[Path, typer.Argument(help="Directory that a training wrote.")]


@commands.command(epilog="Example: hydraulic train start --equipment hydraulic-rig --workers 2")
@with_groups
def start(options: StartOptions, settings: Annotated[Any, ConfigOptions]) -> None:
    """Train on the store's readings and labels, and write a checkpoint with its report.

    No Ray process that it started outlives it, and a checkpoint is written whole or not at all.
    """

    def run() -> int:
        config, words = config_of(settings), words_of(settings, options)
        if options.address is None:
            if options.ship_packages:
                _wrong_use("expected --ship-packages with --address, found it alone: leave it out")
            from train.jobs.start import train

            return train(options, config, command_of("start", *words))
        if options.out and not options.out.is_absolute():
            raise InputError(
                "expected --out with --address to be an absolute path on a disk that the cluster "
                f"shares, found '{options.out}'",
                "out",
            )
        from train.jobs.submit import submit

        return submit(
            options.address,
            ["start", *words],
            options.dsn,
            with_packages=options.ship_packages,
        )

    run_command(run, "no checkpoint was written; the same command resumes the training")


@commands.command(epilog="Example: hydraulic train universal --cmapss train_FD001.txt")
@with_groups
def universal(
    data: UniversalOptions, options: StartOptions, settings: Annotated[Any, ConfigOptions]
) -> None:
    """Train one checkpoint for all demonstration designs, on machines that it generates.

    Needs no database: it simulates the machines and reads the rig's shipped cycles. The report has
    the figures of held-out machines. Machines are made once and used again by the same command.
    """
    if options.address or options.dsn or options.ship_packages:
        _wrong_use(
            "expected no --address, --ship-packages or --dsn: this training runs here, without a "
            "store"
        )

    def run() -> int:
        from train.jobs.universal import data_of, train_universal

        command = command_of("universal", *words_of(data, settings, options))
        return train_universal(data_of(data), options, universal_config_of(settings), command)

    run_command(run, "no checkpoint was written; the same command resumes the training")


@commands.command(epilog="Example: hydraulic train evaluate var/checkpoints/hydraulic-rig/1")
@with_groups
def evaluate(checkpoint: Checkpoint, options: EvaluateOptions) -> None:
    """Evaluate a checkpoint unchanged; the report is written elsewhere."""
    if (options.cmapss is None) != (options.rul is None):
        _wrong_use("expected --cmapss and --rul together, found one of them: give both or none")
    if options.equipment and options.design:
        _wrong_use("expected --equipment or --design, found both: leave one out")

    def run() -> int:
        from train.jobs.evaluate_command import evaluate

        return evaluate(
            checkpoint, options, command_of("evaluate", str(checkpoint), *words_of(options))
        )

    run_command(run, "nothing was written")


@commands.command(epilog="Example: hydraulic train tune --equipment hydraulic-rig --trials 16")
@with_groups
def tune(options: TuneOptions) -> None:
    """Tune hyper-parameters with Ray Tune, and print the command of the best trial."""
    if (options.equipment is None) == (options.design is None):
        _wrong_use("expected either --equipment or --design, found both or none")

    def run() -> int:
        from train.jobs.tune import tune

        return tune(options)

    run_command(run, "the trials so far are in var/training/tune")


@commands.command(epilog="Example: hydraulic train label press-1 labels.csv")
def label(
    equipment: Annotated[
        str, typer.Argument(metavar="ID", help="Equipment whose history is labelled.")
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="Lines start,end,component,health.")
    ],
    dsn: Dsn = None,
) -> None:
    """Import health labels from a CSV file; nothing is written when any line is invalid."""

    def run() -> int:
        from train.jobs.label_command import label

        return label(equipment, file, dsn)

    run_command(run, "run the same command again")


@commands.command(epilog="Example: hydraulic train prune --days 30 --dry-run")
def prune(
    days: Annotated[
        str,
        typer.Option(
            metavar="N",
            help="Days without use after which an artifact is removed, 0 for all that are not in "
            "use.",
        ),
    ] = "30",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the artifacts.")] = False,
) -> None:
    """Remove artifacts of training, under var/training, that were unused for days.

    Windows count as used when a command opens them, when it ends and when their fits change; fits
    change with every epoch and every start of their training. Artifacts in use and unknown files
    stay, whatever their age. On a disk whose locks (flock) do not reach other nodes only the times
    count: keep a few days there. The command that needs a removed artifact makes it again: windows
    from the store, fits from their first epoch (also with --keep-fits). Checkpoints, reports and
    MLflow runs are elsewhere and stay.
    """

    def run() -> int:
        from train.jobs.prune import prune

        return prune(days, is_dry=dry_run)

    run_command(run, "the same command removes the rest")


def _wrong_use(message: str) -> None:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(WRONG_USE)
