"""Scores pages of machines offline: reads windows, scores them by the pipeline, writes diagnoses.

While a batch is computed, in the one thread that computes, the next one is read and the one before
is written. It does not import Ray. States have hysteresis as in the service: a machine's previous
states are those of its newest stored diagnosis of stored readings whose window ended before this
one; with a forced version there are none. A machine that can't be scored is one failed outcome. A
database that is away ends the page with its error; a diagnosis that was written is not made again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Literal, NamedTuple, TypeVar

from cachetools import LRUCache, cachedmethod

from app.checkpoint.files import Checkpoint, load
from app.checkpoint.locate import find_checkpoint
from app.checkpoint.manifest import WEIGHTS
from app.checkpoint.predictor import open_predictor
from app.core.errors import CheckpointError, HydraulicDiagnosticsError
from app.core.settings import Settings
from app.core.tasks import end_tasks
from app.diagnosis.build import DiagnosisContext, build_diagnosis
from app.diagnosis.decoder import PredictionDecoder
from app.diagnosis.machine_trends import MachineTrends, WindowTrends
from app.diagnosis.pipeline import (
    BuildResult,
    ScoredWindow,
    ScoreResult,
    WindowGroup,
    WindowInput,
    build_groups,
    row_of,
    score_windows,
)
from app.diagnosis.window_plan import WindowPlan, plan_windows
from app.features.baseline import Baseline
from app.fleet.plan import Plan
from app.model.graph import GraphGroup
from app.model.runtime.predictor import Predictor
from app.schemas.diagnosed_input import Window
from app.schemas.diagnosis import Diagnosis, State
from app.schemas.equipment import MAX_SENSOR_BINS, MAX_SENSOR_STEPS, Equipment
from app.serving.ingress.traffic import machine_of, order_of_versions
from app.serving.ingress.windows import Bins, interval_of, window_before
from app.store.baselines import StoredBaseline
from app.store.diagnoses import StoredDiagnosis
from app.store.fleet import FleetRun, Page, PageMachine
from app.store.history import HealthHistory
from app.store.store import Store
from app.store.windows import StoredWindow

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_VERSIONS = 4
"""Versions whose weights are in memory at once."""
MAX_PLAN_BYTES = 64 * 1024 * 1024
"""Of the plans of the topologies of each version."""
NOT_REGISTERED = (
    "not registered: register its topology with PUT /v1/equipment/{equipment_id}, or take it out "
    "of the file"
)
NO_READINGS = "no readings in its window: post readings, or give an --at where there are some"

Status = Literal["ok", "insufficient_evidence", "failed", "known", "ended"]


class Outcome(NamedTuple):
    """The outcome of one machine.

    Args:
        equipment_id: of the machine.
        status: of the diagnosis that was stored; `failed` without one, `known` when the run had
            stored one before; `ended` belongs to no machine: the run ends with the error named by
            `version` and `reason`.
        version: that scored the machine; empty when none did.
        reason: of a failure, else empty; without the machine's id, so that equal reasons are equal.
        compute_s: the machine's share of the time that its batch was computed.
    """

    equipment_id: str
    status: Status
    version: str = ""
    reason: str = ""
    compute_s: float = 0.0


class _Machine(NamedTuple):
    """A machine to score, its window and its version."""

    equipment: Equipment
    diagnosis_id: str
    bins: Bins
    window: Window
    version: str

    @property
    def equipment_id(self) -> str:
        return self.equipment.equipment_id


class _Input(NamedTuple):
    """What was read for a machine."""

    machine: _Machine
    window: StoredWindow
    previous: Mapping[str, State]
    baseline: StoredBaseline | None
    history: HealthHistory

    @property
    def scored(self) -> WindowInput:
        return WindowInput(self.machine.equipment, self.window, self.baseline)


class _Version(NamedTuple):
    """A version's checkpoint, its predictor and recent plans by structure and baseline."""

    name: str
    checkpoint: Checkpoint
    predictor: Predictor
    plans: LRUCache[tuple[str, str], WindowPlan]

    def build(self, groups: Sequence[WindowGroup], windows: Sequence[WindowInput]) -> BuildResult:
        """Build the graphs of windows."""

        def plan_of(group: WindowGroup) -> WindowPlan:
            key = (group.structure_digest, group.baseline_id)
            if key not in self.plans:
                first = windows[group.positions[0]]
                moments = None if first.baseline is None else first.baseline.moments
                baseline = None if moments is None else Baseline.model_validate_json(moments)
                spec = self.checkpoint.feature_spec
                self.plans[key] = plan_windows(first.equipment, spec, baseline)
            return self.plans[key]

        return build_groups(groups, plan_of)

    def decoder_for(self, equipment: Equipment) -> PredictionDecoder:
        """Return the decoder of the version's predictions for the design of a machine."""
        of = self.checkpoint
        return PredictionDecoder.of(
            self.name, equipment, of.manifest, of.feature_spec, of.calibration
        )


_Computed = tuple[list[StoredDiagnosis], list[Outcome]]
"""A batch's diagnoses to store, and the outcomes of its machines."""


class FleetScorer:
    """Scores pages of one run; several pages may be in progress at once.

    Args:
        store: has the readings, and keeps the diagnoses.
        run: the run.
        plan: its plan.
        batch: most machines of a forward pass.
        device: of the network: `cpu`, `cuda` or `auto`.
    """

    def __init__(self, store: Store, run: FleetRun, plan: Plan, batch: int, device: str) -> None:
        self._store = store
        self._runs = store.fleet_runs()
        self._run = run
        self._plan = plan
        self._batch = batch
        self._device = device
        self._versions: LRUCache[str, _Version] = LRUCache(MAX_VERSIONS)
        self._logged: set[str] = set()
        self._computing = ThreadPoolExecutor(1, "compute")

    async def score_page(self, page: Page) -> list[Outcome]:
        """Score the machines of a page that have no diagnosis in this run yet.

        The outcomes are those of all machines of the page, in any order.

        Raises:
            StoreError: the database can't be reached, or refused.
            CheckpointError: a version's weights are not those that the run began with.
        """
        items = await self._runs.read_page(self._run, page, self._plan.selection)
        resolved = [self._resolve(item) for item in items]
        outcomes = [each for each in resolved if isinstance(each, Outcome)]
        machines = [each for each in resolved if isinstance(each, _Machine)]
        batches = list(_batches(machines, self._batch))
        reading = [asyncio.create_task(self._read(batch)) for batch in batches[:1]]
        writing: list[asyncio.Task[None]] = []
        try:
            for number in range(len(batches)):
                inputs = await reading.pop()
                reading = [
                    asyncio.create_task(self._read(following))
                    for following in batches[number + 1 : number + 2]
                ]
                diagnoses, computed = await self._compute(inputs)
                await _finish(writing)
                writing = [asyncio.create_task(self._store.insert_diagnoses(diagnoses))]
                outcomes += computed
            await _finish(writing)
        finally:
            await end_tasks([*reading, *writing])
        return outcomes

    def _resolve(self, item: PageMachine) -> _Machine | Outcome:
        if item.done:
            return Outcome(item.equipment_id, "known")
        if item.equipment is None:
            return Outcome(item.equipment_id, "failed", reason=NOT_REGISTERED)
        try:
            # the run's time is its clock: a machine that repeats a cycle gets its last whole one
            bins = window_before(item.equipment, None, self._plan.at)
        except HydraulicDiagnosticsError as error:
            return Outcome(item.equipment_id, "failed", reason=error.message)
        window = interval_of(bins, item.equipment)
        version = order_of_versions(machine_of(item.equipment), self._plan.traffic)[0].version
        return _Machine(item.equipment, item.diagnosis_id, bins, window, version)

    async def _read(self, batch: Sequence[_Machine]) -> list[_Input]:
        reading = self._store.read_windows([(item.equipment_id, *item.bins) for item in batch])
        ids = [item.equipment_id for item in batch]
        ends = [(item.equipment_id, item.window.end) for item in batch]
        windows, found, previous = await asyncio.gather(
            reading,
            self._store.health_histories(ids),
            _nothing(len(batch)) if self._plan.forced else self._runs.states_before(ends),
        )
        in_force = {window.baseline_id for window in windows if window.baseline_id}
        baselines = await self._store.baselines(in_force) if in_force else {}
        of_windows = [baselines.get(window.baseline_id) for window in windows]
        histories = [found[equipment_id] for equipment_id in ids]
        return [
            _Input(*each)
            for each in zip(batch, windows, previous, of_windows, histories, strict=True)
        ]

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._computing, work)

    async def _compute(self, batch: Sequence[_Input]) -> _Computed:
        """Make the diagnoses of a batch, all of one version."""
        started = time.perf_counter()
        name = batch[0].machine.version
        inputs = [each for each in batch if each.window.count]
        version = await self._in_thread(lambda: self._version(name))
        to_score = [each.scored for each in inputs]

        async def build(groups: Sequence[WindowGroup]) -> BuildResult:
            return await self._in_thread(lambda: version.build(groups, to_score))

        async def score(groups: Sequence[GraphGroup]) -> ScoreResult:
            return ScoreResult(await self._in_thread(lambda: version.predictor.predict(groups)))

        scored = await score_windows(to_score, build, score)
        diagnoses, outcomes = await self._in_thread(lambda: self._diagnose(inputs, scored, version))
        outcomes += [
            Outcome(each.machine.equipment_id, "failed", name, NO_READINGS)
            for each in batch
            if not each.window.count
        ]
        share_s = (time.perf_counter() - started) / len(batch)
        return diagnoses, [outcome._replace(compute_s=share_s) for outcome in outcomes]

    def _diagnose(
        self,
        inputs: Sequence[_Input],
        scored: Sequence[ScoredWindow | Exception],
        version: _Version,
    ) -> _Computed:
        diagnoses: list[StoredDiagnosis] = []
        outcomes: list[Outcome] = []
        for item, outcome in zip(inputs, scored, strict=True):
            if isinstance(outcome, Exception):
                outcomes.append(self._failed(item.machine, outcome))
                continue
            try:
                diagnosis = self._build(item, outcome, version)
                diagnoses.append(row_of(diagnosis, diagnosis.to_json()))
            # one machine must not end the run; `_failed` logs the error
            except Exception as error:  # noqa: BLE001
                outcomes.append(self._failed(item.machine, error))
                continue
            outcomes.append(Outcome(item.machine.equipment_id, diagnosis.status, version.name))
        return diagnoses, outcomes

    def _build(self, item: _Input, scored: ScoredWindow, version: _Version) -> Diagnosis:
        machine, newest = item.machine, item.window.newest
        context = DiagnosisContext(
            diagnosis_id=machine.diagnosis_id,
            created_at=self._run.created_at,
            window=machine.window,
            source="store",
            stale_s=None if newest is None else max(0.0, (self._plan.at - newest).total_seconds()),
            fallback=False,
            input_digest=scored.input_digest,
            baseline=item.scored.used_baseline,
        )
        return build_diagnosis(
            machine.equipment,
            context,
            scored.scores,
            scored.quality,
            version.decoder_for(machine.equipment),
            self._plan.thresholds,
            item.previous,
            _trends_of(item),
        )

    def _failed(self, machine: _Machine, error: Exception) -> Outcome:
        """Return the outcome of a machine that can't be scored; log one of each foreign type."""
        equipment_id = machine.equipment_id
        if isinstance(error, HydraulicDiagnosticsError):
            reason = error.message.replace(f"'{equipment_id}'", "the machine")
            return Outcome(equipment_id, "failed", machine.version, reason)
        kind = type(error).__name__
        if kind not in self._logged:
            self._logged.add(kind)
            logger.error("machine not scored", extra={"equipment_id": equipment_id}, exc_info=error)
        reason = f"an internal error ({kind}): report it with the topology and the log"
        return Outcome(equipment_id, "failed", machine.version, reason)

    @cachedmethod(lambda self: self._versions)
    def _version(self, name: str) -> _Version:
        place = self._plan.checkpoints[name]
        checkpoint = load(find_checkpoint(place.directory, Settings()))
        found = checkpoint.manifest.sha256[WEIGHTS]
        if found != place.weights_sha256:
            raise CheckpointError(
                f"expected weights {place.weights_sha256[:12]} of version {name} in "
                f"'{place.directory}', as the run began with, found {found[:12]}: put them back, "
                "or give another --run"
            )
        plans: LRUCache[tuple[str, str], WindowPlan] = LRUCache(
            MAX_PLAN_BYTES, lambda plan: min(plan.nbytes, MAX_PLAN_BYTES)
        )
        return _Version(
            name, checkpoint, open_predictor(checkpoint, self._device, 1).predictor, plans
        )


def _batches(machines: Sequence[_Machine], most: int) -> Iterator[list[_Machine]]:
    """Yield batches of one version, those of one structure together, bounded in count and size."""
    order = sorted(machines, key=lambda each: (each.version, each.equipment.structure_digest))
    for _, of_version in groupby(order, lambda each: each.version):
        batch: list[_Machine] = []
        size = 0.0
        for machine in of_version:
            equipment = machine.equipment
            of_machine = len(equipment.sensors) * max(
                equipment.bins / MAX_SENSOR_BINS, equipment.steps / MAX_SENSOR_STEPS
            )
            if batch and (len(batch) >= most or size + of_machine > 1.0):
                yield batch
                batch, size = [], 0.0
            batch.append(machine)
            size += of_machine
        yield batch


def _trends_of(item: _Input) -> WindowTrends:
    """Return the machine's trends as of its window."""
    end_us = round(item.machine.window.end.timestamp() * 1e6)
    return MachineTrends(item.history).before(end_us)


async def _nothing(count: int) -> list[Mapping[str, State]]:
    """Return no previous states."""
    return [{}] * count


async def _finish(tasks: list[asyncio.Task[None]]) -> None:
    while tasks:
        await tasks.pop()
