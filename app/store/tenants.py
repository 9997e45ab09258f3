"""Tenants: each sees its own equipment and keys.

An equipment id belongs to one tenant of an installation. Tenants are made by operators, who have
the admin keys of the tenant `default`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.core.errors import ConflictError
from app.store.partitions import Repository
from app.store.statements import queries

TenantName = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
        description="a plant or customer: lower-case letters, digits and hyphens",
        examples=["plant-north"],
    ),
]


class Tenant(BaseModel):
    """A tenant and how many machines it has registered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: TenantName
    created_at: datetime
    equipment: Annotated[int, Field(description="number of its registered machines")]


class TenantRepository(Repository):
    """Tenants."""

    async def create_tenant(self, name: str) -> Tenant:
        """Make a tenant.

        Raises:
            ConflictError: there is one of this name.
        """
        rows = await self._database.once("create_tenant", name)
        if not rows:
            raise ConflictError(
                f"expected the name of a new tenant, found '{name}', which there is: choose another"
                " name",
                "tenant",
            )
        return Tenant(**rows[0], equipment=0)

    async def list_tenants(self) -> list[Tenant]:
        """Return all tenants by name."""
        return [Tenant(**row) for row in await self._database.fetch("list_tenants")]

    async def move_equipment(self, tenant: str, equipment_ids: Sequence[str]) -> list[str]:
        """Give equipment with its history to a tenant; replicas notice within seconds.

        Each machine is one transaction without a time limit; repeat the call after an error.

        Args:
            tenant: that exists.
            equipment_ids: of the equipment.

        Returns:
            Those of the ids that were found.
        """
        found: list[str] = []
        for equipment_id in sorted(set(equipment_ids)):
            async with self._database.patient_session() as session:
                rows = await session.fetch(queries()["move_equipment"], tenant, [equipment_id])
            found += [row["equipment_id"] for row in rows]
        return found
