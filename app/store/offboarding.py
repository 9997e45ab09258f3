"""Exports all that a tenant owns into files, removes it, and counts what is left.

Invariant: the audit log and the records of changes stay, since rows of them are never removed; they
name machines, keys and people, and hold no reading.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from app.core.errors import InputError, StoreError, UnknownError
from app.store.caller import DEFAULT_TENANT, SERVICE, Caller, acting_as, current_caller
from app.store.equipment import EquipmentRepository
from app.store.health import HealthRepository
from app.store.statements import queries

PURGE_S = 60.0
_ROWS = 10_000
"""Rows of a cursor that are in memory at once."""


class Remaining(NamedTuple):
    """Rows that name a tenant.

    Args:
        name: of the table.
        rows: of it.
        kept: whether such rows are never removed.
    """

    name: str
    rows: int
    kept: bool


class OffboardingRepository(EquipmentRepository, HealthRepository):
    """All of one tenant."""

    async def export_tenant(self, tenant: str, directory: Path) -> dict[str, int]:
        """Write all that a tenant owns into a new directory, as of one moment.

        Args:
            tenant: that exists.
            directory: to make; its files are for the owner of the process only.

        Returns:
            How many records of each kind were written.

        Raises:
            UnknownError: there is no such tenant.
            InputError: the directory exists.
        """
        if not await self._has_tenant(tenant):
            raise _unknown(tenant)
        try:
            directory.mkdir(mode=0o700, parents=True)
            (directory / "readings").mkdir(mode=0o700)
        except FileExistsError as error:
            raise InputError(
                f"expected the name of a new directory, found {directory}: choose another", "out"
            ) from error
        counts: dict[str, int] = {}
        with acting_as(SERVICE):
            await self._write(tenant, directory, counts)
        manifest = {"tenant": tenant, "records": counts}
        (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        return counts

    async def _write(self, tenant: str, directory: Path, counts: dict[str, int]) -> None:
        """Write JSON lines of each kind, and a file of CSV for the readings of each machine."""
        named = queries()
        kinds = {
            "equipment": named["export_equipment"],
            "labels": named["export_labels"],
            "maintenance": named["export_maintenance"],
            "baselines": named["export_baselines"],
            "diagnoses": named["export_diagnoses"],
            "keys": named["export_keys"],
            "audit": named["export_audit"],
        }
        async with (
            self._database.patient_session() as session,
            session.transaction(isolation="repeatable_read", readonly=True),
        ):
            for kind, statement in kinds.items():
                counts[kind] = 0
                with (directory / f"{kind}.ndjson").open("w", encoding="utf-8") as out:
                    cursor = session.cursor(statement, tenant, prefetch=_ROWS)
                    async for row in cursor:
                        out.write(row["line"].replace("\n", " ") + "\n")
                        counts[kind] += 1
            counts["readings"] = 0
            machines = await session.fetch(named["tenant_machines"], tenant)
            for machine in (row["equipment_id"] for row in machines):
                with _csv(directory / "readings" / f"{machine}.csv.gz") as write:
                    cursor = session.cursor(
                        named["export_readings"], tenant, machine, prefetch=_ROWS
                    )
                    async for row in cursor:
                        time = row["time"].isoformat().replace("+00:00", "Z")
                        write(f"{machine},{row['sensor_id']},{time},{row['value']!r}\n")
                        counts["readings"] += 1

    async def remove_tenant(self, tenant: str) -> list[Remaining]:
        """Remove a tenant with its machines, readings, diagnoses and keys; it can't be undone.

        A removal that was interrupted goes on when it is repeated.

        Args:
            tenant: that exists, or was removed before and has rows again, written by a request
                that was under way; not `default`.

        Returns:
            The rows that still name it: none but those that are kept for good.

        Raises:
            UnknownError: there is no such tenant, and no row of one.
            InputError: it is `default`, which owns what nobody else does.
        """
        if tenant == DEFAULT_TENANT:
            raise InputError(
                f"expected the name of a tenant that was created, found '{tenant}', which every "
                "installation has: delete its machines instead",
                "tenant",
            )
        is_known = await self._has_tenant(tenant)
        if not is_known and not any(
            each.rows for each in await self.tenant_rows(tenant) if not each.kept
        ):
            raise _unknown(tenant)
        actor = current_caller().actor
        # first, so that nobody writes for the tenant while it is removed
        await self._database.once("remove_keys", tenant)
        machines = await self._database.fetch("tenant_machines", tenant)
        with acting_as(Caller(tenant, actor)):
            for row in machines:
                while True:
                    purged = await self.purge_equipment(row["equipment_id"], actor, PURGE_S)
                    if purged is None or purged.complete:
                        break
        # before the tenant goes: a removal that fails here can be repeated
        await self.refresh_aggregates()
        named = queries()
        async with self._database.patient_session() as session, session.transaction():
            await session.fetch(named["allow_decompression"])
            await session.execute(named["remove_shadow_answers"], tenant)
            if not await session.fetch(named["remove_tenant"], tenant) and is_known:
                raise StoreError(f"expected the tenant '{tenant}', found that it is gone: check it")
        return await self.tenant_rows(tenant)

    async def tenant_rows(self, tenant: str) -> list[Remaining]:
        """Return how many rows of each table name a tenant, also one that was removed."""
        rows = await self._database.fetch("tenant_rows", tenant)
        return [Remaining(**row) for row in rows]

    async def _has_tenant(self, tenant: str) -> bool:
        (row,) = await self._database.fetch("has_tenant", tenant)
        return bool(row[0])


def _unknown(tenant: str) -> UnknownError:
    return UnknownError(
        f"expected the name of a tenant, found '{tenant}': see `hydraulic tenants list`"
    )


@contextmanager
def _csv(path: Path) -> Iterator[Callable[[str], object]]:
    out: TextIO
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.write("equipment_id,sensor_id,time,value\n")
        yield out.write
