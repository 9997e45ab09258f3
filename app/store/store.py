"""The store: everything that the rest of the project asks of the database, around one pool.

What each thing means stands in the module of its noun; this class only holds them together.
Invariant: it can be made at any time, in any process; a connection is opened when the first call needs one.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime

from numpy.typing import ArrayLike

from app.schemas.equipment import Equipment
from app.store import (
    diagnoses,
    equipment,
    keys,
    labels,
    migrate,
    readings,
    releases,
    shadow_answers,
    windows,
)
from app.store.diagnoses import StoredDiagnosis
from app.store.equipment import EquipmentRecord, PutResult
from app.store.experiments import AnswerPairs
from app.store.fleet import FleetRuns
from app.store.keys import ApiKey, CreatedKey, KnownKey
from app.store.labels import ALL_TIME_US, ConditionLabel
from app.store.migrate import Edition
from app.store.partitions import Partitions
from app.store.pool import Database, PoolLimits, first_value
from app.store.readings import Ingested, Readings
from app.store.releases import ReleaseEvent
from app.store.shadow_answers import ShadowAnswer
from app.store.windows import CHUNK_BINS, DataRange, Floats, StoredWindow


class Store:
    """The database of one event loop. Every method raises StoreUnavailable when it can't be reached.

    Args:
        address: the DSN, or what finds it out when a connection is first needed (it may block and may raise).
        limits: connections and times.
    """

    def __init__(self, address: str | Callable[[], str], limits: PoolLimits | None = None) -> None:
        self._database = Database(address, limits)
        self._partitions = Partitions(self._database)

    async def migrate(self) -> Edition:
        """Bring the database to this version's schema; see `migrate.migrate`."""
        return await migrate.migrate(self._database)

    async def ping(self) -> None:
        """Ask the database anything at all, once."""
        await self._database.once("ping")

    async def close(self) -> None:
        """Close the pool."""
        await self._database.close()

    async def drop_before(self, cutoff: datetime) -> int:
        """Drop readings, grid, diagnoses and answers of shadows in the months (on TimescaleDB: chunks) that end by `cutoff`; returns how many.

        Topologies that were replaced before it go too. Reads and writes go on: one that is long makes this wait, in short tries, and raise StoreUnavailable in the end.
        What went before stays gone.
        """
        total = 0
        while dropped := first_value(await self._database.fetch("drop_before", cutoff)):
            total += dropped
        await self._database.fetch("drop_replaced_topologies", cutoff)
        return total

    async def put_equipment(self, item: Equipment) -> PutResult:
        """Register an equipment or replace its topology; see `equipment.put_equipment`."""
        return await equipment.put_equipment(self._database, item)

    async def get_equipment(self, equipment_id: str) -> EquipmentRecord | None:
        """Return a registered equipment, or None."""
        return (await equipment.get_equipment(self._database, [equipment_id])).get(equipment_id)

    async def get_equipment_of(self, equipment_ids: Sequence[str]) -> dict[str, EquipmentRecord]:
        """Return the registered ones of these equipment, by id, in one statement."""
        return await equipment.get_equipment(self._database, equipment_ids)

    async def topology_of_revision(self, equipment_id: str, revision: str) -> Equipment | None:
        """Return the topology that an equipment has, or had, at a revision; None when it is not kept."""
        return await equipment.topology_of_revision(self._database, equipment_id, revision)

    async def list_equipment(self) -> Sequence[EquipmentRecord]:
        """Return all registered equipment in the order of ids."""
        return await equipment.list_equipment(self._database)

    async def find_equipment(
        self, pattern: str | None = None, design: str | None = None
    ) -> list[str]:
        """Return the ids of an id pattern (`*` for any part) and a design, in their order."""
        return await equipment.find_equipment(self._database, pattern, design)

    async def ingest(
        self, equipment_id: str, sensor_ids: Sequence[str], times_us: ArrayLike, values: ArrayLike
    ) -> Ingested:
        """Write readings of one equipment, each with its sensor, time and value; see `readings.ingest`."""
        return await self.ingest_many([Readings(equipment_id, sensor_ids, times_us, values)])

    async def ingest_many(self, blocks: Sequence[Readings]) -> Ingested:
        """Write readings of several equipment; see `readings.ingest`."""
        return await readings.ingest(self._database, self._partitions, blocks)

    async def last_reading_time(self, equipment_id: str) -> datetime | None:
        """Return the time of an equipment's newest reading."""
        return await readings.last_reading_time(self._database, equipment_id)

    async def read_windows(self, asked: Sequence[tuple[str, int, int]]) -> list[StoredWindow]:
        """Read windows (equipment id, first bin, number of bins) in one statement; see `windows.read_windows`."""
        return await windows.read_windows(self._database, asked)

    async def filled_windows(self, asked: Sequence[tuple[str, int, int]]) -> list[bool]:
        """Tell which windows (equipment id, first bin, number of bins) hold any reading; see `windows.filled_windows`."""
        return await windows.filled_windows(self._database, asked)

    async def grid_digests(self, asked: Sequence[tuple[str, int, int]]) -> list[str]:
        """Return for intervals (equipment id, start and end in microseconds) what changes when their grid does."""
        return await windows.grid_digests(self._database, asked)

    async def data_range(self, equipment_id: str) -> DataRange | None:
        """Return the bins from an equipment's first to its last reading; see `windows.data_range`."""
        return await windows.data_range(self._database, equipment_id)

    def read_history(
        self, item: Equipment, first: int, end: int, chunk_bins: int = CHUNK_BINS
    ) -> AsyncIterator[tuple[int, Floats]]:
        """Read an equipment's bins [first, end) in pieces [S, N]; see `windows.read_history`."""
        return windows.read_history(self._database, item, first, end, chunk_bins)

    async def put_labels(self, equipment_id: str, items: Sequence[ConditionLabel]) -> int:
        """Write condition labels; see `labels.put_labels`."""
        return await labels.put_labels(self._database, equipment_id, items)

    async def read_labels(
        self, equipment_id: str, start_us: int = ALL_TIME_US[0], end_us: int = ALL_TIME_US[1]
    ) -> list[ConditionLabel]:
        """Return the labels that overlap an interval, by time, then component."""
        return await labels.read_labels(self._database, equipment_id, start_us, end_us)

    async def insert_diagnoses(self, items: Sequence[StoredDiagnosis]) -> None:
        """Store diagnoses in one statement; may be repeated."""
        await diagnoses.insert_diagnoses(self._database, self._partitions, items)

    async def get_diagnosis(self, diagnosis_id: str) -> bytes | None:
        """Return a diagnosis as JSON, or None."""
        return await diagnoses.get_diagnosis(self._database, diagnosis_id)

    async def diagnosis_history(
        self, equipment_id: str, start: datetime | None, end: datetime | None, limit: int
    ) -> list[bytes]:
        """Return diagnoses whose window ends in [start, end), as JSON, newest first."""
        return await diagnoses.diagnosis_history(self._database, equipment_id, start, end, limit)

    async def insert_shadow_answers(self, items: Sequence[ShadowAnswer]) -> None:
        """Store what shadows told in one statement; may be repeated."""
        await shadow_answers.insert_shadow_answers(self._database, self._partitions, items)

    def fleet_runs(self) -> FleetRuns:
        """Return the runs over the whole fleet; see `fleet.FleetRuns`."""
        return FleetRuns(self._database)

    def answer_pairs(self) -> AnswerPairs:
        """Return the pairs of answers of two versions; see `experiments.AnswerPairs`."""
        return AnswerPairs(self._database)

    async def create_key(
        self, name: str, scopes: Sequence[str], secret: str | None = None
    ) -> CreatedKey:
        """Make an API key; its secret is returned here and never again."""
        return await keys.create_key(self._database, name, scopes, secret)

    async def find_key(self, secret_hash: str) -> KnownKey | None:
        """Return the key with this SHA-256 in hexadecimal, or None."""
        return await keys.find_key(self._database, secret_hash)

    async def revoke_key(self, key_id: int) -> bool:
        """Revoke a key; tells whether there is one."""
        return await keys.revoke_key(self._database, key_id)

    async def list_keys(self) -> list[ApiKey]:
        """Return all keys without their secrets."""
        return await keys.list_keys(self._database)

    async def any_key(self) -> bool:
        """Tell whether a key exists that was not revoked."""
        return await keys.any_key(self._database)

    async def record_release(
        self, version: str, action: str, weights: Mapping[str, float], *, actor: str, reason: str
    ) -> ReleaseEvent:
        """Add an event to the history of releases."""
        return await releases.record_release(
            self._database, version, action, weights, actor=actor, reason=reason
        )

    async def list_releases(self, limit: int = 100) -> list[ReleaseEvent]:
        """Return the newest events of the history of releases."""
        return await releases.list_releases(self._database, limit)
