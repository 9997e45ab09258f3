"""How releases stand, for people: what the file says, what runs, and where the two differ.

Invariant: it changes nothing.
"""

import difflib
from collections.abc import Mapping, Sequence

import yaml

from app.core.errors import ReleaseError, StoreError
from app.release.clients.serve_api import ApplicationState, ServeApi
from app.release.clients.service_api import ServiceApi
from app.release.config.file import ConfigFile, ReadConfig
from app.release.config.schema import Application
from app.release.history import in_use
from app.store.releases import ReleaseEvent
from app.store.store import Store

EVENTS = 10


async def status_lines(
    file: ConfigFile, serve: ServeApi, service: ServiceApi, store: Store
) -> list[str]:
    """Return how everything stands; what does not answer is said to, and fails nothing.

    Raises:
        SettingsError: the file can't be used.
    """
    config = file.read()
    states: Mapping[str, ApplicationState] = {}
    lines = []
    try:
        states = await serve.applications()
        weights: Mapping[str, float] = await service.weights()
    except ReleaseError as error:
        weights = {}
        lines.append(f"not running: {error.message}")
    for release in config.config.traffic.releases:
        state = states.get(release.application)
        replicas = sum(item.running for item in state.deployments.values()) if state else 0
        in_force = f"{weights[release.version]:g}" if release.version in weights else "none"
        role = ", a shadow" if release.version in config.config.traffic.shadows else ""
        lines.append(
            f"version {release.version}: weight {release.weight:g} in the file, {in_force} in force{role}; application "
            f"'{release.application}' {state.status if state else 'absent'}, {replicas} replica(s); checkpoint "
            f"{config.config.model_args(release.application).checkpoint}"
        )
    differing = sorted(
        {
            line.split("'")[1]
            for line in difference(config, states)
            if line.startswith("application")
        }
    )
    if states and differing:
        lines.append(
            f"the file and what runs differ in {', '.join(differing)}: see `diff`, and `apply` the file"
        )
    try:
        lines += [
            "last releases, newest first:",
            *(_event(item) for item in await store.list_releases(EVENTS)),
        ]
    except StoreError as error:
        lines.append(f"no history: {error.message}")
    return lines


def difference(config: ReadConfig, states: Mapping[str, ApplicationState]) -> list[str]:
    """Return for each application in which they differ a line that names it, and the lines of the difference.

    Args:
        config: what the file says.
        states: what runs.
    """
    lines: list[str] = []
    # Serve hands the whole's logging down to the applications that have none of their own
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
        runs, file = _text(running.get(name)), _text(wanted.get(name))
        if runs != file:
            lines.append(f"application '{name}' " + _in_words(runs, file))
            lines += list(difflib.unified_diff(runs, file, "runs", "file", lineterm="", n=1))[2:]
    return lines


def _in_words(runs: Sequence[str], file: Sequence[str]) -> str:
    if not runs:
        return "is in the file and does not run"
    return "differs" if file else "runs and is not in the file"


def _text(application: Application | None) -> list[str]:
    if application is None:
        return []
    data = application.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    deployments = data.get("deployments", [])
    for deployment in deployments:
        if deployment.get("ray_actor_options") == {}:
            del deployment["ray_actor_options"]
    return yaml.safe_dump(data, sort_keys=True).splitlines()


def _event(event: ReleaseEvent) -> str:
    weights = " ".join(f"{version}={weight:g}" for version, weight in in_use(event.weights).items())
    why = f": {event.reason}" if event.reason else ""
    return f"  {event.released_at:%Y-%m-%d %H:%M:%S}Z {event.action} {event.version} by {event.actor} -> {weights}{why}"
