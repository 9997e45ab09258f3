"""What every peer shares with us: the store, the features, the graph, the network and the diagnosis. Only the serving differs.

A peer does no authentication, keeps no journal, metrics or traces, and has no second version to
fall back to: all of that
is in its favour.
Invariant: a peer's answer to a request is the diagnosis that the service gives, but for its id and
time.
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


class Asked(BaseModel):
    """A request: a machine and the end of a window."""

    equipment_id: str
    at: AwareDatetime


class Group(NamedTuple):
    """Windows of one topology: their positions in a batch, their graphs, and what their features say of the input."""

    positions: Sequence[int]
    graph: GraphGroup
    summary: QualityBatch


class Fetched(NamedTuple):
    """What a request means and what the store has for it."""

    equipment: Equipment
    bins: Bins
    window: StoredWindow


class Diagnoser:
    """Requests to diagnoses without any serving around it.

    Args:
        dsn: of the fleet's database.
        threads: the most that the forward pass may use; the network runs as a replica of ours would
            run it.
    """

    def __init__(self, dsn: str, threads: int) -> None:
        self.store = Store(dsn)
        self.checkpoint = load(CHECKPOINT)
        self.predictor = open_predictor(self.checkpoint, threads=threads).predictor
        self._plans: dict[str, WindowPlan] = {}
        self._topologies: dict[str, Equipment] = {}
        self._thresholds = Thresholds()

    async def start(self) -> None:
        """Read all topologies once: a peer does not notice a changed one."""
        self._topologies = {
            record.equipment.equipment_id: record.equipment
            for record in await self.store.list_equipment()
        }

    def resolve(self, asked: Asked) -> tuple[Equipment, Bins]:
        """Return the machine and the window that a request means.

        Raises:
            UnknownEquipment: it is not registered.
        """
        equipment = self._topologies.get(asked.equipment_id)
        if equipment is None:
            raise UnknownEquipment(asked.equipment_id)
        return equipment, window_before(equipment, asked.at, datetime.now(UTC))

    async def fetch(self, items: Sequence[Asked]) -> list[Fetched]:
        """Read the windows of several requests in one statement."""
        resolved = [self.resolve(item) for item in items]
        windows = await self.store.read_windows(
            [(equipment.equipment_id, *bins) for equipment, bins in resolved]
        )
        return [Fetched(*pair, window) for pair, window in zip(resolved, windows, strict=True)]

    def answer(self, fetched: Sequence[Fetched]) -> list[Diagnosis]:
        """Make the diagnoses of a batch: features, one forward pass, answers. Computes only; may run in a thread."""
        groups = self._groups(fetched)
        predictions = self.predictor.predict([group.graph for group in groups])
        diagnoses: dict[int, Diagnosis] = {}
        for group, prediction in zip(groups, predictions, strict=True):
            summaries = group.summary.windows(fetched[group.positions[0]].equipment.sensor_ids)
            windows = zip(group.positions, window_predictions(prediction), summaries, strict=True)
            for position, scores, summary in windows:
                item = fetched[position]
                diagnoses[position] = self.conclude(
                    item.equipment,
                    item.bins,
                    item.window.newest,
                    Scores(scores),
                    summary,
                )
        return [diagnoses[position] for position in range(len(fetched))]

    def graphs(self, fetched: Sequence[Fetched]) -> list[GraphGroup]:
        """Make the groups of several windows' graphs."""
        return [group.graph for group in self._groups(fetched)]

    def group(self, positions: Sequence[int], equipment: Equipment, values_WSN: Floats) -> Group:
        """Make the graphs of windows of one topology; `equipment` is any machine of it."""
        plan = self._plan(equipment)
        return Group(positions, *build_windows(values_WSN, plan))

    def _groups(self, fetched: Sequence[Fetched]) -> list[Group]:
        alike: dict[str, list[int]] = {}
        for position, item in enumerate(fetched):
            alike.setdefault(item.equipment.structure_digest, []).append(position)
        groups = []
        for positions in alike.values():
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

    def conclude(
        self,
        equipment: Equipment,
        bins: Bins,
        newest: datetime | None,
        scores: Scores,
        summary: WindowQuality,
    ) -> Diagnosis:
        """Make a diagnosis of a window's scores."""
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
        taught = self.checkpoint
        decoder = PredictionDecoder.of(
            taught.manifest.version,
            equipment.design,
            taught.manifest,
            taught.feature_spec,
            taught.calibration,
        )
        return build_diagnosis(equipment, context, scores, summary, decoder, self._thresholds, {})

    async def warm_up(self) -> None:
        """Answer for every batch size up to 32 in part, on windows of no readings."""
        equipment = next(iter(self._topologies.values()))
        bins = Bins(0, equipment.bins)
        empty = StoredWindow(equipment.equipment_id, *bins, equipment.grid_us, (), b"", b"", None)
        for size in (1, 2, 4, 8, 16, 32):
            self.answer([Fetched(equipment, bins, empty)] * size)


class SizeLog:
    """Writes the size of each batch where the benchmark reads them between loads: a line each, a few microseconds.

    Args:
        directory: has a file for each process.
    """

    def __init__(self, directory: Path) -> None:
        self._file = os.open(
            directory / f"{os.getpid()}.sizes", os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )

    def note(self, size: int) -> None:
        """Write one batch's size."""
        os.write(self._file, b"%d\n" % size)


class Batcher:
    """Hand-written micro-batching: while one batch is under way the next gathers, and no request waits for company.

    Args:
        work: answers a batch.
        most: requests of a batch at most.
        in_flight: batches under way at most; with 2 one reads the store while the other computes.
        sizes: is told the size of each batch.
    """

    def __init__(
        self,
        work: Callable[[list[Asked]], Awaitable[list[bytes]]],
        most: int,
        in_flight: int,
        sizes: SizeLog,
    ) -> None:
        self._work = work
        self._most = most
        self._free = in_flight
        self._waiting: list[tuple[Asked, asyncio.Future[bytes]]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._sizes = sizes

    async def ask(self, item: Asked) -> bytes:
        """Answer a request with others that wait."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._free:
            self._begin()
        return await answer

    def _begin(self) -> None:
        self._free -= 1
        task = asyncio.get_running_loop().create_task(self._run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self) -> None:
        await asyncio.sleep(0)  # requests that the loop has already received come along
        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            if not batch:  # another batch took what this one was begun for
                return
            self._sizes.note(len(batch))
            for (_, future), answer in zip(
                batch, await self._work([item for item, _ in batch]), strict=True
            ):
                if not future.done():
                    future.set_result(answer)
        except Exception as error:  # noqa: BLE001 - the callers get it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._free += 1
            if self._waiting:
                self._begin()


@dataclass(frozen=True)
class Options:
    """How a peer is started."""

    dsn: str
    port: int
    sizes: Path
    threads: int
    workers: int
    in_flight: int
    most: int


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
    parser.add_argument("--most", type=int, default=32)
    return Options(**vars(parser.parse_args()))


def compute_thread() -> ThreadPoolExecutor:
    """Return the one thread that computes beside the event loop."""
    return ThreadPoolExecutor(1, thread_name_prefix="compute")
