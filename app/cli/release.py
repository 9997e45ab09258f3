"""`hydraulic release`: changes which versions run and their traffic, without losing a request.

Commands change `serve_config.yaml`, or a RayService, and what runs together, and record who, when,
what and why in the release history; `--dry-run` prints the change only. Further exit statuses: 1
when a change was refused and what ran before continues; 3 when a guard broke and the promotion was
rolled back; 143 when SIGTERM ended it.
"""

import asyncio
import getpass
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from app.core.command_line import command_group, with_groups
from app.release import commands as release
from app.release.history import Order
from app.release.promotion import GuardBroken

GUARD_BROKEN, TERMINATED = 3, 143

commands = command_group(
    "Register versions, deploy them and move traffic, without losing a request.\n\n"
    "Exit status: 1 refused, what ran before continues; 3 a guard broke and the promotion was "
    "rolled back."
)

Version = Annotated[str, typer.Argument(help="Number of the version.")]
Config = Annotated[
    Path | None,
    typer.Option(help="Serve configuration; default HYDRAULIC_SERVE_CONFIG or serve_config.yaml."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the change without making it.")]


@dataclass(frozen=True)
class Cluster:
    """Options of commands that read what runs."""

    config: Config = None
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray's dashboard; default RAY_DASHBOARD_ADDRESS or http://127.0.0.1:8265."
        ),
    ] = None
    url: Annotated[
        str | None, typer.Option(help="The service; default from http_options of the file.")
    ] = None

    @property
    def place(self) -> release.Place:
        """The file, cluster and service that the command is about."""
        return release.Place(self.config, self.address, self.url)


@dataclass(frozen=True)
class Change(Cluster):
    """Options of commands that change what runs."""

    dry_run: DryRun = False
    reason: Annotated[str, typer.Option(help="Why; recorded in the release history.")] = ""
    actor: Annotated[str | None, typer.Option(help="Who; default the user of this process.")] = None

    @property
    def order(self) -> Order:
        """Who makes the change, and why."""
        return Order(self.actor or getpass.getuser(), self.reason, self.dry_run)


def _report(line: str) -> None:
    typer.echo(line)


def _run(work: Coroutine[Any, Any, int | None]) -> None:
    """Run a command; raise Exit with its status unless that is 0."""
    try:
        status = asyncio.run(work)
    except GuardBroken as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(GUARD_BROKEN) from error
    except asyncio.CancelledError as error:
        typer.echo("terminated", err=True)
        raise typer.Exit(TERMINATED) from error
    if status:
        raise typer.Exit(status)


@commands.command("list", epilog="Example: hydraulic release list")
def list_versions() -> None:
    """List the registered versions, newest first."""
    release.list_versions(_report)


@commands.command(epilog="Example: hydraulic release register var/checkpoints/press-1/1")
def register(
    checkpoint: Annotated[
        str, typer.Argument(help="Directory written by training, or its URL on shared storage.")
    ],
    run: Annotated[str | None, typer.Option(help="Id of the MLflow run that trained it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify without registering.")] = False,
) -> None:
    """Verify a checkpoint and give it a version number."""
    _run(release.register(checkpoint, run, _report, dry_run=dry_run))


@commands.command(hidden=True)
def fetch(version: Version, directory: Path) -> None:
    """Write a registered version into an empty directory; for replicas."""
    release.fetch(version, directory)


@commands.command(hidden=True)
def check(version: Version) -> None:
    """Verify a version and print its checkpoint's place and designs; for the service."""
    release.check(version, _report)


@commands.command(hidden=True)
def registered() -> None:
    """Print the versions of the registry as JSON; for the service."""
    release.registered(_report)


@commands.command(hidden=True)
def alias(
    names: Annotated[list[str], typer.Argument(metavar="ALIAS=VERSION", help="champion=3")],
) -> None:
    """Set aliases of registered versions; for the service."""
    release.alias(names, _report)


@commands.command(epilog="Example: hydraulic release status")
@with_groups
def status(cluster: Cluster) -> None:
    """Show the file, what runs, and the last releases."""
    _run(release.status(cluster.place, _report))


@commands.command(epilog="Example: hydraulic release show > serve_config.yaml")
def show(
    config: Config = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it there instead of printing it.")
    ] = None,
) -> None:
    """Print the configuration, which on Kubernetes is in the RayService."""
    release.show(config, out, _report)


@commands.command(epilog="Example: hydraulic release diff")
@with_groups
def diff(cluster: Cluster) -> None:
    """Show what the file would change in what runs."""
    _run(release.diff(cluster.place, _report))


@commands.command(epilog="Example: hydraulic release apply --reason 'more replicas'")
@with_groups
def apply(change: Change) -> None:
    """Apply the file as it is."""
    _run(release.change(change.place, change.order, _report, lambda to: to.releases.apply()))


@commands.command(epilog="Example: hydraulic release compare 1 2 --days 7")
def compare(
    a: Annotated[str, typer.Argument(help="Version to compare with.")],
    b: Annotated[str, typer.Argument(help="Version that the verdict is about.")],
    days: Annotated[
        float | None, typer.Option(help="How far back answers count; default all.")
    ] = None,
) -> None:
    """Say which of two versions is right more often, and how they differ."""
    _run(release.compare(a, b, days, _report))


@commands.command(epilog="Example: hydraulic release deploy 3")
@with_groups
def deploy(
    version: Version,
    change: Change,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Its directory, relative to the project; default a registered version."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="auto, cpu, cuda or cuda:N; default that of the version with most traffic."
        ),
    ] = None,
) -> None:
    """Add a version with weight 0 and wait until it answers."""
    _run(
        release.change(
            change.place,
            change.order,
            _report,
            lambda to: to.deploy(version, checkpoint, device),
            deployed=version,
        )
    )


@commands.command(epilog="Example: hydraulic release split 3=90 4=10 --design press")
@with_groups
def split(
    change: Change,
    weights: Annotated[
        list[str] | None, typer.Argument(metavar="VERSION=WEIGHT...", help="Such as 3=90 4=10.")
    ] = None,
    design: Annotated[
        str | None,
        typer.Option(help="Only for machines of it; without weights, it has those of all again."),
    ] = None,
) -> None:
    """Set the traffic weights."""
    given = weights or []
    _run(release.change(change.place, change.order, _report, lambda to: to.split(given, design)))


@commands.command(epilog="Example: hydraulic release shadow 4")
@with_groups
def shadow(
    version: Version,
    change: Change,
    off: Annotated[bool, typer.Option("--off", help="Stop it.")] = False,
) -> None:
    """Score copies of the traffic with a version, and store the results."""
    _run(
        release.change(
            change.place,
            change.order,
            _report,
            lambda to: to.releases.shadow(version, on=not off),
        )
    )


@commands.command(
    epilog="Example: hydraulic release promote 4 --steps 1,10,100 --hold 10m "
    "--guard 'errors<0.1%,p95<80ms'"
)
@with_groups
def promote(
    version: Version,
    change: Change,
    steps: Annotated[str, typer.Option(help="Successive weights, such as 1,10,50,100.")] = "100",
    hold: Annotated[str, typer.Option(help="How long to stay on each, such as 10m.")] = "0s",
    guard: Annotated[
        str | None,
        typer.Option(help="Limits meanwhile, such as errors<0.1%,p95<80ms,disagreement<5%."),
    ] = None,
    design: Annotated[
        str | None,
        typer.Option(help="Only for machines of it; default all designs that it serves."),
    ] = None,
) -> None:
    """Raise a version's weight in steps; roll back on a broken guard."""
    _run(
        release.change(
            change.place,
            change.order,
            _report,
            lambda to: to.promote(version, steps, hold, guard, design),
        )
    )


@commands.command(epilog="Example: hydraulic release rollback --reason 'wrong on press-3'")
@with_groups
def rollback(change: Change) -> None:
    """Restore the previous weights."""
    _run(release.change(change.place, change.order, _report, lambda to: to.releases.rollback()))


@commands.command(epilog="Example: hydraulic release retire 1")
@with_groups
def retire(version: Version, change: Change) -> None:
    """Remove a version without weight."""
    _run(
        release.change(change.place, change.order, _report, lambda to: to.releases.retire(version))
    )


@commands.command(epilog="Example: hydraulic release replay 0f7b0c5d9a")
def replay(
    diagnosis_id: Annotated[str, typer.Argument(help="Id of a stored diagnosis.")],
    config: Config = None,
    readings: Annotated[
        Path | None,
        typer.Option(help="The request, or its readings, of a diagnosis of inline readings."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="The version's directory, when it is not found here."),
    ] = None,
) -> None:
    """Repeat a stored diagnosis and compare its scores."""
    _run(release.replay(diagnosis_id, config, readings, checkpoint, _report))
