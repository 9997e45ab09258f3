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
import torch

from app.checkpoint import manifest as files
from app.checkpoint.files import Checkpoint, load
from app.core.errors import CheckpointError, WindowError
from app.diagnosis.build import MAX_EXPLAINED_SENSORS, too_large_to_explain
from app.model.graph import (
    Contributions,
    GraphBatch,
    ModelOutput,
    concatenate,
    split_graphs,
    split_output,
)
from app.model.network import occlude, score
from app.model.runtime.selection import choose, warm_up_graphs
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
        self._device = torch.device(
            device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        )
        self._checkpoint: Checkpoint = load(checkpoint_dir, self._device)
        self.choice = choose(self._checkpoint.model, threads)
        self._description = VersionDescription(
            manifest=self._checkpoint.manifest.model_dump_json(),
            feature_spec=(checkpoint_dir / files.FEATURE_SPEC).read_text(encoding="utf-8"),
            calibration=(checkpoint_dir / files.CALIBRATION).read_text(encoding="utf-8"),
            spec_digest=self._checkpoint.manifest.sha256[files.FEATURE_SPEC],
            device=str(self._device),
            implementation=self.choice.implementation.name,
        )
        self._computing = asyncio.Lock()
        self._turns: set[asyncio.Task[object]] = set()
        """Passes off the event loop, that run or wait to."""
        self._rows_in_loop = int(self.choice.lone_rows * _LOOP_MS / self.choice.lone_ms)
        logger.info(
            "implementation chosen",
            extra={
                "version": self._checkpoint.manifest.version,
                "device": str(self._device),
                "implementation": self.choice.implementation.name,
                "trials": [str(trial) for trial in self.choice.trials],
            },
        )
        logger.info(
            "model ready",
            extra={
                "version": self._checkpoint.manifest.version,
                "device": str(self._device),
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
        if call.graph.x_STF.shape[2] != self._checkpoint.config.features:
            raise WindowError(
                f"expected {self._checkpoint.config.features} features of a sensor, found {call.graph.x_STF.shape[2]}: "
                "build the graphs with this version's feature spec"
            )
        if call.explain:
            _refuse_to_explain_large(call.graph)
        output = await self.output_of(call.graph)
        if not call.explain:
            return ScoreAnswer(output)
        return ScoreAnswer(
            output,
            tuple([await self._contributions_of(graph) for graph in split_graphs(call.graph)]),
        )

    async def output_of(self, graph: GraphBatch) -> ModelOutput:
        """Return the network's answer for a call's graphs."""
        return (await self.outputs_of([graph]))[0]

    async def outputs_of(self, graphs: Sequence[GraphBatch]) -> list[ModelOutput]:
        """Return the network's answers for the graphs of several calls, those of one number of steps together."""
        if sum(graph.mask_ST.size for graph in graphs) <= self._rows_in_loop:
            async with self._computing:
                return self._forward(graphs)
        return await self._in_turn(lambda: self._forward(graphs))

    async def _in_turn(self, work: Callable[[], T]) -> T:
        """Do work in a thread when it is its turn; a caller that is cancelled meanwhile leaves it to end, and the next waits for it."""

        async def turn() -> T:
            async with self._computing:
                return await asyncio.to_thread(work)

        task = asyncio.create_task(turn())
        self._turns.add(task)
        task.add_done_callback(self._turns.discard)
        return await asyncio.shield(task)

    def _forward(self, graphs: Sequence[GraphBatch]) -> list[ModelOutput]:
        outputs: dict[int, ModelOutput] = {}
        by_steps: dict[int, list[int]] = {}
        for position, graph in enumerate(graphs):
            by_steps.setdefault(graph.x_STF.shape[1], []).append(position)
        for positions in by_steps.values():
            merged = (
                concatenate([graphs[position] for position in positions])
                if positions[1:]
                else graphs[positions[0]]
            )
            sizes = [len(graphs[position].component_type_V) for position in positions]
            outputs.update(
                zip(positions, split_output(score(self.choice.network, merged), sizes), strict=True)
            )
        return [outputs[position] for position in range(len(graphs))]

    async def _contributions_of(self, graph: GraphBatch) -> Contributions:
        """Return what each sensor contributes; between the parts other calls get their turn."""
        parts = occlude(self.choice.network, graph)
        found: list[Contributions] = []
        while True:
            part = await self._in_turn(lambda: next(parts, None))
            if part is None:
                return Contributions.joined(found)
            found.append(part)

    async def probe(self) -> None:
        """Score a graph that has no meaning, to show that this replica answers.

        Raises:
            CheckpointError: the answer is not finite.
        """
        (output,) = await self.outputs_of([warm_up_graphs(self._checkpoint.config, 1)])
        if not np.isfinite(output.health_V).all():
            raise CheckpointError(
                "expected finite health of the warm-up graph, found none: replace the checkpoint"
            )

    async def check_health(self) -> None:
        """Raise when `probe` does; Serve then replaces the replica."""
        await self.probe()


def _refuse_to_explain_large(batch: GraphBatch) -> None:
    largest = int(np.bincount(batch.sensor_graph_S, minlength=1).max())
    if largest > MAX_EXPLAINED_SENSORS:
        raise too_large_to_explain(largest)
