"""The registered machines of one replica: a cache of their topologies.

A diagnosis of stored readings uses a topology of any age: the statement that reads its window
returns the registered revision, and `renew` is called when that differs. Everything else looks the
topology up again after `TOPOLOGY_CACHE_S`. A change is seen at once on this replica and in
diagnoses of stored readings, and within `TOPOLOGY_CACHE_S` elsewhere. A known topology serves on
while the database is away.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cachetools import LRUCache

from app.core.errors import HydraulicDiagnosticsError, InputError, StoreError, UnknownEquipment
from app.schemas.equipment import Equipment
from app.schemas.topology import lint, read_equipment
from app.serving.http.routes.equipment import EquipmentSummary, PutAnswer
from app.store.store import Store

TOPOLOGY_CACHE_S = 5.0
MAX_TOPOLOGIES = 20_000
"""About 5 KB each: machines that differ only in id and name share the rest."""
MAX_STRUCTURES = 1_000
RETRY_S = 5.0
"""How long a known topology is used before a database that was away is tried again."""

TopologyOrError = Equipment | HydraulicDiagnosticsError


class _Entry(NamedTuple):
    """A topology, None for a machine that is not registered, and until when it is fresh."""

    fresh_until: float
    equipment: Equipment | None


class EquipmentRegistry:
    """All registered machines.

    Args:
        store: the database; may be away.
        declared: machines of the configuration, which serve also if the database was away from the
            start.
    """

    def __init__(
        self,
        store: Store,
        declared: Sequence[Equipment] = (),
    ) -> None:
        self._store = store
        self._declared = {equipment.equipment_id: equipment for equipment in declared}
        self._topologies: LRUCache[str, _Entry] = LRUCache(MAX_TOPOLOGIES)
        self._structures: LRUCache[str, Equipment] = LRUCache(MAX_STRUCTURES)
        self._lookups: list[set[str]] = []
        """Of each statement that runs, the machines registered here meanwhile."""
        self._on_change: Callable[[str], None] = lambda _: None

    def when_changed(self, callback: Callable[[str], None]) -> None:
        """Call back with the id of a machine whenever its topology or readings change here."""
        self._on_change = callback

    def note_change(self, equipment_id: str) -> None:
        """Call back: readings of the machine have changed."""
        self._on_change(equipment_id)

    async def put(self, equipment_id: str, body: bytes) -> PutAnswer:
        """Register a topology.

        Raises:
            TopologyError: the linter found errors.
            InputError: the body is about another equipment than the path.
        """
        equipment = read_equipment(body, "the body")
        if equipment.equipment_id != equipment_id:
            raise InputError(
                f"expected equipment_id '{equipment_id}' as in the path, found "
                f"'{equipment.equipment_id}': make them equal",
                "equipment_id",
            )
        created = await self._store.put_equipment(equipment)
        self._remember(equipment_id, equipment)
        for registered in self._lookups:
            registered.add(equipment_id)
        self._on_change(equipment_id)
        return PutAnswer(
            equipment_id=equipment_id,
            created=created,
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

    async def topology(self, equipment_id: str, *, any_age: bool = False) -> Equipment:
        """Return a registered machine's topology.

        Args:
            equipment_id: of the machine.
            any_age: take the topology as last seen here, however long ago.

        Raises:
            UnknownEquipment: it is not registered.
            StoreError: the database is away, and the machine is neither known nor declared.
        """
        found = (await self.topologies([equipment_id], any_age=any_age))[equipment_id]
        if isinstance(found, HydraulicDiagnosticsError):
            raise found
        return found

    async def topologies(
        self, equipment_ids: Sequence[str], *, any_age: bool = False
    ) -> dict[str, TopologyOrError]:
        """Return the topology of each machine as `topology` does, or its error; one statement.

        Args:
            equipment_ids: of the machines.
            any_age: see `topology`. A machine that was not registered is looked up again after
                `TOPOLOGY_CACHE_S`, also if another replica registered it meanwhile.
        """
        now = time.monotonic()
        found: dict[str, TopologyOrError] = {}
        stale: list[str] = []
        for equipment_id in dict.fromkeys(equipment_ids):
            known = self._topologies.get(equipment_id)
            if known is None or (now >= known.fresh_until and not (any_age and known.equipment)):
                stale.append(equipment_id)
            else:
                found[equipment_id] = known.equipment or UnknownEquipment(equipment_id)
        return found | await self.renew(stale) if stale else found

    async def renew(self, equipment_ids: Sequence[str]) -> dict[str, TopologyOrError]:
        """Return the registered topology of each machine, or its error, by one statement."""
        for equipment_id in equipment_ids:
            known = self._topologies.get(equipment_id)
            if known is not None and known.equipment is not None:
                # if the database is away, others go on with what was known meanwhile
                self._remember(equipment_id, known.equipment, for_s=RETRY_S)
        registered: set[str] = set()
        self._lookups.append(registered)
        try:
            records = await self._store.get_equipment_of(equipment_ids)
        except StoreError as error:
            return {each: self._last_known(each) or error for each in equipment_ids}
        finally:
            self._lookups = [each for each in self._lookups if each is not registered]
        found: dict[str, TopologyOrError] = {}
        for equipment_id in equipment_ids:
            record = records.get(equipment_id)
            if equipment_id in registered:
                equipment = self._last_known(equipment_id)
            else:
                equipment = self._remember(
                    equipment_id, None if record is None else record.equipment
                )
            found[equipment_id] = equipment or UnknownEquipment(equipment_id)
        return found

    def _last_known(self, equipment_id: str) -> Equipment | None:
        """Return the topology to use while the database is away, and keep it fresh for a while."""
        known = self._topologies.get(equipment_id)
        equipment = (known and known.equipment) or self._declared.get(equipment_id)
        if equipment is not None:
            self._remember(equipment_id, equipment, for_s=RETRY_S)
        return equipment

    def _remember(
        self, equipment_id: str, equipment: Equipment | None, *, for_s: float = TOPOLOGY_CACHE_S
    ) -> Equipment | None:
        if equipment is not None:
            equipment = self._with_shared_structure(equipment)
        self._topologies[equipment_id] = _Entry(time.monotonic() + for_s, equipment)
        return equipment

    def _with_shared_structure(self, equipment: Equipment) -> Equipment:
        """Return the machine with the component objects of the first one of equal structure."""
        first = self._structures.setdefault(equipment.structure_digest, equipment)
        if first.components is equipment.components:
            return equipment
        shared = equipment.model_copy(
            update={"components": first.components, "connections": first.connections}
        )
        vars(shared).pop("sensors", None)
        return shared
