"""The readings of requests: those that came with them, and those of the store, many windows in one statement.

Invariant: a stored window is read by the topology that is registered when it is read, also when that was changed since the request came in.
"""

import time
from collections.abc import Sequence
from datetime import datetime

from app.core.errors import HydraulicDiagnosticsError, StoreError, WindowError
from app.features.binning import Floats
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.requests import Resolved, resolve
from app.serving.ingress.windows import interval_of
from app.serving.observability import tracing
from app.serving.observability.metrics import Metrics
from app.store.store import Store
from app.store.windows import StoredWindow

Readings = StoredWindow | Floats


class WindowSource:
    """Where windows come from.

    Args:
        store: the database; may be away.
        machines: finds topologies.
        metrics: where the time of reading is counted.
    """

    def __init__(self, store: Store, machines: EquipmentRegistry, metrics: Metrics) -> None:
        self._store = store
        self._machines = machines
        self._metrics = metrics

    async def read(
        self, items: Sequence[Resolved], now: datetime
    ) -> tuple[Sequence[Resolved], list[Readings | HydraulicDiagnosticsError]]:
        """Return the items with their readings, those whose topology was changed meanwhile with the new one."""
        windows = await self._windows(items)
        changed = [
            position
            for position, window in enumerate(windows)
            if isinstance(window, StoredWindow)
            and window.revision != items[position].equipment.revision
        ]
        if not changed:
            return items, windows
        registered = await self._machines.renew(
            [items[position].equipment.equipment_id for position in changed]
        )
        resolved = list(items)
        again: list[int] = []
        for position in changed:
            equipment = registered[items[position].equipment.equipment_id]
            if isinstance(equipment, HydraulicDiagnosticsError):
                windows[position] = equipment
                continue
            try:
                resolved[position] = resolve(items[position].request, equipment, now)
                again.append(position)
            except HydraulicDiagnosticsError as error:
                windows[position] = error
        found = await self._windows([resolved[position] for position in again])
        for position, window in zip(again, found, strict=True):
            empty = isinstance(window, StoredWindow) and not window.count
            windows[position] = _empty(resolved[position]) if empty else window
        return resolved, windows

    async def _windows(
        self, items: Sequence[Resolved]
    ) -> list[Readings | HydraulicDiagnosticsError]:
        """Return each item's readings: those that it brought, or those of the store, in one statement."""
        stored = [item for item in items if item.inline is None]
        if not stored:
            return [item.inline for item in items if item.inline is not None]
        started = time.perf_counter()
        try:
            with tracing.span("read windows", windows=len(stored)):
                windows = iter(
                    await self._store.read_windows(
                        [(item.equipment.equipment_id, *item.bins) for item in stored]
                    )
                )
        except StoreError as error:
            return [error if item.inline is None else item.inline for item in items]
        self._metrics.stage_seconds.labels("fetch").observe(time.perf_counter() - started)
        found: list[Readings | HydraulicDiagnosticsError] = []
        for item in items:
            if item.inline is not None:
                found.append(item.inline)
                continue
            window = next(windows)
            found.append(
                window
                if window.count or window.revision != item.equipment.revision
                else _empty(item)
            )
        return found


def age_s(readings: Readings, now: datetime) -> float | None:
    """Return the age of a stored window's newest reading; None for inline readings, and where there is none."""
    if not isinstance(readings, StoredWindow) or readings.newest is None:
        return None
    return max(0.0, (now - readings.newest).total_seconds())


def _empty(resolved: Resolved) -> WindowError:
    window = interval_of(resolved.bins, resolved.equipment)
    return WindowError(
        f"expected readings of '{resolved.equipment.equipment_id}' in [{window.start.isoformat()}, {window.end.isoformat()}), "
        "found none: post readings, or give `at` where there are some",
        "at",
    )
