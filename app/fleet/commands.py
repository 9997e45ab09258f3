"""`hydraulic fleet`: scores the whole fleet offline.

Reads every registered machine's last complete window before a time, scores it with the version that
traffic chooses for the machine, and stores the diagnosis. Progress goes to standard error, the
summary to standard output. The exit status is 0 when every machine has a diagnosis, 1 when some
failed or the run ended early, 2 for wrong use, 130 when interrupted. A run can be stopped in any
way and started again by its name (`--run`, printed at its start); no machine is scored twice.
"""

import asyncio
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple, TextIO

import typer

from app.core.command_line import (
    FAILED,
    INTERRUPTED,
    WRONG_USE,
    AsJson,
    Dsn,
    command_group,
    time_argument,
    whole_number,
    with_groups,
)
from app.core.errors import (
    CheckpointError,
    HydraulicDiagnosticsError,
    InputError,
    SettingsError,
    UnknownError,
)
from app.core.settings import Settings
from app.fleet.plan import (
    Plan,
    RunRequest,
    check_options,
    like_pattern,
    make_plan,
    read_ids,
    run_name,
)
from app.fleet.tally import Summary, Tally, summary_text
from app.store.fleet import FleetRun, FleetRuns, Page, PageSizes
from app.store.store import open_store

MACHINES_OF_A_PAGE = 256
PAGES = 32
"""How many pages there should be at least: enough to keep many workers busy to the end."""
MAX_COUNT = 4096
PROGRESS_S = 1.0
PROGRESS_S_IN_A_FILE = 10.0


commands = command_group("Score every registered machine offline.")


_count = whole_number(1, MAX_COUNT)


def _share(text: str | float) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (0 <= found < 1 or (found.is_integer() and found <= MAX_COUNT)):
        raise typer.BadParameter(
            f"expected a whole number of GPUs, or a part of one, found '{text}'"
        )
    return found


class _Run(NamedTuple):
    """A run that was found or begun, and its pages."""

    run: FleetRun
    plan: Plan
    pages: Sequence[Page]
    resumed: bool


@dataclass(frozen=True)
class Options:
    """Options of `score`."""

    at: Annotated[
        datetime | None,
        typer.Option(
            parser=time_argument,
            metavar="TIME",
            help="Each machine's last complete window, or cycle, before this time; default now.",
        ),
    ] = None
    equipment: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB_OR_FILE",
            help="Ids with * and ?, or a file with one id a line; default all.",
        ),
    ] = None
    design: Annotated[str | None, typer.Option(help="Only machines of this design.")] = None
    model_version: Annotated[
        str | None,
        typer.Option(
            help="This released version for every machine, not the one of the traffic weights."
        ),
    ] = None
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="This checkpoint for every machine.")
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            help="File of releases, weights and thresholds.",
            show_default="HYDRAULIC_SERVE_CONFIG, or serve_config.yaml",
        ),
    ] = None
    run: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the run; the name of one that was stopped goes on with it.",
        ),
    ] = None
    batch: Annotated[
        int,
        typer.Option(parser=_count, metavar="N", help="Most machines of a forward pass."),
    ] = 32
    workers: Annotated[
        int | None,
        typer.Option(
            parser=_count,
            metavar="N",
            help="Processes; default one for each free processor, or GPU.",
        ),
    ] = None
    gpus: Annotated[
        float | None,
        typer.Option(
            parser=_share,
            metavar="SHARE",
            help="GPUs of each worker, also a part of one; default 1 if the cluster has GPUs.",
        ),
    ] = None
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster: auto for that of this machine; default RAY_ADDRESS, else a new one."
        ),
    ] = None
    dsn: Dsn = None
    as_json: AsJson = False


@commands.command(epilog="Example: hydraulic fleet score --equipment 'press-*' --json")
@with_groups
def score(options: Options) -> None:
    """Diagnose every registered machine at one time.

    Progress goes to standard error, the summary to standard output. Exit status: 0 every machine
    has a diagnosis, 1 some failed or the run ended early, 2 wrong use. A run can be stopped in any
    way and started again by its name; no machine is scored twice.
    """
    hint = ""
    try:
        settings = Settings().at(options.dsn)
        found = asyncio.run(_open(settings, options))
        hint = f"go on with: hydraulic fleet score --run {found.run.name}\n"
        summary = _score(settings, found, options, sys.stderr)
    except (InputError, SettingsError, UnknownError, CheckpointError) as error:
        typer.echo(f"error: {error.message}", err=True)
        raise typer.Exit(WRONG_USE) from error
    except HydraulicDiagnosticsError as error:
        typer.echo(f"error: {error.message}\n{hint}", err=True, nl=False)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        typer.echo(f"\ninterrupted\n{hint}", err=True, nl=False)
        raise typer.Exit(INTERRUPTED) from error
    typer.echo(summary.model_dump_json() if options.as_json else summary_text(summary))
    if summary.failed:
        raise typer.Exit(FAILED)


async def _open(settings: Settings, options: Options) -> _Run:
    request, now = _request(options), datetime.now(UTC)
    name = run_name(options.run, request, options.at or now)
    store = open_store(settings)
    try:
        await store.migrate()
        runs = store.fleet_runs()
        found = await runs.find(name)
        if found is None:
            plan = make_plan(request, options.at, options.config or settings.serve_config, now)
        else:
            plan = Plan.model_validate_json(found.plan)
            check_options(name, plan, request, options.at)
        pages = await _pages(runs, plan, options.batch)
        run = found or await runs.begin(FleetRun(name, now, plan.model_dump_json()))
    finally:
        await store.close()
    return _Run(run, Plan.model_validate_json(run.plan), pages, resumed=found is not None)


async def _pages(runs: FleetRuns, plan: Plan, batch: int) -> list[Page]:
    sizes = PageSizes(PAGES, batch, max(batch, MACHINES_OF_A_PAGE))
    if plan.request.ids_sha256 is None:
        pages = await runs.pages(plan.selection, sizes)
        if not pages:
            raise InputError(
                "expected at least one registered machine, found none for this --equipment and "
                "--design: list the registered ones with GET /v1/equipment"
            )
        return pages
    ids, sha256 = read_ids(Path(plan.request.equipment or ""))
    if sha256 != plan.request.ids_sha256:
        raise InputError(
            f"expected '{plan.request.equipment}' as the run began with, found another text: put "
            "it back, or give another --run"
        )
    size = max(sizes.smallest, min(sizes.largest, math.ceil(len(ids) / sizes.pages)))
    parts = [ids[start : start + size] for start in range(0, len(ids), size)]
    return [Page(machines=len(part), ids=part) for part in parts]


def _score(settings: Settings, found: _Run, options: Options, err: TextIO) -> Summary:
    # Ray takes a second to import, and wrong use is reported without it
    from app.fleet.cluster import connected, outcomes_of

    tally = Tally(sum(page.machines for page in found.pages))
    with connected(options.address, options.workers, options.gpus) as pool:
        weights = ", ".join(
            f"version {release.version} {release.weight:g} %"
            for release in found.plan.traffic.releases
            if release.weight
        )
        err.write(
            f"run {found.run.name}{' goes on' if found.resumed else ''}: {tally.expected} machines "
            f"at {found.plan.at.isoformat(timespec='seconds')}, {weights}, {pool.workers} workers\n"
        )
        started = time.monotonic()
        progress = _Progress(err, started)
        for outcomes in outcomes_of(
            settings, found.run, found.plan, found.pages, pool, options.batch
        ):
            tally.add(outcomes, time.monotonic() - started)
            progress.show(tally)
        seconds = time.monotonic() - started
        progress.end()
    return tally.summary(found.run.name, found.plan.at, pool.workers, seconds)


class _Progress:
    """Writes progress: one line that is overwritten in a terminal, fewer lines in a file."""

    def __init__(self, err: TextIO, started: float) -> None:
        self._err = err
        self._started = started
        self._terminal = err.isatty()
        self._every_s = PROGRESS_S if self._terminal else PROGRESS_S_IN_A_FILE
        self._next = started + self._every_s

    def show(self, tally: Tally) -> None:
        """Write the progress if it is due."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every_s
            line = tally.progress(now - self._started)
            self._err.write(f"\r{line:<78}" if self._terminal else f"{line}\n")
            self._err.flush()

    def end(self) -> None:
        """End the line."""
        if self._terminal:
            self._err.write("\n")


def _request(options: Options) -> RunRequest:
    equipment, sha256 = options.equipment, None
    if equipment is not None and Path(equipment).is_file():
        if options.design is not None:
            raise InputError(
                "expected either a file of ids as --equipment or --design, found both: leave one "
                "out"
            )
        equipment = str(Path(equipment).resolve())
        _, sha256 = read_ids(Path(equipment))
    elif equipment is not None:
        like_pattern(equipment)
    return RunRequest(
        equipment=equipment,
        ids_sha256=sha256,
        design=options.design,
        model_version=options.model_version,
        checkpoint=options.checkpoint and str(options.checkpoint.resolve()),
    )
