"""`hydraulic equipment`: registers machines in the store, lists, checks and draws them.

It also records their baselines.
"""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import ValidationError
from pydantic_core import to_json
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.cli.topology import drawn, mermaid, svg
from app.core.command_line import FAILED, AsJson, Dsn, command_group, time_argument
from app.core.errors import InputError, TopologyError, UnknownEquipment
from app.core.settings import Settings
from app.schemas.baselines import BaselineRequest, MachineBaseline
from app.schemas.equipment import Equipment
from app.schemas.maintenance import KINDS, Maintenance, check_maintenance
from app.schemas.places import shown
from app.schemas.topology import read_equipment
from app.serving.ingress.baselines import end_baseline, find_baseline, record_baseline
from app.store.caller import Caller, acting_as
from app.store.equipment import Put
from app.store.store import Store, open_store

commands = command_group("Register, list, check and draw machines.")

T = TypeVar("T")
FILE_ENDINGS = (".yaml", ".yml", ".json")
Files = Annotated[list[Path], typer.Argument(help="Topologies in YAML or JSON.")]
EquipmentId = Annotated[str, typer.Argument(metavar="ID", help="Id of the machine.")]


def read_topology(path: Path) -> Equipment:
    """Read and check a topology file.

    Raises:
        TopologyError: it can't be read, or has errors.
    """
    try:
        return read_equipment(path.read_bytes(), path.name)
    except OSError as error:
        message = f"expected a topology file, found none to read ({error.strerror})"
        raise TopologyError(str(path), (("", message),)) from error


async def with_store(dsn: str | None, work: Callable[[Store], Awaitable[T]]) -> T:
    """Do something with the migrated store of the settings, or of a DSN, and close it.

    It sees all tenants, and the audit log names the user of this process.
    """
    store = open_store(Settings().at(dsn))
    try:
        await store.migrate()
        with acting_as(Caller(None, f"command line of {getpass.getuser()}")):
            return await work(store)
    finally:
        await store.close()


async def find_topology(store: Store, equipment_id: str) -> Equipment:
    """Return a registered topology.

    Raises:
        UnknownEquipment: it is not registered.
    """
    record = await store.get_equipment(equipment_id)
    if record is None:
        raise UnknownEquipment(equipment_id)
    return record.equipment


@commands.command(epilog="Example: hydraulic equipment register press-1.yaml press-2.yaml")
def register(files: Files, dsn: Dsn = None) -> None:
    """Register machines, or replace their topologies; nothing is written when a file has errors."""
    machines = [read_topology(path) for path in files]

    async def put(store: Store) -> list[Put]:
        return [await store.put_equipment(machine) for machine in machines]

    for machine, done in zip(machines, asyncio.run(with_store(dsn, put)), strict=True):
        word = "registered" if done.created else "restored" if done.restored else "replaced"
        typer.echo(
            f"{word} {machine.equipment_id}: {len(machine.components)} components, "
            f"{len(machine.sensors)} sensors"
        )


@commands.command(epilog="Example: hydraulic equipment lint press-1.yaml")
def lint(files: Files) -> None:
    """Check topology files and print every error with its place; exit status 1 if there is one."""
    failed = False
    for path in files:
        try:
            read_topology(path)
        except TopologyError as error:
            failed = True
            for place, message in error.findings:
                typer.echo(f"{path}: {place}: {message}" if place else f"{path}: {message}")
        else:
            typer.echo(f"{path}: no errors")
    if failed:
        raise typer.Exit(FAILED)


@commands.command("list", epilog="Example: hydraulic equipment list --design press --json")
def list_equipment(
    design: Annotated[str | None, typer.Option(help="Only machines of this design.")] = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """List the registered machines."""
    records = asyncio.run(with_store(dsn, lambda store: store.list_equipment()))
    found = [each for each in records if design in (None, each.equipment.design)]
    if as_json:
        typer.echo(to_json([each.equipment for each in found]).decode())
        return
    table = Table("machine", "design", "components", "sensors", "changed", box=None)
    for each in found:
        machine, changed = each.equipment, f"{each.updated_at:%Y-%m-%d %H:%M}Z"
        sizes = str(len(machine.components)), str(len(machine.sensors))
        table.add_row(machine.equipment_id, machine.design, *sizes, changed)
    Console().print(table)


@commands.command(epilog="Example: hydraulic equipment show press-1")
def show(equipment_id: EquipmentId, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """Show a machine: window, components, sensors and grades."""
    machine = asyncio.run(with_store(dsn, lambda store: find_topology(store, equipment_id)))
    if as_json:
        typer.echo(machine.model_dump_json(indent=2))
        return
    console = Console()
    console.print(
        f"{machine.equipment_id} {machine.name}\ndesign {machine.design}, grid "
        f"{machine.grid_s:g} s, window {machine.window_s:g} s, {machine.steps} steps"
        + (f", cycle {machine.cycle_s:g} s" if machine.cycle_s else ""),
        markup=False,
    )
    table = Table("component", "type", "sensors", "grades, best first", box=None)
    for component in machine.components:
        sensors = ", ".join(f"{each.sensor_id} ({each.unit})" for each in component.sensors)
        grades = ", ".join(each.name for each in component.grades)
        table.add_row(component.component_id, component.type, sensors, grades)
    console.print(table)


@commands.command(
    epilog="Example: hydraulic equipment maintenance press-1 --component pump --kind replacement"
)
def maintenance(
    equipment_id: EquipmentId,
    kind: Annotated[
        str | None, typer.Option(help=f"Record maintenance of this kind: {', '.join(KINDS)}.")
    ] = None,
    component: Annotated[
        str | None, typer.Option(help="That was maintained; without it, the whole machine.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="When it ended, ISO 8601 with zone; without it, now.")
    ] = None,
    note: Annotated[str, typer.Option(help="For people.")] = "",
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Record maintenance of a machine, after which its trends begin anew, or list it."""
    if kind is not None:
        item = _maintenance(kind, component, at, note)

        async def record(store: Store) -> int:
            equipment = await find_topology(store, equipment_id)
            check_maintenance(item, equipment, datetime.now(UTC))
            return (await store.put_maintenance(equipment_id, item)).record.maintenance_id

        typer.echo(f"recorded maintenance {asyncio.run(with_store(dsn, record))}")
        return
    found = asyncio.run(with_store(dsn, lambda store: store.list_maintenance(equipment_id)))
    if as_json:
        typer.echo(to_json(found).decode())
        return
    table = Table("number", "time", "component", "kind", "note", box=None)
    for each in found:
        number, time = str(each.maintenance_id), f"{each.time:%Y-%m-%d %H:%M}Z"
        table.add_row(number, time, each.component_id or "all", each.kind, escape(each.note))
    Console().print(table)


def _maintenance(kind: str, component: str | None, at: str | None, note: str) -> Maintenance:
    time = datetime.now(UTC) if at is None else time_argument(at)
    values = {"time": time, "component_id": component, "kind": kind, "note": note}
    try:
        return Maintenance.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        raise InputError(
            f"expected a valid {field}, found {shown(values[field])}: {first['msg']}", field
        ) from error


@commands.command(epilog="Example: hydraulic equipment draw press-1.yaml --out press.svg")
def draw(
    machine: Annotated[
        str, typer.Argument(metavar="ID_OR_FILE", help="A registered machine, or a topology file.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write an image (.svg) or a Mermaid text (.mmd) instead.")
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Draw a machine's topology in the terminal, or into a file."""
    equipment = (
        read_topology(Path(machine))
        if machine.endswith(FILE_ENDINGS)
        else asyncio.run(with_store(dsn, lambda store: find_topology(store, machine)))
    )
    if out is None:
        Console().print(drawn(equipment, {}))
        return
    writers = {".svg": svg, ".mmd": mermaid}
    if out.suffix not in writers:
        raise InputError(f"expected --out to end in .svg or .mmd, found '{out.name}'", "out")
    out.write_text(writers[out.suffix](equipment, {}), encoding="utf-8")
    typer.echo(f"wrote {out}")


@commands.command(
    epilog="Example: hydraulic equipment baseline press-1 --start 2026-11-01T06:00Z "
    "--end 2026-11-02T06:00Z"
)
def baseline(
    equipment_id: EquipmentId,
    start: Annotated[
        datetime | None,
        typer.Option(
            parser=time_argument, metavar="TIME", help="From when on the machine was healthy."
        ),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option(parser=time_argument, metavar="TIME", help="Until when it was."),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Stop using the baseline; it is kept.")
    ] = False,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Record a machine's baseline from readings of a healthy interval, show it, or delete it.

    From then on the machine is compared with itself instead of with its design. A machine of a
    design that no version was trained on needs one to be diagnosed.
    """
    if delete and (start or end):
        raise InputError("expected --delete or an interval, found both: give one", "delete")
    if (start is None) != (end is None):
        raise InputError("expected both --start and --end, found one: add the other", "start")

    async def work(store: Store) -> MachineBaseline:
        equipment = await find_topology(store, equipment_id)
        if delete:
            return await end_baseline(store, equipment_id, getpass.getuser())
        if start is None or end is None:
            return await find_baseline(store, equipment_id)
        request = BaselineRequest(start=start, end=end)
        return await record_baseline(
            store, equipment, request, getpass.getuser(), datetime.now(UTC)
        )

    found = asyncio.run(with_store(dsn, work))
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    ended = "" if found.deleted_at is None else f", deleted {found.deleted_at:%Y-%m-%d %H:%M}Z"
    typer.echo(
        f"baseline {found.baseline_id[:12]} of {found.equipment_id}: {found.windows} windows in "
        f"[{found.start.isoformat()}, {found.end.isoformat()}){ended}"
    )
    for name, sensors in (
        ("too few readings of", found.missing_sensors),
        ("check whether these are stuck:", found.stuck_sensors),
    ):
        if sensors:
            typer.echo(f"{name} {', '.join(sensors)}")
