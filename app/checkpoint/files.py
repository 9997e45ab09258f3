"""Loads checkpoints, verified and without torch: tables as safetensors, all else as JSON.

Nothing pickled is read. Loading refuses parts that do not fit and names both sides. The network's
own weights are loaded by `app.checkpoint.torch_model`; CPU replicas run the ONNX graph beside them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from app.checkpoint import manifest as files
from app.checkpoint.calibration import Calibration
from app.checkpoint.manifest import Manifest
from app.core.errors import CheckpointError
from app.features.spec import FeatureSpec
from app.model.config import TABLES, CircuitSize, ModelConfig
from app.model.ood_detector import OodDetector, OodTables
from app.model.skip import CircuitTables, LinearSkip


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint but for the network's weights.

    `skip` and `detector` are None in a model without them.
    """

    directory: Path
    config: ModelConfig
    feature_spec: FeatureSpec
    calibration: Calibration
    manifest: Manifest
    skip: LinearSkip | None
    detector: OodDetector | None


def load(directory: Path) -> Checkpoint:
    """Load a checkpoint, verified.

    Args:
        directory: that `app.checkpoint.torch_model.save` wrote.

    Raises:
        CheckpointError: a file is missing or has another SHA-256 than the manifest states, tables
            have other shapes than the config asks for, or config, feature spec and calibration do
            not fit each other.
    """
    manifest = files.read_manifest(directory)
    feature_spec = files.read_feature_spec(directory)
    calibration = files.read_calibration(directory, feature_spec)
    config = read_config(directory / files.MODEL_CONFIG)
    check_fit(config, feature_spec, str(directory))
    arrays = read_weights(directory)
    tables = {name: each for name, each in arrays.items() if name.startswith(TABLES)}
    check_shapes(directory, _table_shapes(config), tables)
    return Checkpoint(
        directory,
        config,
        feature_spec,
        calibration,
        manifest,
        LinearSkip.of_arrays(config, tables),
        OodDetector.of_arrays(config, tables),
    )


def read_weights(directory: Path) -> dict[str, NDArray[np.generic]]:
    """Return the content of `weights.safetensors`.

    Raises:
        CheckpointError: the file is no safetensors file.
    """
    path = directory / files.WEIGHTS
    try:
        return load_arrays(path.read_bytes())
    except SafetensorError as error:
        raise CheckpointError(f"'{path}' is not a safetensors file: {error}") from error


def read_config(path: Path) -> ModelConfig:
    """Read `model_config.json`.

    Raises:
        CheckpointError: the file has other keys than a `ModelConfig`, or values of another type.
    """
    try:
        data: object = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' can't be read: {error}") from error
    expected = {field.name for field in fields(ModelConfig)}
    if not isinstance(data, dict) or set(data) != expected:
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise CheckpointError(f"expected the keys {sorted(expected)} in '{path}', found {found}")
    try:
        data["grade_sets"] = tuple(tuple(map(float, healths)) for healths in data["grade_sets"])
        data["circuits"] = tuple(CircuitSize(*sizes) for sizes in data["circuits"])
        return ModelConfig(**data)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"'{path}' has a value that is no size of a network: {error}"
        ) from error


def check_fit(config: ModelConfig, spec: FeatureSpec, where: str) -> None:
    """Check that a config belongs to a feature spec.

    Raises:
        CheckpointError: a size differs.
    """
    healths = tuple(
        tuple(grade.health for grade in spec.grades[design][component])
        for design, component in spec.grade_sets()
    )
    sizes = {
        "features of a sensor": (config.features, spec.features),
        "quantities": (config.quantities, len(spec.quantities)),
        "component types": (config.component_types, len(spec.component_types)),
        "relations": (config.relations, 2 * len(spec.media)),
        "sensors with a reference": (config.references, len(spec.sensor_slots())),
        "healths of the grade sets": (config.grade_sets, healths),
    }
    for what, (network, features) in sizes.items():
        if network != features:
            raise CheckpointError(
                f"the parts of checkpoint '{where}' do not belong together: {files.MODEL_CONFIG} "
                f"has {network} as {what}, {files.FEATURE_SPEC} has {features}: take both from one "
                "training"
            )


def check_shapes(
    directory: Path,
    expected: Mapping[str, tuple[int, ...]],
    arrays: Mapping[str, NDArray[np.generic]],
) -> None:
    """Check that weights have the names and shapes that the config asks for.

    Raises:
        CheckpointError: one has not.
    """
    found = {name: array.shape for name, array in arrays.items()}
    differing = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"'{directory}': {files.MODEL_CONFIG} asks for '{name}' of shape "
            f"{expected.get(name, 'none (unknown name)')}, {files.WEIGHTS} has "
            f"{found.get(name, 'none (missing)')}; {len(differing)} of {len(expected)} differ: "
            "take both from one training"
        )


def _table_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    circuits = [CircuitTables.empty(size, config.features) for size in config.circuits]
    empty = LinearSkip(circuits, config).arrays()
    if config.ood_axes and config.ood_steps and config.ood_sensors:
        empty |= OodDetector(OodTables.empty(config)).arrays()
    return {name: array.shape for name, array in empty.items()}
