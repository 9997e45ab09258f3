"""Saves and loads checkpoints: weights as safetensors, everything else as JSON beside them; see `app.checkpoint.manifest` for the files.

Nothing pickled is written or read. Loading builds the network from its saved config and refuses parts that do not fit, naming both
sides.
Invariant: `load(save(x))` answers as x does, and a directory that `load` accepts is bytewise the one that `save` wrote.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from app.checkpoint import manifest as files
from app.checkpoint.calibration import Calibration, check_calibration
from app.checkpoint.manifest import DataInterval, Head, Manifest
from app.core.errors import CheckpointError
from app.features.spec import FeatureSpec
from app.model.network import ModelConfig, UniversalTemporalGNN
from app.model.ood_detector import NEVER_NEAREST

LATER = {"distance_axes"}
"""Keys of `model_config.json` that checkpoints of earlier trainings lack; they have the default."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint: the network in evaluation mode and what belongs to it."""

    model: UniversalTemporalGNN
    config: ModelConfig
    feature_spec: FeatureSpec
    calibration: Calibration
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a checkpoint comes from, as its manifest states it."""

    version: str
    created: datetime
    git_revision: str
    seed: int
    command: str
    data: DataInterval
    trained_heads: Mapping[Head, Mapping[str, tuple[str, ...]]]


def save(
    directory: Path,
    model: UniversalTemporalGNN,
    feature_spec: FeatureSpec,
    calibration: Calibration,
    origin: Origin,
    documents: Mapping[str, str],
) -> Manifest:
    """Write a checkpoint's directory, `checkpoint.json` last.

    Args:
        directory: is made if it is not there; must hold no checkpoint.
        model: its weights and config are written.
        feature_spec: how its features are made.
        calibration: what its answers are held to.
        origin: where it comes from.
        documents: text of further files by name, among them `metrics.json`.

    Returns:
        The manifest that was written.

    Raises:
        CheckpointError: the directory already holds a checkpoint, the documents have no metrics, or network, spec and
            calibration do not fit each other.
    """
    if (directory / files.MANIFEST).exists():
        raise CheckpointError(
            f"'{directory}' already holds a checkpoint, and checkpoints never change: give another one"
        )
    if files.METRICS not in documents:
        raise CheckpointError(
            f"expected {files.METRICS} among the documents, found {sorted(documents)}"
        )
    _check_fit(model.config, feature_spec, str(directory))
    check_calibration(calibration, feature_spec, str(directory / files.CALIBRATION))
    directory.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    (directory / files.WEIGHTS).write_bytes(save_tensors(weights))
    texts = {
        files.MODEL_CONFIG: json.dumps(asdict(model.config), indent=1) + "\n",
        files.FEATURE_SPEC: feature_spec.model_dump_json() + "\n",
        files.CALIBRATION: calibration.model_dump_json(indent=1) + "\n",
        **documents,
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    manifest = Manifest(
        **{field.name: getattr(origin, field.name) for field in fields(origin)},
        designs=tuple(feature_spec.references),
        sha256={
            name: files.sha256_of(directory / name) for name in sorted([files.WEIGHTS, *texts])
        },
    )
    (directory / files.MANIFEST).write_text(
        manifest.model_dump_json(indent=1) + "\n", encoding="utf-8"
    )
    return manifest


def load(directory: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a checkpoint, verified.

    Args:
        directory: that `save` wrote.
        device: to which the weights go.

    Returns:
        The checkpoint, its network in evaluation mode.

    Raises:
        CheckpointError: a file is missing or has another SHA-256 than the manifest states, the weights have other names or shapes
            than the config asks for, or config, feature spec and calibration do not fit each other.
    """
    manifest = files.read_manifest(directory)
    feature_spec = files.read_feature_spec(directory)
    calibration = files.read_calibration(directory, feature_spec)
    config = read_config(directory / files.MODEL_CONFIG)
    _check_fit(config, feature_spec, str(directory))
    try:
        weights = _as_now(load_tensors((directory / files.WEIGHTS).read_bytes()))
    except SafetensorError as error:
        raise CheckpointError(
            f"'{directory / files.WEIGHTS}' is not a safetensors file: {error}"
        ) from error
    # the first weights are drawn and thrown away: leave the caller's sequence alone
    with torch.random.fork_rng(devices=[]):
        try:
            model = UniversalTemporalGNN(config)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"'{directory / files.MODEL_CONFIG}' has no sizes of a network: {error}"
            ) from error
    _check_weights(model, weights, directory)
    model.load_state_dict(weights)
    model.to(device).eval()
    model.requires_grad_(requires_grad=False)
    return Checkpoint(model, config, feature_spec, calibration, manifest)


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
    if not isinstance(data, dict) or not expected - LATER <= set(data) <= expected:
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise CheckpointError(f"expected the keys {sorted(expected)} in '{path}', found {found}")
    try:
        data["grade_sets"] = tuple(
            tuple(float(health) for health in healths) for healths in data["grade_sets"]
        )
        return ModelConfig(**data)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"'{path}' has a value that is no size of a network: {error}"
        ) from error


def _check_fit(config: ModelConfig, spec: FeatureSpec, where: str) -> None:
    healths = tuple(
        tuple(grade.health for grade in spec.grades[design][component])
        for design, component in spec.grade_sets()
    )
    asked = {
        "features of a sensor": (config.features, spec.features),
        "quantities": (config.quantities, len(spec.quantities)),
        "component types": (config.component_types, len(spec.component_types)),
        "relations": (config.relations, 2 * len(spec.media)),
        "sensors with a reference": (config.references, len(spec.sensor_slots())),
        "healths of the grade sets": (config.grade_sets, healths),
    }
    for what, (network, features) in asked.items():
        if network != features:
            raise CheckpointError(
                f"the parts of checkpoint '{where}' do not belong together: {files.MODEL_CONFIG} has {network} as {what}, "
                f"{files.FEATURE_SPEC} has {features}: take both from one training"
            )


def _as_now(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights under today's names: which grades occurred was once said by the norms of their means."""
    centre_GQKX = weights.pop("distance.centre_GQKX", None)
    if centre_GQKX is not None:
        weights["distance.occurs_GK"] = (centre_GQKX[..., -1] < NEVER_NEAREST).any(1)
    return weights


def _check_weights(
    model: UniversalTemporalGNN, weights: Mapping[str, torch.Tensor], directory: Path
) -> None:
    asked = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = [
        name for name in sorted(asked.keys() | found.keys()) if asked.get(name) != found.get(name)
    ]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"'{directory}': {files.MODEL_CONFIG} asks for '{name}' of shape {asked.get(name, 'none (unknown name)')}, "
            f"{files.WEIGHTS} has {found.get(name, 'none (missing)')}; {len(differing)} of {len(asked)} differ: "
            "take both from one training"
        )
