"""Reads a checkpoint's manifest, feature spec and calibration, without torch.

Graph builder and ingress read these; only model replicas load weights (`app.checkpoint.files`).
Invariant: the files of a directory that was read have the SHA-256 in its `checkpoint.json`.
"""

import hashlib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_core import from_json

from app.checkpoint.calibration import Calibration, check_calibration
from app.checkpoint.masking import Masking
from app.core.errors import CheckpointError
from app.features.spec import FeatureSpec

CALIBRATION = "calibration.json"
MANIFEST = "checkpoint.json"
FEATURE_SPEC = "feature_spec.json"
METRICS = "metrics.json"
MODEL_CONFIG = "model_config.json"
TRAIN_CONFIG = "train_config.json"
WEIGHTS = "weights.safetensors"
NETWORK = "network.onnx"
"""The ensemble for CPU replicas."""
PROBES = "network_probes.safetensors"
"""What the ensemble predicts for the probes of `app.model.runtime.gate`."""
REPORT = "report.html"
FORMAT = 4
"""Formats 2 and 3 had a linear classifier beside the network; they are refused."""
REQUIRED = (WEIGHTS, MODEL_CONFIG, FEATURE_SPEC, CALIBRATION, METRICS)

Head = Literal["grade", "health", "rate", "rul"]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A name inside the checkpoint's directory."""


class DataInterval(BaseModel):
    """Half-open interval `[start, end)` of the training readings, and their number of windows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: Annotated[AwareDatetime, Field(description="of the first window")]
    end: Annotated[AwareDatetime, Field(description="of the last window")]
    windows: Annotated[int, Field(description="number of windows")]


class Manifest(BaseModel):
    """`checkpoint.json`: version, origin, and the SHA-256 of each other file.

    `trained_heads` has, by head and design, the components with a label in training; a head without
    any is untrained and its predictions are meaningless. `notes` says what the training decided by
    itself; earlier checkpoints have none. `masking` is not in the file; it is read
    from the configurations beside it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Annotated[int, Field(strict=True, ge=FORMAT, le=FORMAT, description="of the files")] = (
        FORMAT
    )
    version: Annotated[str, Field(description="given at the registration")]
    created: Annotated[AwareDatetime, Field(description="when training ended")]
    git_revision: Annotated[str, Field(description="of the code that trained it")]
    seed: Annotated[int, Field(description="of the training")]
    command: Annotated[str, Field(description="that trained it")]
    designs: Annotated[tuple[str, ...], Field(description="that it was trained on")]
    data: Annotated[DataInterval, Field(description="training readings")]
    trained_heads: Annotated[
        Mapping[Head, Mapping[str, tuple[str, ...]]],
        Field(description="by head and design, the components with a label"),
    ]
    sha256: Annotated[Mapping[FileName, str], Field(description="by file")]
    notes: Annotated[tuple[str, ...], Field(description="what the training said of itself")] = ()
    masking: Annotated[Masking, Field(description="evidence that training masked")] = Masking()

    def document(self) -> str:
        """Return the text of `checkpoint.json`."""
        return self.model_dump_json(indent=1, exclude={"masking"}) + "\n"


def read_manifest(directory: Path) -> Manifest:
    """Read `checkpoint.json` and check the other files against it.

    Raises:
        CheckpointError: a file is missing or unreadable, is not in the manifest, or has another
            SHA-256.
    """
    try:
        content = (directory / MANIFEST).read_bytes()
        _check_format(directory, content)
        manifest = Manifest.model_validate_json(content)
    except OSError as error:
        raise CheckpointError(
            f"expected a checkpoint with {MANIFEST} in '{directory}', found: {error.strerror}; "
            "name a directory that `hydraulic train start` wrote"
        ) from error
    except ValidationError as error:
        raise CheckpointError(
            f"'{directory / MANIFEST}' is not the manifest of a checkpoint of format {FORMAT}: "
            f"{error}"
        ) from error
    absent = [name for name in REQUIRED if name not in manifest.sha256]
    if absent:
        raise CheckpointError(
            f"expected '{directory / MANIFEST}' to state {', '.join(REQUIRED)}, found no "
            f"{', '.join(absent)}: take the whole checkpoint again from where it was trained"
        )
    for name, stated in manifest.sha256.items():
        found = sha256_of(directory / name)
        if found != stated:
            raise CheckpointError(
                f"expected '{directory / name}' with SHA-256 {stated}, found {found}: the file was "
                "changed or cut after the training; take it again from where it was trained"
            )
    return manifest.model_copy(update={"masking": read_masking(directory, manifest.sha256)})


def _check_format(directory: Path, content: bytes) -> None:
    """Refuse the format of an earlier or later release; other faults are found by validation."""
    try:
        stated = from_json(content)
    except ValueError:
        return
    found = stated.get("format") if isinstance(stated, dict) else None
    if isinstance(found, int) and found != FORMAT:
        raise CheckpointError(
            f"expected a checkpoint of format {FORMAT} in '{directory}', found format {found} of "
            f"{'an earlier' if found < FORMAT else 'a later'} release: train it again with "
            "`hydraulic train start`, or serve it with the release that trained it"
        )


def read_masking(directory: Path, stated: Container[str]) -> Masking:
    """Read what the training of a checkpoint masked.

    Args:
        directory: of the checkpoint.
        stated: names of its files; without `train_config.json` nothing counts as masked.

    Raises:
        CheckpointError: a file can't be read as JSON, or has a value that is no setting.
    """
    try:
        settings = (
            from_json((directory / TRAIN_CONFIG).read_bytes()) if TRAIN_CONFIG in stated else {}
        )
        layers = from_json((directory / MODEL_CONFIG).read_bytes())["attention_layers"]
        return Masking.model_validate({**settings, "attention_layers": layers})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"expected settings of a training in {TRAIN_CONFIG} and {MODEL_CONFIG} of "
            f"'{directory}', found: {error}; take the whole checkpoint again from where it was "
            "trained"
        ) from error


def read_feature_spec(directory: Path) -> FeatureSpec:
    """Read the feature spec of a checkpoint whose manifest was read.

    Raises:
        CheckpointError: the file can't be read as a feature spec.
    """
    try:
        return FeatureSpec.model_validate_json((directory / FEATURE_SPEC).read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(
            f"'{directory / FEATURE_SPEC}' is not a feature spec: {error}"
        ) from error


def read_calibration(directory: Path, spec: FeatureSpec) -> Calibration:
    """Read the calibration of a checkpoint whose manifest was read.

    Args:
        directory: of the checkpoint.
        spec: its feature spec.

    Raises:
        CheckpointError: the file can't be read as a calibration, or does not belong to the spec.
    """
    path = directory / CALIBRATION
    try:
        calibration = Calibration.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"'{path}' is not a calibration: {error}") from error
    check_calibration(calibration, spec, str(path))
    return calibration


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits.

    Raises:
        CheckpointError: the file can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"expected the checkpoint's file '{path}', found: {error.strerror}"
        ) from error
