"""Changes which model versions answer, without a lost request: `python -m app.release`.

Each command changes `serve_config.yaml` and what runs together, and writes who, when, what and why to the history of releases;
`--dry-run` prints the change and does nothing. Answers go to standard output, errors to standard error. The exit
status is 0 when it was done, 1 when it was refused (what ran before goes on), 2 for wrong use, 3 when a guard broke and the promotion
was rolled back, 130 and 143 when Ctrl-C or SIGTERM ended it.
Invariant: the commands decide nothing themselves; see `operations`.
"""

import argparse
import asyncio
import getpass
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from app.core.errors import HydraulicDiagnosticsError, InputError, StoreUnavailable
from app.core.settings import Settings
from app.release.clients.serve_api import ServeApi, dashboard_address, ray_token
from app.release.clients.service_api import ServiceApi, api_key, service_url
from app.release.compare import compared
from app.release.config.file import ConfigFile
from app.release.config.shares import ShadowChange, parse_steps, parse_weights, with_share
from app.release.guards import MetricsMeter, parse_duration, parse_guards
from app.release.history import in_use
from app.release.ledger import Asker
from app.release.operations import Releases
from app.release.promotion import GuardBroken, Promotion, new_shadows, promote
from app.release.source import (
    aliases,
    directory_of,
    has_registry,
    name_versions,
    open_registry,
    placement_of,
)
from app.release.versions import described
from app.release.view import difference, status_lines
from app.store.open import open_store
from app.store.store import Store

DATABASE_S = 60.0
"""How long to wait for a local database that this command starts."""


def main(arguments: Sequence[str], out: TextIO, err: TextIO) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name.
        out: where answers go.
        err: where errors go.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        return asyncio.run(_run(options, out))
    except GuardBroken as error:
        err.write(f"error: {error}\n")
        return 3
    except HydraulicDiagnosticsError as error:
        err.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        err.write("interrupted\n")
        return 130
    except asyncio.CancelledError:
        err.write("terminated\n")
        return 143


def _parser() -> argparse.ArgumentParser:
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument(
        "--config",
        type=Path,
        help="the file that says what runs (HYDRAULIC_SERVE_CONFIG, else serve_config.yaml)",
    )
    everywhere.add_argument(
        "--address", help="Ray's dashboard (RAY_DASHBOARD_ADDRESS, else http://127.0.0.1:8265)"
    )
    everywhere.add_argument("--url", help="the service; without it as http_options say")
    changing = argparse.ArgumentParser(add_help=False, parents=[everywhere])
    changing.add_argument(
        "--dry-run", action="store_true", help="print what would change, and change nothing"
    )
    changing.add_argument("--reason", default="", help="why; goes into the history of releases")
    changing.add_argument(
        "--actor", default=getpass.getuser(), help="who; the user of this process without it"
    )
    parser = argparse.ArgumentParser(
        prog="python -m app.release", description=(__doc__ or "").partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="registered versions, newest first")
    register = commands.add_parser("register", help="validate a checkpoint and give it a number")
    register.add_argument("checkpoint", type=Path, help="the directory that training wrote")
    register.add_argument("--run", help="MLflow's id of the training run, for the lineage")
    register.add_argument("--dry-run", action="store_true", help="validate, and register nothing")
    fetch = commands.add_parser(
        "fetch", help="write a registered version into an empty directory; replicas call this"
    )
    fetch.add_argument("version")
    fetch.add_argument("directory", type=Path)
    check = commands.add_parser(
        "check",
        help="check a version as `deploy` does, and print where its checkpoint is; the service calls this",
    )
    check.add_argument("version")
    alias = commands.add_parser("alias", help="name registered versions; the service calls this")
    alias.add_argument("names", nargs="+", metavar="ALIAS=VERSION", help="such as champion=3")
    commands.add_parser(
        "status", parents=[everywhere], help="what the file says, what runs, and the last releases"
    )
    commands.add_parser(
        "diff", parents=[everywhere], help="what the file would change in what runs"
    )
    commands.add_parser("apply", parents=[changing], help="apply the file as it is")
    compare = commands.add_parser(
        "compare", help="which of two versions is right more often, and how they differ"
    )
    compare.add_argument("a", help="the version to compare with")
    compare.add_argument("b", help="the version that the verdict is of")
    compare.add_argument(
        "--days", type=float, help="how far back answers count; all that are kept without it"
    )
    deploy = commands.add_parser(
        "deploy", parents=[changing], help="add a version with weight 0 and wait until it answered"
    )
    deploy.add_argument("version")
    deploy.add_argument(
        "--checkpoint",
        help="its directory, relative to the project; without it a registered version",
    )
    deploy.add_argument(
        "--device", help="auto, cpu, cuda or cuda:N; as the version that is copied without it"
    )
    split = commands.add_parser("split", parents=[changing], help="give versions their weights")
    split.add_argument("weights", nargs="+", metavar="VERSION=WEIGHT", help="such as 3=90 4=10")
    shadow = commands.add_parser(
        "shadow",
        parents=[changing],
        help="let a version answer on copies of what others return, and store what it says",
    )
    shadow.add_argument("version")
    shadow.add_argument("--off", action="store_true", help="end it")
    promote_ = commands.add_parser(
        "promote",
        parents=[changing],
        help="walk a version's weight up, and back when a guard breaks",
    )
    promote_.add_argument("version")
    promote_.add_argument(
        "--steps", default="100", help="weights one after the other, such as 1,10,50,100"
    )
    promote_.add_argument("--hold", default="0s", help="how long to stay on each, such as 10m")
    promote_.add_argument(
        "--guard", help="what must hold meanwhile, such as errors<0.1%%,p95<80ms,disagreement<5%%"
    )
    commands.add_parser(
        "rollback", parents=[changing], help="put the weights before those of now in force"
    )
    replay = commands.add_parser(
        "replay", help="make a stored diagnosis again, and say whether its scores are the same"
    )
    replay.add_argument("diagnosis_id")
    replay.add_argument(
        "--readings",
        type=Path,
        help="the request, or its readings, of a diagnosis that brought its own",
    )
    replay.add_argument(
        "--checkpoint",
        type=Path,
        help="the version's directory, when this machine does not know where it is",
    )
    replay.add_argument("--config", type=Path, help="the file that says what runs")
    retire = commands.add_parser(
        "retire", parents=[changing], help="remove a version without weight"
    )
    retire.add_argument("version")
    return parser


def _end_at_sigterm() -> None:
    """Have SIGTERM cancel this task, as Ctrl-C does, so that what was begun is taken back; a second one does not cut that short."""
    if threading.current_thread() is not threading.main_thread():
        return  # signals go to the main thread
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def end(task: "asyncio.Task[Any]") -> None:
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end, task)


async def _run(options: argparse.Namespace, out: TextIO) -> int:
    settings = Settings()

    def say(line: str) -> None:
        out.write(line + "\n")
        out.flush()

    if options.command in {"list", "register", "fetch", "check", "alias"}:
        await _registered(options, settings, say)
        return 0
    if options.command == "compare":
        await _compare(options, settings, say)
        return 0
    if options.command == "replay":
        return await _replayed(options, settings, say)
    file = ConfigFile(options.config or settings.serve_config)
    config = file.read().config
    store = open_store(settings)
    serve = ServeApi(dashboard_address(options.address), ray_token(os.environ, Path.home()))
    key = "" if getattr(options, "dry_run", False) else api_key(settings)
    service = ServiceApi(options.url or service_url(config), key)
    async with serve, service:
        try:
            if options.command == "status":
                for line in await status_lines(file, serve, service, store):
                    say(line)
                return 0
            if options.command == "diff":
                found = difference(file.read(), await serve.applications())
                for line in found or ["what runs is what the file says"]:
                    say(line)
                return 0
            _end_at_sigterm()
            asker = Asker(options.actor, options.reason)
            releases = Releases(
                file, serve, service, store, asker, say, settings.var_dir, dry_run=options.dry_run
            )
            before = releases.weights()
            await _change(options, releases, service, say, settings)
            if not options.dry_run:
                deployed = options.version if options.command == "deploy" else None
                name_versions(aliases(before, releases.weights(), deployed), settings, say)
        finally:
            await store.close()
    return 0


async def _change(
    options: argparse.Namespace,
    releases: Releases,
    service: ServiceApi,
    say: Callable[[str], None],
    settings: Settings,
) -> None:
    match options.command:
        case "apply":
            await releases.apply()
        case "deploy":
            await releases.deploy(
                placement_of(options.version, options.checkpoint, options.device, settings)
            )
        case "split":
            await releases.split(parse_weights(options.weights))
        case "shadow":
            await releases.shadow(options.version, on=not options.off)
        case "promote":
            promotion = _promotion(options, MetricsMeter.names)
            if options.dry_run:
                weights = with_share(releases.weights(), promotion.version, promotion.steps[0])
                await releases.split(
                    weights, shadows=ShadowChange(add=new_shadows(releases, promotion))
                )
                return
            replicas = await releases.ingress_replicas()
            meter = MetricsMeter(
                service.metrics,
                1 if replicas <= 1 else 3 * replicas,
                tuple(in_use(releases.weights())),
            )
            await promote(releases, promotion, [meter], say)
        case "rollback":
            await releases.rollback()
        case _:
            await releases.retire(options.version)


async def _registered(
    options: argparse.Namespace, settings: Settings, say: Callable[[str], None]
) -> None:
    if options.command == "fetch":
        open_registry(settings).fetch(options.version, options.directory)
        return
    if options.command == "check":
        say(placement_of(options.version, None, None, settings).checkpoint)
        return
    if options.command == "alias":
        named = [item.partition("=") for item in options.names]
        if bad := [
            item
            for item, (alias, _, version) in zip(options.names, named, strict=True)
            if not (alias and version)
        ]:
            raise InputError(f"expected ALIAS=VERSION, found '{bad[0]}': such as champion=3")
        name_versions({alias: version for alias, _, version in named}, settings, say)
        return
    if options.command == "list":
        found = open_registry(settings).versions() if has_registry(settings) else []
        for item in found or ():
            say(described(item))
        if not found:
            say("nothing is registered yet")
        return
    from app.release.validation import reference_score, validate, warm_up

    checkpoint = validate(options.checkpoint, None)
    say(f"{options.checkpoint}: hashes, shapes and feature spec fit together")
    store = open_store(settings)
    try:
        await _ready(store)
        machines = [record.equipment for record in await store.list_equipment()]
        for line in warm_up(checkpoint, machines) or [
            "no machine of its designs is registered: no warm-up was possible"
        ]:
            say(line)
        scores = await reference_score(checkpoint, machines, store)
    finally:
        await store.close()
    for score in scores:
        say(
            f"reference set: {score.component_id} ({score.design}) right in {score.right} of {score.windows} windows"
        )
    if not scores:
        data = checkpoint.manifest.data
        say(
            "reference set: none, the store has no labelled windows of its designs outside of the training's data "
            f"({data.start:%Y-%m-%d %H:%M}Z to {data.end:%Y-%m-%d %H:%M}Z)"
        )
    if options.dry_run:
        return
    tags = {
        f"reference.{score.design}.{score.component_id}": f"{score.right}/{score.windows}"
        for score in scores
    }
    made = open_registry(settings).register(options.checkpoint, options.run, tags)
    say(f"registered as version {made.version}")


async def _compare(
    options: argparse.Namespace, settings: Settings, say: Callable[[str], None]
) -> None:
    if options.a == options.b:
        raise InputError(
            f"expected two versions, found {options.a} twice: compare it with another one"
        )
    store = open_store(settings)
    try:
        await _ready(store)
        for line in await compared(
            store.answer_pairs(), options.a, options.b, options.days, datetime.now(UTC)
        ):
            say(line)
    finally:
        await store.close()


async def _replayed(
    options: argparse.Namespace, settings: Settings, say: Callable[[str], None]
) -> int:
    # torch takes seconds to import, and the other commands do not need it
    from app.release.replay import read_given, replay

    def find(version: str) -> Path:
        given: Path | None = options.checkpoint
        return given or directory_of(
            version, ConfigFile(options.config or settings.serve_config).read().config, settings
        )

    store = open_store(settings)
    try:
        given = read_given(options.readings) if options.readings else None
        await _ready(store)
        done = await replay(options.diagnosis_id, store, find, given)
    finally:
        await store.close()
    for line in done.lines:
        say(line)
    return 0 if done.same else 1


async def _ready(store: Store) -> None:
    """Wait for the database, which may just be starting, and bring its schema up to date."""
    give_up = time.monotonic() + DATABASE_S
    while True:
        try:
            await store.migrate()
        except StoreUnavailable:
            if time.monotonic() > give_up:
                raise
        else:
            return
        await asyncio.sleep(0.2)


def _promotion(options: argparse.Namespace, measured: frozenset[str]) -> Promotion:
    guards = parse_guards(options.guard, measured) if options.guard else ()
    hold_s = parse_duration(options.hold)
    if guards and hold_s <= 0:
        raise InputError("expected a time to watch the guards for, found none: give it with --hold")
    return Promotion(options.version, parse_steps(options.steps), hold_s, guards)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout, sys.stderr))
