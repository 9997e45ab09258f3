"""One epoch of one worker: augmentation, features, graphs, optimizer steps and validation.

Independent of Ray. Invariant: all random numbers of an epoch follow from the seed, the epoch and
the worker's rank.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import nn

from app.features.binning import Floats
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.labels import Integers
from train.data.machine_baselines import plan_machines
from train.fitting.augment import augment, blend, disturbance
from train.fitting.batches import Batches, Share, WindowBatch, plan_batches
from train.fitting.dataset import TensorPlan, plan_tensors, tabulate_targets
from train.fitting.learner import Learner, MicroBatch
from train.fitting.loss import Targets
from train.fitting.progress import EpochRecord
from train.fitting.start import FitStart

PROGRESS_S = 1.0
"""Time between two progress reports inside an epoch."""


class Generators(NamedTuple):
    """A worker's random number generators of one epoch; that of PyTorch is on the host."""

    arrays: np.random.Generator
    tensors: torch.Generator

    @classmethod
    def begin(cls, seed: int, epoch: int, rank: int) -> Self:
        """Seed them, and the global one of PyTorch, which dropout uses."""
        # counted from 1, since trailing zeros do not change what a seed gives
        arrays = np.random.default_rng((seed, epoch + 1, rank + 1))
        start = int(arrays.integers(2**62))
        torch.manual_seed(start)
        return cls(arrays, torch.Generator().manual_seed(start + 1))


@dataclass(frozen=True, slots=True)
class BatchBuilder:
    """Makes the micro-batches of a step from a worker's bins of one design.

    Args:
        plan: of the design.
        machine_W: machine of each of its windows.
        targets_WV: of all its windows.
        config: of the training.
        direction_DSTF: change of the features by disturbances.
        weight: of the design in the loss: its share of each batch.
    """

    plan: TensorPlan
    machine_W: Integers
    targets_WV: Targets
    config: TrainConfig
    direction_DSTF: Floats
    weight: float = 1.0

    def micro_batches(self, batch: WindowBatch, generators: Generators) -> list[MicroBatch]:
        """Augment this worker's windows of a step and split them for gradient accumulation."""
        position_B, values_BSN = batch
        count = max(1, min(self.config.accumulate, len(position_B)))
        return [
            self._micro_batch(position_B[chosen], values_BSN[chosen], generators)._replace(
                weight=self.weight / count
            )
            for chosen in np.array_split(np.arange(len(position_B)), count)
        ]

    def _micro_batch(
        self, position_B: Integers, values_BSN: np.ndarray, generators: Generators
    ) -> MicroBatch:
        config = self.config
        plan, machine_B = self.plan, self.machine_W[position_B]
        whole = plan.features_of(values_BSN, machine_B)
        shown = plan.features_of(augment(values_BSN, config, generators.arrays), machine_B)
        if config.disturbed_share:
            moved_WSTF = disturbance(
                len(position_B), self.direction_DSTF, config.disturbed_share, generators.arrays
            )
            whole, shown = (
                replace(each, x_WSTF=each.x_WSTF + moved_WSTF * each.mask_WST[..., None])
                for each in (whole, shown)
            )
        # serving imputes what the skip reads, by the distribution of the whole windows; a skip that
        # learns from imputed inputs is worse (.93 instead of .96 on the rig's accumulator)
        graph, wide = plan.graphs(shown), plan.wide(whole)
        targets = self.targets_WV.take(position_B)
        if not config.mixup:
            return MicroBatch(graph, wide, targets, targets, 1.0)
        drawn = float(generators.arrays.beta(config.mixup, config.mixup))
        share = max(drawn, 1.0 - drawn)
        graph, wide, partners = blend(graph, wide, targets, share, generators.tensors)
        return MicroBatch(graph, wide, targets, partners, share)


@dataclass(frozen=True, slots=True)
class WorkerFit:
    """A worker's part of a fit.

    Args:
        start: what the fit began with.
        learner: network and skip in training.
        builders: of micro-batches, one for each design.
        batches: windows, one source for each design.
        share: of each batch.
    """

    start: FitStart
    learner: Learner
    builders: Sequence[BatchBuilder]
    batches: Sequence[Batches]
    share: Share

    def run_epoch(
        self,
        epoch: int,
        validate: Callable[[], float | None] = lambda: None,
        on_progress: Callable[[float, float, float], None] | None = None,
    ) -> EpochRecord:
        """Train on every batch of an epoch, then validate.

        Args:
            epoch: from 0.
            validate: returns the validation score.
            on_progress: called about every second with the epochs done, the mean loss so far and
                the windows a second of all workers.
        """
        rate, world = self.learner.rate, self.share.world
        generators = Generators.begin(self.builders[0].config.seed, epoch, self.share.rank)
        started = reported = time.monotonic()
        total, steps, windows = torch.zeros((), device=self.builders[0].plan.device), 0, 0
        for batch in zip(*(each.steps(epoch) for each in self.batches), strict=True):
            total += self.learner.step(self._passes(batch, generators))
            steps += 1
            windows += sum(len(position_B) for position_B, _ in batch)
            now = time.monotonic()
            if on_progress and now - reported > PROGRESS_S:
                done = epoch + steps / self.batches[0].steps_an_epoch
                on_progress(done, float(total) / steps, windows * world / (now - started))
                reported = now
        loss, training_s = float(total) / max(steps, 1), time.monotonic() - started
        return EpochRecord(
            epoch=epoch + 1,
            loss=loss,
            score=validate(),
            learning_rate=rate,
            samples_s=windows * world / training_s,
            seconds=time.monotonic() - started,
            workers=world,
        )

    def _passes(
        self, batch: Sequence[WindowBatch], generators: Generators
    ) -> list[list[MicroBatch]]:
        """Return the micro-batches of each forward pass: of all designs with as many steps."""
        passes: dict[tuple[int, int], list[MicroBatch]] = {}
        for builder, of_design in zip(self.builders, batch, strict=True):
            steps = builder.plan.features.steps
            for part, micro_batch in enumerate(builder.micro_batches(of_design, generators)):
                passes.setdefault((part, steps), []).append(micro_batch)
        return [*passes.values()]


def prepare_learner(
    fleet: Fleet,
    start: FitStart,
    config: TrainConfig,
    train_windows: Sequence[int],
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module],
) -> tuple[Learner, list[BatchBuilder]]:
    """Return a learner with initial weights; this process then computes with one thread.

    Args:
        fleet: windows of each design.
        start: what the fit begins with.
        config: of the training.
        train_windows: number of training windows of each design.
        device: of the network.
        wrap: wraps the network to average gradients over workers.
    """
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    steps, shares = plan_batches(train_windows, config)
    model = start.build().to(device)
    return Learner(model, wrap, config, config.epochs * steps), [
        BatchBuilder(
            plan_tensors(
                windows.equipment,
                start.spec,
                device,
                plan_machines(windows, start.spec),
                tuple((n, each) for n, each in enumerate(start.circuits) if each.design == number),
            ),
            windows.labels.machine_W,
            tabulate_targets(
                windows.labels,
                start.network,
                device,
                start.spec.life_scales.get(windows.equipment.design, 1.0),
            ),
            config,
            start.directions[number],
            share / config.batch,
        )
        for number, (windows, share) in enumerate(zip(fleet.designs, shares, strict=True))
    ]
