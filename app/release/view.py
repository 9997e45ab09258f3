"""Text for people: state of the releases, differences, registered versions, comparisons."""

import difflib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import yaml

from app.core.errors import InputError, ReleaseError, StoreError
from app.experiments.reading import MAX_ANSWERS, ExperimentQuery, read_experiments
from app.experiments.report import ComponentComparison, Experiment, HealthDifference, Latency
from app.release.clients.serve_api import ApplicationState
from app.release.clients.service_api import ServiceApi
from app.release.config.file import ReadConfig
from app.release.config.schema import Application
from app.release.config.weights import format_split, format_weights
from app.release.history import split_after
from app.release.target import ConfigStore, ServeTarget
from app.store.experiments import AnswerPairs
from app.store.releases import ReleaseEvent
from app.store.store import Store

if TYPE_CHECKING:
    from app.release.registry import RegistryEntry

EVENTS = 10
_MAX_DAYS = 10_000
_COLUMNS = ("component", "differ", "right", "of labelled windows", "health, {b} less {a}")


async def status_lines(
    file: ConfigStore, serve: ServeTarget, service: ServiceApi, store: Store
) -> list[str]:
    """Describe the file, what runs, and the last releases; parts that do not answer are named.

    Raises:
        SettingsError: The file is invalid.
    """
    config = file.read()
    states: Mapping[str, ApplicationState] = {}
    lines = []
    try:
        states = await serve.applications()
        weights: Mapping[str, float] = (await service.split()).weights
    except ReleaseError as error:
        weights = {}
        lines.append(f"not running: {error.message}")
    for release in config.config.traffic.releases:
        state = states.get(release.application)
        in_force = f"{weights[release.version]:g}" if release.version in weights else "none"
        role = ", a shadow" if release.version in config.config.traffic.shadows else ""
        lines.append(
            f"version {release.version}: weight {release.weight:g} configured, {in_force} in "
            f"force{role}; application '{release.application}' "
            f"{state.status if state else 'absent'}, {state.replicas if state else 0} replica(s); "
            "checkpoint "
            f"{config.config.model_args(release.application).checkpoint}"
        )
    traffic = config.config.traffic
    lines += [
        f"design {each}: {format_weights(traffic.shares(each))} configured"
        for each in traffic.known_designs
    ]
    differing = [line.split("'")[1] for line in differing_applications(config, states)]
    if states and differing:
        lines.append(
            f"{file.name} and what runs differ in {', '.join(sorted(differing))}: see `diff`, and "
            "`apply` it"
        )
    lines += await serve.describe()
    try:
        events = await store.list_releases(EVENTS)
    except StoreError as error:
        return [*lines, f"no history: {error.message}"]
    return [*lines, "last releases, newest first:", *map(_event, events)]


def difference(config: ReadConfig, states: Mapping[str, ApplicationState]) -> list[str]:
    """Return, for each application that differs, a line that names it and a unified diff."""
    lines: list[str] = []
    # Serve copies the file's logging_config to applications without one
    common = config.config.logging_config
    wanted = {
        item.name: item
        if item.logging_config
        else item.model_copy(update={"logging_config": common})
        for item in config.config.applications
    }
    running = {
        name: Application.model_validate(state.deployed_app_config)
        for name, state in states.items()
        if state.deployed_app_config is not None
    }
    for name in [*wanted, *sorted(set(running) - set(wanted))]:
        old, new = _text(running.get(name)), _text(wanted.get(name))
        if old != new:
            verb = "differs" if old and new else "runs and is not in the file"
            lines.append(
                f"application '{name}' {verb if old else 'is in the file and does not run'}"
            )
            lines += list(difflib.unified_diff(old, new, "runs", "file", lineterm="", n=1))[2:]
    return lines


def differing_applications(config: ReadConfig, states: Mapping[str, ApplicationState]) -> list[str]:
    """Return the lines of `difference` that name an application."""
    return [line for line in difference(config, states) if line.startswith("application")]


def describe_version(item: "RegistryEntry") -> str:
    """Return one line about a registered version: aliases, origin and scores."""
    tags = item.tags
    scores = [f"{name} {score}" for name, score in item.scores.items()]
    columns = (
        item.version,
        ",".join(item.aliases) or "-",
        f"{item.created:%Y-%m-%d %H:%M}Z",
        tags.get("designs", ""),
        f"data {tags.get('data_start', '?')[:10]}..{tags.get('data_end', '?')[:10]}",
        f"revision {tags.get('git_revision', '?')[:12]}",
        f"run {item.run_id or '-'}",
        "; ".join(scores),
    )
    return "\t".join(columns)


async def comparison_lines(
    source: AnswerPairs, a: str, b: str, days: float | None, now: datetime
) -> list[str]:
    """Compare two versions as `GET /v1/experiments` does.

    Args:
        source: Where the answers are stored.
        a: The version to compare with.
        b: The version that the verdict is about.
        days: How far back answers count; None for all.
        now: Current time, UTC.

    Raises:
        InputError: The days are not above 0, or too many.
        ReleaseError: No window was answered by both.
    """
    if days is not None and not 0 < days <= _MAX_DAYS:
        raise InputError(
            f"expected days above 0 and at most {_MAX_DAYS:,}, found {days:g}: correct --days",
            "days",
        )
    start = None if days is None else now - timedelta(days=days)
    query = ExperimentQuery(a, b, start, None, MAX_ANSWERS)
    found = (await read_experiments(source, query, now)).experiments
    if not found:
        raise ReleaseError(
            f"expected windows that versions {a} and {b} both answered, found none: score copies "
            f"of the traffic with `hydraulic release shadow {b}`"
        )
    return format_comparison(found[0])


def format_comparison(found: Experiment) -> list[str]:
    """Return a comparison as lines, the verdict first."""
    a, b = found.a, found.b
    newest = "" if found.complete else "the newest "
    repeated = f", {found.repeated} answers were repeats of others" if found.repeated else ""
    interval = f"{found.start:%Y-%m-%d %H:%M}Z to {found.end:%Y-%m-%d %H:%M}Z"
    differ = _share(found.disagreement.count, found.disagreement.windows)
    abstained = f"{a} in {found.abstained_a}, {b} in {found.abstained_b}"
    lines = [
        found.sentence,
        f"{newest}{found.windows} windows of {found.machines} machine(s), {interval}{repeated}",
        f"they differ in {differ}; insufficient evidence: {abstained}",
        f"building and scoring: {a} {_latency(found.latency_a)}; {b} {_latency(found.latency_b)}",
    ]
    head = tuple(text.format(a=a, b=b) for text in _COLUMNS)
    rows = [head, *(_row(item, a, b) for item in found.components)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return lines + [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _row(item: ComponentComparison, a: str, b: str) -> tuple[str, ...]:
    differ = _share(item.disagreement.count, item.disagreement.windows)
    right, labels = "no label", ""
    if item.accuracy is not None:
        right = f"{a} {item.accuracy.a:.1%}, {b} {item.accuracy.b:.1%}: {item.accuracy.verdict}"
        labels = f"{item.accuracy.windows} in {item.accuracy.conditions} conditions"
    return item.component_id, differ, right, labels, _health(item.health_difference)


def _health(found: HealthDifference | None) -> str:
    if found is None:
        return "not answered by both"
    low, high = found.interval
    return f"{found.mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _share(count: int, windows: int) -> str:
    return f"{count} of {windows} ({count / windows:.1%})" if windows else "none"


def _latency(found: Latency) -> str:
    return f"{1000 * found.p50_s:.0f} ms at the median, {1000 * found.p95_s:.0f} ms at 95 %"


def _text(application: Application | None) -> Sequence[str]:
    if application is None:
        return []
    data = application.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    for deployment in data.get("deployments", []):
        if deployment.get("ray_actor_options") == {}:
            del deployment["ray_actor_options"]
    return yaml.safe_dump(data, sort_keys=True).splitlines()


def _event(event: ReleaseEvent) -> str:
    reason = f": {event.reason}" if event.reason else ""
    return (
        f"  {event.released_at:%Y-%m-%d %H:%M:%S}Z {event.action} {event.version} by "
        f"{event.actor} -> {format_split(split_after(event))}{reason}"
    )
