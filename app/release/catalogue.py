"""Lists the versions that can be deployed: shipped, fetched to this node, or in the registry.

The registry is read in a subprocess, since importing MLflow takes seconds, and its answer is kept
for `CACHE_S`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.checkpoint.locate import run_release_command
from app.checkpoint.manifest import MANIFEST, Manifest
from app.checkpoint.node_cache import MODELS
from app.core.errors import ReleaseError
from app.core.settings import PROJECT_DIR, Settings
from app.release.source import SHIPPED, has_registry, open_registry
from app.schemas.releases import RegisteredVersion

CACHE_S = 10.0
_VERSIONS = TypeAdapter(tuple[RegisteredVersion, ...])


class Catalogue:
    """The versions that can be deployed.

    Args:
        settings: name the directory of fetched versions, and the registry.
        clock: monotonic seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._reading = asyncio.Lock()
        self._registered: tuple[RegisteredVersion, ...] = ()
        self._fresh_until = 0.0

    async def versions(self) -> list[RegisteredVersion]:
        """Return the versions, newest first.

        Raises:
            ReleaseError: the registry does not answer.
        """
        if has_registry(self._settings):
            async with self._reading:
                if self._clock() >= self._fresh_until:
                    self._registered = await asyncio.to_thread(_read_in_subprocess)
                    self._fresh_until = self._clock() + CACHE_S
        directories = await asyncio.to_thread(self._directories)
        found = {each.version: each for each in (*directories, *self._registered)}
        return sorted(found.values(), key=lambda each: (each.registered_at, each.version))[::-1]

    def _directories(self) -> list[RegisteredVersion]:
        places = (PROJECT_DIR / SHIPPED, self._settings.var_dir / MODELS)
        return [each for place in places if place.is_dir() for each in _of(place.iterdir())]


def registered(settings: Settings) -> tuple[RegisteredVersion, ...]:
    """Return the versions of the registry, which imports MLflow.

    Raises:
        ReleaseError: the registry does not answer.
    """
    return tuple(
        RegisteredVersion(
            version=entry.version,
            designs=tuple(filter(None, entry.tags.get("designs", "").split(","))),
            registered_at=entry.created,
            aliases=entry.aliases,
            run_id=entry.run_id,
            scores=entry.scores,
        )
        for entry in open_registry(settings).versions()
    )


def as_json(versions: tuple[RegisteredVersion, ...]) -> str:
    """Return versions as one line of JSON, which another process reads."""
    return _VERSIONS.dump_json(versions).decode()


def _read_in_subprocess() -> tuple[RegisteredVersion, ...]:
    output = run_release_command("registered")
    try:
        return _VERSIONS.validate_json(output.splitlines()[-1])
    except (IndexError, ValidationError) as error:
        raise ReleaseError(
            "expected the versions of the registry, found other output: see MLFLOW_TRACKING_URI"
        ) from error


def _of(directories: Iterable[Path]) -> Iterable[RegisteredVersion]:
    for directory in directories:
        try:
            manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
        except (OSError, ValidationError):
            continue  # not a checkpoint, or one that is being fetched
        yield RegisteredVersion(
            version=manifest.version, designs=manifest.designs, registered_at=manifest.created
        )
