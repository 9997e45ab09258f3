"""Converts a checkpoint of format 2: `python -m app.checkpoint.convert OLD NEW`; imports torch.

Weights keep their numbers; version, data and documents stay, and the ONNX graph is added.
"""

import argparse
from dataclasses import fields
from pathlib import Path

from app.checkpoint import manifest as files
from app.checkpoint.files import load
from app.checkpoint.torch_model import Origin, load_model, save
from app.core.errors import CheckpointError

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


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m app.checkpoint.convert", description="Convert a checkpoint of format 2."
    )
    parser.add_argument("old", type=Path, help="directory of the checkpoint")
    parser.add_argument("new", type=Path, help="directory to write")
    options = parser.parse_args()
    try:
        convert(options.old, options.new)
    except CheckpointError as error:
        parser.error(error.message)


if __name__ == "__main__":
    main()
