"""Opens a checkpoint for serving: chooses by device how the network is executed, and gates it.

A CPU runs the ONNX graph and imports no torch. A GPU runs the module, in bfloat16 where that passes
its gate and is faster. A checkpoint without an ONNX graph runs the module on a CPU too, where torch
is installed. Invariant: what fails its gate never serves.
"""

import importlib.util
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.numpy import load_file

from app.checkpoint import manifest as files
from app.checkpoint.files import Checkpoint
from app.core.errors import CheckpointError
from app.model.graph import SkipOutput
from app.model.runtime.gate import (
    LOW_PRECISION_TOLERANCE,
    check_runner,
    lone_ms,
    reference_outputs,
    warm_up_group,
)
from app.model.runtime.onnx_runner import OnnxRunner
from app.model.runtime.predictor import Predictor

if TYPE_CHECKING:
    from app.model.runtime.torch_runner import TorchRunner

FASTER = 0.9
"""bfloat16 is taken where it needs less than this share of float32's time: less is noise."""
BATCH_WINDOWS = 256
NVIDIA = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class Opened:
    """A predictor that passed its gate.

    Args:
        predictor: serves.
        device: it runs on, such as `cpu` or `cuda`.
        difference: largest difference from the reference on the probes.
        lone_ms: time of a lone window of `lone_cells`.
        lone_cells: of that window.
    """

    predictor: Predictor
    device: str
    difference: float
    lone_ms: float
    lone_cells: int


def open_predictor(checkpoint: Checkpoint, device: str = "cpu", threads: int = 1) -> Opened:
    """Open a checkpoint for serving.

    Args:
        checkpoint: as loaded.
        device: `auto` takes a GPU where this process has one.
        threads: cores that one pass may use on a CPU.

    Raises:
        CheckpointError: the network does not repeat the reference's outputs, or needs torch, which
            is not installed.
    """
    device = _has_gpu() if device == "auto" else device
    if device == "cpu" and files.NETWORK in checkpoint.manifest.sha256:
        runner = OnnxRunner(checkpoint.directory / files.NETWORK, threads)
        expected = load_file(checkpoint.directory / files.PROBES)
        difference = check_runner(runner, checkpoint.config, expected)
        predictor = Predictor(checkpoint.config, runner, checkpoint.skip, checkpoint.detector)
    else:
        predictor, difference = _open_module(checkpoint, device, threads)
    return Opened(predictor, device, difference, *lone_ms(predictor))


def _has_gpu() -> str:
    """Return `cuda` where this process was given a GPU, without importing torch to find out."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "cuda" if NVIDIA.exists() and visible not in ("", "-1") else "cpu"


def _open_module(checkpoint: Checkpoint, device: str, threads: int) -> tuple[Predictor, float]:
    if importlib.util.find_spec("torch") is None:
        raise CheckpointError(
            f"expected an ONNX graph ({files.NETWORK}) in '{checkpoint.directory}', found none: "
            "install this project with [gpu], or take a checkpoint that was saved with one"
        )
    import torch

    from app.checkpoint.torch_model import load_model
    from app.model.runtime.torch_runner import TorchRunner

    torch.set_num_threads(threads)
    model = load_model(checkpoint, device)
    exact = TorchRunner(model.ensemble)
    if files.PROBES in checkpoint.manifest.sha256:
        expected = load_file(checkpoint.directory / files.PROBES)
    else:
        expected = reference_outputs(
            TorchRunner(load_model(checkpoint).ensemble), checkpoint.config
        )
    chosen = exact
    difference = check_runner(exact, checkpoint.config, expected)
    if device != "cpu":
        low = TorchRunner(model.ensemble, torch.bfloat16)
        try:
            low_difference = check_runner(low, checkpoint.config, expected, LOW_PRECISION_TOLERANCE)
        except CheckpointError:
            pass
        else:
            if _batch_s(low, checkpoint) < FASTER * _batch_s(exact, checkpoint):
                chosen, difference = low, low_difference
    predictor = Predictor(checkpoint.config, chosen, model.skip, model.detector)
    return predictor, difference


def _batch_s(runner: "TorchRunner", checkpoint: Checkpoint) -> float:
    group = warm_up_group(checkpoint.config, BATCH_WINDOWS)
    skip = SkipOutput.none(group.windows, group.topology.components)
    spent_s = []
    for _ in range(5):
        started = time.perf_counter()
        runner.run(group, skip)
        spent_s.append(time.perf_counter() - started)
    return min(spent_s)
