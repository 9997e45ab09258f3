"""One version's network on one device: scores graphs and measures what each sensor contributes.

At most one pass runs at a time, also when its caller was cancelled. A pass that would block the
event loop for long runs in a thread. A server that could be constructed has already scored graphs.
The deployment of Serve also merges calls that wait for the same pass.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from ray import serve

from app.checkpoint import manifest as files
from app.checkpoint.files import load
from app.checkpoint.locate import find_checkpoint
from app.checkpoint.predictor import open_predictor
from app.core.errors import CheckpointError, VersionBusy
from app.core.settings import Settings
from app.diagnosis.evidence import MAX_EXPLAINED_SENSORS, too_large_to_explain
from app.diagnosis.pipeline import ScoreResult
from app.model.graph import Contributions, GraphGroup, Prediction
from app.model.runtime.gate import warm_up_group
from app.serving.observability.logging import configure_logging
from app.serving.rpc.messages import ScoreCall, VersionDescription

logger = logging.getLogger(__name__)

MAX_LOOP_MS = 5.0
"""A shorter pass runs in the event loop, where a thread would cost a good part of its time."""

BUSY_SHARE = 0.1
"""Share of a call's patience that the other work takes by itself where it explains the delay:
passes take several times as long on a loaded machine as alone."""

MAX_BATCH_CALLS = 8
"""A call carries up to 64 windows; the predictor bounds the size of its passes by itself."""

T = TypeVar("T")


class ModelServer:
    """One replica of one version.

    Args:
        checkpoint_dir: directory of the version's checkpoint.
        device: `auto` takes a GPU where this replica has one; else `cpu` or `cuda`.
        threads: cores that one pass may use on a CPU.
    """

    def __init__(self, checkpoint_dir: Path, device: str = "auto", threads: int = 1) -> None:
        self._checkpoint = load(checkpoint_dir)
        opened = open_predictor(self._checkpoint, device, threads)
        self.predictor = opened.predictor
        self._description = VersionDescription(
            manifest=self._checkpoint.manifest.model_dump_json(),
            feature_spec=(checkpoint_dir / files.FEATURE_SPEC).read_text(encoding="utf-8"),
            calibration=(checkpoint_dir / files.CALIBRATION).read_text(encoding="utf-8"),
            spec_digest=self._checkpoint.manifest.sha256[files.FEATURE_SPEC],
            device=opened.device,
            implementation=opened.predictor.name,
        )
        self._computing = asyncio.Lock()
        self._passes: set[asyncio.Task[object]] = set()
        """Passes in a thread that run or wait."""
        self._row_s = opened.lone_ms / opened.lone_rows / 1000
        self._max_rows_in_loop = int(MAX_LOOP_MS / 1000 / self._row_s)
        self._rows = 0
        """Of all calls in progress."""
        logger.info(
            "model ready",
            extra={
                "version": self._checkpoint.manifest.version,
                "checkpoint": checkpoint_dir.name,
                "device": opened.device,
                "implementation": opened.predictor.name,
            },
        )

    @property
    def idle(self) -> bool:
        """Whether no pass runs or waits."""
        return not (self._passes or self._computing.locked())

    async def describe(self) -> VersionDescription:
        """Return the description of this version's checkpoint."""
        return self._description

    async def score(self, call: ScoreCall) -> ScoreResult:
        """Score a call's graphs.

        Raises:
            CheckpointError: the graphs were built with another feature spec than this version's.
            WindowError: the graphs do not fit the network.
            LimitExceeded: contributions are requested for a graph with too many sensors, or a graph
                does not fit into memory.
            VersionBusy: the work of other calls takes longer than this one waits.
            TimeoutError: there is no answer by then, for another reason.
        """
        rows = call.rows
        self._rows += rows
        left_behind: set[asyncio.Task[object]] = set()
        try:
            async with asyncio.timeout(call.patience_s):
                return await self._score(call)
        except asyncio.CancelledError:
            left_behind = {*self._passes}
            raise
        except TimeoutError as error:
            left_behind = {*self._passes}
            assert call.patience_s is not None
            version, others_s = self._checkpoint.manifest.version, (self._rows - rows) * self._row_s
            if others_s >= BUSY_SHARE * call.patience_s:
                raise VersionBusy(
                    f"expected version {version} to answer within {call.patience_s:g} s, found it "
                    "busy with earlier requests: try again in a few seconds"
                ) from error
            raise
        finally:
            self._forget(rows, left_behind)

    def _forget(self, rows: int, left_behind: set[asyncio.Task[object]]) -> None:
        """Count the rows of a call that ended no more, once passes in a thread have ended too."""
        still = {each for each in left_behind if not each.done()}
        if still:
            still.pop().add_done_callback(lambda _: self._forget(rows, still))
        else:
            self._rows -= rows

    async def _score(self, call: ScoreCall) -> ScoreResult:
        expected = self._description.spec_digest
        if call.spec_digest != expected:
            raise CheckpointError(
                f"expected graphs built with feature spec {expected[:12]}, found "
                f"{call.spec_digest[:12]}: the checkpoint was replaced, build them again"
            )
        if call.explain:
            largest = max(group.topology.sensors for group in call.groups)
            if largest > MAX_EXPLAINED_SENSORS:
                raise too_large_to_explain(largest)
        predictions = await self.predict(call.groups)
        if not call.explain:
            return ScoreResult(predictions)
        contributions = [
            [
                await self._contributions(group.take(slice(row, row + 1)))
                for row in range(group.windows)
            ]
            for group in call.groups
        ]
        return ScoreResult(predictions, contributions)

    async def predict(self, groups: Sequence[GraphGroup]) -> list[Prediction]:
        """Predict for the groups of one call; one prediction a group."""
        return (await self.predict_calls([groups]))[0]

    async def predict_calls(self, calls: Sequence[Sequence[GraphGroup]]) -> list[list[Prediction]]:
        """Predict for the groups of several calls together."""
        groups = [group for call in calls for group in call]
        if sum(group.mask_WST.size for group in groups) <= self._max_rows_in_loop:
            async with self._computing:
                predictions = iter(self.predictor.predict(groups))
        else:
            predictions = iter(await self._in_thread(lambda: self.predictor.predict(groups)))
        return [[next(predictions) for _ in call] for call in calls]

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run work in a thread; if the caller is cancelled, it ends before the next begins."""

        async def run() -> T:
            async with self._computing:
                return await asyncio.to_thread(work)

        task = asyncio.create_task(run())
        self._passes.add(task)
        task.add_done_callback(self._passes.discard)
        return await asyncio.shield(task)

    async def _contributions(self, window: GraphGroup) -> Contributions:
        """Return what each sensor contributes; other calls can run between the parts."""
        parts = self.predictor.contributions(window)
        found: list[Contributions] = []
        while (part := await self._in_thread(lambda: next(parts, None))) is not None:
            found.append(part)
        return Contributions.merge(found)

    async def probe(self) -> None:
        """Score the warm-up graph, to show that this replica works.

        Raises:
            CheckpointError: its health is not finite.
        """
        (prediction,) = await self.predict([warm_up_group(self._checkpoint.config, 1)])
        if not np.isfinite(prediction.health_WV).all():
            raise CheckpointError(
                "expected finite health of the warm-up graph, found none: replace the checkpoint"
            )

    async def check_health(self) -> None:
        """Raise what `probe` raises; Serve then replaces the replica."""
        await self.probe()


class ModelDeployment(ModelServer):
    """A model server that merges calls that wait: the deployment of Serve.

    A call that finds the replica idle runs at once: a batch of one would cost two turns of the
    event loop. Calls that arrive while a pass runs in a thread are predicted together.

    Args:
        checkpoint: as `serve_config.yaml` names it; found, or fetched, on the replica's own node.
        device: see `ModelServer`.
        threads: see `ModelServer`.
    """

    def __init__(self, checkpoint: str, device: str, threads: int) -> None:
        settings = Settings()
        configure_logging(settings.log_level)
        super().__init__(find_checkpoint(checkpoint, settings), device, threads)

    async def predict(self, groups: Sequence[GraphGroup]) -> list[Prediction]:
        """Predict for a call's groups, together with other calls that wait."""
        if self.idle:
            return await super().predict(groups)
        predictions: list[Prediction] = await self._merged(groups)
        return predictions

    @serve.batch(max_batch_size=MAX_BATCH_CALLS, batch_wait_timeout_s=0.0)
    async def _merged(self, calls: list[Sequence[GraphGroup]]) -> list[list[Prediction]]:
        return await self.predict_calls(calls)
