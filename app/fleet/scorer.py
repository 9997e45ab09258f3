"""A page of machines to stored diagnoses: windows in one statement a batch, features, one forward pass, one write.

While a batch is computed, in the one thread that computes, the next one is read and the one before is written. It knows
nothing of Ray. States have hysteresis as in the service: a machine's last states are those of its newest stored diagnosis
of stored readings whose window ended before this one; with a forced version there are none, as there.
Invariant: a machine that can't be scored is one failed outcome; a database that is away ends the page with its error, and
what was written of it is not scored again.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from app.checkpoint.files import Checkpoint, load
from app.checkpoint.locate import find_checkpoint
from app.checkpoint.manifest import WEIGHTS
from app.core.errors import CheckpointError, HydraulicDiagnosticsError
from app.core.settings import Settings
from app.diagnosis.build import DiagnosisContext, DiagnosisFields, Scores, as_json, build_diagnosis
from app.diagnosis.decoder import ComponentPrediction, PredictionDecoder, component_predictions
from app.diagnosis.input_quality import QualityBatch, WindowQuality
from app.diagnosis.window_plan import WindowPlan, build_windows, plan_windows
from app.features.binning import window_digest
from app.features.spec import check_shape
from app.fleet.plan import Plan
from app.model.graph import GraphBatch, concatenate, take_graphs
from app.model.network import Network, score
from app.model.runtime.selection import choose
from app.schemas.diagnosis import State, Window
from app.schemas.equipment import MAX_SENSOR_BINS, MAX_SENSOR_STEPS, Equipment
from app.serving.ingress.stored import row_of
from app.serving.ingress.traffic import order_of_versions
from app.serving.ingress.windows import Bins, interval_of, window_before
from app.serving.rpc.recent import Recent
from app.store.diagnoses import StoredDiagnosis
from app.store.fleet import FleetRun, Page, PageMachine
from app.store.store import Store
from app.store.windows import StoredWindow, decode_window

logger = logging.getLogger(__name__)

MAX_VERSIONS = 4
"""Versions whose weights are held at once."""
MAX_PLAN_BYTES = 64 * 1024 * 1024
"""Of the plans of the topologies of each version."""
NOT_REGISTERED = "not registered: register its topology with PUT /v1/equipment/{equipment_id}, or take it out of the file"
NO_READINGS = "no readings in its window: post readings, or give an --at where there are some"

Status = Literal["ok", "insufficient_evidence", "failed", "known", "ended"]


class Outcome(NamedTuple):
    """What became of one machine.

    Args:
        equipment_id: whose outcome it is.
        status: that of the diagnosis that was stored; `failed` without one, `known` when the run had stored one before;
            `ended` is of no machine: the run ends with the error named by `version` and `reason`.
        version: that it was scored with; empty when it was not.
        reason: why it failed, else empty; without the machine's id, so that equal reasons are equal.
        compute_s: seconds of its share in its batch's computing.
    """

    equipment_id: str
    status: Status
    version: str = ""
    reason: str = ""
    compute_s: float = 0.0


class _Machine(NamedTuple):
    """A machine that is to be scored, its window and its version."""

    equipment: Equipment
    diagnosis_id: str
    bins: Bins
    window: Window
    version: str


class _Read(NamedTuple):
    """What was read of a batch, in its order."""

    windows: Sequence[StoredWindow]
    previous: Sequence[Mapping[str, State]]


@dataclass(frozen=True, slots=True)
class _Version:
    """A version's checkpoint, its network as it runs here, and the plans of the topologies scored with it last, by digest."""

    checkpoint: Checkpoint
    network: Network
    plans: Recent[str, WindowPlan]

    def decoder_for(self, name: str, design: str) -> PredictionDecoder:
        """Return what the version was taught of a design."""
        taught = self.checkpoint
        return PredictionDecoder.of(
            name, design, taught.manifest, taught.feature_spec, taught.calibration
        )


@dataclass(frozen=True, slots=True)
class _Group:
    """Windows of one topology.

    Args:
        places: of the machines in the batch.
        rows: of the windows in the summary and the digests.
        graph: their graphs, in this order.
        summary: what their features say of the input.
        digests: of their bins.
    """

    places: Sequence[int]
    rows: Sequence[int]
    graph: GraphBatch
    summary: QualityBatch
    digests: Sequence[str]

    def alone(self) -> "list[_Group]":
        """Return a group for each window."""
        return [
            _Group([place], [row], take_graphs(self.graph, [order]), self.summary, self.digests)
            for order, (place, row) in enumerate(zip(self.places, self.rows, strict=True))
        ]


@dataclass(frozen=True, slots=True)
class _Computed:
    """A batch's diagnoses that are to be stored, and the outcomes of all its machines."""

    diagnoses: Sequence[StoredDiagnosis]
    outcomes: Sequence[Outcome]


class FleetScorer:
    """Scores pages of one run; several pages may be under way at once.

    Args:
        store: the database.
        run: whose diagnoses are stored.
        plan: of the run.
        batch: most graphs of a forward pass.
        device: of the weights, as torch names it.
    """

    def __init__(self, store: Store, run: FleetRun, plan: Plan, batch: int, device: str) -> None:
        self._store = store
        self._runs = store.fleet_runs()
        self._run = run
        self._plan = plan
        self._batch = batch
        self._device = device
        self._versions: OrderedDict[str, _Version] = OrderedDict()
        self._logged: set[str] = set()
        self._computing = ThreadPoolExecutor(1, "compute")

    async def score_page(self, page: Page) -> list[Outcome]:
        """Score the machines of a page that have no diagnosis in this run yet.

        Returns:
            An outcome for each machine of the page, in any order.

        Raises:
            StoreError: the database can't be reached, or refused.
            CheckpointError: a version's weights are not those that the run began with.
        """
        outcomes: list[Outcome] = []
        machines: list[_Machine] = []
        for item in await self._runs.read_page(self._run, page, self._plan.selection):
            found = self._resolve(item)
            if isinstance(found, Outcome):
                outcomes.append(found)
            else:
                machines.append(found)
        batches = list(_batches(machines, self._batch))
        reading = [asyncio.create_task(self._read(batch)) for batch in batches[:1]]
        writing: list[asyncio.Task[None]] = []
        try:
            for number, batch in enumerate(batches):
                read = await reading.pop()
                reading = [
                    asyncio.create_task(self._read(following))
                    for following in batches[number + 1 : number + 2]
                ]
                computed = await asyncio.get_running_loop().run_in_executor(
                    self._computing, self._compute, batch, read
                )
                await _ended(writing)
                writing = [asyncio.create_task(self._store.insert_diagnoses(computed.diagnoses))]
                outcomes += computed.outcomes
            await _ended(writing)
        finally:
            left = [*reading, *writing]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        return outcomes

    def _resolve(self, item: PageMachine) -> _Machine | Outcome:
        if item.done:
            return Outcome(item.equipment_id, "known")
        if item.equipment is None:
            return Outcome(item.equipment_id, "failed", reason=NOT_REGISTERED)
        try:
            # the run's time is its clock: of a machine that repeats a cycle the last whole one is meant
            bins = window_before(item.equipment, None, self._plan.at)
        except HydraulicDiagnosticsError as error:
            return Outcome(item.equipment_id, "failed", reason=error.message)
        version = order_of_versions(item.equipment_id, self._plan.traffic)[0].version
        return _Machine(
            item.equipment, item.diagnosis_id, bins, interval_of(bins, item.equipment), version
        )

    async def _read(self, batch: Sequence[_Machine]) -> _Read:
        windows = self._store.read_windows(
            [(item.equipment.equipment_id, *item.bins) for item in batch]
        )
        if self._plan.forced:
            return _Read(await windows, [{}] * len(batch))
        ends = [(item.equipment.equipment_id, item.window.end) for item in batch]
        return _Read(*await asyncio.gather(windows, self._runs.states_before(ends)))

    def _compute(self, batch: Sequence[_Machine], read: _Read) -> _Computed:
        started = time.perf_counter()
        version = self._version(batch[0].version)
        outcomes: dict[int, Outcome] = {}
        alike: dict[str, list[int]] = {}
        for place, (machine, window) in enumerate(zip(batch, read.windows, strict=True)):
            if window.count:
                alike.setdefault(machine.equipment.structure_digest, []).append(place)
            else:
                outcomes[place] = Outcome(
                    machine.equipment.equipment_id, "failed", machine.version, NO_READINGS
                )
        failures: dict[int, Exception] = {}
        groups = [
            group
            for places in alike.values()
            for group in _built(places, batch, read, version, failures)
        ]
        diagnoses: list[StoredDiagnosis] = []
        for group, told in _scored(groups, version.network, failures):
            first = batch[group.places[0]]
            decoder = version.decoder_for(first.version, first.equipment.design)
            summaries = group.summary.windows(first.equipment.sensor_ids)
            for place, row, scores in zip(group.places, group.rows, told, strict=True):
                try:
                    made = self._told(
                        batch[place],
                        read,
                        place,
                        scores,
                        summaries[row],
                        group.digests[row],
                        decoder,
                    )
                    diagnoses.append(row_of(made, as_json(made)))
                except Exception as error:  # noqa: BLE001 - one machine must not end the run; _failed logs what is not ours
                    failures[place] = error
                    continue
                outcomes[place] = Outcome(
                    batch[place].equipment.equipment_id, made["status"], batch[place].version
                )
        outcomes |= {place: self._failed(batch[place], error) for place, error in failures.items()}
        share_s = (time.perf_counter() - started) / len(batch)
        return _Computed(
            diagnoses, [outcome._replace(compute_s=share_s) for outcome in outcomes.values()]
        )

    def _told(
        self,
        machine: _Machine,
        read: _Read,
        place: int,
        scores: Scores,
        summary: WindowQuality,
        input_digest: str,
        decoder: PredictionDecoder,
    ) -> DiagnosisFields:
        newest = read.windows[place].newest
        context = DiagnosisContext(
            diagnosis_id=machine.diagnosis_id,
            created_at=self._run.created_at,
            window=machine.window,
            source="store",
            stale_s=None if newest is None else max(0.0, (self._plan.at - newest).total_seconds()),
            fallback=False,
            input_digest=input_digest,
        )
        thresholds, previous = self._plan.thresholds, read.previous[place]
        return build_diagnosis(
            machine.equipment, context, scores, summary, decoder, thresholds, previous
        )

    def _failed(self, machine: _Machine, error: Exception) -> Outcome:
        """Return the outcome of a machine that can't be scored; the first of each error not the project's is logged whole."""
        equipment_id = machine.equipment.equipment_id
        if isinstance(error, HydraulicDiagnosticsError):
            reason = error.message.replace(f"'{equipment_id}'", "the machine")
            return Outcome(equipment_id, "failed", machine.version, reason)
        if type(error).__name__ not in self._logged:
            self._logged.add(type(error).__name__)
            logger.error("machine not scored", extra={"equipment_id": equipment_id}, exc_info=error)
        reason = (
            f"an error of our own ({type(error).__name__}): report it with the topology and the log"
        )
        return Outcome(equipment_id, "failed", machine.version, reason)

    def _version(self, name: str) -> _Version:
        if name not in self._versions:
            place = self._plan.checkpoints[name]
            checkpoint = load(find_checkpoint(place.directory, Settings()), self._device)
            found = checkpoint.manifest.sha256[WEIGHTS]
            if found != place.weights_sha256:
                raise CheckpointError(
                    f"expected weights {place.weights_sha256[:12]} of version {name} in '{place.directory}', as the run "
                    f"began with, found {found[:12]}: put them back, or give another --run"
                )
            if len(self._versions) >= MAX_VERSIONS:
                self._versions.popitem(last=False)
            self._versions[name] = _Version(
                checkpoint,
                choose(checkpoint.model, 1).network,
                Recent(MAX_PLAN_BYTES, lambda plan: plan.nbytes),
            )
        self._versions.move_to_end(name)
        return self._versions[name]


def _batches(machines: Sequence[_Machine], most: int) -> Iterator[list[_Machine]]:
    """Yield machines of one version and number of steps, those of one topology together: at most `most`, fewer large ones."""
    batch: list[_Machine] = []
    bins = steps = 0
    for machine in sorted(
        machines,
        key=lambda item: (item.version, item.equipment.steps, item.equipment.structure_digest),
    ):
        equipment = machine.equipment
        sensors = len(equipment.sensors)
        more_bins, more_steps = sensors * equipment.bins, sensors * equipment.steps
        alike = not batch or (batch[0].version, batch[0].equipment.steps) == (
            machine.version,
            equipment.steps,
        )
        full = (
            len(batch) >= most
            or bins + more_bins > MAX_SENSOR_BINS
            or steps + more_steps > MAX_SENSOR_STEPS
        )
        if batch and (full or not alike):
            yield batch
            batch, bins, steps = [], 0, 0
        batch.append(machine)
        bins, steps = bins + more_bins, steps + more_steps
    if batch:
        yield batch


def _built(
    places: Sequence[int],
    batch: Sequence[_Machine],
    read: _Read,
    version: _Version,
    failures: dict[int, Exception],
) -> list[_Group]:
    """Build the graphs of machines of one topology together, and when that fails each alone; what fails alone is told."""
    try:
        return [_group(places, batch, read, version)]
    except Exception as error:  # noqa: BLE001 - the machine that it is of fails with it
        if len(places) == 1:
            failures[places[0]] = error
            return []
        return [
            group for place in places for group in _built([place], batch, read, version, failures)
        ]


def _group(
    places: Sequence[int], batch: Sequence[_Machine], read: _Read, version: _Version
) -> _Group:
    first = batch[places[0]].equipment
    plan = version.plans.get(
        first.structure_digest, lambda: plan_windows(first, version.checkpoint.feature_spec)
    )
    values = []
    for place in places:
        equipment = batch[place].equipment
        values_SN = decode_window(read.windows[place], equipment)
        check_shape(values_SN, plan.features, equipment.equipment_id)
        values.append(values_SN)
    digests = [window_digest(values_SN) for values_SN in values]
    return _Group(places, range(len(places)), *build_windows(np.stack(values), plan), digests)


def _scored(
    groups: Sequence[_Group], network: Network, failures: dict[int, Exception]
) -> Iterator[tuple[_Group, Sequence[Scores]]]:
    """Score the windows of groups in one forward pass, and when it fails each in its own, so that a bad one fails alone."""
    if not groups:
        return
    try:
        told = component_predictions(score(network, concatenate([group.graph for group in groups])))
    except Exception as error:  # noqa: BLE001 - the machine that it is of fails with it
        windows = [window for group in groups for window in group.alone()]
        if len(windows) == 1:
            failures[windows[0].places[0]] = error
            return
        for window in windows:
            yield from _scored([window], network, failures)
        return
    start = 0
    for group in groups:
        end = start + len(group.graph.component_type_V)
        yield group, _apart(told[start:end], group.graph.graphs)
        start = end


def _apart(told: Sequence[ComponentPrediction], windows: int) -> list[Scores]:
    """Return the scores of each of some windows of one topology."""
    components = len(told) // windows
    return [Scores(told[first : first + components]) for first in range(0, len(told), components)]


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    while tasks:
        await tasks.pop()
