"""Hands each worker its windows of every step, from memory or from a stream.

Knows nothing of Ray: a stream comes in as a function. Shapes: W training windows, B windows of this
worker in a step.
Invariant: what is kept in memory comes in an order that the seed and the epoch alone decide, so
that an epoch that is repeated, on
however many workers, sees the same batches.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from app.core.errors import InputError
from app.features.binning import Floats
from train.config import TrainConfig
from train.data.labels import Integers

Rows = Mapping[str, np.ndarray]
"""Columns `position` [B] and `values` [B, S, N]."""
Piece = tuple[Integers, Floats]
"""Positions [B] and bins [B, S, N] of some windows."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of each batch is this worker's: `rank` of `world`."""

    rank: int
    world: int


class Feed(Protocol):
    """Where a worker's windows come from."""

    def steps(self, epoch: int) -> Iterator[Piece]:
        """Yield this worker's windows of each step of an epoch."""
        ...


@dataclass(frozen=True, slots=True)
class KeptFeed:
    """All training windows in memory, dealt anew in each epoch.

    Args:
        position_W: of the windows, rising.
        values_WSN: their bins.
        steps_an_epoch: whole batches that an epoch shows, see `count_steps`.
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

    def steps(self, epoch: int) -> Iterator[Piece]:
        """Yield this worker's windows of each whole batch."""
        order_W = np.random.default_rng((self.seed, epoch)).permutation(len(self.position_W))
        for first in range(0, self.steps_an_epoch * self.batch, self.batch):
            mine_B = order_W[first : first + self.batch][self.share.rank :: self.share.world]
            yield self.position_W[mine_B], self.values_WSN[mine_B]


@dataclass(frozen=True, slots=True)
class StreamFeed:
    """A worker's shard of the training windows, read anew in each epoch and shuffled among those that are held.

    Args:
        read: begins an epoch: takes the windows of a step, the windows to shuffle among and a seed,
            and yields rows.
        windows: W over all workers.
        held: windows to shuffle among.
        steps_an_epoch: batches that an epoch shows, see `count_steps`; of a shard that has more, so
            many evenly spaced ones.
        batch: windows of a step, over all workers.
        seed: of the shuffling.
        share: this worker's.
    """

    read: Callable[[int, int, int], Iterator[Rows]]
    windows: int
    held: int
    steps_an_epoch: int
    batch: int
    seed: int
    share: Share

    def steps(self, epoch: int) -> Iterator[Piece]:
        """Yield as many steps as an epoch shows, whatever the number of workers, each epoch one batch further on in the shard.

        Raises:
            RuntimeError: the shard is shorter than its share.
        """
        own = self.batch // self.share.world
        there = self.windows // self.share.world // own
        # a worker's part of a batch is rounded down, so a shard never has fewer batches than are
        # shown
        shown = {
            (step * there + (epoch * self.steps_an_epoch) % there) // self.steps_an_epoch
            for step in range(self.steps_an_epoch)
        }
        rows = self.read(own, self.held, self.seed + epoch * 1_000_003 + self.share.rank)
        for number in range(there):
            row = next(rows, None)
            if row is None:
                raise RuntimeError(
                    f"expected {there} batches of {own} windows in a worker's shard, found {number}"
                )
            if number in shown:
                yield row["position"].astype(np.int64), row["values"]


def count_steps(windows: int, config: TrainConfig) -> int:
    """Return the whole batches of an epoch.

    Raises:
        InputError: the windows do not fill one.
    """
    if windows < config.batch:
        raise InputError(
            f"expected at least {config.batch} training windows, one batch, found {windows}: import more, lower --batch or "
            "hold out less",
            "batch",
        )
    return max(1, int(config.epoch_share * windows) // config.batch)


def gather(rows: Iterator[Rows], position_W: Integers) -> Floats:
    """Put rows that come in any order into the order of their positions.

    Args:
        rows: every window once.
        position_W: rising.

    Returns:
        [W, S, N] bins.

    Raises:
        ValueError: a window is missing.
    """
    values_WSN: Floats | None = None
    there_W = np.zeros(len(position_W), np.bool_)
    for row in rows:
        place_B = np.searchsorted(position_W, row["position"])
        if values_WSN is None:
            values_WSN = np.empty((len(position_W), *row["values"].shape[1:]), np.float32)
        values_WSN[place_B] = row["values"]
        there_W[place_B] = True
    if values_WSN is None or not there_W.all():
        raise ValueError(
            f"expected {len(position_W)} training windows from the dataset, found {int(there_W.sum())}"
        )
    return values_WSN
