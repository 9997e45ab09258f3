"""Code that all peers share: they differ from the service, and from each other, in serving only.

Store, features, graph, network and diagnosis are those of the service, and a peer's diagnosis
equals that of the service but for its id and time. A peer has no authentication, write-behind
queue, metrics, traces or fallback version, all of which is to its advantage.
"""

import argparse
import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import AwareDatetime, BaseModel

from app.checkpoint.files import load
from app.checkpoint.predictor import open_predictor
from app.core.errors import UnknownEquipment
from app.core.settings import PROJECT_DIR
from app.diagnosis.build import DiagnosisContext, Scores, build_diagnosis
from app.diagnosis.decoder import PredictionDecoder, window_predictions
from app.diagnosis.input_quality import QualityBatch, Thresholds, WindowQuality
from app.diagnosis.window_plan import WindowPlan, build_windows, plan_windows
from app.features.binning import Floats
from app.model.graph import GraphGroup
from app.schemas.diagnosis import Diagnosis
from app.schemas.equipment import Equipment
from app.serving.ingress.windows import Bins, interval_of, window_before
from app.store.store import Store
from app.store.windows import StoredWindow, decode_window

CHECKPOINT = PROJECT_DIR / "app" / "weights" / "1"
ROUTE = "/v1/diagnoses"


class DiagnosisRequest(BaseModel):
    """Body of a request: a machine and the end of a window."""

    equipment_id: str
    at: AwareDatetime


class WindowGroup(NamedTuple):
    """Windows of one topology: positions in the batch, graphs, and quality of the input."""

    positions: Sequence[int]
    graph: GraphGroup
    quality: QualityBatch


class FetchedWindow(NamedTuple):
    """A request resolved to a machine and bins, with the window from the store."""

    equipment: Equipment
    bins: Bins
    window: StoredWindow


class Diagnoser:
    """Makes diagnoses of requests, with the network run as in a replica of the service.

    Args:
        dsn: of the fleet's database.
        threads: of the forward pass at most.
    """

    def __init__(self, dsn: str, threads: int) -> None:
        self.store = Store(dsn)
        self.checkpoint = load(CHECKPOINT)
        self.predictor = open_predictor(self.checkpoint, threads=threads).predictor
        self._plans: dict[str, WindowPlan] = {}
        self._topologies: dict[str, Equipment] = {}
        self._thresholds = Thresholds()

    async def start(self) -> None:
        """Read all topologies once; later changes are ignored."""
        self._topologies = {
            record.equipment.equipment_id: record.equipment
            for record in await self.store.list_equipment()
        }

    def resolve(self, request: DiagnosisRequest) -> tuple[Equipment, Bins]:
        """Return the machine and the window of a request.

        Raises:
            UnknownEquipment: it is not registered.
        """
        equipment = self._topologies.get(request.equipment_id)
        if equipment is None:
            raise UnknownEquipment(request.equipment_id)
        return equipment, window_before(equipment, request.at, datetime.now(UTC))

    async def fetch(self, items: Sequence[DiagnosisRequest]) -> list[FetchedWindow]:
        """Read the windows of several requests in one statement."""
        resolved = [self.resolve(item) for item in items]
        windows = await self.store.read_windows(
            [(equipment.equipment_id, *bins) for equipment, bins in resolved]
        )
        return [
            FetchedWindow(*pair, window) for pair, window in zip(resolved, windows, strict=True)
        ]

    def diagnose(self, fetched: Sequence[FetchedWindow]) -> list[Diagnosis]:
        """Return the diagnoses of a batch. It only computes, so it may run in a thread."""
        groups = self._groups(fetched)
        predictions = self.predictor.predict([group.graph for group in groups])
        diagnoses: dict[int, Diagnosis] = {}
        for group, prediction in zip(groups, predictions, strict=True):
            qualities = group.quality.windows(fetched[group.positions[0]].equipment.sensor_ids)
            windows = zip(group.positions, window_predictions(prediction), qualities, strict=True)
            for position, scores, quality in windows:
                item = fetched[position]
                diagnoses[position] = self.build(
                    item.equipment,
                    item.bins,
                    item.window.newest,
                    Scores(scores),
                    quality,
                )
        return [diagnoses[position] for position in range(len(fetched))]

    def graphs(self, fetched: Sequence[FetchedWindow]) -> list[GraphGroup]:
        """Return the graphs of some windows, grouped by topology."""
        return [group.graph for group in self._groups(fetched)]

    def group(
        self, positions: Sequence[int], equipment: Equipment, values_WSN: Floats
    ) -> WindowGroup:
        """Return the graphs of windows of one topology; `equipment` is any machine with it."""
        plan = self._plan(equipment)
        return WindowGroup(positions, *build_windows(values_WSN, plan))

    def _groups(self, fetched: Sequence[FetchedWindow]) -> list[WindowGroup]:
        by_topology: dict[str, list[int]] = {}
        for position, item in enumerate(fetched):
            by_topology.setdefault(item.equipment.structure_digest, []).append(position)
        groups = []
        for positions in by_topology.values():
            values = [
                decode_window(fetched[position].window, fetched[position].equipment)
                for position in positions
            ]
            groups.append(self.group(positions, fetched[positions[0]].equipment, np.stack(values)))
        return groups

    def _plan(self, equipment: Equipment) -> WindowPlan:
        plan = self._plans.get(equipment.structure_digest)
        if plan is None:
            plan = self._plans[equipment.structure_digest] = plan_windows(
                equipment, self.checkpoint.feature_spec
            )
        return plan

    def build(
        self,
        equipment: Equipment,
        bins: Bins,
        newest: datetime | None,
        scores: Scores,
        quality: WindowQuality,
    ) -> Diagnosis:
        """Build the diagnosis of a window from its scores."""
        now = datetime.now(UTC)
        context = DiagnosisContext(
            diagnosis_id=uuid.uuid4().hex,
            created_at=now,
            window=interval_of(bins, equipment),
            source="store",
            stale_s=None if newest is None else (now - newest).total_seconds(),
            fallback=False,
            input_digest="",
        )
        checkpoint = self.checkpoint
        decoder = PredictionDecoder.of(
            checkpoint.manifest.version,
            equipment,
            checkpoint.manifest,
            checkpoint.feature_spec,
            checkpoint.calibration,
        )
        return build_diagnosis(equipment, context, scores, quality, decoder, self._thresholds, {})

    async def warm_up(self) -> None:
        """Diagnose batches of 1 to 32 windows without readings."""
        equipment = next(iter(self._topologies.values()))
        bins = Bins(0, equipment.bins)
        empty = StoredWindow(equipment.equipment_id, *bins, equipment.grid_us, (), b"", b"", None)
        for size in (1, 2, 4, 8, 16, 32):
            self.diagnose([FetchedWindow(equipment, bins, empty)] * size)


class SizeLog:
    """Appends the size of each batch to a file that the benchmark reads between loads.

    Args:
        directory: of one file for each process.
    """

    def __init__(self, directory: Path) -> None:
        self._file = os.open(
            directory / f"{os.getpid()}.sizes", os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )

    def note(self, size: int) -> None:
        """Write one batch's size."""
        os.write(self._file, b"%d\n" % size)


class Batcher:
    """Micro-batcher: requests that arrive while a batch is in flight form the next batch.

    An idle batcher starts at once and adds no wait.

    Args:
        work: returns the response bodies of a batch.
        max_batch: requests of a batch at most.
        in_flight: batches in flight at most; with 2 one reads the store while the other computes.
        sizes: records the size of each batch.
    """

    def __init__(
        self,
        work: Callable[[list[DiagnosisRequest]], Awaitable[list[bytes]]],
        max_batch: int,
        in_flight: int,
        sizes: SizeLog,
    ) -> None:
        self._work = work
        self._max_batch = max_batch
        self._free = in_flight
        self._waiting: list[tuple[DiagnosisRequest, asyncio.Future[bytes]]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._sizes = sizes

    async def submit(self, item: DiagnosisRequest) -> bytes:
        """Return the response body of a request, computed in a batch with waiting ones."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._free:
            self._begin()
        return await future

    def _begin(self) -> None:
        self._free -= 1
        task = asyncio.get_running_loop().create_task(self._run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self) -> None:
        await asyncio.sleep(0)  # lets requests that the loop has already received join
        batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
        try:
            if not batch:  # an earlier batch took its requests
                return
            self._sizes.note(len(batch))
            for (_, future), body in zip(
                batch, await self._work([item for item, _ in batch]), strict=True
            ):
                if not future.done():
                    future.set_result(body)
        except Exception as error:  # noqa: BLE001 - passed on to the callers
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._free += 1
            if self._waiting:
                self._begin()


@dataclass(frozen=True)
class Options:
    """Command line of a peer."""

    dsn: str
    port: int
    sizes: Path
    threads: int
    workers: int
    in_flight: int
    max_batch: int
    batching: bool


def options() -> Options:
    """Read a peer's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--sizes", type=Path, required=True, help="directory for the sizes of batches"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--batching", action="store_true", help="micro-batch requests")
    return Options(**vars(parser.parse_args()))


def compute_thread() -> ThreadPoolExecutor:
    """Return an executor of one thread that computes beside the event loop."""
    return ThreadPoolExecutor(1, thread_name_prefix="compute")
