"""`hydraulic doctor`: finds what keeps the service from running here, in a few seconds.

It changes nothing and starts nothing. Each finding is one line that says what to do.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated

import httpx
import typer
from pydantic import ValidationError
from pydantic_core import to_json
from rich.console import Console
from rich.text import Text

from app.cli.installation import (
    Finding,
    Level,
    check_config,
    check_disk,
    check_names,
    check_packages,
    check_python,
)
from app.cli.ports import ports_of, taken
from app.core.command_line import FAILED, AsJson, Dsn
from app.core.errors import HydraulicDiagnosticsError, SettingsError
from app.core.settings import PROJECT_DIR, Settings
from app.release.clients.serve_api import dashboard_address
from app.release.clients.service_api import api_key
from app.release.target import open_config, url_of_service
from app.store.embedded.server import running_server
from app.store.keys import KnownKey
from app.store.migrate import DatabaseFacts
from app.store.pool import PoolLimits
from app.store.store import Store, embedded_directory

commands = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

DEVICES = ("auto", "cpu", "cuda")
LIMIT_S = 4.0
"""Longest wait for the database, and for the service."""
SMALL_SKEW_S, LARGEST_SKEW_S = 2.0, 60.0
"""Readings from more than 5 minutes ahead of the service's clock are refused."""


_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.BROKEN: "bold red"}


@commands.callback(epilog="Examples: hydraulic doctor --json, hydraulic doctor gpu")
def doctor(context: typer.Context, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Check the installation, database, ports, key and shipped weights.

    Exit status 1 when something is broken.
    """
    if context.invoked_subcommand is not None:
        return
    findings = examine(dsn)
    if as_json:
        typer.echo(to_json([finding._asdict() for finding in findings], indent=2).decode())
    else:
        console = Console(soft_wrap=True, highlight=False)
        for check, level, message in findings:
            console.print(
                Text.assemble((f"{level:<8}", _STYLES[level]), (f"{check:<10}", "bold"), message)
            )
    if any(finding.level is Level.BROKEN for finding in findings):
        raise typer.Exit(FAILED)


@commands.command(epilog="Example: hydraulic doctor gpu --out gpu.json")
def gpu(
    checkpoint: Annotated[
        Path, typer.Option(metavar="DIRECTORY", help="Checkpoint to run.", exists=True)
    ] = PROJECT_DIR / "app" / "weights" / "1",
    device: Annotated[
        str, typer.Option(help="auto takes the GPU where there is one; or cpu or cuda.")
    ] = "auto",
    seconds: Annotated[float, typer.Option(min=0.05, help="Of each measurement.")] = 3.0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as JSON there.")
    ] = None,
) -> None:
    """Check that a GPU executes the network as it should, and how fast.

    Parity with the reference, bfloat16's gate, passes divided for lack of memory, requests and
    graphs a second, utilisation, and training speed. Without a GPU it runs what a CPU can and says
    what could not be checked. Exit status 1 when a check failed.
    """
    if device not in DEVICES:
        raise typer.BadParameter(f"expected one of {', '.join(DEVICES)}, found '{device}'")
    try:
        from app.checkpoint.device_checks import check_device
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"expected the package {error.name} for these checks, found none: install the extra "
            "gpu with `pip install --constraint constraints.txt --editable '.[gpu]'`"
        ) from error
    report = check_device(checkpoint, device, seconds)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"device {report.device} ({report.device_name}), version {report.version}")
    for check in report.checks:
        level = Level.OK if check.passed else Level.BROKEN
        parts = ((f"{level:<8}", _STYLES[level]), (f"{check.name:<12}", "bold"), check.found)
        console.print(Text.assemble(*parts))
    for each in report.not_checked:
        console.print(f"not checked here: {each}")
    if out is not None:
        out.write_bytes(to_json(report.as_dict(), indent=2))
    if not report.passed:
        raise typer.Exit(FAILED)


def examine(dsn: str | None) -> list[Finding]:
    """Run every check; one that fails does not keep the others from running.

    Args:
        dsn: of the database; None for that of the settings.
    """
    found = [
        *_checked("python", check_python),
        *_checked("packages", check_packages),
        *_checked("settings", check_names),
    ]
    try:
        settings = Settings().at(dsn)
    except SettingsError as error:
        return [*found, Finding("settings", Level.BROKEN, error.message)]
    except ValidationError as error:
        names = ", ".join(f"HYDRAULIC_{str(item['loc'][0]).upper()}" for item in error.errors())
        message = f"expected valid settings, found invalid {names}: correct the environment or .env"
        return [*found, Finding("settings", Level.BROKEN, message)]
    for check, run in (
        ("config", lambda: check_config(settings)),
        ("cluster", _cluster),
        ("ports", lambda: _ports(settings)),
        ("disk", lambda: check_disk(settings)),
        ("database", lambda: _database(settings)),
    ):
        found += _checked(check, run)
    return found


def _checked(check: str, run: Callable[[], Iterator[Finding]]) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(run())
    except HydraulicDiagnosticsError as error:
        found.append(Finding(check, Level.BROKEN, error.message))
    return found


def _ports(settings: Settings) -> Iterator[Finding]:
    if settings.rayservice is not None:
        yield from _service_elsewhere(settings)
        return
    if not settings.serve_config.is_file():
        return
    ports = ports_of(settings.serve_config, os.environ)
    busy = [port for port in ports if taken(port)]
    if not busy:
        numbers = ", ".join(str(port.number) for port in ports)
        yield Finding("ports", Level.OK, f"{numbers} are free; the service does not run here")
        return
    url = f"http://127.0.0.1:{ports[0].number}"
    state = _state_of_service(url) if ports[0] in busy else None
    if state is not None:
        yield state
        yield from _key_of_service(url, settings)
        return
    for port in busy:
        yield Finding(
            "ports",
            Level.BROKEN,
            f"expected port {port.number} to be free for {port.purpose}, found another process "
            f"that listens on it: stop that process, or set {port.setting}",
        )


def _service_elsewhere(settings: Settings) -> Iterator[Finding]:
    """Find out whether the service of a RayService answers; it takes no port of this machine."""
    url = url_of_service(settings, open_config(settings, retry_s=LIMIT_S).read().config)
    state = _state_of_service(url)
    if state is not None:
        yield state
        yield from _key_of_service(url, settings)
        return
    yield Finding(
        "ports",
        Level.WARNING,
        f"expected the service of HYDRAULIC_RAYSERVICE={settings.rayservice} at {url}, found no "
        "answer: run this in the cluster, or see `hydraulic release status --url URL`",
    )


def _state_of_service(url: str) -> Finding | None:
    """Return whether our service, which has this URL, is ready; None when it is another's."""
    try:
        answer = httpx.get(f"{url}/health/ready", timeout=LIMIT_S)
        is_ready = answer.json()["ready"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None
    if is_ready:
        return Finding("ports", Level.OK, f"the service runs on {url} and is ready")
    return Finding(
        "ports",
        Level.WARNING,
        f"the service runs on {url} and is not ready: wait, or see {url}/health/ready",
    )


def _key_of_service(url: str, settings: Settings) -> Iterator[Finding]:
    """Find out whether our service, which has this URL, accepts the key of these settings."""
    try:
        headers = {"authorization": f"Bearer {api_key(settings)}"}
        status = httpx.get(f"{url}/v1/traffic", headers=headers, timeout=LIMIT_S).status_code
    except (HydraulicDiagnosticsError, httpx.HTTPError):
        return  # other checks report it
    if status == httpx.codes.UNAUTHORIZED:
        origin = (
            "HYDRAULIC_API_KEY" if settings.api_key is not None else f"'{settings.var_dir}/api_key'"
        )
        yield Finding(
            "key",
            Level.BROKEN,
            f"expected the service to accept the key of {origin}, found that it does not know it: "
            "give the one that the service was started with, or create one with `hydraulic keys "
            "create`",
        )


def _cluster() -> Iterator[Finding]:
    """Compare the Ray of a running cluster with that of this environment."""
    address = dashboard_address(None)
    try:
        running = str(httpx.get(f"{address}/api/version", timeout=LIMIT_S).json()["ray_version"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return  # none runs, and the service starts one
    installed = metadata.version("ray")
    if running == installed:
        yield Finding("cluster", Level.OK, f"ray {running} runs on {address}")
    else:
        yield Finding(
            "cluster",
            Level.BROKEN,
            f"expected ray {installed}, as installed here, on the cluster at {address}, found "
            f"{running}: install that one here, or start the cluster from this environment",
        )


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.dsn is not None:
        address: str | None = settings.dsn.get_secret_value()
    else:
        address = running_server(embedded_directory(settings))
    if address is None:
        yield Finding(
            "database", Level.OK, "the embedded server does not run; the service starts it"
        )
        return
    secret = None
    try:
        secret = api_key(settings)
    except HydraulicDiagnosticsError:
        if settings.dsn is None:
            yield Finding(
                "key",
                Level.WARNING,
                f"expected an API key in '{settings.var_dir}', found none: start the service once, "
                "or run `hydraulic keys create`",
            )
    statements = settings.statement_cache_size
    facts, skew_s, key = asyncio.run(_read_database(address, secret, statements))
    yield _edition(facts, settings)
    yield _schema(facts)
    yield _clock(skew_s)
    if secret is not None and settings.api_key is None and facts.schema:
        yield (
            Finding("key", Level.OK, f"'{key.name}' with {', '.join(sorted(key.scopes))}")
            if key is not None
            else Finding(
                "key",
                Level.BROKEN,
                "expected the key of the file api_key in the database, found it unknown or "
                "revoked: create one with `hydraulic keys create`",
            )
        )


async def _read_database(
    address: str, secret: str | None, statement_cache_size: int
) -> tuple[DatabaseFacts, float, KnownKey | None]:
    """Return what the database is, its clock's lead over this one in seconds, and the key."""
    store = Store(
        address,
        PoolLimits(
            max_size=1,
            acquire_timeout_s=LIMIT_S,
            command_timeout_s=LIMIT_S,
            retry_s=0.0,
            statement_cache_size=statement_cache_size,
        ),
    )
    try:
        before = time.time()
        facts = await store.facts()
        skew_s = facts.clock_s - (before + time.time()) / 2
        known = await store.find_key(secret) if secret and facts.schema else None
        return facts, skew_s, known
    finally:
        await store.close()


def _edition(facts: DatabaseFacts, settings: Settings) -> Finding:
    server = f"PostgreSQL {facts.version}"
    if facts.edition == "timescale" and not facts.has_timescaledb:
        return Finding(
            "database",
            Level.BROKEN,
            "expected the extension timescaledb in this database, whose schema was made with it, "
            "found none: install TimescaleDB on the server and restore the backup with it",
        )
    if facts.edition is not None:
        return Finding("database", Level.OK, f"{server}, edition {facts.edition}")
    if facts.can_have_timescaledb or settings.dsn is None:
        return Finding("database", Level.OK, server)
    return Finding(
        "database",
        Level.WARNING,
        f"expected TimescaleDB on the server, found {server} without it: the first start makes the "
        "plain edition for good, which does the same and needs more disk; install TimescaleDB "
        "before, if that matters",
    )


def _schema(facts: DatabaseFacts) -> Finding:
    if facts.schema > facts.expected:
        return Finding(
            "schema",
            Level.BROKEN,
            f"expected a schema of at most {facts.expected}, found {facts.schema}: a later version "
            "of this project wrote it; run that one",
        )
    if facts.schema < facts.expected:
        return Finding(
            "schema",
            Level.WARNING,
            f"expected schema {facts.expected}, found {facts.schema or 'none'}: the next start of "
            "the service migrates it; make a backup before",
        )
    return Finding("schema", Level.OK, f"revision {facts.schema}")


def _clock(skew_s: float) -> Finding:
    if abs(skew_s) <= SMALL_SKEW_S:
        return Finding("clock", Level.OK, f"{abs(skew_s):.1f} s from the database's")
    level = Level.WARNING if abs(skew_s) <= LARGEST_SKEW_S else Level.BROKEN
    return Finding(
        "clock",
        level,
        f"expected the clocks of this machine and the database within {SMALL_SKEW_S:g} s, found "
        f"{abs(skew_s):.0f} s: synchronise both with NTP",
    )
