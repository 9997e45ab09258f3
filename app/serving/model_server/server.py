"""One version's weights on one device: scores graphs, and tells what each sensor contributes.

It knows nothing of Ray; `model_replica` makes a deployment of it that merges calls that wait.
Invariant: one forward pass runs at a time, also when its caller has left, and one that would hold up the event loop runs off it; a
server that exists has already scored graphs.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from app.checkpoint import manifest as files
from app.checkpoint.files import Checkpoint, load
from app.checkpoint.predictor import open_predictor
from app.core.errors import CheckpointError
from app.diagnosis.build import MAX_EXPLAINED_SENSORS, too_large_to_explain
from app.model.graph import Contributions, GraphGroup, Prediction
from app.model.runtime.gate import warm_up_group
from app.serving.rpc.messages import ScoreAnswer, ScoreCall, VersionDescription

logger = logging.getLogger(__name__)

_LOOP_MS = 5.0
"""A forward pass that takes less runs in the event loop: a thread's two changes cost a good part of it. A lone graph takes some 3."""

T = TypeVar("T")


class ModelServer:
    """One replica of one version.

    Args:
        checkpoint_dir: directory of the version's checkpoint.
        device: `auto` takes a GPU where this replica was given one, `cpu` and `cuda` are as they say.
        threads: the most that the forward pass may use on a CPU.
    """

    def __init__(self, checkpoint_dir: Path, device: str = "auto", threads: int = 1) -> None:
        self._checkpoint: Checkpoint = load(checkpoint_dir)
        self.opened = open_predictor(self._checkpoint, device, threads)
        self.predictor = self.opened.predictor
        self._description = VersionDescription(
            manifest=self._checkpoint.manifest.model_dump_json(),
            feature_spec=(checkpoint_dir / files.FEATURE_SPEC).read_text(encoding="utf-8"),
            calibration=(checkpoint_dir / files.CALIBRATION).read_text(encoding="utf-8"),
            spec_digest=self._checkpoint.manifest.sha256[files.FEATURE_SPEC],
            device=self.opened.device,
            implementation=self.predictor.name,
        )
        self._computing = asyncio.Lock()
        self._turns: set[asyncio.Task[object]] = set()
        """Passes off the event loop, that run or wait to."""
        self._rows_in_loop = int(self.opened.lone_rows * _LOOP_MS / self.opened.lone_ms)
        logger.info(
            "implementation chosen",
            extra={
                "version": self._checkpoint.manifest.version,
                "device": self.opened.device,
                "implementation": self.predictor.name,
                "difference": self.opened.difference,
            },
        )
        logger.info(
            "model ready",
            extra={
                "version": self._checkpoint.manifest.version,
                "device": self.opened.device,
                "checkpoint": checkpoint_dir.name,
            },
        )

    @property
    def idle(self) -> bool:
        """Whether no forward pass runs or waits to."""
        return not (self._turns or self._computing.locked())

    async def describe(self) -> VersionDescription:
        """Tell what this version is."""
        return self._description

    async def score(self, call: ScoreCall) -> ScoreAnswer:
        """Score a call's graphs.

        Raises:
            CheckpointError: the graphs were made with another feature spec than this version's.
            WindowError: the graphs do not fit the network.
            LimitExceeded: evidence is asked for of a graph with too many sensors, or a graph does not fit into memory.
        """
        if call.spec_digest != self._description.spec_digest:
            raise CheckpointError(
                f"expected graphs made with feature spec {self._description.spec_digest[:12]}, found {call.spec_digest[:12]}: "
                "the checkpoint was replaced, build them again"
            )
        if call.explain:
            _refuse_to_explain_large(call.groups)
        predictions = tuple(await self.predictions_of(call.groups))
        if not call.explain:
            return ScoreAnswer(predictions)
        windows = [
            group.take(slice(row, row + 1)) for group in call.groups for row in range(group.windows)
        ]
        return ScoreAnswer(
            predictions, tuple([await self._contributions_of(window) for window in windows])
        )

    async def predictions_of(self, groups: Sequence[GraphGroup]) -> list[Prediction]:
        """Return the predictions of a call's groups."""
        return (await self.predictions_of_calls([tuple(groups)]))[0]

    async def predictions_of_calls(
        self, calls: Sequence[tuple[GraphGroup, ...]]
    ) -> list[list[Prediction]]:
        """Return the predictions of several calls, whose windows share passes."""
        groups = [group for call in calls for group in call]
        if sum(group.mask_WST.size for group in groups) <= self._rows_in_loop:
            async with self._computing:
                found = iter(self.predictor.predict(groups))
        else:
            found = iter(await self._in_turn(lambda: self.predictor.predict(groups)))
        return [[next(found) for _ in call] for call in calls]

    async def _in_turn(self, work: Callable[[], T]) -> T:
        """Do work in a thread when it is its turn; a caller that is cancelled meanwhile leaves it to end, and the next waits for it."""

        async def turn() -> T:
            async with self._computing:
                return await asyncio.to_thread(work)

        task = asyncio.create_task(turn())
        self._turns.add(task)
        task.add_done_callback(self._turns.discard)
        return await asyncio.shield(task)

    async def _contributions_of(self, window: GraphGroup) -> Contributions:
        """Return what each sensor contributes; between the parts other calls get their turn."""
        parts = self.predictor.contributions(window)
        found: list[Contributions] = []
        while True:
            part = await self._in_turn(lambda: next(parts, None))
            if part is None:
                return Contributions.merge(found)
            found.append(part)

    async def probe(self) -> None:
        """Score a graph that has no meaning, to show that this replica answers.

        Raises:
            CheckpointError: the answer is not finite.
        """
        (found,) = await self.predictions_of([warm_up_group(self._checkpoint.config, 1)])
        if not np.isfinite(found.health_WV).all():
            raise CheckpointError(
                "expected finite health of the warm-up graph, found none: replace the checkpoint"
            )

    async def check_health(self) -> None:
        """Raise when `probe` does; Serve then replaces the replica."""
        await self.probe()


def _refuse_to_explain_large(groups: Sequence[GraphGroup]) -> None:
    largest = max((group.topology.sensors for group in groups), default=0)
    if largest > MAX_EXPLAINED_SENSORS:
        raise too_large_to_explain(largest)
