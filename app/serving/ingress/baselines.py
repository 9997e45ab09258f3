"""Records the baselines of machines: measures the windows of an interval, and stores the moments.

The interval is read in parts, twice, and each part is measured in a thread, so memory and the event
loop bear an interval of any length that is accepted.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.core.errors import ConflictError, InputError, UnknownBaseline, WindowError
from app.features.baseline import Baseline
from app.features.binning import Floats
from app.features.references import LEAST_WINDOWS, BaselineMeasurement
from app.schemas.baselines import BaselineRequest, MachineBaseline
from app.schemas.equipment import Equipment
from app.schemas.places import some_of
from app.serving.ingress.windows import CLOCK_SKEW, EPOCH, MICROSECOND
from app.store.baselines import NewBaseline, StoredBaseline
from app.store.labels import ConditionLabel
from app.store.store import Store
from app.store.windows import StoredWindow, decode_window

if TYPE_CHECKING:  # it imports Ray, which the command line does not need
    from app.serving.ingress.equipment_registry import EquipmentRegistry

MAX_VALUES = 20_000_000
"""Most sensor bins of an interval: 13 days of 17 sensors at 1 Hz."""
VALUES_AT_ONCE = 500_000
"""Sensor bins that are read and measured together."""
HEALTHY = 0.9
"""Least health of a label that does not contradict a healthy interval, as in training."""


class _Span(NamedTuple):
    """Bins that hold whole windows, one every `stride` bins."""

    first: int
    windows: int
    stride: int


class _Measured(NamedTuple):
    """What the complete windows of an interval have shown."""

    baseline: Baseline
    windows: int
    stuck_S: NDArray[np.bool_]


class BaselineService:
    """Records, returns and deletes the baselines of machines.

    Args:
        store: the database.
        registry: finds machines; is notified of changes.
        now: UTC clock.
    """

    def __init__(
        self, store: Store, registry: "EquipmentRegistry", now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._registry = registry
        self._now = now

    async def put(self, equipment_id: str, request: BaselineRequest, actor: str) -> MachineBaseline:
        """Measure a healthy interval of a machine and use it from now on.

        Args:
            equipment_id: of the machine.
            request: the interval.
            actor: recorded.

        Raises:
            UnknownEquipment: the machine is not registered.
            InputError: the interval can't be used.
            ConflictError: labels contradict it, or the topology has just changed.
        """
        equipment = await self._registry.topology(equipment_id)
        found = await record_baseline(self._store, equipment, request, actor, self._now())
        await self._changed(equipment_id)
        return found

    async def get(self, equipment_id: str, baseline_id: str | None = None) -> MachineBaseline:
        """Return a machine's baseline in force, or any that it had.

        Raises:
            UnknownEquipment: the machine is not registered.
            UnknownBaseline: it has none, or none of this id.
        """
        await self._registry.topology(equipment_id)
        return await find_baseline(self._store, equipment_id, baseline_id)

    async def delete(self, equipment_id: str, actor: str) -> MachineBaseline:
        """Stop using a machine's baseline; it is kept for the diagnoses that name it.

        Raises:
            UnknownEquipment: the machine is not registered.
            UnknownBaseline: it has none.
        """
        await self._registry.topology(equipment_id)
        found = await end_baseline(self._store, equipment_id, actor)
        await self._changed(equipment_id)
        return found

    async def _changed(self, equipment_id: str) -> None:
        await self._registry.renew([equipment_id])
        self._registry.note_change(equipment_id)


async def record_baseline(
    store: Store, equipment: Equipment, request: BaselineRequest, actor: str, now: datetime
) -> MachineBaseline:
    """Measure a healthy interval of a machine and store its baseline; see `BaselineService.put`.

    Args:
        store: the database.
        equipment: the machine.
        request: the interval.
        actor: recorded.
        now: UTC.
    """
    span = _span(equipment, request, now)
    await _check_labels(store, equipment, request)
    measured = await _measure(store, equipment, span)
    baseline = measured.baseline
    if not baseline.sensors:
        raise WindowError(
            f"expected a sensor with readings in at least {LEAST_WINDOWS} windows of the interval, "
            f"found none among {some_of(equipment.sensor_ids)}: give a longer interval",
            "start",
        )
    new = NewBaseline(
        baseline_id=_identity(equipment, request, baseline),
        start=request.start,
        end=request.end,
        windows=measured.windows,
        missing_sensors=tuple(
            each for each in equipment.sensor_ids if each not in baseline.sensors
        ),
        stuck_sensors=tuple(
            each
            for each, is_stuck in zip(equipment.sensor_ids, measured.stuck_S, strict=True)
            if is_stuck and each in baseline.sensors
        ),
        moments=baseline.model_dump_json(),
    )
    if not await store.put_baseline(equipment.equipment_id, equipment.revision, new, actor):
        raise ConflictError(
            f"expected the topology of '{equipment.equipment_id}' not to change while its "
            "baseline is measured, found another revision: repeat the request"
        )
    return await find_baseline(store, equipment.equipment_id, new.baseline_id)


async def find_baseline(
    store: Store, equipment_id: str, baseline_id: str | None = None
) -> MachineBaseline:
    """Return the baseline of a machine in force, or with an id any that it had.

    Raises:
        UnknownBaseline: there is none.
    """
    if baseline_id is None:
        record = await store.get_equipment(equipment_id)
        baseline_id = None if record is None else record.baseline_id
    found = None if baseline_id is None else (await store.baselines([baseline_id])).get(baseline_id)
    if found is None or found.equipment_id != equipment_id:
        raise _none(equipment_id)
    return _answer(found)


async def end_baseline(store: Store, equipment_id: str, actor: str) -> MachineBaseline:
    """Stop using the baseline of a machine.

    Raises:
        UnknownBaseline: there is none in force.
    """
    ended = await store.delete_baseline(equipment_id, actor)
    if ended is None:
        raise _none(equipment_id)
    return await find_baseline(store, equipment_id, ended)


def _span(equipment: Equipment, request: BaselineRequest, now: datetime) -> _Span:
    """Return the windows of an interval: at starts of cycles, or one after the other.

    Raises:
        InputError: the interval is empty, in the future, or too short or long.
    """
    start, end = request.start, request.end
    if start >= end:
        raise InputError(
            f"expected start before end, found {start.isoformat()} and {end.isoformat()}: "
            "exchange or widen them",
            "start",
        )
    if end > now + CLOCK_SKEW:
        raise InputError(
            f"expected an interval that ends by now ({now.isoformat(timespec='seconds')}), found "
            f"an end of {end.isoformat()}: give an interval of stored readings",
            "end",
        )
    if start < EPOCH:
        raise InputError(
            f"expected an interval after {EPOCH.isoformat()}, found a start of "
            f"{start.isoformat()}: correct it",
            "start",
        )
    grid_us, window_us = equipment.grid_us, equipment.bins * equipment.grid_us
    unit_us = grid_us if equipment.cycle_s is None else round(equipment.cycle_s * 1_000_000)
    stride_us = -(-window_us // unit_us) * unit_us
    # windows end where a cycle does, as those of a diagnosis of "now"
    end_us = -(-(((start - EPOCH) // MICROSECOND) + window_us) // unit_us) * unit_us
    first = -(-(end_us - window_us) // grid_us)
    bins = ((end - EPOCH) // MICROSECOND) // grid_us - first
    stride = stride_us // grid_us
    windows = max(0, bins - equipment.bins) // stride + (bins >= equipment.bins)
    if windows < LEAST_WINDOWS:
        raise InputError(
            f"expected an interval of at least {LEAST_WINDOWS} windows of {equipment.window_s:g} "
            f"s, found one of {windows}: widen it",
            "end",
        )
    longest = MAX_VALUES // len(equipment.sensors)
    if windows * stride > longest:
        limit = timedelta(microseconds=longest * grid_us)
        raise InputError(
            f"expected an interval of at most {limit} for {len(equipment.sensors)} sensors in bins "
            f"of {equipment.grid_s:g} s, found {end - start}: shorten it",
            "end",
        )
    return _Span(first, windows, stride)


async def _check_labels(store: Store, equipment: Equipment, request: BaselineRequest) -> None:
    """Check that no label says that the machine was not healthy in the interval.

    Raises:
        ConflictError: one does.
    """
    start_us, end_us = ((each - EPOCH) // MICROSECOND for each in (request.start, request.end))
    worn = [
        f"'{label.component_id}' {_said(label)}"
        for label in await store.read_labels(equipment.equipment_id, start_us, end_us)
        if _health(label, equipment) < HEALTHY
    ]
    if worn:
        raise ConflictError(
            f"expected an interval without labels of a health below {HEALTHY:g}, found "
            f"{some_of(worn, 5)}: give another interval, or correct the labels"
        )


def _health(label: ConditionLabel, equipment: Equipment) -> float:
    """Return the health that a label states; 1 where it states none."""
    if label.health is not None:
        return label.health
    return next(
        (
            grade.health
            for component in equipment.components
            if component.component_id == label.component_id
            for grade in component.grades
            if grade.name == label.grade
        ),
        1.0,
    )


def _said(label: ConditionLabel) -> str:
    said = f"health {label.health:g}" if label.health is not None else f"grade '{label.grade}'"
    return f"with {said} from {(EPOCH + label.start_us * MICROSECOND).isoformat()}"


async def _measure(store: Store, equipment: Equipment, span: _Span) -> _Measured:
    """Read and measure the complete windows of a span.

    Raises:
        WindowError: too few windows are complete.
    """
    measurement = BaselineMeasurement(equipment)
    windows = 0
    async for values_WSN in _complete_windows(store, equipment, span):
        await asyncio.to_thread(measurement.relate, values_WSN)
        windows += len(values_WSN)
    if windows < LEAST_WINDOWS:
        raise WindowError(
            f"expected at least {LEAST_WINDOWS} windows of '{equipment.equipment_id}' in the "
            f"interval with readings in all of their {equipment.steps} steps, found {windows} of "
            f"{span.windows}: give another interval, or send the readings of this one with POST "
            "/v1/readings",
            "start",
        )
    stuck_S = np.zeros(len(equipment.sensors), np.bool_)
    async for values_WSN in _complete_windows(store, equipment, span):
        found = await asyncio.to_thread(measurement.observe, values_WSN)
        stuck_S |= found.flat_S == 1.0
    baseline = await asyncio.to_thread(measurement.baseline)
    if baseline is None:
        raise WindowError(
            f"expected the readings of '{equipment.equipment_id}' in the interval to stay while "
            "they are measured, found none left: repeat the request",
            "start",
        )
    return _Measured(baseline, windows, stuck_S)


async def _complete_windows(
    store: Store, equipment: Equipment, span: _Span
) -> AsyncIterator[Floats]:
    """Read the complete windows of a span, [W, S, N] at once."""
    for part in _parts(equipment, span):
        bins = (part.windows - 1) * part.stride + equipment.bins
        (stored,) = await store.read_windows([(equipment.equipment_id, part.first, bins)])
        values_WSN = await asyncio.to_thread(_values, stored, equipment, part)
        if len(values_WSN):
            yield values_WSN


def _parts(equipment: Equipment, span: _Span) -> Iterator[_Span]:
    at_once = max(1, VALUES_AT_ONCE // (len(equipment.sensors) * span.stride))
    for done in range(0, span.windows, at_once):
        count = min(at_once, span.windows - done)
        yield _Span(span.first + done * span.stride, count, span.stride)


def _values(stored: StoredWindow, equipment: Equipment, part: _Span) -> Floats:
    """Return the complete windows of a part, [W, S, N]."""
    values_SN = decode_window(stored, equipment)
    starts = part.stride * np.arange(part.windows)
    place_WN = starts[:, None] + np.arange(equipment.bins)
    values_WSN = values_SN[:, place_WN].swapaxes(0, 1)
    values_WSN = values_WSN[_is_complete(values_WSN, equipment.steps)]
    range_S2 = np.array([sensor.range for _, sensor in equipment.sensors], np.float32)
    with np.errstate(invalid="ignore"):  # false where it is NaN
        outside_WSN = (values_WSN < range_S2[:, :1]) | (values_WSN > range_S2[:, 1:])
    # a sensor out of its range has a fault: it is masked in that window, as in a diagnosis
    return np.where(outside_WSN.any(2, keepdims=True), np.float32(np.nan), values_WSN)


def _is_complete(values_WSN: Floats, steps: int) -> NDArray[np.bool_]:
    """Return which windows have a reading of any sensor in every step, [W]."""
    windows, _, bins = values_WSN.shape
    there_WN: NDArray[np.bool_] = np.any(np.isfinite(values_WSN), axis=1)
    there_WT: NDArray[np.bool_] = np.any(there_WN.reshape(windows, steps, bins // steps), axis=2)
    complete_W: NDArray[np.bool_] = np.all(there_WT, axis=1)
    return complete_W


def _identity(equipment: Equipment, request: BaselineRequest, baseline: Baseline) -> str:
    parts = (equipment.equipment_id, request.start.isoformat(), request.end.isoformat())
    text = "\n".join((*parts, baseline.model_dump_json()))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _answer(stored: StoredBaseline) -> MachineBaseline:
    fields = stored._asdict()
    del fields["moments"]
    return MachineBaseline.model_construct(**fields)


def _none(equipment_id: str) -> UnknownBaseline:
    return UnknownBaseline(
        f"expected a baseline of '{equipment_id}', found none: record one with PUT "
        f"/v1/equipment/{equipment_id}/baseline or `hydraulic equipment baseline {equipment_id} "
        "--start TIME --end TIME`",
        "equipment_id",
    )
