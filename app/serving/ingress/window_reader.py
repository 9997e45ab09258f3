"""Reads the windows of a micro-batch, with the topology and the baseline that each is read by.

All windows of a batch are read in one statement. A window that can't be read yields its error.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime

import orjson

from app.core.errors import (
    HydraulicDiagnosticsError,
    StoreError,
    UnknownEquipment,
    WindowError,
)
from app.diagnosis.input_quality import MAX_NAMED
from app.diagnosis.pipeline import WindowInput
from app.features.binning import Floats
from app.schemas.places import some_of
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.windows import Resolved, interval_of, resolve
from app.serving.observability import tracing
from app.serving.observability.metrics import Metrics
from app.store.baselines import StoredBaseline
from app.store.store import Store
from app.store.windows import StoredWindow

Readings = StoredWindow | Floats
"""A stored window, or the readings that came with the request."""


class WindowReader:
    """Reads the windows of requests.

    Args:
        store: the database; may be away.
        registry: finds topologies and baselines.
        metrics: of this replica.
    """

    def __init__(self, store: Store, registry: EquipmentRegistry, metrics: Metrics) -> None:
        self._store = store
        self._registry = registry
        self._metrics = metrics

    async def read(
        self, requests: Sequence[Resolved], now: datetime
    ) -> tuple[Sequence[Resolved], list[Readings | HydraulicDiagnosticsError]]:
        """Read the windows of requests.

        A stored window comes with the revision of the topology that is registered when it is read.
        A request that was resolved by another revision is resolved and read again.

        Returns:
            The requests, and the readings of each or its error.
        """
        windows = await self._read_once(requests)
        changed = [
            position
            for position, window in enumerate(windows)
            if isinstance(window, StoredWindow)
            and window.revision != requests[position].equipment.revision
        ]
        if not changed:
            return requests, windows
        registered = await self._registry.renew(
            [requests[position].equipment.equipment_id for position in changed]
        )
        resolved = list(requests)
        again: list[int] = []
        for position in changed:
            equipment = registered[requests[position].equipment.equipment_id]
            if isinstance(equipment, HydraulicDiagnosticsError):
                windows[position] = equipment
                continue
            try:
                resolved[position] = resolve(requests[position].request, equipment, now)
                again.append(position)
            except HydraulicDiagnosticsError as error:
                windows[position] = error
        found = await self._read_once([resolved[position] for position in again])
        for position, window in zip(again, found, strict=True):
            is_empty = isinstance(window, StoredWindow) and not window.count
            windows[position] = _no_readings(resolved[position]) if is_empty else window
        return resolved, windows

    async def _read_once(
        self, requests: Sequence[Resolved]
    ) -> list[Readings | HydraulicDiagnosticsError]:
        stored = [item for item in requests if item.inline is None]
        if not stored:
            return [item.inline for item in requests if item.inline is not None]
        started = time.perf_counter()
        try:
            with tracing.span("read windows", windows=len(stored)):
                windows = iter(
                    await self._store.read_windows(
                        [(item.equipment.equipment_id, *item.bins) for item in stored]
                    )
                )
        except StoreError as error:
            return [error if item.inline is None else item.inline for item in requests]
        self._metrics.stages["fetch"].observe(time.perf_counter() - started)
        found: list[Readings | HydraulicDiagnosticsError] = []
        for item in requests:
            if item.inline is not None:
                found.append(item.inline)
                continue
            window = next(windows)
            is_empty = not window.count and window.revision == item.equipment.revision
            found.append(_no_readings(item) if is_empty else window)
        return found

    async def with_baselines(
        self,
        requests: Sequence[Resolved],
        readings: Sequence[Readings | HydraulicDiagnosticsError],
    ) -> list[WindowInput | HydraulicDiagnosticsError]:
        """Join each window with the baseline of its machine, if there is one in force.

        A machine whose topology came with the request has none.
        """
        ids = [
            "" if isinstance(found, HydraulicDiagnosticsError) else self._baseline_id(item, found)
            for item, found in zip(requests, readings, strict=True)
        ]
        known: Mapping[str, StoredBaseline] = {}
        away: StoreError | None = None
        if any(ids):
            try:
                known = await self._registry.baselines({each for each in ids if each})
            except StoreError as error:
                away = error
        joined: list[WindowInput | HydraulicDiagnosticsError] = []
        for item, found, baseline_id in zip(requests, readings, ids, strict=True):
            equipment = item.equipment
            if isinstance(found, HydraulicDiagnosticsError):
                joined.append(found)
            elif baseline_id and baseline_id not in known:
                joined.append(away or UnknownEquipment(equipment.equipment_id))  # just purged
            else:
                joined.append(WindowInput(equipment, found, known.get(baseline_id)))
        return joined

    def _baseline_id(self, item: Resolved, readings: Readings) -> str:
        if isinstance(readings, StoredWindow):
            return readings.baseline_id
        if item.request.equipment is not None:
            return ""
        return self._registry.baseline_id(item.equipment.equipment_id) or ""


def _no_readings(resolved: Resolved) -> WindowError:
    equipment, window = resolved.equipment, interval_of(resolved.bins, resolved.equipment)
    start, end = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (window.start, window.end))
    sensor_ids = equipment.sensor_ids
    example = {"equipment_id": equipment.equipment_id, "sensor_id": sensor_ids[0]}
    reading = orjson.dumps(example | {"time": start, "value": 1.0}).decode()
    return WindowError(
        f"expected readings of '{equipment.equipment_id}' in [{start}, {end}), found none: send "
        f"the {equipment.window_s:g} s of a window with POST /v1/readings, such as [{reading}] for "
        f"each time and sensor ({some_of(sensor_ids, MAX_NAMED)}), or give `at` where there "
        "are readings",
        "at",
    )
