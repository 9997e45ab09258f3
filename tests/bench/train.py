"""The section `train`: training throughput of Ray Train's workers beside loops without Ray.

The baselines are one process on one core, two processes of PyTorch's DDP, and the matrix products
of a step alone. All train the same network with the same batches and windows, of the rig's topology
with random values, and take turns. A rate is the median over the rounds of the median over a fit's
epochs, without the first epoch, which is the warm-up.
"""

import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import product
from multiprocessing.queues import Queue
from operator import truediv
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from app.demo.rig.equipment import rig_equipment
from tests.bench.compare import Bench
from tests.system import free_port
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.labels import WindowLabels
from train.data.windows import Windows, open_windows, write_windows
from train.fitting.batches import Share
from train.fitting.epoch import Generators
from train.fitting.fit import run_fit
from train.fitting.progress import Progress
from train.fitting.single_process import prepare_fit

WINDOWS = 1_024
CONFIG = TrainConfig(equipment="hydraulic-rig", epochs=8)
BATCHES = (CONFIG.batch, 2 * CONFIG.batch, 128)
"""Windows of a step over all workers: the default, twice that, and one for large histories."""
ROUNDS = 3
PRODUCTS = {"aten::bmm", "aten::baddbmm", "aten::mm", "aten::addmm"}


def measure(bench: Bench) -> dict[str, object]:
    """Run the fits in turn, and time the matrix products of a step.

    Returns:
        `batches`: by batch size, windows a second of `ray_2` (two workers), `pinned_1` (one process
            on one core) and `plain_2` (two processes of DDP on gloo), `ratio_of_one_core` and
            `ratio_of_plain` of the first to the others, and where half the batch was measured too
            `ratio_of_a_share`, to one process with as many windows a step as each worker has.
        `forward_backward_ms`, `products_ms`: ms a window of a step at the default batch, and of its
            matrix products alone; `share_of_bound`: the second over the first.
    """
    directory = bench.fresh_directory("train")
    windows = _rig_windows(directory / "windows")
    rates: dict[int, dict[str, list[float]]] = {batch: {} for batch in BATCHES}
    for round_, (batch, by_system) in product(range(ROUNDS), rates.items()):
        config = CONFIG.model_copy(update={"batch": batch})
        by_system.setdefault("pinned_1", []).append(
            _in_processes(windows.directory, config, 1, [0])[0]
        )
        by_system.setdefault("plain_2", []).append(
            sum(_in_processes(windows.directory, config, 2, None)) / 2
        )
        with (
            Progress(is_terminal=False) as progress,
            tempfile.TemporaryDirectory(dir=directory) as storage,
        ):
            fitted = run_fit(
                Fleet((windows,)),
                [np.arange(WINDOWS)],
                [np.empty(0, np.int64)],
                config,
                f"bench {round_}",
                Path(storage),
                progress,
            )
        by_system.setdefault("ray_2", []).append(
            median(record.samples_s for record in fitted.history[1:])
        )
    by_batch: dict[str, dict[str, float]] = {}
    for batch, by_system in rates.items():
        found = {name: median(values) for name, values in by_system.items()}
        found["ratio_of_one_core"] = median(map(truediv, by_system["ray_2"], by_system["pinned_1"]))
        found["ratio_of_plain"] = median(map(truediv, by_system["ray_2"], by_system["plain_2"]))
        if batch // 2 in rates:
            found["ratio_of_a_share"] = median(
                map(truediv, by_system["ray_2"], rates[batch // 2]["pinned_1"])
            )
        by_batch[str(batch)] = found
        print(
            f"train, batch {batch}: "
            + "  ".join(f"{name} {value:.3g}" for name, value in found.items())
        )
    forward_backward_ms, products_ms = _against_products(windows)
    print(
        f"train: forward and backward {forward_backward_ms:.3g} ms a window, "
        f"products alone {products_ms:.3g} ms"
    )
    return {
        "windows": WINDOWS,
        "members": CONFIG.members,
        "batches": by_batch,
        "rounds": {str(batch): by_system for batch, by_system in rates.items()},
        "forward_backward_ms": forward_backward_ms,
        "products_ms": products_ms,
        "share_of_bound": products_ms / forward_backward_ms,
    }


def _rig_windows(directory: Path) -> Windows:
    equipment, generator = rig_equipment(), np.random.default_rng(0)
    grades = [len(component.grades) for component in equipment.components]
    grade_WV = np.stack(
        [generator.integers(0, max(count, 1), WINDOWS) - (count == 0) for count in grades], axis=1
    )
    unknown_WV = np.full(grade_WV.shape, np.nan, np.float32)
    labels = WindowLabels(
        machine_W=np.zeros(WINDOWS, np.int64),
        start_us_W=60_000_000 * np.arange(WINDOWS, dtype=np.int64),
        grade_WV=grade_WV,
        health_WV=np.where(grade_WV < 0, np.nan, 0.5).astype(np.float32),
        rate_WV=unknown_WV,
        rul_WV=unknown_WV.copy(),
        stable_W=np.ones(WINDOWS, np.bool_),
    )
    middle_S = np.array([sum(sensor.range) / 2 for _, sensor in equipment.sensors])
    noise_WSN = generator.standard_normal((WINDOWS, len(middle_S), equipment.bins))
    values_WSN = (middle_S[:, None] * (1.0 + 0.01 * noise_WSN)).astype(np.float32)
    return write_windows(directory, equipment, (equipment.equipment_id,), labels, [values_WSN])


def _in_processes(
    directory: Path, config: TrainConfig, world: int, cores: list[int] | None
) -> list[float]:
    """Run the plain loop in `world` processes; return the total windows a second each measured."""
    context = multiprocessing.get_context("spawn")
    rates: Queue[float] = context.Queue()
    port = free_port()
    workers = [
        context.Process(target=_plain, args=(directory, config, rank, world, port, cores, rates))
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    found = [rates.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join()
    return found


def _plain(
    directory: Path,
    config: TrainConfig,
    rank: int,
    world: int,
    port: int,
    cores: list[int] | None,
    measured: "Queue[float]",
) -> None:
    if cores is not None:
        os.sched_setaffinity(0, cores)

    def wrap(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    if world > 1:
        torch.distributed.init_process_group(
            "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
        )
    fit = prepare_fit(
        Fleet((open_windows(directory),)),
        [np.arange(WINDOWS)],
        config,
        Share(rank, world),
        wrap if world > 1 else lambda model: model,
    )
    rates = [fit.run_epoch(number).samples_s for number in range(config.epochs)]
    measured.put(median(rates[1:]))
    if world > 1:
        torch.distributed.destroy_process_group()


class _Recorder(TorchDispatchMode):
    """Counts the matrix products that run inside its context, by operator and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, tuple[tuple[int, ...], ...]]] = Counter()

    def __torch_dispatch__(  # type: ignore[no-untyped-def]
        self, func, types, args=(), kwargs=None
    ):
        if func.name().split(".")[0] in PRODUCTS:
            shapes = tuple(tuple(each.shape) for each in args if isinstance(each, Tensor))
            self.found[func.name().split(".")[0], shapes] += 1
        return func(*args, **(kwargs or {}))


def _against_products(windows: Windows) -> tuple[float, float]:
    """Return ms a window of a forward and backward pass, and of its matrix products alone."""
    fit = prepare_fit(Fleet((windows,)), [np.arange(WINDOWS)], CONFIG)
    batch = next(iter(fit.batches[0].steps(0)))
    (micro_batch,) = fit.builders[0].micro_batches(batch, Generators.begin(0, 0, 0))
    recorder = _Recorder()
    with recorder:
        fit.learner.loss([micro_batch]).backward()
    whole = _best_s(lambda: fit.learner.loss([micro_batch]).backward())
    products = 0.0
    for (name, shapes), count in recorder.found.items():
        operands = [torch.randn(shape) for shape in shapes]
        run = getattr(torch, name.removeprefix("aten::"))
        products += count * _best_s(lambda run=run, operands=operands: run(*operands))
    return 1e3 * whole / CONFIG.batch, 1e3 * products / CONFIG.batch


def _best_s(run: Callable[[], object], rounds: int = 15) -> float:
    """Return the shortest time of some runs: interference only adds time."""
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        spent.append(time.perf_counter() - began)
    return min(spent)
