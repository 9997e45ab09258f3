"""The model registry: MLflow, in a file under `var/` or at `MLFLOW_TRACKING_URI`.

A version is the number that MLflow assigns; it is written into the manifest of the fetched copy.
Importing this module imports MLflow, which takes seconds.
Invariant: fetched files have the SHA-256 of the registered ones; only validated checkpoints are
registered.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from app.checkpoint import manifest as files
from app.checkpoint.manifest import Manifest, read_manifest, sha256_of
from app.core.errors import CheckpointError, ReleaseError, UnknownVersion
from app.core.settings import PROJECT_DIR, Settings, without_passwords

NAME = "hydraulic-diagnostics"
ARTIFACT = "checkpoint"
SHIPPED = "app/weights"
MANIFEST_TAG = "card_sha256"
"""Tag with the SHA-256 of the manifest, which lists those of the other files."""
LATEST_RUNS = 5
"""How many MLflow runs are searched for the one that trained a checkpoint."""
_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_EXISTS = "RESOURCE_ALREADY_EXISTS"
_MAX_TAG = 4_000


class RegistryEntry(NamedTuple):
    """A registered version."""

    version: str
    created: datetime
    aliases: tuple[str, ...]
    run_id: str
    tags: Mapping[str, str]

    @property
    def scores(self) -> dict[str, str]:
        """Scores of its training and on the reference set, by name."""
        names = sorted(self.tags)
        of_training = [name for name in names if name.endswith("macro_f1")]
        of_reference = [name for name in names if name.startswith("reference.")]
        return {
            name.removeprefix("metrics."): self.tags[name] for name in [*of_training, *of_reference]
        }


class Registry:
    """Registered versions; methods raise ReleaseError when MLflow refuses or does not answer.

    Args:
        settings: `var_dir` holds the local registry.
    """

    def __init__(self, settings: Settings) -> None:
        self._directory = settings.var_dir.resolve() / "mlflow"
        given = os.environ.get("MLFLOW_TRACKING_URI")
        self._directory.mkdir(parents=True, exist_ok=True)
        self._local = not given
        uri = given or f"sqlite:///{self._directory / 'mlflow.db'}"
        self._client = MlflowClient(
            tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri
        )

    def register(
        self,
        directory: Path,
        run_id: str | None,
        scores: Mapping[str, str],
        *,
        once: bool = False,
    ) -> RegistryEntry:
        """Register a validated checkpoint.

        Args:
            directory: The checkpoint.
            run_id: Id of the MLflow run that trained it; None searches for it, else creates one.
            scores: Scores on the reference set, stored as tags.
            once: Return the version of the same content if there is one.

        Raises:
            CheckpointError: The directory does not match its manifest.
            ReleaseError: Another checkpoint has the number of a shipped one.
        """
        manifest = read_manifest(directory)
        with _translated(), self._locked():
            self._ensure_model()
            if once and (known := self._find(sha256_of(directory / files.MANIFEST))):
                return self._read(known)
            run_id = run_id or self._training_of(directory, manifest)
            return self._add(directory, manifest, run_id, scores)

    def find(self, digest: str) -> str | None:
        """Return the oldest version whose manifest had this SHA-256 when it was registered."""
        with _translated(), self._locked():
            self._ensure_model()
            return self._find(digest)

    def versions(self) -> list[RegistryEntry]:
        """Return all registered versions, newest first."""
        with _translated():
            found = self._client.search_model_versions(f"name = '{NAME}'")
            versions = [self._read(item.version) for item in found]
        return sorted(versions, key=lambda item: -int(item.version))

    def fetch(self, version: str, directory: Path) -> None:
        """Write a version's files into an empty directory, with its number in the manifest.

        Raises:
            UnknownVersion: It is not registered.
            CheckpointError: A file is not the one that was registered.
        """
        from mlflow.artifacts import download_artifacts

        unknown = UnknownVersion(
            f"expected a registered version, found '{version}': list them with `hydraulic release "
            "list` or GET /v1/models?state=registered"
        )
        try:
            with _translated(absent=unknown), tempfile.TemporaryDirectory(dir=directory) as scratch:
                registered = self._client.get_model_version(NAME, version)
                uri = self._client.get_model_version_download_uri(NAME, version)
                fetched = download_artifacts(
                    artifact_uri=uri, dst_path=scratch, tracking_uri=self._client.tracking_uri
                )
                for path in Path(fetched).iterdir():
                    shutil.copy2(path, directory / path.name)
        except OSError as error:
            raise CheckpointError(
                f"expected the files of version {version} in the registry, found: {error}"
            ) from error
        stated, found = registered.tags.get(MANIFEST_TAG, ""), sha256_of(directory / files.MANIFEST)
        if stated != found:
            raise CheckpointError(
                f"expected version {version} with a {files.MANIFEST} of SHA-256 {stated}, found "
                f"{found}: the registry's files were changed; register the checkpoint again"
            )
        manifest = read_manifest(directory).model_copy(update={"version": version})
        (directory / files.MANIFEST).write_text(manifest.document(), encoding="utf-8")

    def set_alias(self, alias: str, version: str) -> None:
        """Move an alias to a version; do nothing when the version is not registered."""
        with contextlib.suppress(UnknownVersion), _translated(absent=UnknownVersion(version)):
            self._client.set_registered_model_alias(NAME, alias, version)

    def _find(self, digest: str) -> str | None:
        found = self._client.search_model_versions(f"name = '{NAME}'")
        versions = [int(item.version) for item in found if item.tags.get(MANIFEST_TAG) == digest]
        return str(min(versions)) if versions else None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Serialise registrations on this machine; between machines only numbers are compared."""
        with (self._directory / "register.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _ensure_model(self) -> None:
        """Create the model and the shipped versions, so that their numbers agree everywhere."""
        try:
            self._client.create_registered_model(
                NAME, description="Checkpoints of Hydraulic Diagnostics"
            )
        except MlflowException as error:
            if error.error_code != _EXISTS:
                raise
        for directory in sorted((PROJECT_DIR / SHIPPED).iterdir(), key=lambda path: int(path.name)):
            stated = sha256_of(directory / files.MANIFEST)
            try:
                found = self._client.get_model_version(NAME, directory.name).tags.get(
                    MANIFEST_TAG, ""
                )
            except MlflowException as error:
                if error.error_code != _ABSENT:
                    raise
                added = self._add(directory, read_manifest(directory), None, {})
                if added.version == directory.name:
                    continue
                self._client.delete_model_version(NAME, added.version)
                found = f"the next free number {added.version}"
            if found != stated:
                raise ReleaseError(
                    f"expected the shipped version {directory.name} (manifest {stated[:12]}) under "
                    f"its number in the registry, found {found[:40]}: use a separate registry with "
                    "MLFLOW_TRACKING_URI or HYDRAULIC_VAR_DIR"
                )

    def _add(
        self, directory: Path, manifest: Manifest, run_id: str | None, scores: Mapping[str, str]
    ) -> RegistryEntry:
        run = (
            self._client.get_run(run_id)
            if run_id
            else self._client.create_run(self._experiment(), run_name=f"register {directory.name}")
        )
        folder = f"{ARTIFACT}-{manifest.sha256[files.WEIGHTS][:12]}"
        with tempfile.TemporaryDirectory() as scratch:
            for name in [files.MANIFEST, *manifest.sha256]:
                shutil.copy2(directory / name, scratch)
            self._client.log_artifacts(run.info.run_id, scratch, folder)
        tags = _tags(directory, manifest) | dict(scores)
        source = f"{run.info.artifact_uri}/{folder}"
        made = self._client.create_model_version(NAME, source, run.info.run_id, tags=tags)
        if run_id is None:
            self._client.set_terminated(run.info.run_id)
        return self._read(made.version)

    def _training_of(self, directory: Path, manifest: Manifest) -> str | None:
        """Return the id of the training run whose artifacts hold this checkpoint, or None."""
        named = [self._client.get_experiment_by_name(design) for design in manifest.designs]
        experiments = [item.experiment_id for item in named if item is not None]
        if not experiments:
            return None
        stated = sha256_of(directory / files.MANIFEST)
        version = manifest.version.replace("'", "")
        runs = self._client.search_runs(
            experiments, f"tags.version = '{version}'", max_results=LATEST_RUNS
        )
        for run in runs:
            paths = {item.path for item in self._client.list_artifacts(run.info.run_id, ARTIFACT)}
            if f"{ARTIFACT}/{files.MANIFEST}" not in paths:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                kept = self._client.download_artifacts(
                    run.info.run_id, f"{ARTIFACT}/{files.MANIFEST}", scratch
                )
                if sha256_of(Path(kept)) == stated:
                    return str(run.info.run_id)
        return None

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(NAME)
        if found is not None:
            return str(found.experiment_id)
        where = (self._directory / "artifacts").as_uri() if self._local else None
        return str(self._client.create_experiment(NAME, artifact_location=where))

    def _read(self, version: str) -> RegistryEntry:
        item: ModelVersion = self._client.get_model_version(NAME, version)
        created = datetime.fromtimestamp(item.creation_timestamp / 1000, UTC)
        return RegistryEntry(
            str(item.version), created, tuple(item.aliases), str(item.run_id or ""), dict(item.tags)
        )


def _tags(directory: Path, manifest: Manifest) -> dict[str, str]:
    tags = {
        MANIFEST_TAG: sha256_of(directory / files.MANIFEST),
        "weights_sha256": manifest.sha256[files.WEIGHTS],
        "trained_as": manifest.version,
        "trained_at": manifest.created.isoformat(),
        "git_revision": manifest.git_revision,
        "seed": str(manifest.seed),
        "command": manifest.command,
        "designs": ",".join(manifest.designs),
        "data_start": manifest.data.start.isoformat(),
        "data_end": manifest.data.end.isoformat(),
        "data_windows": str(manifest.data.windows),
    }
    metrics = json.loads((directory / files.METRICS).read_bytes())
    tags |= {f"metrics.{name}": f"{value:.6g}" for name, value in _scores(metrics)}
    return {name: value[:_MAX_TAG] for name, value in tags.items()}


def _scores(metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return each component's scores; the first scorecard of a report is the checkpoint's."""
    if "scores" in metrics:
        parts = [(component, item["pooled"]) for component, item in metrics["scores"].items()]
    else:
        evaluation = metrics.get("evaluation", {})
        # reports of earlier versions have the name `contenders`
        scorecards = evaluation.get("scorecards") or evaluation.get("contenders", {})
        first: Mapping[str, Any] = next(iter(scorecards.values()), {})
        parts = [*first.get("grades", {}).items(), *first.get("life", {}).items()]
    return [
        (f"{re.sub(r'[^A-Za-z0-9._-]', '_', component)}.{name.removeprefix('mean_')}", float(value))
        for component, values in parts
        for name, value in values.items()
        if isinstance(value, int | float)
    ]


@contextlib.contextmanager
def _translated(absent: UnknownVersion | None = None) -> Iterator[None]:
    """Translate errors of MLflow; `absent` is raised where something does not exist."""
    try:
        yield
    except MlflowException as error:
        if absent is not None and error.error_code == _ABSENT:
            raise absent from error
        first = without_passwords(str(error)).partition("\n")[0][:300]
        raise ReleaseError(
            f"expected the registry to answer, found: {first}: see MLFLOW_TRACKING_URI"
        ) from error
