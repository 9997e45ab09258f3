"""Offline scoring runs over the fleet: their plan, their machines by page, and earlier states.

The diagnoses of a run have its `created_at`; their ids follow from its name and the machine's id.
Invariant: a machine has at most one diagnosis in a run, however often and by however many processes
it is scored.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from app.schemas.diagnosis import State
from app.schemas.equipment import Equipment
from app.store.partitions import Repository
from app.store.statements import Row, columns_of


class FleetRun(NamedTuple):
    """A run: its name, when it was first started, and its plan as JSON."""

    name: str
    created_at: datetime
    plan: str


class Selection(NamedTuple):
    """Registered machines whose id matches a LIKE pattern, of one design; None for any."""

    pattern: str | None = None
    design: str | None = None


class Page(BaseModel):
    """Machines of a selection: with ids from `first` to `last`, or those in `ids`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machines: int
    first: str = ""
    last: str = ""
    ids: tuple[str, ...] | None = None


class PageMachine(NamedTuple):
    """A machine of a page.

    Args:
        equipment_id: of the machine.
        diagnosis_id: of its diagnosis in this run.
        done: whether that diagnosis is stored.
        equipment: its topology; None when the machine is done or not registered.
    """

    equipment_id: str
    diagnosis_id: str
    done: bool
    equipment: Equipment | None


class PageSizes(NamedTuple):
    """Target number of pages, and the smallest and largest number of machines per page."""

    pages: int
    smallest: int
    largest: int


class FleetRuns(Repository):
    """Runs over the fleet."""

    async def find(self, name: str) -> FleetRun | None:
        """Return the run of this name, or None."""
        rows = await self._database.fetch("get_fleet_run", name)
        return FleetRun(*rows[0]) if rows else None

    async def begin(self, run: FleetRun) -> FleetRun:
        """Store a run; return the stored one when there is already a run of this name."""
        await self._database.fetch("begin_fleet_run", *run)
        found = await self.find(run.name)
        assert found is not None
        return found

    async def pages(self, selection: Selection, sizes: PageSizes) -> list[Page]:
        """Divide the machines of a selection into pages of consecutive ids."""
        rows = await self._database.fetch("fleet_pages", *selection, *sizes)
        return [
            Page(machines=row["machines"], first=row["first"], last=row["last"]) for row in rows
        ]

    async def read_page(self, run: FleetRun, page: Page, selection: Selection) -> list[PageMachine]:
        """Return the machines of a page with their topologies, in one statement.

        Args:
            run: whose diagnoses count as done.
            page: from `pages`, or with ids, which need not be registered.
            selection: as given to `pages`; ignored for a page with ids.
        """
        ids = None if page.ids is None else list(page.ids)
        rows = await self._database.fetch(
            "fleet_page", run.name, run.created_at, ids, page.first, page.last, *selection
        )
        return [machine for row in rows for machine in _machines(row)]

    async def states_before(
        self, machines: Sequence[tuple[str, datetime]]
    ) -> list[Mapping[str, State]]:
        """Return the states in each machine's newest diagnosis of stored readings before a time.

        Args:
            machines: equipment id, and the time before which the window ended.

        Returns:
            States by component id, in the order of `machines`; empty without a diagnosis.
        """
        rows = await self._database.fetch("states_before", *columns_of(machines, 2))
        return [{} if row["states"] is None else json.loads(row["states"]) for row in rows]


def _machines(row: Row) -> Iterator[PageMachine]:
    """Yield the machines of a row; they share a topology, which is parsed once and copied."""
    if row["structure"] is None:
        for pair in zip(row["equipment_ids"], row["diagnosis_ids"], strict=True):
            yield PageMachine(*pair, row["done"], None)
        return
    structure = json.loads(row["structure"])
    shared = Equipment.model_validate(structure | {"equipment_id": row["equipment_ids"][0]})
    # fills the cached properties, which are copied too
    assert shared.structure_digest
    assert shared.sensor_ids is not None
    columns = (row[name] for name in ("equipment_ids", "diagnosis_ids", "names", "revisions"))
    for equipment_id, diagnosis_id, name, revision in zip(*columns, strict=True):
        own = {"equipment_id": equipment_id, "name": name, "revision": revision}
        yield PageMachine(equipment_id, diagnosis_id, row["done"], shared.model_copy(update=own))
