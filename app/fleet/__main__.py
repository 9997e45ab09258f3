"""Scores the whole fleet offline: `python -m app.fleet score`.

Reads every registered machine's last complete window before a time, scores it with the version that
traffic chooses for the machine, and stores the diagnosis. Progress goes to standard error, the
summary to standard output. The exit status is 0 when every machine has a diagnosis, 1 when some
failed or the run ended early, 2 for wrong use, 130 when interrupted. A run can be stopped in any
way and started again by its name (`--run`, printed at its start); no machine is scored twice.
"""

import argparse
import asyncio
import math
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TextIO

from app.core.errors import (
    CheckpointError,
    HydraulicDiagnosticsError,
    InputError,
    SettingsError,
    UnknownError,
)
from app.core.settings import PROJECT_DIR, Settings
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
from app.schemas.times import time_argument
from app.store.fleet import FleetRun, FleetRuns, Page, PageSizes
from app.store.store import open_store

MACHINES_OF_A_PAGE = 256
PAGES = 32
"""How many pages there should be at least: enough to keep many workers busy to the end."""
MAX_COUNT = 4096
PROGRESS_S = 1.0
PROGRESS_S_IN_A_FILE = 10.0


class _Run(NamedTuple):
    """A run that was found or begun, and its pages."""

    run: FleetRun
    plan: Plan
    pages: Sequence[Page]
    resumed: bool


def main(arguments: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Run the command line and return its exit status, see the module's docstring."""
    options = _parser().parse_args(arguments)
    hint = ""
    try:
        settings = Settings().at(options.dsn)
        found = asyncio.run(_open(settings, options))
        hint = f"go on with: python -m app.fleet score --run {found.run.name}\n"
        summary = _score(settings, found, options, err)
    except (InputError, SettingsError, UnknownError, CheckpointError) as error:
        err.write(f"error: {error.message}\n")
        return 2
    except HydraulicDiagnosticsError as error:
        err.write(f"error: {error.message}\n{hint}")
        return 1
    except KeyboardInterrupt:
        err.write(f"\ninterrupted\n{hint}")
        return 130
    out.write(summary.model_dump_json() + "\n" if options.json else summary_text(summary) + "\n")
    return 1 if summary.failed else 0


async def _open(settings: Settings, options: argparse.Namespace) -> _Run:
    request, now = _request(options), datetime.now(UTC)
    name = run_name(options.run, request, options.at or now)
    store = open_store(settings)
    try:
        await store.migrate()
        runs = store.fleet_runs()
        found = await runs.find(name)
        if found is None:
            plan = make_plan(request, options.at, options.config, now)
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


def _score(settings: Settings, found: _Run, options: argparse.Namespace, err: TextIO) -> Summary:
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


def _request(options: argparse.Namespace) -> RunRequest:
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


def _parser() -> argparse.ArgumentParser:
    # abbreviations are off: a later option must not change what a script's command means
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m app.fleet",
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    score = commands.add_parser(
        "score", allow_abbrev=False, help="diagnose every registered machine at one time"
    )
    score.add_argument(
        "--at",
        type=time_argument,
        help="each machine's last complete window, or cycle, before this time (default now)",
    )
    score.add_argument(
        "--equipment",
        metavar="GLOB_OR_FILE",
        help="ids with * and ?, or a file with one id a line (default all)",
    )
    score.add_argument("--design", help="only machines of this design")
    score.add_argument(
        "--model-version",
        help="this released version for every machine, not the one of the traffic weights",
    )
    score.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="this checkpoint for every machine"
    )
    score.add_argument(
        "--config",
        type=Path,
        default=PROJECT_DIR / "serve_config.yaml",
        help="file of releases, weights and thresholds (default serve_config.yaml)",
    )
    score.add_argument(
        "--run",
        metavar="NAME",
        help="name of the run; the name of one that was stopped goes on with it",
    )
    score.add_argument(
        "--batch", type=_count, default=32, help="most machines of a forward pass (default 32)"
    )
    score.add_argument(
        "--workers",
        type=_count,
        help="processes (default one for each free processor, or GPU)",
    )
    score.add_argument(
        "--gpus",
        type=_share,
        help="GPUs of each worker, also a part of one (default 1 if the cluster has GPUs)",
    )
    score.add_argument(
        "--address",
        help="Ray cluster: auto for that of this machine (default RAY_ADDRESS, else a new one)",
    )
    score.add_argument(
        "--dsn",
        help="database (default HYDRAULIC_DSN, which other users cannot see, or the local one)",
    )
    score.add_argument("--json", action="store_true", help="write the summary as JSON")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MAX_COUNT}, found '{text}'")
    return int(text)


def _share(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (0 <= found < 1 or (found.is_integer() and found <= MAX_COUNT)):
        raise argparse.ArgumentTypeError(
            f"expected a whole number of GPUs, or a part of one, found '{text}'"
        )
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout, sys.stderr))
