"""What a fleet needs, from measured constants and stated assumptions: `python -m cluster.capacity`.

It counts work and compares it with what one unit (a PostgreSQL primary, an ingress process, a node) can give. It knows
nothing of queues, peaks or failures: `utilisation` leaves the room for those.
Invariant: every constant stands in `measured.json` with how and when it was measured; everything else is an `Assumptions`.
"""

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from app.core.errors import InputError

MEASURED = Path(__file__).with_name("measured.json")
PAGE = Path(__file__).with_name("CAPACITY.md")
FLEETS = (1_000, 100_000, 10_000_000)
MONTH_S = 30.44 * 86_400
MONTH_H = MONTH_S / 3600
BEGIN = "<!-- made by python -m cluster.capacity --write: begin {} -->"
END = "<!-- end {} -->"


@dataclass(frozen=True)
class Constants:
    """What was measured; units are in the names, `_ms` and `_us` are CPU time of one core.

    Args:
        reading_bytes: a row of `sensor_readings` on disk with its index.
        grid_row_bytes: a row of `sensor_grid` of 20 sensors with its index.
        diagnosis_bytes: a row of `diagnoses` with its indexes.
        reading_wal_bytes: what a reading and its share of the grid add to the write-ahead log.
        diagnosis_wal_bytes: what a stored diagnosis adds to it.
        narrow_compression: how many times smaller TimescaleDB makes `sensor_readings`.
        reading_body_bytes: a reading in the body of a request.
        reading_sent_bytes: a reading on its way from the ingress to the database.
        window_bytes: a window from the database to the ingress, and again to the builder.
        graph_bytes: a graph from the builder to the ingress, and again to the model.
        scores_bytes: the model's answer for a graph.
        diagnosis_json_bytes: a diagnosis to the caller, and again to the database.
        ingress_reading_us: reading and storing a reading, in the ingress.
        database_ingest_us: storing a reading with its share of the grid, posts of 20 s.
        database_ingest_tick_us: the same, a post for each second of each machine.
        ingress_ms: the ingress's part of a diagnosis.
        builder_ms: the builder's, 62 windows in a call.
        model_ms: the model's, 62 graphs in a call.
        database_window_ms: reading a window, 32 in a statement, beside 10,000 machines and a year.
        database_diagnosis_ms: storing a diagnosis, 32 in a statement.
        ingress_mb: memory of an ingress or builder replica.
        model_mb: memory of a model replica.
    """

    reading_bytes: float
    grid_row_bytes: float
    diagnosis_bytes: float
    reading_wal_bytes: float
    diagnosis_wal_bytes: float
    narrow_compression: float
    reading_body_bytes: float
    reading_sent_bytes: float
    window_bytes: float
    graph_bytes: float
    scores_bytes: float
    diagnosis_json_bytes: float
    ingress_reading_us: float
    database_ingest_us: float
    database_ingest_tick_us: float
    ingress_ms: float
    builder_ms: float
    model_ms: float
    database_window_ms: float
    database_diagnosis_ms: float
    ingress_mb: float
    model_mb: float


@dataclass(frozen=True)
class Assumptions:
    """What is not measured: how a fleet is run, what a unit of hardware has and what it costs. Set each as you know it.

    Args:
        sensors: of a machine.
        reading_hz: readings of a sensor a second, as they reach the service (after the edge, if it takes means).
        diagnosis_interval_s: between diagnoses of a machine.
        keep_months: how long readings, grid and diagnoses are kept.
        timescale: 1 when TimescaleDB compresses readings older than 30 days, 0 on plain PostgreSQL.
        posts_of_a_tick: 1 when each second of each machine is a post of its own, 0 when posts carry 20 s or more.
        utilisation: share of a unit that is planned with.
        node_cores: of a node that runs replicas.
        primary_cores: of one PostgreSQL server.
        primary_write_mb_s: what its disk writes without end.
        primary_disk_tb: of its disk.
        primary_connections: its `max_connections`.
        network_mb_s: of a node and of a primary.
        pool_size: `HYDRAULIC_POOL_SIZE`.
        core_hour_usd: price of a core for an hour, its memory included.
        gb_month_usd: price of a gigabyte of disk for a month.
    """

    sensors: float = 20
    reading_hz: float = 1.0
    diagnosis_interval_s: float = 60
    keep_months: float = 12
    timescale: float = 0
    posts_of_a_tick: float = 0
    utilisation: float = 0.6
    node_cores: float = 16
    primary_cores: float = 32
    primary_write_mb_s: float = 500
    primary_disk_tb: float = 16
    primary_connections: float = 500
    network_mb_s: float = 1250
    pool_size: float = 8
    core_hour_usd: float = 0.05
    gb_month_usd: float = 0.10


SCENARIOS: Mapping[str, Assumptions] = {
    "as it stands": Assumptions(),
    "with the knobs": Assumptions(timescale=1, reading_hz=0.1, diagnosis_interval_s=300),
}
"""The tables of CAPACITY.md. The knobs: TimescaleDB, means of 10 s taken at the machine, a diagnosis each five minutes."""


class Demand(NamedTuple):
    """What a fleet needs. Cores are busy cores; replicas, primaries and nodes leave `utilisation` its room."""

    readings_s: float
    diagnoses_s: float
    ingress_cores: float
    builder_cores: float
    model_cores: float
    database_cores: float
    ingress_replicas: int
    builder_replicas: int
    model_replicas: int
    nodes: int
    memory_gb: float
    raw_tb_a_month: float
    kept_tb: float
    write_mb_s: float
    network_mb_s: float
    connections: int
    primaries: int
    month_usd: float
    loads: Mapping[str, float]

    @property
    def beyond(self) -> tuple[str, ...]:
        """The first bottleneck, which is the unit furthest beyond what one can give, then all others beyond, worst first."""
        first, *others = sorted(self.loads, key=self.loads.__getitem__, reverse=True)
        return first, *(name for name in others if self.loads[name] > 1)


def read_measured(path: Path = MEASURED) -> Constants:
    """Read the constants.

    Raises:
        InputError: one is missing, unknown or not a positive number.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    names = {field.name for field in fields(Constants)}
    if found.keys() != names:
        raise InputError(
            f"expected the constants of cluster/capacity.py in {path.name}, found {sorted(found.keys() ^ names)} on one side "
            "only: measure or remove them"
        )
    for name, entry in found.items():
        if not (isinstance(entry["value"], int | float) and 0 < entry["value"] < math.inf):
            raise InputError(
                f"expected a positive number for {name}, found {entry['value']}: measure it again"
            )
    return Constants(**{name: float(entry["value"]) for name, entry in found.items()})


def record(values: Mapping[str, float], how: str, path: Path = MEASURED) -> None:
    """Put newly measured constants into `measured.json`.

    Args:
        values: by the names of `Constants`; the others stay.
        how: the command, or what was done.
        path: the file.

    Raises:
        InputError: a name is no constant.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    unknown = values.keys() - found.keys()
    if unknown:
        raise InputError(
            f"expected constants of cluster/capacity.py, found {sorted(unknown)}: add them there first"
        )
    when = datetime.now(tz=UTC).date().isoformat()
    for name, value in values.items():
        found[name] = {"value": float(f"{value:.4g}"), "how": how, "when": when}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def demand(machines: int, constants: Constants, given: Assumptions) -> Demand:
    """Work out what a fleet needs.

    Args:
        machines: of the fleet.
        constants: as measured.
        given: how it is run, and on what.
    """
    c = constants
    ticks_s = machines * given.reading_hz
    readings_s = ticks_s * given.sensors
    diagnoses_s = machines / given.diagnosis_interval_s
    ingest_us = c.database_ingest_tick_us if given.posts_of_a_tick else c.database_ingest_us

    ingress_cores = readings_s * c.ingress_reading_us / 1e6 + diagnoses_s * c.ingress_ms / 1e3
    builder_cores = diagnoses_s * c.builder_ms / 1e3
    model_cores = diagnoses_s * c.model_ms / 1e3
    database_cores = (
        readings_s * ingest_us / 1e6
        + diagnoses_s * (c.database_window_ms + c.database_diagnosis_ms) / 1e3
    )
    # a replica is one process whose event loop, or forward pass, has one core
    ingress, builder, model = (
        math.ceil(cores / given.utilisation)
        for cores in (ingress_cores, builder_cores, model_cores)
    )
    nodes = math.ceil(
        (ingress_cores + builder_cores + model_cores) / given.utilisation / given.node_cores
    )

    grid_bytes = c.grid_row_bytes * given.sensors / 20
    narrow_b_s = readings_s * c.reading_bytes
    other_b_s = ticks_s * grid_bytes + diagnoses_s * c.diagnosis_bytes
    # the newest month stays as it is; the grid's and the bodies' compression was not measured, so they count in full
    narrow_months = given.keep_months
    if given.timescale:
        narrow_months = (
            min(1.0, given.keep_months) + max(0.0, given.keep_months - 1) / c.narrow_compression
        )
    kept_b = MONTH_S * (narrow_b_s * narrow_months + other_b_s * given.keep_months)
    # into the log, and once into the tables and indexes
    write_b_s = (
        readings_s * c.reading_wal_bytes
        + diagnoses_s * c.diagnosis_wal_bytes
        + narrow_b_s
        + other_b_s
    )
    database_network_b_s = readings_s * c.reading_sent_bytes + diagnoses_s * (
        c.window_bytes + c.diagnosis_json_bytes
    )
    network_b_s = (
        database_network_b_s
        + readings_s * c.reading_body_bytes
        + diagnoses_s
        * (c.window_bytes + 2 * c.graph_bytes + c.scores_bytes + c.diagnosis_json_bytes)
    )
    connections = math.ceil(ingress * given.pool_size)

    primary = {
        "disk of a primary": kept_b / 1e12 / given.primary_disk_tb,
        "writes of a primary": write_b_s / 1e6 / given.primary_write_mb_s,
        "cores of a primary": database_cores / given.primary_cores,
        "network of a primary": database_network_b_s / 1e6 / given.network_mb_s,
    }
    loads = {name: share / given.utilisation for name, share in primary.items()} | {
        "connections of a primary": connections / given.primary_connections,
        "core of an ingress": ingress_cores / given.utilisation,
        "cores of a node": (ingress_cores + builder_cores + model_cores)
        / given.node_cores
        / given.utilisation,
    }
    # replicas spread over the shards, so connections ask for no primary of their own
    primaries = max(1, math.ceil(max(primary.values()) / given.utilisation))
    cores = (ingress_cores + builder_cores + model_cores + database_cores) / given.utilisation
    return Demand(
        readings_s=readings_s,
        diagnoses_s=diagnoses_s,
        ingress_cores=ingress_cores,
        builder_cores=builder_cores,
        model_cores=model_cores,
        database_cores=database_cores,
        ingress_replicas=ingress,
        builder_replicas=builder,
        model_replicas=model,
        nodes=nodes,
        memory_gb=((ingress + builder) * c.ingress_mb + model * c.model_mb) / 1e3,
        raw_tb_a_month=MONTH_S * (narrow_b_s + other_b_s) / 1e12,
        kept_tb=kept_b / 1e12,
        write_mb_s=write_b_s / 1e6,
        network_mb_s=network_b_s / 1e6,
        connections=connections,
        primaries=primaries,
        month_usd=cores * MONTH_H * given.core_hour_usd + kept_b / 1e9 * given.gb_month_usd,
        loads=loads,
    )


def table(constants: Constants, given: Assumptions, fleets: Iterable[int] = FLEETS) -> str:
    """Return a Markdown table: a column for each fleet."""
    found = {machines: demand(machines, constants, given) for machines in fleets}
    rows: list[tuple[str, list[str]]] = [
        ("readings a second", [_short(need.readings_s) for need in found.values()]),
        ("diagnoses a second", [_short(need.diagnoses_s) for need in found.values()]),
        (
            "busy cores: ingress, builder, model, database",
            [
                ", ".join(
                    map(
                        _short,
                        (
                            need.ingress_cores,
                            need.builder_cores,
                            need.model_cores,
                            need.database_cores,
                        ),
                    )
                )
                for need in found.values()
            ],
        ),
        (
            "replicas: ingress, builder, model",
            [
                ", ".join(
                    map(_short, (need.ingress_replicas, need.builder_replicas, need.model_replicas))
                )
                for need in found.values()
            ],
        ),
        ("nodes for the replicas", [_short(need.nodes) for need in found.values()]),
        ("memory of the replicas, GB", [_short(need.memory_gb) for need in found.values()]),
        (
            "database a month uncompressed, TB",
            [_short(need.raw_tb_a_month) for need in found.values()],
        ),
        (
            f"database kept ({given.keep_months:g} months), TB",
            [_short(need.kept_tb) for need in found.values()],
        ),
        ("database writes, MB/s", [_short(need.write_mb_s) for need in found.values()]),
        ("network in all, MB/s", [_short(need.network_mb_s) for need in found.values()]),
        ("connections", [_short(need.connections) for need in found.values()]),
        ("primaries", [_short(need.primaries) for need in found.values()]),
        ("cost a month, USD", [_short(need.month_usd) for need in found.values()]),
    ]
    names = next(iter(found.values())).loads
    rows += [
        (f"load: {name}", [_short(need.loads[name]) for need in found.values()]) for name in names
    ]
    rows.append(("**first bottleneck**", [f"**{need.beyond[0]}**" for need in found.values()]))
    rows.append(
        (
            "also beyond one unit",
            ["; ".join(need.beyond[1:]) or "nothing" for need in found.values()],
        )
    )
    head = "| machines | " + " | ".join(f"{machines:,}" for machines in found) + " |"
    lines = [head, "|---" * (len(found) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows)])


def constants_table(path: Path = MEASURED) -> str:
    """Return a Markdown table of the constants, with how and when each was measured."""
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        f"| `{name}` | {entry['value']:g} | {entry['how']} | {entry['when']} |"
        for name, entry in found.items()
    ]
    return "\n".join(["| constant | value | how | when |", "|---|---|---|---|", *rows])


def page(text: str, path: Path = MEASURED) -> str:
    """Return CAPACITY.md with its generated tables made again.

    Args:
        text: the page.
        path: of the constants.

    Raises:
        InputError: a table's markers are not in the page.
    """
    constants = read_measured(path)
    made = {name: table(constants, given) for name, given in SCENARIOS.items()} | {
        "constants": constants_table(path)
    }
    for name, content in made.items():
        begin, end = BEGIN.format(name), END.format(name)
        if text.count(begin) != 1 or text.count(end) != 1:
            raise InputError(
                f"expected the markers of '{name}' once in {PAGE.name}, found otherwise: put them back"
            )
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Print the tables, or one for assumptions of your own; `--write` refreshes CAPACITY.md."""
    parser = argparse.ArgumentParser(
        description="what a fleet of machines needs; each assumption can be set"
    )
    parser.add_argument("--write", action="store_true", help="make the tables of CAPACITY.md again")
    parser.add_argument("--machines", type=int, nargs="+", default=list(FLEETS))
    for field in fields(Assumptions):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=float, metavar=f"{field.default:g}"
        )
    options = vars(parser.parse_args())
    set_ = {
        field.name: options[field.name]
        for field in fields(Assumptions)
        if options[field.name] is not None
    }
    if options["write"]:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    constants = read_measured()
    for name, given in SCENARIOS.items():
        print(f"{name}\n{table(constants, replace(given, **set_), options['machines'])}\n")


def _short(number: float) -> str:
    """Return a number to two figures, or whole where it is larger."""
    if number >= 100:
        return f"{round(number, 1 - math.floor(math.log10(number))):,.0f}"
    return f"{number:.2g}"


if __name__ == "__main__":
    main()
