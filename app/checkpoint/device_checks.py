"""Checks that a device executes a checkpoint's network as it should, and measures how fast.

On a machine without a GPU every check runs on the CPU but those that are about the GPU itself, and
the report names what could not be checked. Imports torch.
"""

import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from app.checkpoint import manifest as files
from app.checkpoint.files import Checkpoint, load
from app.checkpoint.predictor import open_predictor
from app.checkpoint.torch_model import load_model
from app.core.errors import CheckpointError, LimitExceeded
from app.core.gpus import read_gpus
from app.features.binning import Floats
from app.model.graph import GraphGroup, SkipOutput
from app.model.network import Ensemble, GraphTensors, build_model
from app.model.runtime.gate import (
    LOW_PRECISION_TOLERANCE,
    check_runner,
    reference_outputs,
    warm_up_group,
)
from app.model.runtime.predictor import MAX_CELLS, PassTooLarge, Predictor
from app.model.runtime.torch_runner import TorchRunner

MIN_REQUESTS_S = 100.0
"""Requests a second that one GPU has to answer one after the other."""
AIM_GRAPHS_S = 5_000.0
SPLIT_MB = 64
"""Memory that the check of splitting leaves to the process beyond what the weights take."""
SPLIT_WINDOWS = 4_096
CPU_WINDOWS, LEAST_WINDOWS = 64, 16
"""On a CPU: windows, and those of a pass within the simulated limit of memory."""
MAX_UNLIKE = 1e-5
"""Between a pass that was split and one that was not."""
TRAINING_WINDOWS = 128
GPU_ALONE = (
    "pinned copies: host memory is pinned for a GPU only",
    "memory, utilisation and power: NVML reads a GPU only",
    "training on several GPUs (NCCL)",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what it found, and whether that is what is expected."""

    name: str
    found: str
    passed: bool = True


@dataclass(slots=True)
class DeviceReport:
    """What the checks of one device found; figures by name with their unit."""

    device: str
    device_name: str
    version: str
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    not_checked: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, object]:
        """Return the report as plain data, for JSON."""
        return asdict(self) | {"passed": self.passed}


def check_device(directory: Path, device: str, seconds: float = 3.0) -> DeviceReport:
    """Run all checks with a checkpoint.

    Args:
        directory: of the checkpoint.
        device: `cpu`, `cuda`, or `auto` for the GPU where there is one.
        seconds: of each measurement.

    Raises:
        CheckpointError: The checkpoint does not match its manifest, or there is no such device.
    """
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise CheckpointError(
            "expected a GPU with its driver, found none that torch can use: see `hydraulic doctor`,"
            " or leave --device out to check the rest on the CPU"
        )
    chosen = "cuda" if has_gpu and device != "cpu" else "cpu"
    checkpoint = load(directory)
    report = DeviceReport(chosen, _name(chosen), checkpoint.manifest.version)
    ensemble = load_model(checkpoint, chosen).ensemble
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("parity", lambda: _parity(checkpoint, ensemble)),
        ("bfloat16", lambda: _low_precision(checkpoint, ensemble)),
        ("splitting", lambda: _splitting(checkpoint, ensemble)),
        ("throughput", lambda: _throughput(checkpoint, report, seconds)),
        ("training", lambda: _training(checkpoint, report, seconds)),
    )
    for name, run in checks:
        try:
            report.checks.append(Check(name, run()))
        except (CheckpointError, LimitExceeded) as error:
            report.checks.append(Check(name, error.message, passed=False))
        except (PassTooLarge, torch.OutOfMemoryError) as error:
            found = f"expected free memory on the device, found: {error}: see `nvidia-smi`"
            report.checks.append(Check(name, found, passed=False))
    if chosen == "cpu":
        report.not_checked += GPU_ALONE
    else:
        report.not_checked.append("training on several GPUs (NCCL): start one with `--workers 2`")
    return report


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else platform.machine()


def _expected(checkpoint: Checkpoint) -> dict[str, Floats]:
    if files.PROBES in checkpoint.manifest.sha256:
        return load_file(checkpoint.directory / files.PROBES)
    return reference_outputs(TorchRunner(load_model(checkpoint).ensemble), checkpoint.config)


def _parity(checkpoint: Checkpoint, ensemble: Ensemble) -> str:
    apart = check_runner(TorchRunner(ensemble), checkpoint.config, _expected(checkpoint))
    return f"float32 differs from the reference by at most {apart:.1e}"


def _low_precision(checkpoint: Checkpoint, ensemble: Ensemble) -> str:
    """Report the gate's verdict; a version that does not pass it is served in float32."""
    runner, expected = TorchRunner(ensemble, torch.bfloat16), _expected(checkpoint)
    apart = check_runner(runner, checkpoint.config, expected, tolerance=float("inf"))
    if apart > LOW_PRECISION_TOLERANCE:
        return (
            f"differs from the reference by {apart:.1e}, its gate allows "
            f"{LOW_PRECISION_TOLERANCE:g}: float32 serves"
        )
    return f"differs from the reference by at most {apart:.1e} and passes its gate"


class _Limited:
    """A runner that refuses passes of more than some windows, as a small memory does."""

    def __init__(self, runner: TorchRunner, most: int) -> None:
        self._runner = runner
        self._most = most
        self.refused = 0
        self.name = runner.name

    def run(self, group: GraphGroup, skip: SkipOutput) -> tuple[Floats, ...]:
        if group.windows > self._most:
            self.refused += 1
            raise PassTooLarge(f"{group.windows} windows")
        try:
            return self._runner.run(group, skip)
        except PassTooLarge:
            self.refused += 1
            raise


def _splitting(checkpoint: Checkpoint, ensemble: Ensemble) -> str:
    """Compare passes that memory made smaller with passes that fit."""
    device = ensemble.temperature_G.device
    is_gpu = device.type == "cuda"
    windows = SPLIT_WINDOWS if is_gpu else CPU_WINDOWS
    runner = _Limited(TorchRunner(ensemble), windows if is_gpu else LEAST_WINDOWS)
    group = warm_up_group(checkpoint.config, windows)
    expected = Predictor(checkpoint.config, TorchRunner(ensemble)).predict([group])[0]
    whole = Predictor(checkpoint.config, runner, max_cells=windows * group.window_cells)
    with _little_memory(device):
        found = whole.predict([group])[0]
    apart = float(abs(found.health_WV - expected.health_WV).max())
    if not runner.refused or not apart <= MAX_UNLIKE:  # also where it is no number
        raise CheckpointError(
            f"expected {windows} windows to be divided for lack of memory with the same health, "
            f"found {runner.refused} divisions and a difference of {apart:.1e}: report it"
        )
    reason = "memory" if is_gpu else "a simulated limit of memory"
    return f"{windows} windows were divided {runner.refused} times by {reason}, same health"


@contextmanager
def _little_memory(device: torch.device) -> Iterator[None]:
    """Leave a GPU's process `SPLIT_MB` beyond what it has; does nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    left = torch.cuda.memory_allocated(device) + (SPLIT_MB << 20)
    torch.cuda.set_per_process_memory_fraction(min(1.0, left / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.empty_cache()


def _throughput(checkpoint: Checkpoint, report: DeviceReport, seconds: float) -> str:
    """Measure single requests and full passes as a replica executes them."""
    opened = open_predictor(checkpoint, report.device)
    lone = warm_up_group(checkpoint.config, 1)
    full = warm_up_group(checkpoint.config, max(1, MAX_CELLS // lone.window_cells))
    requests_s = _rate(lambda: opened.predictor.predict([lone]), seconds)
    with _watched_utilisation() as utilisation:
        graphs_s = full.windows * _rate(lambda: opened.predictor.predict([full]), seconds)
    report.figures |= {"requests_per_s": requests_s, "graphs_per_s": graphs_s}
    if utilisation:
        report.figures["utilisation_ratio"] = statistics.median(utilisation)
    if report.device == "cuda" and requests_s < MIN_REQUESTS_S:
        raise CheckpointError(
            f"expected at least {MIN_REQUESTS_S:g} requests a second, found {requests_s:.0f}: see "
            "what else uses the GPU (`nvidia-smi`)"
        )
    aim = f" (aim {AIM_GRAPHS_S:,.0f})" if report.device == "cuda" else ""
    return (
        f"{opened.predictor.name}: {requests_s:,.0f} single requests a second, {graphs_s:,.0f} "
        f"graphs a second{aim}"
    )


@contextmanager
def _watched_utilisation() -> Iterator[list[float]]:
    """Sample the utilisation of the busiest GPU five times a second; empty without one.

    NVML counts all GPUs of the machine, whichever this process may use.
    """
    found: list[float] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.2):
            found.extend(sorted(gpu.utilization for gpu in read_gpus())[-1:])

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _training(checkpoint: Checkpoint, report: DeviceReport, seconds: float) -> str:
    """Measure forward and backward passes of the network; no weight changes."""
    ensemble = build_model(checkpoint.config).to(report.device).train()
    group = warm_up_group(checkpoint.config, TRAINING_WINDOWS)
    topology = group.topology
    arrays: tuple[NDArray[np.generic], ...] = (
        group.x_WSTF,
        group.mask_WST,
        topology.sensor_component_S,
        topology.sensor_quantity_S,
        topology.component_type_V,
        topology.grade_set_V,
        topology.edge_index_2E,
        topology.edge_relation_E,
    )
    graph = GraphTensors(*(torch.from_numpy(each.copy()).to(report.device) for each in arrays))

    def step() -> None:
        ensemble.zero_grad()
        ensemble(graph).latent_VWC.square().mean().backward()
        if report.device == "cuda":
            torch.cuda.synchronize()

    per_s = TRAINING_WINDOWS * _rate(step, seconds)
    report.figures["training_graphs_per_s"] = per_s
    return f"{per_s:,.0f} graphs a second forward and backward, {TRAINING_WINDOWS} at a time"


def _rate(run: Callable[[], object], seconds: float) -> float:
    """Return how often a function runs in a second, after a warm-up."""
    for _ in _until(seconds / 5):
        run()
    began, count = time.perf_counter(), 0
    for _ in _until(seconds):
        run()
        count += 1
    return count / (time.perf_counter() - began)


def _until(seconds: float) -> Iterator[None]:
    """Yield at least once, and until the time is over."""
    give_up = time.perf_counter() + seconds
    yield
    while time.perf_counter() < give_up:
        yield
