"""The registered machines of one replica: a cache of their topologies and baselines.

A diagnosis of stored readings uses a topology of any age: the statement that reads its window
returns the registered revision, and `renew` is called when that differs; it also returns the
baseline in force. Everything else looks both up again after `TOPOLOGY_CACHE_S`. A change is seen at
once on this replica and in diagnoses of stored readings, and within `TOPOLOGY_CACHE_S` elsewhere. A
known topology serves on while the database is away. Each tenant has a view of its own, which the
row-level security of the database decides.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from cachetools import LRUCache

from app.core.errors import (
    DeletedEquipment,
    HydraulicDiagnosticsError,
    InputError,
    ModelUnavailable,
    StoreError,
    UnknownEquipment,
)
from app.schemas.equipment import Equipment, EquipmentSummary
from app.schemas.places import some_of
from app.schemas.topology import Finding, lint, read_equipment
from app.serving.http.routes.equipment import PurgeAnswer, PutAnswer
from app.serving.ingress.quotas import Quotas
from app.serving.ingress.version_router import VersionRouter
from app.store.baselines import StoredBaseline
from app.store.caller import DEFAULT_TENANT, current_caller
from app.store.store import Store

TOPOLOGY_CACHE_S = 5.0
MAX_TOPOLOGIES = 20_000
"""About 5 KB each: machines that differ only in id and name share the rest."""
MAX_STRUCTURES = 1_000
MAX_BASELINE_BYTES = 64 * 1024 * 1024
"""Of the baselines of recent machines; one of 17 sensors by step has 60 KB."""
PURGE_S = 15.0
"""How long one request purges; a larger machine needs several."""
RETRY_S = 5.0
"""How long a known topology is used before a database that was away is tried again."""

TopologyOrError = Equipment | HydraulicDiagnosticsError


class _Entry(NamedTuple):
    """A machine's topology or when it was deleted, neither if it is unknown, and until when.

    `baseline_id` is of its baseline, None without one.
    """

    fresh_until: float
    equipment: Equipment | None
    deleted_at: datetime | None
    baseline_id: str | None

    def outcome(self, equipment_id: str) -> Equipment | UnknownEquipment:
        """Return the topology, or a new error."""
        if self.deleted_at is not None:
            return DeletedEquipment(equipment_id, self.deleted_at)
        return self.equipment or UnknownEquipment(equipment_id)


class EquipmentRegistry:
    """All registered machines.

    Args:
        store: the database; may be away.
        declared: machines of the configuration, which serve also if the database was away from the
            start.
        router: the released versions; None without any.
        quotas: of the installation; None without any.
    """

    def __init__(
        self,
        store: Store,
        declared: Sequence[Equipment] = (),
        router: VersionRouter | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self._store = store
        self._router = router
        self._quotas = quotas
        self._declared = {equipment.equipment_id: equipment for equipment in declared}
        self._views: LRUCache[str, dict[str | None, _Entry]] = LRUCache(MAX_TOPOLOGIES)
        """By machine what each tenant sees of it; None is the service itself."""
        self._structures: LRUCache[str, Equipment] = LRUCache(MAX_STRUCTURES)
        self._baselines: LRUCache[str, StoredBaseline] = LRUCache(
            MAX_BASELINE_BYTES, lambda each: min(len(each.moments), MAX_BASELINE_BYTES)
        )
        self._lookups: list[set[str]] = []
        """Of each statement that runs, the machines registered or deleted here meanwhile."""
        self._on_change: Callable[[str], None] = lambda _: None

    def when_changed(self, callback: Callable[[str], None]) -> None:
        """Call back with the id of a machine whenever its topology or readings change here."""
        self._on_change = callback

    def note_change(self, equipment_id: str) -> None:
        """Call back: readings of the machine have changed."""
        self._on_change(equipment_id)

    async def put(self, equipment_id: str, body: bytes, actor: str = "") -> PutAnswer:
        """Register a topology; restore a deleted machine.

        Args:
            equipment_id: of the path.
            body: YAML or JSON.
            actor: recorded when the machine is restored.

        Raises:
            TopologyError: the linter found errors.
            InputError: the body is about another equipment than the path.
            QuotaExceeded: it would be one machine too many.
        """
        # some megabytes of YAML take seconds
        equipment = await asyncio.to_thread(read_equipment, body, "the body")
        if equipment.equipment_id != equipment_id:
            raise InputError(
                f"expected equipment_id '{equipment_id}' as in the path, found "
                f"'{equipment.equipment_id}': make them equal",
                "equipment_id",
            )
        known = (await self.topologies([equipment_id]))[equipment_id]
        if isinstance(known, UnknownEquipment) and self._quotas is not None:
            await self._quotas.check_equipment()
        put = await self._store.put_equipment(equipment, actor)
        self._change(equipment_id, equipment)
        if put.restored:
            await self.renew([equipment_id])  # its baseline is in force again
        findings = await asyncio.to_thread(lint, equipment)
        warnings = [finding for finding in findings if finding.severity == "warning"]
        unknown = _untrained(equipment, await self._trained_sensors(equipment.design))
        return PutAnswer(
            equipment_id=equipment_id,
            created=put.created,
            restored=put.restored,
            revision=equipment.revision,
            findings=(*warnings, *unknown),
        )

    async def delete(self, equipment_id: str, actor: str) -> datetime:
        """Delete a machine; its rows stay. Returns when.

        Raises:
            UnknownEquipment: it is not registered; DeletedEquipment if it was deleted before.
        """
        deleted_at = await self._store.delete_equipment(equipment_id, actor)
        if deleted_at is None:
            found = (await self.renew([equipment_id]))[equipment_id]
            raise found if isinstance(found, Exception) else UnknownEquipment(equipment_id)
        self._change(equipment_id, None, deleted_at)
        return deleted_at

    async def purge(self, equipment_id: str, actor: str) -> PurgeAnswer:
        """Delete a machine with all of its rows, as far as one request may take.

        Raises:
            UnknownEquipment: nothing is stored of it.
        """
        purged = await self._store.purge_equipment(equipment_id, actor, PURGE_S)
        if purged is None:
            raise UnknownEquipment(equipment_id)
        self._change(equipment_id, None)
        return PurgeAnswer(equipment_id=equipment_id, **purged._asdict())

    async def page(
        self, limit: int, after: str | None, *, design: str | None, site: str | None
    ) -> list[EquipmentSummary]:
        """List registered machines in the order of ids, from the one after an id."""
        return await self._store.equipment_page(limit, after, design=design, site=site)

    async def known_topology(self, equipment_id: str) -> Equipment:
        """Return the topology of a machine that is registered or was deleted, for its history.

        Raises:
            UnknownEquipment: it is neither.
        """
        try:
            return await self.topology(equipment_id)
        except DeletedEquipment:
            record = await self._store.get_equipment(equipment_id, deleted=True)
        if record is None:
            raise UnknownEquipment(equipment_id)
        return record.equipment

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
            known = self._known(equipment_id)
            if known is None or (now >= known.fresh_until and not (any_age and known.equipment)):
                stale.append(equipment_id)
            else:
                found[equipment_id] = known.outcome(equipment_id)
        return found | await self.renew(stale) if stale else found

    async def renew(self, equipment_ids: Sequence[str]) -> dict[str, TopologyOrError]:
        """Return the registered topology of each machine, or its error, by one statement."""
        for equipment_id in equipment_ids:
            known = self._known(equipment_id)
            if known is not None and known.equipment is not None:
                # if the database is away, others go on with what was known meanwhile
                self._remember(
                    equipment_id, known.equipment, baseline_id=known.baseline_id, for_s=RETRY_S
                )
        changed: set[str] = set()
        self._lookups.append(changed)
        try:
            records = await self._store.get_equipment_of(equipment_ids, deleted=True)
        except StoreError as error:
            return {each: self._last_known(each) or error for each in equipment_ids}
        finally:
            self._lookups = [each for each in self._lookups if each is not changed]
        found: dict[str, TopologyOrError] = {}
        for equipment_id in equipment_ids:
            record = records.get(equipment_id)
            known = self._known(equipment_id)
            if equipment_id not in changed or known is None:
                if record is None:
                    known = self._remember(equipment_id, None)
                elif record.deleted_at is not None:
                    known = self._remember(equipment_id, None, record.deleted_at)
                else:
                    known = self._remember(
                        equipment_id, record.equipment, baseline_id=record.baseline_id
                    )
            found[equipment_id] = known.outcome(equipment_id)
        return found

    def baseline_id(self, equipment_id: str) -> str | None:
        """Return the baseline in force of a machine as last seen here; None without one."""
        known = self._known(equipment_id)
        return None if known is None else known.baseline_id

    async def baselines(self, baseline_ids: Collection[str]) -> dict[str, StoredBaseline]:
        """Return baselines by id, from the cache or by one statement.

        Raises:
            StoreError: the database is away, and one was not used here recently.
        """
        found = {each: self._baselines[each] for each in baseline_ids if each in self._baselines}
        unknown = [each for each in baseline_ids if each not in found]
        if unknown:
            read = await self._store.baselines(unknown)
            self._baselines.update(read)
            found |= read
        return found

    async def _trained_sensors(self, design: str) -> dict[str, frozenset[str]]:
        """Return by version the sensors that it was trained with, where it knows the design."""
        try:
            releases = () if self._router is None else self._router.traffic.releases
            answers = await asyncio.gather(
                *(self._router.version(each) for each in releases if self._router is not None),
                return_exceptions=True,
            )
        except ModelUnavailable:
            return {}
        return {
            version.release.version: frozenset(version.spec.references[design])
            for version in answers
            if not isinstance(version, BaseException) and design in version.spec.references
        }

    def _change(
        self, equipment_id: str, equipment: Equipment | None, deleted_at: datetime | None = None
    ) -> None:
        """Remember what this replica has made of a machine, also against running look-ups."""
        baseline_id = None if equipment is None else self.baseline_id(equipment_id)
        self._views.pop(equipment_id, None)
        self._remember(equipment_id, equipment, deleted_at, baseline_id=baseline_id)
        for changed in self._lookups:
            changed.add(equipment_id)
        self._on_change(equipment_id)

    def _last_known(self, equipment_id: str) -> Equipment | UnknownEquipment | None:
        """Return what to use while the database is away, and keep a topology fresh for a while."""
        known = self._known(equipment_id)
        if known is not None and known.deleted_at is not None:
            return known.outcome(equipment_id)
        equipment = known and known.equipment
        if equipment is None and current_caller().tenant in (None, DEFAULT_TENANT):
            equipment = self._declared.get(equipment_id)
        if equipment is not None:
            self._remember(
                equipment_id,
                equipment,
                baseline_id=self.baseline_id(equipment_id),
                for_s=RETRY_S,
            )
        return equipment

    def _remember(
        self,
        equipment_id: str,
        equipment: Equipment | None,
        deleted_at: datetime | None = None,
        *,
        baseline_id: str | None = None,
        for_s: float = TOPOLOGY_CACHE_S,
    ) -> _Entry:
        if equipment is not None:
            equipment = self._with_shared_structure(equipment)
        entry = _Entry(time.monotonic() + for_s, equipment, deleted_at, baseline_id)
        self._views.setdefault(equipment_id, {})[current_caller().tenant] = entry
        return entry

    def _known(self, equipment_id: str) -> _Entry | None:
        return self._views.get(equipment_id, {}).get(current_caller().tenant)

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


def _untrained(equipment: Equipment, trained: Mapping[str, frozenset[str]]) -> Iterator[Finding]:
    """Find sensors that a version of this design was not trained with: they are no evidence."""
    positions = [
        (f"components[{index}].sensors[{position}].sensor_id", sensor.sensor_id)
        for index, component in enumerate(equipment.components)
        for position, sensor in enumerate(component.sensors)
    ]
    for place, sensor_id in positions:
        without = [version for version, known in trained.items() if sensor_id not in known]
        if without:
            there = some_of(sorted(trained[without[0]]))
            yield Finding(
                "warning",
                place,
                f"expected a sensor that version {without[0]} was trained with for design "
                f"'{equipment.design}', found '{sensor_id}', which is no evidence for it: correct "
                f"the id, or train a version with it; there are {there}",
            )
