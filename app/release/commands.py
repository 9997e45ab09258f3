"""The commands of `python -m app.release`, from parsed options to `operations` and `registry`."""

import argparse
import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random

from app.core.errors import InputError, StoreUnavailable
from app.core.settings import Settings
from app.release.clients.serve_api import ServeApi, dashboard_address, ray_token
from app.release.clients.service_api import ServiceApi, api_key, service_url
from app.release.config.file import ConfigFile
from app.release.config.weights import (
    ShadowChange,
    above_zero,
    parse_steps,
    parse_weights,
    with_share,
)
from app.release.guards import MetricsMeter, parse_duration, parse_guards
from app.release.history import Order
from app.release.operations import Releases
from app.release.promotion import Promotion, new_shadows, promote
from app.release.source import (
    find_directory,
    find_placement,
    has_registry,
    new_aliases,
    open_registry,
    set_aliases,
)
from app.release.view import comparison_lines, describe_version, difference, status_lines
from app.store.store import Store, open_store

DATABASE_S = 60.0
"""How long to wait for a local database that is starting."""

Report = Callable[[str], None]


async def run(options: argparse.Namespace, report: Report) -> int:
    """Run a command and return its exit status; one that is refused raises.

    Args:
        options: Parsed arguments.
        report: Receives each line of the result.
    """
    settings = Settings()
    match options.command:
        case "list":
            versions = open_registry(settings).versions() if has_registry(settings) else []
            for line in map(describe_version, versions):
                report(line)
            if not versions:
                report("nothing is registered yet")
        case "register":
            await _register(options, settings, report)
        case "fetch":
            open_registry(settings).fetch(options.version, options.directory)
        case "check":
            report(find_placement(options.version, None, None, settings).checkpoint)
        case "alias":
            set_aliases(_parse_aliases(options.names), settings, report)
        case "compare":
            await _compare(options, settings, report)
        case "replay":
            return await _replay(options, settings, report)
        case _:
            await _run_on_cluster(options, settings, report)
    return 0


async def _run_on_cluster(options: argparse.Namespace, settings: Settings, report: Report) -> None:
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
                    report(line)
                return
            if options.command == "diff":
                lines = difference(file.read(), await serve.applications())
                for line in lines or ["what runs is what the file says"]:
                    report(line)
                return
            _cancel_at_sigterm()
            order = Order(options.actor, options.reason, options.dry_run)
            releases = Releases(file, serve, service, store, order, report, settings.var_dir)
            before = releases.read().weights
            await _change(options, releases, service, report, settings)
            if not options.dry_run:
                deployed = options.version if options.command == "deploy" else None
                after = releases.read().weights
                set_aliases(new_aliases(before, after, deployed), settings, report)
        finally:
            await store.close()


async def _change(
    options: argparse.Namespace,
    releases: Releases,
    service: ServiceApi,
    report: Report,
    settings: Settings,
) -> None:
    match options.command:
        case "apply":
            await releases.apply()
        case "deploy":
            await releases.deploy(
                find_placement(options.version, options.checkpoint, options.device, settings)
            )
        case "split":
            await releases.split(parse_weights(options.weights))
        case "shadow":
            await releases.shadow(options.version, on=not options.off)
        case "promote":
            await _promote(options, releases, service, report)
        case "rollback":
            await releases.rollback()
        case "retire":
            await releases.retire(options.version)


async def _promote(
    options: argparse.Namespace, releases: Releases, service: ServiceApi, report: Report
) -> None:
    guards = parse_guards(options.guard) if options.guard else ()
    hold_s = parse_duration(options.hold)
    if guards and hold_s <= 0:
        raise InputError("expected a time to watch the guards for, found none: give it with --hold")
    promotion = Promotion(options.version, parse_steps(options.steps), hold_s, guards)
    weights = releases.read().weights
    if options.dry_run:
        shadows = ShadowChange(add=new_shadows(releases, promotion))
        first = with_share(weights, promotion.version, promotion.steps[0])
        await releases.split(first, shadows=shadows)
        return
    replicas = await releases.ingress_replicas()
    fetches = 1 if replicas <= 1 else 3 * replicas
    meter = MetricsMeter(service.metrics, fetches, tuple(above_zero(weights)))
    await promote(releases, promotion, meter, report)


def _cancel_at_sigterm() -> None:
    """Cancel this task at SIGTERM, as Ctrl-C does; a second SIGTERM does not interrupt that."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread receives signals
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def cancel(task: "asyncio.Task[Any]") -> None:
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, cancel, task)


def _parse_aliases(names: list[str]) -> dict[str, str]:
    aliases = {}
    for name in names:
        alias, _, version = name.partition("=")
        if not (alias and version):
            raise InputError(f"expected ALIAS=VERSION such as champion=3, found '{name}'")
        aliases[alias] = version
    return aliases


async def _register(options: argparse.Namespace, settings: Settings, report: Report) -> None:
    from app.release.validation import reference_score, validate, warm_up

    checkpoint = validate(options.checkpoint, None)
    report(f"{options.checkpoint}: hashes, shapes and feature spec are consistent")
    async with _migrated_store(settings) as store:
        machines = [record.equipment for record in await store.list_equipment()]
        for line in warm_up(checkpoint, machines) or [
            "no machine of its designs is registered: no warm-up was possible"
        ]:
            report(line)
        scores = await reference_score(checkpoint, machines, store)
    for score in scores:
        report(
            f"reference set: {score.component_id} ({score.design}) right in {score.right} of "
            f"{score.windows} windows"
        )
    if not scores:
        data = checkpoint.manifest.data
        report(
            "reference set: none, the store has no labelled windows of its designs outside of the "
            f"training data ({data.start:%Y-%m-%d %H:%M}Z to {data.end:%Y-%m-%d %H:%M}Z)"
        )
    if options.dry_run:
        return
    tags = {
        f"reference.{score.design}.{score.component_id}": f"{score.right}/{score.windows}"
        for score in scores
    }
    made = open_registry(settings).register(options.checkpoint, options.run, tags)
    report(f"registered as version {made.version}")


async def _compare(options: argparse.Namespace, settings: Settings, report: Report) -> None:
    a, b = options.a, options.b
    if a == b:
        raise InputError(f"expected two versions, found {a} twice: compare it with another one")
    async with _migrated_store(settings) as store:
        pairs, now = store.answer_pairs(), datetime.now(UTC)
        for line in await comparison_lines(pairs, a, b, options.days, now):
            report(line)


async def _replay(options: argparse.Namespace, settings: Settings, report: Report) -> int:
    # loading a checkpoint imports the model, which other commands do not need
    from app.release.replay import read_given, replay

    def find(version: str) -> Path:
        if options.checkpoint is not None:
            return Path(options.checkpoint)
        config = ConfigFile(options.config or settings.serve_config).read().config
        return find_directory(version, config, settings)

    given = read_given(options.readings) if options.readings else None
    async with _migrated_store(settings) as store:
        replayed = await replay(options.diagnosis_id, store, find, given)
    for line in replayed.lines:
        report(line)
    return 0 if replayed.same else 1


@asynccontextmanager
async def _migrated_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the store, wait for a database that is starting, and migrate its schema."""
    store = open_store(settings)
    try:
        await AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=stop_after_delay(DATABASE_S),
            wait=wait_random(0.1, 0.3),
            reraise=True,
        )(store.migrate)
        yield store
    finally:
        await store.close()
