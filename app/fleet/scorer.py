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

from app.card import WEIGHTS
from app.checkpoint import Checkpoint, load
from app.diagnose import Knowledge, Occasion, Scores, diagnose
from app.errors import CheckpointError, HydraulicDiagnosticsError
from app.evidence import InputSummary, summarise
from app.features import window_features
from app.fleet.plan import Plan
from app.graph import GraphBatch, build_graph, concatenate, split_output
from app.model import score
from app.schemas.diagnosis import Diagnosis, State, Window
from app.schemas.equipment import MAX_SENSOR_BINS, MAX_SENSOR_STEPS, Equipment
from app.serving.traffic import order_of_versions
from app.serving.windows import Bins, interval_of, window_before
from app.settings import PROJECT_DIR
from app.store.fleet import FleetRun, Page, PageMachine
from app.store.store import Store
from app.store.windows import StoredWindow, decode_window

logger = logging.getLogger(__name__)

MAX_CHECKPOINTS = 4
"""Versions whose weights are held at once."""
NOT_REGISTERED = (
    "not registered: register its topology with PUT /v1/equipment/{equipment_id}, or take it out of the file"
)
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
class _Built:
    """A window's graph, what its features say of the input, and its place in the batch."""

    place: int
    graph: GraphBatch
    summary: InputSummary


@dataclass(frozen=True, slots=True)
class _Computed:
    """A batch's diagnoses that are to be stored, and the outcomes of all its machines."""

    diagnoses: Sequence[Diagnosis]
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
        self._checkpoints: OrderedDict[str, Checkpoint] = OrderedDict()
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
                reading = [asyncio.create_task(self._read(following)) for following in batches[number + 1 : number + 2]]
                computed = await asyncio.get_running_loop().run_in_executor(self._computing, self._compute, batch, read)
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
            return _failed(item.equipment, "", error)
        version = order_of_versions(item.equipment_id, self._plan.traffic)[0].version
        return _Machine(item.equipment, item.diagnosis_id, bins, interval_of(bins, item.equipment), version)

    async def _read(self, batch: Sequence[_Machine]) -> _Read:
        windows = self._store.read_windows([(item.equipment.equipment_id, *item.bins) for item in batch])
        if self._plan.forced:
            return _Read(await windows, [{}] * len(batch))
        ends = [(item.equipment.equipment_id, item.window.end) for item in batch]
        return _Read(*await asyncio.gather(windows, self._runs.states_before(ends)))

    def _compute(self, batch: Sequence[_Machine], read: _Read) -> _Computed:
        started = time.perf_counter()
        version = batch[0].version
        checkpoint = self._checkpoint(version)
        outcomes: dict[int, Outcome] = {}
        built: list[_Built] = []
        for place, (machine, window) in enumerate(zip(batch, read.windows, strict=True)):
            if not window.count:
                outcomes[place] = Outcome(machine.equipment.equipment_id, "failed", version, NO_READINGS)
                continue
            try:
                built.append(_build(place, machine.equipment, window, checkpoint))
            except Exception as error:  # noqa: BLE001 - one machine must not end the run; _failed logs what is not ours
                outcomes[place] = _failed(machine.equipment, version, error)
        diagnoses: list[Diagnosis] = []
        for part, scores in zip(built, _scores_of(built, checkpoint), strict=True):
            machine = batch[part.place]
            try:
                diagnosis = self._diagnosis(machine, read, part, _known(scores), checkpoint)
            except Exception as error:  # noqa: BLE001 - as above
                outcomes[part.place] = _failed(machine.equipment, version, error)
                continue
            diagnoses.append(diagnosis)
            outcomes[part.place] = Outcome(machine.equipment.equipment_id, diagnosis.status, version)
        share_s = (time.perf_counter() - started) / len(batch)
        return _Computed(diagnoses, [outcome._replace(compute_s=share_s) for outcome in outcomes.values()])

    def _diagnosis(
        self, machine: _Machine, read: _Read, part: _Built, scores: Scores, checkpoint: Checkpoint
    ) -> Diagnosis:
        newest = read.windows[part.place].newest
        occasion = Occasion(
            diagnosis_id=machine.diagnosis_id,
            created_at=self._run.created_at,
            window=machine.window,
            source="store",
            stale_s=None if newest is None else max(0.0, (self._plan.at - newest).total_seconds()),
            fallback=False,
        )
        knowledge = Knowledge(
            version=machine.version,
            grades=checkpoint.feature_spec.grades.get(machine.equipment.design, {}),
            trained_heads=checkpoint.card.trained_heads,
        )
        previous = read.previous[part.place]
        return diagnose(machine.equipment, occasion, scores, part.summary, knowledge, self._plan.thresholds, previous)

    def _checkpoint(self, version: str) -> Checkpoint:
        if version not in self._checkpoints:
            place = self._plan.checkpoints[version]
            checkpoint = load(PROJECT_DIR / place.directory, self._device)
            found = checkpoint.card.sha256[WEIGHTS]
            if found != place.weights_sha256:
                raise CheckpointError(
                    f"expected weights {place.weights_sha256[:12]} of version {version} in '{place.directory}', as the run "
                    f"began with, found {found[:12]}: put them back, or give another --run"
                )
            if len(self._checkpoints) >= MAX_CHECKPOINTS:
                self._checkpoints.popitem(last=False)
            self._checkpoints[version] = checkpoint
        self._checkpoints.move_to_end(version)
        return self._checkpoints[version]


def _batches(machines: Sequence[_Machine], most: int) -> Iterator[list[_Machine]]:
    """Yield machines of one version and one number of steps together, at most `most`, fewer when they are large."""
    batch: list[_Machine] = []
    bins = steps = 0
    for machine in sorted(machines, key=lambda item: (item.version, item.equipment.steps, item.equipment.design)):
        equipment = machine.equipment
        sensors = len(equipment.sensors)
        more_bins, more_steps = sensors * equipment.bins, sensors * equipment.steps
        alike = not batch or (batch[0].version, batch[0].equipment.steps) == (machine.version, equipment.steps)
        full = len(batch) >= most or bins + more_bins > MAX_SENSOR_BINS or steps + more_steps > MAX_SENSOR_STEPS
        if batch and (full or not alike):
            yield batch
            batch, bins, steps = [], 0, 0
        batch.append(machine)
        bins, steps = bins + more_bins, steps + more_steps
    if batch:
        yield batch


def _build(place: int, equipment: Equipment, window: StoredWindow, checkpoint: Checkpoint) -> _Built:
    spec = checkpoint.feature_spec
    features = window_features(decode_window(window, equipment), equipment, spec)
    return _Built(place, build_graph(equipment, features, spec), summarise(equipment, features, spec))


def _scores_of(built: Sequence[_Built], checkpoint: Checkpoint) -> list[Scores | Exception]:
    """Score graphs in one forward pass, and when it fails each in its own, so that a bad one fails alone."""
    if not built:
        return []
    try:
        output = score(checkpoint.model, concatenate([part.graph for part in built]))
    except Exception as error:  # noqa: BLE001 - the machine that it is of fails with it
        if len(built) == 1:
            return [error]
        return [found for part in built for found in _scores_of([part], checkpoint)]
    return [Scores(part) for part in split_output(output, [len(part.graph.component_type_V) for part in built])]


def _known(scores: Scores | Exception) -> Scores:
    if isinstance(scores, Exception):
        raise scores
    return scores


def _failed(equipment: Equipment, version: str, error: Exception) -> Outcome:
    """Return the outcome of a machine that can't be scored; an error that is not the project's goes to the log whole."""
    if isinstance(error, HydraulicDiagnosticsError):
        reason = error.message.replace(f"'{equipment.equipment_id}'", "the machine")
    else:
        logger.error("machine not scored", extra={"equipment_id": equipment.equipment_id}, exc_info=error)
        reason = f"an error of our own ({type(error).__name__}): report it with the topology and the log"
    return Outcome(equipment.equipment_id, "failed", version, reason)


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    while tasks:
        await tasks.pop()
