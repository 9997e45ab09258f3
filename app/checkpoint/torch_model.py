"""Saves a trained model as a checkpoint and loads its weights; imports torch.

Weights are safetensors, the network beside them as an ONNX graph of operators without code, all
else JSON; see `app.checkpoint.manifest` for the files. Nothing pickled is written or read.
Invariant: `load(save(x))` predicts as x does, and a directory that `load` accepts is bytewise the
one that `save` wrote.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

import torch
from safetensors.numpy import save as save_arrays

from app.checkpoint import manifest as files
from app.checkpoint.calibration import Calibration, check_calibration
from app.checkpoint.files import Checkpoint, check_fit, check_shapes, read_weights
from app.checkpoint.manifest import DataInterval, Head, Manifest
from app.checkpoint.onnx_export import export_onnx
from app.core.errors import CheckpointError
from app.features.spec import FeatureSpec
from app.model.config import TABLES
from app.model.network import build_model
from app.model.runtime.gate import check_runner, reference_outputs
from app.model.runtime.onnx_runner import OnnxRunner
from app.model.runtime.torch_runner import TorchRunner
from app.model.trained import TrainedModel


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
    notes: tuple[str, ...] = ()


def save(
    directory: Path,
    model: TrainedModel,
    feature_spec: FeatureSpec,
    calibration: Calibration,
    origin: Origin,
    documents: Mapping[str, str],
    *,
    with_onnx: bool = True,
) -> Manifest:
    """Write a checkpoint's directory, `checkpoint.json` last.

    Args:
        directory: is made if it is not there; must hold no checkpoint.
        model: its weights and config are written.
        feature_spec: how its features are made.
        calibration: of its intervals and abstentions.
        origin: where it comes from.
        documents: text of further files by name, among them `metrics.json`.
        with_onnx: export the ONNX graph, about 13 s a member; a checkpoint without one is served
            on a CPU only where torch is installed.

    Returns:
        The manifest that was written.

    Raises:
        CheckpointError: the directory already holds a checkpoint, the documents have no metrics,
            model, spec and calibration do not fit each other, or the ONNX graph fails its gate.
    """
    if (directory / files.MANIFEST).exists():
        raise CheckpointError(
            f"'{directory}' already holds a checkpoint, and checkpoints never change: give another "
            "directory"
        )
    if files.METRICS not in documents:
        raise CheckpointError(
            f"expected {files.METRICS} among the documents, found {sorted(documents)}"
        )
    check_fit(model.config, feature_spec, str(directory))
    check_calibration(calibration, feature_spec, str(directory / files.CALIBRATION))
    contents: dict[str, bytes] = {
        files.WEIGHTS: save_arrays(model.arrays()),
        files.MODEL_CONFIG: (json.dumps(asdict(model.config), indent=1) + "\n").encode(),
        files.FEATURE_SPEC: (feature_spec.model_dump_json() + "\n").encode(),
        files.CALIBRATION: (calibration.model_dump_json(indent=1) + "\n").encode(),
        **{name: text.encode() for name, text in documents.items()},
        **(network_files(model) if with_onnx else {}),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    manifest = Manifest(
        **{field.name: getattr(origin, field.name) for field in fields(origin)},
        designs=tuple(feature_spec.references),
        sha256={name: files.sha256_of(directory / name) for name in sorted(contents)},
        masking=files.read_masking(directory, contents),
    )
    (directory / files.MANIFEST).write_text(manifest.document(), encoding="utf-8")
    return manifest


def network_files(model: TrainedModel) -> dict[str, bytes]:
    """Return the ONNX graph and the reference outputs of its probes as files, gated.

    Raises:
        CheckpointError: the graph does not repeat the module's outputs.
    """
    expected = reference_outputs(TorchRunner(model.ensemble.eval()), model.config)
    graph = export_onnx(model.ensemble)
    check_runner(OnnxRunner(graph), model.config, expected)
    return {files.NETWORK: graph, files.PROBES: save_arrays(expected)}


def load_model(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> TrainedModel:
    """Load a checkpoint's weights into the model, in evaluation mode.

    Args:
        checkpoint: as loaded.
        device: to which the network goes.

    Raises:
        CheckpointError: the config is not of a network, or the weights have other names or shapes
            than it asks for.
    """
    directory, config = checkpoint.directory, checkpoint.config
    arrays = read_weights(directory)
    with torch.device("meta"):
        try:
            expected = build_model(config).state_dict()
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"'{directory / files.MODEL_CONFIG}' has no sizes of a network: {error}"
            ) from error
    network = {n: a for n, a in arrays.items() if not n.startswith(TABLES)}
    check_shapes(directory, {n: tuple(t.shape) for n, t in expected.items()}, network)
    model = TrainedModel.of_arrays(config, arrays)
    model.ensemble.to(device)
    return model
