"""What a run over the whole fleet asks of the database: its plan, its machines page by page, and how they stood before.

A run's diagnoses have the run's own time as `created_at`, and ids that follow from its name and the machine's id.
Invariant: a machine has one diagnosis in a run at most, however often, and from however many processes, it is scored.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from app.schemas.diagnosis import State
from app.schemas.equipment import Equipment
from app.store.pool import Database, Row


class FleetRun(NamedTuple):
    """A run: its name, when it was first started, and its plan as JSON."""

    name: str
    created_at: datetime
    plan: str


class Selection(NamedTuple):
    """Which registered machines: ids LIKE this pattern, of this design; None for any."""

    pattern: str | None = None
    design: str | None = None


class Page(BaseModel):
    """Some machines of a selection: those from the id `first` to the id `last`, or those named in `ids`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machines: int
    first: str = ""
    last: str = ""
    ids: tuple[str, ...] | None = None


class PageMachine(NamedTuple):
    """A machine of a page.

    Args:
        equipment_id: whose diagnosis it is.
        diagnosis_id: of its diagnosis in this run.
        done: whether that is stored already.
        equipment: its topology; None when it is not registered, or done.
    """

    equipment_id: str
    diagnosis_id: str
    done: bool
    equipment: Equipment | None


class PageSizes(NamedTuple):
    """About how many pages there should be, and the machines that a page has at least and at most."""

    pages: int
    smallest: int
    largest: int


class FleetRuns:
    """The runs over the fleet of one database. Every method raises StoreUnavailable when it can't be reached.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, name: str) -> FleetRun | None:
        """Return the run of this name, or None."""
        rows = await self._database.fetch("get_fleet_run", name)
        return FleetRun(*rows[0]) if rows else None

    async def begin(self, run: FleetRun) -> FleetRun:
        """Store a run; returns the one that was there before when there is one of this name."""
        await self._database.fetch("begin_fleet_run", *run)
        found = await self.find(run.name)
        assert found is not None
        return found

    async def pages(self, selection: Selection, sizes: PageSizes) -> list[Page]:
        """Divide the registered machines of a selection into pages of neighbouring ids, without reading the ids."""
        rows = await self._database.fetch("fleet_pages", *selection, *sizes)
        return [
            Page(machines=row["machines"], first=row["first"], last=row["last"]) for row in rows
        ]

    async def read_page(self, run: FleetRun, page: Page, selection: Selection) -> list[PageMachine]:
        """Return the machines of a page with their topologies, in one statement.

        Args:
            run: whose diagnoses count as done.
            page: as `pages` gave it, or with ids, which need not be registered.
            selection: as it was given to `pages`; not asked for a page with ids.
        """
        ids = None if page.ids is None else list(page.ids)
        rows = await self._database.fetch(
            "fleet_page", run.name, run.created_at, ids, page.first, page.last, *selection
        )
        return [machine for row in rows for machine in _machines(row)]

    async def states_before(
        self, asked: Sequence[tuple[str, datetime]]
    ) -> list[Mapping[str, State]]:
        """Return how machines stood in their newest diagnosis of stored readings that ended before a time.

        Args:
            asked: equipment id and time of each.

        Returns:
            States by component id for each, in the order asked; empty for a machine without such a diagnosis.
        """
        rows = await self._database.fetch(
            "states_before", [item[0] for item in asked], [item[1] for item in asked]
        )
        return [{} if row["states"] is None else json.loads(row["states"]) for row in rows]


def _machines(row: Row) -> Iterator[PageMachine]:
    """Yield the machines of a row: parsed once, and copied with what each has of its own."""
    if row["structure"] is None:
        for equipment_id, diagnosis_id in zip(
            row["equipment_ids"], row["diagnosis_ids"], strict=True
        ):
            yield PageMachine(equipment_id, diagnosis_id, row["done"], None)
        return
    alike = Equipment.model_validate(
        json.loads(row["structure"]) | {"equipment_id": row["equipment_ids"][0]}
    )
    # worked out once, and copied with the rest
    assert alike.structure_digest
    assert alike.sensor_ids is not None
    columns = (row[name] for name in ("equipment_ids", "diagnosis_ids", "names", "revisions"))
    for equipment_id, diagnosis_id, name, revision in zip(*columns, strict=True):
        own = {"equipment_id": equipment_id, "name": name, "revision": revision}
        yield PageMachine(equipment_id, diagnosis_id, row["done"], alike.model_copy(update=own))
