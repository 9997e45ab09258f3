"""Selects each worker's windows of every training step, from memory or from a stream.

Independent of Ray: a stream is passed in as a function. Each design has batches of its own; a step
takes one batch of each. Shapes: W training windows of the design, B of them for this worker in a
step. Invariant: batches from memory depend only on the seed, the epoch and the design, so a
repeated epoch has the same batches on any number of workers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from app.core.errors import InputError
from app.features.binning import Floats
from train.config import TrainConfig
from train.data.fleet import share_batch
from train.data.labels import Integers

Rows = Mapping[str, np.ndarray]
"""Columns `position` [B] and `values` [B, S, N]."""
WindowBatch = tuple[Integers, Floats]
"""Positions [B] and bins [B, S, N] of some windows."""


class Share(NamedTuple):
    """A worker's share of each batch: `rank` of `world`."""

    rank: int
    world: int


class Batches(Protocol):
    """Source of a worker's windows of one design."""

    @property
    def steps_an_epoch(self) -> int:
        """Return the steps of an epoch, see `count_steps`."""
        ...

    def steps(self, epoch: int) -> Iterator[WindowBatch]:
        """Yield this worker's windows of each step of an epoch."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryBatches:
    """All training windows in memory, in a new random order each epoch and each time they repeat.

    Args:
        position_W: of the windows, rising.
        values_WSN: their bins.
        steps_an_epoch: steps of an epoch, see `count_steps`.
        batch: windows of the design in a step, over all workers.
        seed: of the order.
        share: this worker's.
        design: number of the design.
    """

    position_W: Integers
    values_WSN: Floats
    steps_an_epoch: int
    batch: int
    seed: int
    share: Share
    design: int = 0

    def steps(self, epoch: int) -> Iterator[WindowBatch]:
        """Yield this worker's windows of each whole batch."""
        generator = np.random.default_rng((self.seed, epoch, self.design))
        windows, needed = len(self.position_W), self.steps_an_epoch * self.batch
        passes = [generator.permutation(windows) for _ in range(0, needed, windows)]
        order_W = np.concatenate(passes or [np.empty(0, np.int64)])
        for first in range(0, needed, self.batch):
            mine_B = order_W[first : first + self.batch][self.share.rank :: self.share.world]
            yield self.position_W[mine_B], self.values_WSN[mine_B]


@dataclass(frozen=True, slots=True)
class StreamedBatches:
    """A worker's shard of the training windows, read anew each epoch through a shuffle buffer.

    Args:
        read: starts an epoch; called with the windows of a step, the size of the shuffle buffer in
            windows and a seed, yields rows.
        windows: W over all workers.
        buffer: windows in the shuffle buffer.
        steps_an_epoch: steps of an epoch, see `count_steps`; evenly spaced batches of a longer
            shard; a shorter one is read several times.
        batch: windows of the design in a step, over all workers.
        seed: of the shuffling.
        share: this worker's.
    """

    read: Callable[[int, int, int], Iterator[Rows]]
    windows: int
    buffer: int
    steps_an_epoch: int
    batch: int
    seed: int
    share: Share

    def steps(self, epoch: int) -> Iterator[WindowBatch]:
        """Yield the steps of an epoch; each epoch starts one batch later in the shard.

        Raises:
            RuntimeError: the shard has fewer windows than its share.
        """
        own = self.batch // self.share.world
        available = self.windows // self.share.world // own
        for number, first in enumerate(range(0, self.steps_an_epoch, available)):
            seed = self.seed + epoch * 1_000_003 + self.share.rank + number * 7_368_787
            rows = self.read(own, self.buffer, seed)
            yield from self._one_pass(rows, min(available, self.steps_an_epoch - first), epoch)

    def _one_pass(self, rows: Iterator[Rows], steps: int, epoch: int) -> Iterator[WindowBatch]:
        own = self.batch // self.share.world
        available = self.windows // self.share.world // own
        # a worker's part of a batch is rounded down, so a shard has at least `steps`
        chosen = {
            (step * available + (epoch * steps) % available) // steps for step in range(steps)
        }
        for number in range(available):
            row = next(rows, None)
            if row is None:
                raise RuntimeError(
                    f"expected {available} batches of {own} windows in a worker's shard, found "
                    f"{number}"
                )
            if number in chosen:
                yield row["position"].astype(np.int64), row["values"]


def count_steps(windows: int, config: TrainConfig) -> int:
    """Return the number of whole batches of an epoch.

    Raises:
        InputError: the windows do not fill one.
    """
    if windows < config.batch:
        raise InputError(
            f"expected at least {config.batch} training windows, one batch, found {windows}: "
            "import more, lower --batch or hold out less",
            "batch",
        )
    return max(1, int(config.epoch_share * windows) // config.batch)


def plan_batches(counts: Sequence[int], config: TrainConfig) -> tuple[int, list[int]]:
    """Return the steps of an epoch, and the windows of each design in a step.

    Args:
        counts: training windows of each design.
        config: of the training.

    Raises:
        InputError: the windows of all designs do not fill one batch, or those of one design not its
            share of it.
    """
    steps = count_steps(sum(counts), config)
    least = config.max_workers * config.accumulate
    shares = share_batch(counts, config.batch, config.design_power, least)
    for count, share in zip(counts, shares, strict=True):
        if count < share:
            raise InputError(
                f"expected at least {share} training windows of each design, its share of a batch, "
                f"found {count}: import more, lower --batch or raise --design-power",
                "batch",
            )
    return steps, shares


def gather(rows: Iterator[Rows], position_W: Integers) -> Floats:
    """Return the bins of rows in any order, in the order of their positions.

    Args:
        rows: every window once.
        position_W: rising.

    Returns:
        [W, S, N] bins.

    Raises:
        ValueError: a window is missing.
    """
    values_WSN: Floats | None = None
    found_W = np.zeros(len(position_W), np.bool_)
    for row in rows:
        place_B = np.searchsorted(position_W, row["position"])
        if values_WSN is None:
            values_WSN = np.empty((len(position_W), *row["values"].shape[1:]), np.float32)
        values_WSN[place_B] = row["values"]
        found_W[place_B] = True
    if values_WSN is None or not found_W.all():
        raise ValueError(
            f"expected {len(position_W)} training windows from the dataset, found "
            f"{int(found_W.sum())}"
        )
    return values_WSN
