"""Validates a checkpoint against the registered machines and gives it a version.

`python -m app.release.registration PATH` registers an archive or a directory and prints one line of
JSON: the version, or why there is none. The service and its training jobs run it as a process of
their own, since it imports the model and MLflow; people use `hydraulic release register`.

With MLflow the version is a number of the registry. Without it the checkpoint goes to `var/models`
under a name that follows from its content, and `deploy` finds it there.
Invariant: a registered checkpoint was loaded and run as a replica does.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random

from app.checkpoint.manifest import MANIFEST, read_manifest, sha256_of
from app.checkpoint.node_cache import MODELS, cached
from app.core.errors import (
    CheckpointError,
    HydraulicDiagnosticsError,
    InputError,
    SettingsError,
    StoreUnavailable,
)
from app.core.settings import Settings
from app.release.archive import check_files, unpack
from app.release.source import open_registry
from app.store.store import Store, open_store

REMOTE_S = 3.0
"""How long to retry a database that the settings name."""
DATABASE_S = 60.0
"""How long to wait for a local database that is starting."""
_DIGEST_CHARACTERS = 12


class Registered(NamedTuple):
    """The version of a checkpoint, and whether it is new."""

    version: str
    created: bool


async def assess(
    directory: Path, settings: Settings, report: Callable[[str], None]
) -> dict[str, str]:
    """Load a checkpoint, run it on every topology of its designs, and score labelled windows.

    Args:
        directory: the checkpoint.
        settings: name the database with the machines and their labels.
        report: receives a line about each result.

    Returns:
        The scores as tags of the registry.

    Raises:
        CheckpointError: it can't be used.
        StoreError: the database does not answer.
    """
    # loading a checkpoint imports the model, which other commands do not need
    from app.release.validation import reference_score, validate, warm_up

    checkpoint = validate(directory, None)
    report(f"{directory.name}: hashes, shapes and feature spec are consistent")
    async with migrated_store(settings) as store:
        machines = await store.list_equipment()
        for line in warm_up(checkpoint, [record.equipment for record in machines]) or [
            "no machine of its designs is registered: no warm-up was possible"
        ]:
            report(line)
        scores, skipped = await reference_score(checkpoint, machines, store)
    for line in skipped:
        report(f"reference set without {line}")
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
    return {
        f"reference.{score.design}.{score.component_id}": f"{score.right}/{score.windows}"
        for score in scores
    }


async def register_once(
    directory: Path, settings: Settings, report: Callable[[str], None]
) -> Registered:
    """Register a checkpoint unless one of the same content is registered.

    Raises:
        SettingsError: there is no registry, and the service runs in pods.
        HydraulicDiagnosticsError: it can't be used, or the registry or database does not answer.
    """
    digest = sha256_of(directory / MANIFEST)
    registry = open_registry(settings) if find_spec("mlflow") else None
    if registry is None and settings.rayservice is not None:
        raise SettingsError(
            "expected a registry of models, found no package mlflow, and a pod loses what it "
            "keeps: add the checkpoint to app/weights and build the image again"
        )
    version = f"u{digest[:_DIGEST_CHARACTERS]}"
    known = (settings.var_dir / MODELS / version).is_dir()
    found = registry.find(digest) if registry else (version if known else None)
    if found is not None:
        report(f"it is registered as version {found}")
        return Registered(found, created=False)
    tags = await assess(directory, settings, report)
    if registry is not None:
        version = registry.register(directory, None, tags, once=True).version
    else:
        cached(version, settings.var_dir / MODELS, lambda name, to: _copy(directory, name, to))
    report(f"registered as version {version}")
    return Registered(version, created=True)


@asynccontextmanager
async def migrated_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the store, wait for a database that is starting, and migrate its schema."""
    store = open_store(settings)
    try:
        await AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=stop_after_delay(DATABASE_S if settings.dsn is None else REMOTE_S),
            wait=wait_random(0.1, 0.3),
            reraise=True,
        )(store.migrate)
        yield store
    finally:
        await store.close()


def _copy(directory: Path, version: str, to: Path) -> None:
    """Copy a checkpoint's files, with another version in the manifest."""
    manifest = read_manifest(directory)
    for name in manifest.sha256:
        shutil.copyfile(directory / name, to / name)
    document = manifest.model_copy(update={"version": version}).document()
    (to / MANIFEST).write_text(document, encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Register a checkpoint; print the result and return the exit status: 0 done, 1 refused."""
    options = _parser().parse_args(arguments)
    lines: list[str] = []
    try:
        found = asyncio.run(_register(options.path, Settings(), lines.append))
    except CheckpointError as error:  # its parts do not fit each other or a machine
        found = _refusal(InputError(error.message, error.field or "body"))
    except HydraulicDiagnosticsError as error:
        found = _refusal(error)
    print(json.dumps(found | {"said": lines}), flush=True)  # noqa: T201 - the result
    if "version" not in found:
        return 1
    if options.result is not None:
        partial = options.result.with_suffix(".partial")
        partial.write_text(json.dumps(found), encoding="utf-8")
        partial.replace(options.result)
    return 0


async def _register(
    path: Path, settings: Settings, report: Callable[[str], None]
) -> dict[str, object]:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        directory = path
        if path.is_dir():
            check_files(path)
        else:
            directory = Path(scratch) / "checkpoint"
            directory.mkdir()
            unpack(path, directory)
        found = await register_once(directory, settings, report)
        return found._asdict() | {"digest": sha256_of(directory / MANIFEST)}


def _refusal(error: HydraulicDiagnosticsError) -> dict[str, object]:
    return {"kind": type(error).__name__, "error": error.message, "field": error.field}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.release.registration", description=__doc__)
    parser.add_argument("path", type=Path, help="an archive, or the directory of a checkpoint")
    parser.add_argument("--result", type=Path, help="file for the version")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
