"""The registered machines as one replica knows them: topologies by id, and their readings' way in.

A diagnosis of stored readings takes a topology as remembered, however long ago: the statement that reads its window tells the
revision, and `renew` is called when it is another one. All else asks again after `TOPOLOGY_CACHE_S`.
Invariant: a topology that was known goes on to serve while the database is away; a change shows everywhere within
`TOPOLOGY_CACHE_S`, on this replica at once, and in a diagnosis of stored readings at once everywhere.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from app.core.errors import HydraulicDiagnosticsError, InputError, StoreError, UnknownEquipment
from app.schemas.equipment import Equipment
from app.schemas.readings import IngestAnswer
from app.schemas.topology import lint, read_equipment
from app.serving.http.routes.equipment import EquipmentSummary, PutAnswer
from app.serving.ingress.ingest import parse_readings
from app.serving.observability.metrics import Metrics
from app.serving.rpc.recent import Recent
from app.store.readings import Ingested, Readings
from app.store.store import Store

TOPOLOGY_CACHE_S = 5.0
MAX_REMEMBERED = 20_000
"""About 5 KB each: machines that differ only in id and name share the rest."""
MAX_STRUCTURES = 1_000
AWAY_S = 5.0
"""How long a known topology is taken as it was before the database, which was away, is asked again."""


class _Remembered(NamedTuple):
    until: float
    equipment: Equipment | None


class EquipmentRegistry:
    """All registered machines.

    Args:
        store: the database; may be away.
        metrics: where readings are counted.
        now: UTC clock.
        declared: machines of the configuration, which serve although the database has been away since the start.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        now: Callable[[], datetime],
        declared: Sequence[Equipment] = (),
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._now = now
        self._declared = {equipment.equipment_id: equipment for equipment in declared}
        self._topologies: OrderedDict[str, _Remembered] = OrderedDict()
        self._structures: Recent[str, Equipment] = Recent(MAX_STRUCTURES, lambda _: 1)
        self._tell: Callable[[str], None] = lambda _: None

    def when_changed(self, tell: Callable[[str], None]) -> None:
        """Have the id of a machine told whenever its topology or readings came in here."""
        self._tell = tell

    async def put(self, equipment_id: str, body: bytes) -> PutAnswer:
        """Register a topology.

        Raises:
            TopologyError: the linter found errors.
            InputError: the body is of another equipment than the path.
        """
        equipment = read_equipment(body, "the body")
        if equipment.equipment_id != equipment_id:
            raise InputError(
                f"expected equipment_id '{equipment_id}' as in the path, found '{equipment.equipment_id}': make them equal",
                "equipment_id",
            )
        result = await self._store.put_equipment(equipment)
        self._remember(equipment_id, equipment)
        self._tell(equipment_id)
        return PutAnswer(
            equipment_id=equipment_id,
            created=result.created,
            revision=equipment.revision,
            findings=tuple(finding for finding in lint(equipment) if finding.severity == "warning"),
        )

    async def summaries(self) -> list[EquipmentSummary]:
        """List the registered machines."""
        return [
            EquipmentSummary(
                equipment_id=record.equipment.equipment_id,
                name=record.equipment.name,
                design=record.equipment.design,
                components=len(record.equipment.components),
                sensors=len(record.equipment.sensors),
                revision=record.revision,
                registered_at=record.registered_at,
                updated_at=record.updated_at,
            )
            for record in await self._store.list_equipment()
        ]

    async def topology(self, equipment_id: str) -> Equipment:
        """Return a registered machine's topology.

        Raises:
            UnknownEquipment: it is not registered.
        """
        equipment = await self._find(equipment_id)
        if equipment is None:
            raise UnknownEquipment(equipment_id)
        return equipment

    async def remembered(self, equipment_id: str) -> Equipment:
        """Return a machine's topology as it was last seen here, however long ago.

        Raises:
            UnknownEquipment: it is not registered.
        """
        known = self._topologies.get(equipment_id)
        return (
            known.equipment
            if known is not None and known.equipment is not None
            else await self.topology(equipment_id)
        )

    async def remembered_of(
        self, equipment_ids: Sequence[str]
    ) -> dict[str, Equipment | HydraulicDiagnosticsError]:
        """Return the topology of each machine as it was last seen here, or why there is none; the unknown in one statement."""
        return await self._with_renewed(equipment_ids, -math.inf)

    async def topologies(
        self, equipment_ids: Sequence[str]
    ) -> dict[str, Equipment | HydraulicDiagnosticsError]:
        """Return the topology of each machine as `topology` does, or why there is none; what must be asked in one statement."""
        return await self._with_renewed(equipment_ids, time.monotonic())

    async def _with_renewed(
        self, equipment_ids: Sequence[str], now: float
    ) -> dict[str, Equipment | HydraulicDiagnosticsError]:
        found: dict[str, Equipment | HydraulicDiagnosticsError] = {}
        asked: list[str] = []
        for equipment_id in dict.fromkeys(equipment_ids):
            known = self._topologies.get(equipment_id)
            if known is not None and known.equipment is not None and now < known.until:
                found[equipment_id] = known.equipment
            else:
                asked.append(equipment_id)
        return found | await self.renew(asked) if asked else found

    async def renew(
        self, equipment_ids: Sequence[str]
    ) -> dict[str, Equipment | HydraulicDiagnosticsError]:
        """Return the topology of each machine as it is registered now, or why there is none, by one statement."""
        found: dict[str, Equipment | HydraulicDiagnosticsError] = {}
        try:
            records = await self._store.get_equipment_of(equipment_ids)
        except StoreError as error:
            return {
                equipment_id: self._held(equipment_id) or error for equipment_id in equipment_ids
            }
        for equipment_id in equipment_ids:
            record = records.get(equipment_id)
            equipment = self._remember(equipment_id, None if record is None else record.equipment)
            found[equipment_id] = equipment or UnknownEquipment(equipment_id)
        return found

    async def ingest(self, body: bytes, content_type: str) -> IngestAnswer:
        """Store a body of readings; what is acknowledged is committed."""
        parsed = await parse_readings(body, content_type, self._find, self._now())
        blocks = [
            Readings(equipment_id, columns.sensor_ids, columns.times_us, columns.values)
            for equipment_id, columns in parsed.columns.items()
        ]
        result = await self._store.ingest_many(blocks) if blocks else Ingested(0, 0)
        for block in blocks:
            self._tell(block.equipment_id)
        self._metrics.readings.labels("accepted").inc(result.accepted)
        self._metrics.readings.labels("duplicate").inc(result.duplicates)
        self._metrics.readings.labels("rejected").inc(len(parsed.rejected))
        return IngestAnswer(
            accepted=result.accepted, duplicates=result.duplicates, rejected=parsed.rejected
        )

    async def _find(self, equipment_id: str) -> Equipment | None:
        known = self._topologies.get(equipment_id)
        if known is not None and time.monotonic() < known.until:
            return known.equipment
        stale = known.equipment if known is not None else None
        if stale is not None:
            # Only this request asks, and pays the wait when the database is away; others go on with what was known.
            self._remember(equipment_id, stale, for_s=AWAY_S)
        try:
            record = await self._store.get_equipment(equipment_id)
        except StoreError:
            held = self._held(equipment_id)
            if held is None:
                raise
            return held
        equipment = None if record is None else record.equipment
        self._remember(equipment_id, equipment)
        return equipment

    def _held(self, equipment_id: str) -> Equipment | None:
        """Return the topology that stands in while the database is away, and take it for true for a while."""
        known = self._topologies.get(equipment_id)
        equipment = (known.equipment if known is not None else None) or self._declared.get(
            equipment_id
        )
        if equipment is not None:
            self._remember(equipment_id, equipment, for_s=AWAY_S)
        return equipment

    def _remember(
        self, equipment_id: str, equipment: Equipment | None, *, for_s: float = TOPOLOGY_CACHE_S
    ) -> Equipment | None:
        if equipment is not None:
            equipment = self._with_shared_structure(equipment)
        self._topologies[equipment_id] = _Remembered(time.monotonic() + for_s, equipment)
        self._topologies.move_to_end(equipment_id)
        while len(self._topologies) > MAX_REMEMBERED:
            self._topologies.popitem(last=False)
        return equipment

    def _with_shared_structure(self, equipment: Equipment) -> Equipment:
        """Return the same machine with the components and connections of the first one that has equal ones."""
        first = self._structures.get(equipment.structure_digest, lambda: equipment)
        if first.components is equipment.components:
            return equipment
        shared = equipment.model_copy(
            update={"components": first.components, "connections": first.connections}
        )
        vars(shared).pop("sensors", None)
        return shared
