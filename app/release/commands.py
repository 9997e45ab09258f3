"""The commands of `hydraulic release`, from parsed options to `operations` and `registry`."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from app.core.errors import InputError, SettingsError
from app.core.settings import Settings
from app.release import catalogue
from app.release.clients.serve_api import dashboard_address
from app.release.clients.service_api import ServiceApi, api_key
from app.release.config.weights import parse_steps, parse_weights
from app.release.guards import parse_duration, parse_guards
from app.release.history import Order
from app.release.operations import Releases
from app.release.promotion import carry_out, checked_promotion
from app.release.registration import assess, migrated_store, register_once
from app.release.source import (
    find_directory,
    find_placement,
    has_registry,
    new_aliases,
    open_registry,
    set_aliases,
)
from app.release.target import (
    ConfigStore,
    ServeTarget,
    open_config,
    open_serve,
    url_of_service,
)
from app.release.view import comparison_lines, describe_version, difference, status_lines
from app.store.store import Store, open_store

Report = Callable[[str], None]


class Place(NamedTuple):
    """What a command is about; None for the defaults.

    Args:
        config: the Serve configuration.
        address: of Ray's dashboard.
        url: of the service.
    """

    config: Path | None
    address: str | None
    url: str | None


def list_versions(report: Report) -> None:
    """Report the registered versions."""
    settings = Settings()
    versions = open_registry(settings).versions() if has_registry(settings) else []
    for line in map(describe_version, versions):
        report(line)
    if not versions:
        report("nothing is registered yet")


def fetch(version: str, directory: Path) -> None:
    """Write a registered version into an empty directory."""
    open_registry(Settings()).fetch(version, directory)


def check(version: str, report: Report) -> None:
    """Verify a version and report its checkpoint's place and designs as JSON."""
    found = find_placement(version, None, None, Settings())
    report(json.dumps([found.checkpoint, found.designs]))


def registered(report: Report) -> None:
    """Report the versions of the registry as JSON."""
    report(catalogue.as_json(catalogue.registered(Settings())))


def alias(names: list[str], report: Report) -> None:
    """Set aliases, each given as ALIAS=VERSION."""
    set_aliases(_parse_aliases(names), Settings(), report)


async def status(place: Place, report: Report) -> None:
    """Report the file, what runs, and the last releases."""
    async with _opened(place, api_key(Settings())) as (file, serve, service, store):
        for line in await status_lines(file, serve, service, store):
            report(line)


def show(config: Path | None, out: Path | None, report: Report) -> None:
    """Report the configuration's text, or write it to a file; then check that it is valid.

    Raises:
        SettingsError: It is invalid, or the file cannot be written.
    """
    store = open_config(Settings(), config)
    text = store.read_text()
    if out is None:
        report(text.rstrip("\n"))
    else:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise SettingsError(
                f"expected to write '{out}', found: {error.strerror}: give another --out"
            ) from error
        report(f"wrote {store.name} to {out}")
    store.parse(text)


async def diff(place: Place, report: Report) -> None:
    """Report what the file would change in what runs."""
    async with _opened(place, api_key(Settings())) as (file, serve, _, _):
        lines = difference(file.read(), await serve.applications())
        for line in lines or ["what runs is what the file says"]:
            report(line)


class Changes(NamedTuple):
    """What a command changes, and by whose order."""

    releases: Releases
    service: ServiceApi
    settings: Settings
    order: Order
    report: Report

    async def deploy(self, version: str, checkpoint: str | None, device: str | None) -> None:
        """Add a version with weight 0."""
        await self.releases.deploy(find_placement(version, checkpoint, device, self.settings))

    async def split(self, weights: list[str], design: str | None) -> None:
        """Set the traffic weights, of all machines or of a design; see `Releases.split`.

        Args:
            weights: each given as VERSION=WEIGHT.
            design: whose machines get them; without weights, it has those of all machines again.
        """
        given = parse_weights(weights) if weights or design is None else {}
        await self.releases.split(given, design)

    async def promote(
        self, version: str, steps: str, hold: str, guard: str | None, design: str | None
    ) -> None:
        """Raise a version's weight in steps; without a change, show the first one."""
        guards = parse_guards(guard) if guard else ()
        hold_s = parse_duration(hold)
        promotion = checked_promotion(version, parse_steps(steps), hold_s, guards, design)
        await carry_out(
            promotion, self.releases, self.service, self.report, dry_run=self.order.dry_run
        )


async def change(
    place: Place,
    order: Order,
    report: Report,
    make: Callable[[Changes], Awaitable[object]],
    deployed: str | None = None,
) -> None:
    """Make a change of releases; SIGTERM and Ctrl-C cancel it, which reverts it.

    Args:
        place: where.
        order: who, why, and whether only to show the change.
        report: receives each line of the result.
        make: the change.
        deployed: version that it deploys, which becomes the challenger.
    """
    settings = Settings()
    key = "" if order.dry_run else api_key(settings)
    async with _opened(place, key) as (file, serve, service, store):
        _cancel_at_sigterm()
        releases = Releases(file, serve, service, store, order, report, settings.var_dir)
        before = releases.read().weights
        await make(Changes(releases, service, settings, order, report))
        if not order.dry_run:
            aliases = new_aliases(before, releases.read().weights, deployed)
            set_aliases(aliases, settings, report)


@asynccontextmanager
async def _opened(
    place: Place, key: str
) -> AsyncIterator[tuple[ConfigStore, ServeTarget, ServiceApi, Store]]:
    settings = Settings()
    if settings.rayservice is not None and settings.dsn is None:
        raise SettingsError(
            "expected HYDRAULIC_DSN with HYDRAULIC_RAYSERVICE, since the history of releases is in "
            "the service's database, found none: set it"
        )
    file = open_config(settings, place.config)
    config = file.read().config
    store = open_store(settings)
    serve = open_serve(settings, place.address, lambda: dashboard_address(None))
    service = ServiceApi(place.url or url_of_service(settings, config), key)
    async with serve, service:
        try:
            yield file, serve, service, store
        finally:
            await store.close()


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


async def register(checkpoint: str, run: str | None, report: Report, *, dry_run: bool) -> None:
    """Verify a checkpoint, report how well it does here, and register it.

    Args:
        checkpoint: its directory, or its URL on shared storage.
        run: id of the MLflow run that trained it.
        report: receives each line of the result.
        dry_run: verify only.
    """
    settings = Settings()
    with _on_this_machine(checkpoint) as directory:
        is_named = run is not None or bool(os.environ.get("MLFLOW_TRACKING_URI"))
        if not dry_run and not is_named and find_spec("mlflow") is None:  # as in the images
            await register_once(directory, settings, report)
            return
        tags = await assess(directory, settings, report)
        if dry_run:
            return
        made = open_registry(settings).register(directory, run, tags)
    report(f"registered as version {made.version}")


def _on_this_machine(checkpoint: str) -> AbstractContextManager[Path]:
    """Return the directory of a checkpoint, copied from shared storage if it is there.

    Raises:
        SettingsError: it can't be read, or the extra `train` is not installed.
    """
    if "://" not in checkpoint:
        return nullcontext(Path(checkpoint))
    try:
        from app.core.shared_storage import local_copy
    except ImportError as error:
        raise SettingsError(
            f"expected the extra 'train' for '{checkpoint}', found no package '{error.name}': "
            "install it, or copy the checkpoint here and give its directory"
        ) from error
    return local_copy(checkpoint)


async def compare(a: str, b: str, days: float | None, report: Report) -> None:
    """Report which of two versions is right more often, of the answers of these days or all."""
    if a == b:
        raise InputError(f"expected two versions, found {a} twice: compare it with another one")
    async with migrated_store(Settings()) as store:
        pairs, now = store.answer_pairs(), datetime.now(UTC)
        for line in await comparison_lines(pairs, a, b, days, now):
            report(line)


async def replay(
    diagnosis_id: str,
    config_path: Path | None,
    readings: Path | None,
    checkpoint: Path | None,
    report: Report,
) -> int:
    """Repeat a stored diagnosis and return 0 if the scores are the same, else 1.

    Args:
        diagnosis_id: of the diagnosis.
        config_path: the Serve configuration; None for the default.
        readings: the request, or its readings, of a diagnosis of inline readings.
        checkpoint: the version's directory; None to find it.
        report: receives each line of the result.
    """
    # loading a checkpoint imports the model, which other commands do not need
    from app.release.replay import read_given
    from app.release.replay import replay as repeat

    settings = Settings()

    def find(version: str) -> Path:
        if checkpoint is not None:
            return checkpoint
        config = open_config(settings, config_path).read().config
        return find_directory(version, config, settings)

    given = read_given(readings) if readings else None
    async with migrated_store(settings) as store:
        replayed = await repeat(diagnosis_id, store, find, given)
    for line in replayed.lines:
        report(line)
    return 0 if replayed.same else 1
