"""Options of `hydraulic train`, and the config that they describe; imports no library of training.

Invariant: the command that a checkpoint records never has the database's address, which may hold a
password.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
from pydantic import ValidationError

from app.core.command_line import Dsn, reported, split_commas, whole_number
from app.core.errors import InputError
from app.features.statistics import ALL_STATISTICS
from app.schemas.explain import explain
from train.config import AUTO, TrainConfig

NOT_RECORDED = {"dsn", "address", "ship_packages"}
_count = whole_number(1, 10_000)


def run_command(command: Callable[[], int], interrupted: str) -> None:
    """Run a command and report its error, if any.

    Args:
        command: returns the exit status.
        interrupted: what the user can do after an interruption.

    Raises:
        Exit: with the command's status; 1 if it failed with a message, 130 if it was interrupted.
    """
    with reported(interrupted):
        status = command()
    if status:
        raise typer.Exit(status)


def option_name(name: str) -> str:
    """Return a field's option."""
    return f"--{name.replace('_', '-')}"


def _option(name: str) -> tuple[str, Any, Any]:
    """Return the field of a dataclass that is the option of a field of `TrainConfig`."""
    of_config = TrainConfig.model_fields[name]
    many = get_origin(of_config.annotation) is tuple
    default = ",".join(map(str, of_config.default)) if many else of_config.default
    text = of_config.description or ""
    if default not in (None, "") and of_config.annotation is not bool:
        text = f"{text} Default: {default}."
    kind: Any = list[str] if many else bool if of_config.annotation is bool else str
    metavar = None if kind is bool else name.rpartition("_")[2].upper()
    option = typer.Option(option_name(name), help=text, metavar=metavar, show_default=False)
    return name, Annotated[kind | None, option], field(default=None)


ConfigOptions = make_dataclass(
    "ConfigOptions", [_option(name) for name in TrainConfig.model_fields], frozen=True
)
"""An option for every field of `TrainConfig`, described by the field's docstring; None: default."""


@dataclass(frozen=True)
class StartOptions:
    """Options of a training beside its config."""

    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory of the checkpoint; default the next number in var/checkpoints/ID."
        ),
    ] = None
    version: Annotated[
        str | None,
        typer.Option(help="Name of the checkpoint; default the last part of --out."),
    ] = None
    dsn: Dsn = None
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Dashboard of a running Ray cluster on which to run the training.",
        ),
    ] = None
    ship_packages: Annotated[
        bool,
        typer.Option(
            "--ship-packages",
            help="With --address: have Ray install the packages of this environment, in these "
            "versions, on the nodes; without it the nodes must have them.",
        ),
    ] = False
    untracked: Annotated[bool, typer.Option("--untracked", help="Log no run to MLflow.")] = False


@dataclass(frozen=True)
class UniversalOptions:
    """Options of the universal training beside those of a training and its config."""

    machines: Annotated[
        int, typer.Option(parser=_count, metavar="N", help="Simulated machines of each design.")
    ] = 64
    windows: Annotated[
        int,
        typer.Option(
            parser=_count, metavar="N", help="Windows of each, beside those of its first day."
        ),
    ] = 32
    snapshots: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Windows of each with a few faults of their own."),
    ] = 36
    hours: Annotated[
        int, typer.Option(parser=_count, metavar="H", help="Operating hours of their wear.")
    ] = 4000
    wearing: Annotated[
        str, typer.Option(metavar="N", help="Expected number of components of each that wear.")
    ] = "12"
    sensor_faults: Annotated[
        str, typer.Option(metavar="N", help="Expected number of sensor faults of each.")
    ] = "0"
    fleet_seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed of the simulated machines.")
    ] = 0
    cmapss: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Training file of C-MAPSS, such as train_FD001.txt: adds the turbofan.",
        ),
    ] = None


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of an evaluation beside the checkpoint."""

    equipment: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Machine, or pattern with *; default those of the training."
        ),
    ] = None
    design: Annotated[str | None, typer.Option(help="All machines of a design.")] = None
    split: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="How windows are divided between baselines and scoring; see train.data.split.",
        ),
    ] = None
    dsn: Dsn = None
    cmapss: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Test file of C-MAPSS, such as test_FD001.txt; the store is not used.",
        ),
    ] = None
    rul: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its remaining cycles, such as RUL_FD001.txt."),
    ] = None
    train: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Training file, to which the baselines are fitted."),
    ] = None
    topology: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Topology of the engines; default turbofan."),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory of the report; default var/evaluations/DESIGN-VERSION-SPLIT.",
        ),
    ] = None


@dataclass(frozen=True)
class TuneOptions:
    """Options of a search; those of `TrainConfig` have defaults of their own."""

    equipment: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Machine whose readings and labels are in the store."),
    ] = None
    design: Annotated[str | None, typer.Option(help="All machines of this design.")] = None
    dsn: Dsn = None
    trials: Annotated[int, typer.Option(parser=_count, metavar="N", help="How many trials.")] = 16
    at_once: Annotated[int, typer.Option(parser=_count, metavar="N", help="Parallel trials.")] = 2
    epochs: Annotated[str, typer.Option(help="Of a trial that is not stopped early.")] = "16"
    members: Annotated[str, typer.Option(help="Networks of a trial.")] = "1"
    validation_share: Annotated[
        str, typer.Option(help="Share of the groups, or of one group's time, that scores trials.")
    ] = "0.2"
    split: Annotated[
        str, typer.Option(help="As in the training; its first fold stays held out.")
    ] = AUTO
    folds: Annotated[str, typer.Option(help="As in the training.")] = "5"
    seed: Annotated[str, typer.Option(help="Of the split and of all draws.")] = "0"


def words_of(*groups: Any) -> list[str]:
    """Return the words of a command line that give these options, without secrets.

    Args:
        groups: dataclasses of options; fields with their default are left out.
    """
    words: list[str] = []
    for group in groups:
        for each in fields(group):
            value = getattr(group, each.name)
            if each.name in NOT_RECORDED or value == each.default:
                continue
            if value is True:
                words.append(option_name(each.name))
            else:
                text = ",".join(value) if isinstance(value, list) else str(value)
                words += [option_name(each.name), text]
    return words


def command_of(*words: str) -> str:
    """Return the text of a command of `hydraulic train`."""
    return shlex.join(["hydraulic", "train", *words])


def config_of(options: Any, **fixed: object) -> TrainConfig:
    """Return the config that options describe.

    Args:
        options: a dataclass; fields that `TrainConfig` does not have and None are left out.
        fixed: further fields.

    Raises:
        InputError: the config refuses a value.
    """
    given: Mapping[str, Any] = {
        name: split_commas(value) if isinstance(value, list | tuple) else value
        for name, value in asdict(options).items()
        if name in TrainConfig.model_fields and value not in (None, [], ())
    }
    try:
        return TrainConfig(**{**given, **fixed})
    except ValidationError as error:
        found = "; ".join(
            f"{option_name(str(next(iter(item['loc']), 'options')))}: {explain(item)}"
            for item in error.errors()
        )
        raise InputError(f"invalid training options: {found}") from error


UNIVERSAL: Mapping[str, object] = {
    "design": "all demonstration designs",
    "split": "holdout",
    "single_fit": True,
    "epochs": 12,
    "epoch_share": 0.5,
    "batch": 64,
    "memory_limit_mb": 2000.0,
    "hidden": 48,
    "health_weight": 2.0,
    "rul_cap_h": 1000.0,
    "rul_caps_h": ("turbofan=125",),
    "skip_learning_rate": 0.002,
    "mixup": 0.0,
    "machine_baseline_h": 24.0,
    "statistics": ALL_STATISTICS,
    "worn_weight": 1.0,
}
"""Defaults of `hydraulic train universal` that differ from those of `TrainConfig`."""


def universal_config_of(options: Any) -> TrainConfig:
    """Return the config of the universal training that options describe; see `config_of`.

    Raises:
        InputError: the config refuses a value, or a machine or design is named.
    """
    if options.equipment or options.design:
        raise InputError(
            "expected no --equipment and no --design, since this training has all demonstration "
            "designs: use hydraulic train start",
            "design",
        )
    fixed = {name: value for name, value in UNIVERSAL.items() if not getattr(options, name)}
    return config_of(options, **fixed)
