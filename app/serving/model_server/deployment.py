"""One version's network on one device: scores graphs and measures what each sensor contributes.

At most one light and one heavy pass run at a time, also when their callers were cancelled: heavy
passes and explanations delay no others but by their share of the CPU. A pass that would block the
event loop for long runs in a thread. A server that could be constructed has already scored graphs.
The deployment of Serve also merges calls that wait for the same pass.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from ray import serve

from app.checkpoint import manifest as files
from app.checkpoint.files import load
from app.checkpoint.locate import find_checkpoint
from app.checkpoint.predictor import open_predictor
from app.core.errors import CheckpointError, VersionBusy
from app.core.settings import Settings
from app.diagnosis.cost import check_explainable
from app.diagnosis.pipeline import ScoreResult
from app.model.graph import Contributions, GraphGroup, Prediction
from app.model.runtime.gate import TOLERANCE, warm_up_group
from app.model.runtime.predictor import MAX_CELLS
from app.serving.observability.ecs import identify, traces_of
from app.serving.observability.exposition import ReplicaText
from app.serving.observability.logging import configure_logging, reconfigure_logging
from app.serving.observability.model_metrics import ModelMetrics
from app.serving.rpc.messages import ScoreCall, VersionDescription

logger = logging.getLogger(__name__)

MAX_LOOP_MS = 5.0
"""A shorter pass runs in the event loop, where a thread would cost a good part of its time."""

BUSY_SHARE = 0.1
"""Share of a call's patience that the other work takes by itself where it explains the delay:
passes take several times as long on a loaded machine as alone."""

MAX_BATCH_CALLS = 8
"""A call carries up to 64 windows; the predictor bounds the size of its passes by itself."""

STUCK_S = 20.0
"""A pass that takes longer does not end: the longest that is allowed takes a few seconds."""

T = TypeVar("T")


class _Lane(asyncio.Lock):
    """Lets one pass run at a time, and knows since when.

    Args:
        waited: receives how long each pass waited, in seconds.
    """

    def __init__(self, waited: Callable[[float], None]) -> None:
        super().__init__()
        self._waited = waited
        self._since_s = 0.0

    async def acquire(self) -> Literal[True]:
        """Wait for the pass before, and begin."""
        began_s = time.monotonic()
        acquired = await super().acquire()
        self._since_s = time.monotonic()
        self._waited(self._since_s - began_s)
        return acquired

    @property
    def running_s(self) -> float:
        """How long the pass that runs has taken so far; 0 when none runs."""
        return time.monotonic() - self._since_s if self.locked() else 0.0


class ModelServer:
    """One replica of one version.

    Args:
        checkpoint_dir: directory of the version's checkpoint.
        device: `auto` takes a GPU where this replica has one; else `cpu` or `cuda`.
        threads: cores that one pass may use on a CPU.
    """

    def __init__(self, checkpoint_dir: Path, device: str = "auto", threads: int = 1) -> None:
        started = time.perf_counter()
        self._checkpoint = load(checkpoint_dir)
        opened = open_predictor(self._checkpoint, device, threads)
        self.predictor = opened.predictor
        self._known_group = warm_up_group(self._checkpoint.config, 1)
        self._known_tolerance = 2 * max(TOLERANCE, opened.difference)
        self._known_health_WV = opened.predictor.predict([self._known_group])[0].health_WV
        self._description = VersionDescription(
            manifest=self._checkpoint.manifest.model_dump_json(),
            feature_spec=(checkpoint_dir / files.FEATURE_SPEC).read_text(encoding="utf-8"),
            calibration=(checkpoint_dir / files.CALIBRATION).read_text(encoding="utf-8"),
            spec_digest=self._checkpoint.manifest.sha256[files.FEATURE_SPEC],
            device=opened.device,
            implementation=opened.predictor.name,
        )
        self.metrics = ModelMetrics(
            self._checkpoint.manifest.version, opened.device, opened.predictor.name
        )
        self.metrics.load_seconds.set(time.perf_counter() - started)
        self.metrics.queued_cells.set_function(lambda: self._cells)
        self._light = _Lane(self.metrics.wait_seconds.observe)
        self._heavy = _Lane(self.metrics.wait_seconds.observe)
        self._passes: set[asyncio.Task[object]] = set()
        """Passes in a thread that run or wait."""
        self._cell_s = opened.lone_ms / opened.lone_cells / 1000
        self._max_loop_cells = int(MAX_LOOP_MS / 1000 / self._cell_s)
        self._cells = 0
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
        return not (self._passes or self._light.locked() or self._heavy.locked())

    async def describe(self) -> VersionDescription:
        """Return the description of this version's checkpoint."""
        return self._description

    async def score(self, call: ScoreCall) -> ScoreResult:
        """Score a call's graphs.

        Raises:
            CheckpointError: the graphs were built with another feature spec than this version's.
            WindowError: the graphs do not fit the network.
            LimitExceeded: contributions are requested for a graph that is too large, or a graph
                does not fit into memory.
            VersionBusy: the work of other calls takes longer than this one waits.
            TimeoutError: there is no answer by then, for another reason.
        """
        cells = call.cells
        self._cells += cells
        left_behind: set[asyncio.Task[object]] = set()
        outcome = "failed"
        self.metrics.calls_in_progress.inc()
        try:
            with traces_of(call.traces):
                async with asyncio.timeout(call.patience_s):
                    result = await self._score(call)
        except asyncio.CancelledError:
            outcome = "cancelled"
            left_behind = {*self._passes}
            raise
        except TimeoutError as error:
            outcome = "timeout"
            left_behind = {*self._passes}
            assert call.patience_s is not None
            version = self._checkpoint.manifest.version
            others_s = (self._cells - cells) * self._cell_s
            if others_s >= BUSY_SHARE * call.patience_s:
                outcome = "busy"
                raise VersionBusy(
                    f"expected version {version} to answer within {call.patience_s:g} s, found it "
                    "busy with earlier requests: try again in a few seconds"
                ) from error
            raise
        else:
            outcome = "scored"
            return result
        finally:
            self.metrics.calls_in_progress.dec()
            self.metrics.note_call(outcome)
            self._forget(cells, left_behind)

    def _forget(self, cells: int, left_behind: set[asyncio.Task[object]]) -> None:
        """Count the cells of a call that ended no more, once passes in a thread have ended too."""
        still = {each for each in left_behind if not each.done()}
        if still:
            still.pop().add_done_callback(lambda _: self._forget(cells, still))
        else:
            self._cells -= cells

    async def _score(self, call: ScoreCall) -> ScoreResult:
        expected = self._description.spec_digest
        if call.spec_digest != expected:
            raise CheckpointError(
                f"expected graphs built with feature spec {expected[:12]}, found "
                f"{call.spec_digest[:12]}: the checkpoint was replaced, build them again"
            )
        if call.explain:
            for group in call.groups:
                check_explainable(group.window_cells * (1 + group.topology.sensors))
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
        self.metrics.merged_calls.observe(len(calls))
        self.metrics.forward_windows.observe(sum(group.windows for group in groups))
        cells = sum(group.cells for group in groups)
        if cells <= self._max_loop_cells:
            async with self._light:
                predictions = iter(self._forward(groups))
        else:
            lane = self._light if cells <= MAX_CELLS else self._heavy
            predictions = iter(await self._in_thread(lambda: self._forward(groups), lane))
        return [[next(predictions) for _ in call] for call in calls]

    def _forward(self, groups: Sequence[GraphGroup]) -> list[Prediction]:
        with self.metrics.forward_seconds.time():
            return self.predictor.predict(groups)

    async def _in_thread(self, work: Callable[[], T], lane: "_Lane") -> T:
        """Run work in a thread; if the caller is cancelled, it ends before the lane's next."""

        async def run() -> T:
            async with lane:
                return await asyncio.to_thread(work)

        task = asyncio.create_task(run())
        self._passes.add(task)
        task.add_done_callback(self._passes.discard)
        return await asyncio.shield(task)

    async def _contributions(self, window: GraphGroup) -> Contributions:
        """Return what each sensor contributes; other calls can run between the parts."""
        parts = self.predictor.contributions(window)
        found: list[Contributions] = []
        with self.metrics.explain_seconds.time():
            while True:
                part = await self._in_thread(lambda: next(parts, None), self._heavy)
                if part is None:
                    break
                found.append(part)
        self.metrics.explained.inc()
        return Contributions.merge(found)

    async def probe(self) -> None:
        """Score the warm-up graph, to show that this replica works and still gives its answer.

        Raises:
            CheckpointError: its health is not what it was when the replica started, after the
                network had passed its gate.
        """
        with self.metrics.probe_failures.count_exceptions():
            ((prediction,),) = await self.predict_calls([[self._known_group]])
        apart_WV = np.abs(prediction.health_WV - self._known_health_WV)
        if not (apart_WV <= self._known_tolerance).all():  # NaN too
            self.metrics.probe_failures.inc()
            raise CheckpointError(
                "expected the health of the warm-up graph as at the start, found another: the "
                "device or the weights in its memory are damaged; the replica has to be replaced"
            )

    async def metrics_text(self) -> ReplicaText:
        """Return the metrics of this replica."""
        return await self.metrics.scraped()

    async def check_health(self) -> None:
        """Show Serve that this replica works; Serve replaces one that raises or does not answer.

        A pass that does not end is no reason to wait: the replica is replaced without it.

        Raises:
            CheckpointError: as `probe`, or a pass does not end.
        """
        stuck_s = max(self._light.running_s, self._heavy.running_s)
        if stuck_s > STUCK_S:
            raise CheckpointError(
                f"expected a forward pass to end within {STUCK_S:g} s, found one that has run for "
                f"{stuck_s:.0f} s: the replica has to be replaced"
            )
        if not self._light.locked():
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
        identify(model_version=self._checkpoint.manifest.version)

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Apply a new `user_config`; Serve calls this."""
        reconfigure_logging(user_config)

    async def predict(self, groups: Sequence[GraphGroup]) -> list[Prediction]:
        """Predict for a call's groups, together with other calls that wait."""
        if self.idle:
            return await super().predict(groups)
        predictions: list[Prediction] = await self._merged(groups)
        return predictions

    @serve.batch(max_batch_size=MAX_BATCH_CALLS, batch_wait_timeout_s=0.0)
    async def _merged(self, calls: list[Sequence[GraphGroup]]) -> list[list[Prediction]]:
        return await self.predict_calls(calls)
