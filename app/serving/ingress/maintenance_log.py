"""Records maintenance of registered machines; their cached responses and trends are dropped."""

from collections.abc import Callable, Sequence
from datetime import datetime

from app.core.errors import UnknownMaintenance
from app.schemas.maintenance import Maintenance, MaintenanceRecord, check_maintenance
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.windows import CLOCK_SKEW
from app.store.maintenance import Recorded
from app.store.store import Store


class MaintenanceLog:
    """The maintenance of registered machines.

    Args:
        store: the database.
        registry: finds topologies.
        now: UTC clock.
        changed: called with the id of a machine after a change of its maintenance.
    """

    def __init__(
        self,
        store: Store,
        registry: EquipmentRegistry,
        now: Callable[[], datetime],
        changed: Callable[[str], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._now = now
        self._changed = changed

    async def record(self, equipment_id: str, item: Maintenance) -> Recorded:
        """Record maintenance.

        Raises:
            UnknownEquipment: the machine is not registered.
            InputError: it has no such component, or the time lies in the future.
        """
        equipment = await self._registry.topology(equipment_id)
        check_maintenance(item, equipment, self._now() + CLOCK_SKEW)
        recorded = await self._store.put_maintenance(equipment_id, item)
        self._changed(equipment_id)
        return recorded

    async def page(
        self,
        equipment_id: str,
        interval: tuple[datetime | None, datetime | None],
        limit: int,
        after: tuple[datetime, int] | None,
    ) -> Sequence[MaintenanceRecord]:
        """Return maintenance of an interval, newest first.

        Raises:
            UnknownEquipment: the machine is neither registered nor deleted.
        """
        await self._registry.known_topology(equipment_id)
        return await self._store.list_maintenance(equipment_id, *interval, limit, after)

    async def remove(self, equipment_id: str, maintenance_id: int) -> None:
        """Remove a record that was made by mistake.

        Raises:
            UnknownEquipment: the machine is neither registered nor deleted.
            UnknownMaintenance: it has no such record.
        """
        await self._registry.known_topology(equipment_id)
        if not await self._store.delete_maintenance(equipment_id, maintenance_id):
            raise UnknownMaintenance(equipment_id, maintenance_id)
        self._changed(equipment_id)
