"""One pass of a worker over its windows: disturbs them, makes features and graphs, and takes the steps.

Knows nothing of Ray, so that a plain loop can be held against it.
Invariant: all that is drawn in an epoch follows from the seed, the epoch and the worker's rank.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from train.config import TrainConfig
from train.data.labels import Integers
from train.fitting.augment import augment, blend
from train.fitting.batches import Feed, Piece, Share
from train.fitting.dataset import TargetTable, TensorPlan
from train.fitting.learner import Learner, Part

BEAT_S = 1.0
"""Time between two notes of progress inside an epoch."""


@dataclass(frozen=True, slots=True)
class Draws:
    """A worker's random numbers of one epoch; `tensors` draws on the host whatever the device is."""

    numbers: np.random.Generator
    tensors: torch.Generator

    @classmethod
    def begin(cls, seed: int, epoch: int, rank: int) -> Self:
        """Begin them, and PyTorch's own, which dropout draws from."""
        # counted from 1, since trailing zeros do not change what a seed gives
        numbers = np.random.default_rng((seed, epoch + 1, rank + 1))
        start = int(numbers.integers(2**62))
        torch.manual_seed(start)
        return cls(numbers, torch.Generator().manual_seed(start + 1))


@dataclass(frozen=True, slots=True)
class Material:
    """What turns a worker's bins into the parts of a step."""

    plan: TensorPlan
    targets: TargetTable
    config: TrainConfig

    def parts(self, piece: Piece, draws: Draws) -> list[Part]:
        """Disturb this worker's windows of a step and make the parts in which it is computed."""
        position_B, values_BSN = piece
        count = min(self.config.accumulate, len(position_B))
        return (
            [
                self._part(position_B[held], values_BSN[held], draws)
                for held in np.array_split(np.arange(len(position_B)), count)
            ]
            if count > 1
            else [self._part(position_B, values_BSN, draws)]
        )

    def _part(self, position_B: Integers, values_BSN: np.ndarray, draws: Draws) -> Part:
        config = self.config
        graph = self.plan.read(augment(values_BSN, config, draws.numbers))
        targets = self.targets.take(position_B)
        if not config.mixup:
            return Part(graph, targets, targets, 1.0)
        drawn = float(draws.numbers.beta(config.mixup, config.mixup))
        share = max(drawn, 1.0 - drawn)
        graph, partners = blend(graph, targets, len(position_B), share, draws.tensors)
        return Part(graph, targets, partners, share)


@dataclass(frozen=True, slots=True)
class Pass:
    """What one epoch came to on this worker: mean loss of a step, of a member, and seconds that it took."""

    loss: float
    seconds: float
    windows: int


def run_epoch(
    learner: Learner,
    feed: Feed,
    material: Material,
    epoch: int,
    share: Share,
    beat: Callable[[int, float, float], None],
) -> Pass:
    """Take every step of an epoch.

    Args:
        learner: takes them.
        feed: gives this worker's windows of each.
        material: makes them tensors.
        epoch: from 0.
        share: this worker's.
        beat: called about every second with the steps done, the mean loss so far and this worker's
            windows a second.
    """
    draws = Draws.begin(material.config.seed, epoch, share.rank)
    began = beaten = time.monotonic()
    total, steps, windows = torch.zeros((), device=material.plan.device), 0, 0
    for piece in feed.steps(epoch):
        total += learner.step(material.parts(piece, draws))
        steps += 1
        windows += len(piece[0])
        if (now := time.monotonic()) - beaten > BEAT_S:
            beat(steps, float(total) / steps, windows / (now - began))
            beaten = now
    return Pass(float(total) / max(steps, 1), time.monotonic() - began, windows)
