"""Converts a checkpoint of format 2: `hydraulic train convert OLD NEW`; imports torch.

Weights keep their numbers; version, data and documents stay, and the ONNX graph is added.
"""

from dataclasses import fields
from pathlib import Path

from app.checkpoint import manifest as files
from app.checkpoint.files import load
from app.checkpoint.torch_model import Origin, load_model, save

REWRITTEN = {
    files.WEIGHTS,
    files.NETWORK,
    files.PROBES,
    files.MODEL_CONFIG,
    files.FEATURE_SPEC,
    files.CALIBRATION,
}


def convert(old: Path, new: Path) -> None:
    """Write a checkpoint in the current format.

    Args:
        old: its directory.
        new: directory to write; must hold no checkpoint.

    Raises:
        CheckpointError: the old one does not load, or the new directory holds a checkpoint.
    """
    checkpoint = load(old)
    manifest = checkpoint.manifest
    documents = {
        name: (old / name).read_text(encoding="utf-8")
        for name in manifest.sha256
        if name not in REWRITTEN
    }
    origin = Origin(**{field.name: getattr(manifest, field.name) for field in fields(Origin)})
    spec, calibration = checkpoint.feature_spec, checkpoint.calibration
    save(new, load_model(checkpoint), spec, calibration, origin, documents)
