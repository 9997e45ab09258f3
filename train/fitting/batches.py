"""Selects each worker's windows of every training step, from memory or from a stream.

Independent of Ray: a stream is passed in as a function. Shapes: W training windows, B windows of
this worker in a step. Invariant: batches from memory depend only on the seed and the epoch, so a
repeated epoch has the same batches on any number of workers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from app.core.errors import InputError
from app.features.binning import Floats
from train.config import TrainConfig
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
    """Source of a worker's windows."""

    @property
    def steps_an_epoch(self) -> int:
        """Return the steps of an epoch, see `count_steps`."""
        ...

    def steps(self, epoch: int) -> Iterator[WindowBatch]:
        """Yield this worker's windows of each step of an epoch."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryBatches:
    """All training windows in memory, in a new random order each epoch.

    Args:
        position_W: of the windows, rising.
        values_WSN: their bins.
        steps_an_epoch: steps of an epoch, see `count_steps`.
        batch: windows of a step, over all workers.
        seed: of the order.
        share: this worker's.
    """

    position_W: Integers
    values_WSN: Floats
    steps_an_epoch: int
    batch: int
    seed: int
    share: Share

    def steps(self, epoch: int) -> Iterator[WindowBatch]:
        """Yield this worker's windows of each whole batch."""
        order_W = np.random.default_rng((self.seed, epoch)).permutation(len(self.position_W))
        for first in range(0, self.steps_an_epoch * self.batch, self.batch):
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
            shard.
        batch: windows of a step, over all workers.
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
        # a worker's part of a batch is rounded down, so a shard has at least `steps_an_epoch`
        chosen = {
            (step * available + (epoch * self.steps_an_epoch) % available) // self.steps_an_epoch
            for step in range(self.steps_an_epoch)
        }
        rows = self.read(own, self.buffer, self.seed + epoch * 1_000_003 + self.share.rank)
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
