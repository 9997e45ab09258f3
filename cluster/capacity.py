"""Computes the resources of a fleet from measured constants: `python -m cluster.capacity`.

It compares the work with the capacity of one unit (a PostgreSQL primary, an ingress process, a
node). It models no queues, peaks or failures: `utilisation` reserves capacity for them.
Invariant: every constant is in `measured.json` with how and when it was measured; everything else
is in `Assumptions`.
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
    """Measured constants; names give units, `_ms` and `_us` are CPU time of one core."""

    reading_bytes: float  # a row of `sensor_readings` on disk with its index
    grid_row_bytes: float  # a row of `sensor_grid` of 20 sensors with its index
    diagnosis_bytes: float  # a row of `diagnoses` with its indexes
    reading_wal_bytes: float  # write-ahead log of a reading and its share of the grid
    diagnosis_wal_bytes: float  # write-ahead log of a stored diagnosis
    narrow_compression: float  # compression ratio of `sensor_readings` in TimescaleDB
    reading_body_bytes: float  # a reading in the body of a request
    reading_sent_bytes: float  # a reading from the ingress to the database
    window_bytes: float  # a window from the database to the ingress, and again to the builder
    graph_bytes: float  # a graph from the builder to the ingress, and again to the model
    scores_bytes: float  # the answer of the model for a graph
    diagnosis_json_bytes: float  # a diagnosis to the caller, and again to the database
    ingress_reading_us: float  # parsing and storing a reading, in the ingress
    database_ingest_us: float  # storing a reading with its share of the grid, posts of 20 s
    database_ingest_tick_us: float  # the same, one post per second and machine
    ingress_ms: float  # a diagnosis in the ingress
    builder_ms: float  # a diagnosis in the builder, 62 windows per call
    model_ms: float  # a diagnosis in the model, 62 graphs per call
    database_window_ms: float  # reading a window, 32 per statement, with 10,000 machines and a year
    database_diagnosis_ms: float  # storing a diagnosis, 32 per statement
    ingress_mb: float  # memory of an ingress or builder replica
    model_mb: float  # memory of a model replica


@dataclass(frozen=True)
class Assumptions:
    """Assumptions that are not measured: operation, hardware and prices; options set them."""

    sensors: float = 20  # of a machine
    reading_hz: float = 1.0  # of a sensor at the service, after averaging at the machine, if any
    diagnosis_interval_s: float = 60  # between diagnoses of a machine
    keep_months: float = 12  # retention of readings, grid and diagnoses
    timescale: float = 0  # 1: TimescaleDB compresses readings older than 30 days
    posts_of_a_tick: float = 0  # 1: one post per second and machine; 0: posts of 20 s or more
    utilisation: float = 0.6  # planned share of a unit's capacity
    node_cores: float = 16  # of a node that runs replicas
    primary_cores: float = 32  # of one PostgreSQL server
    primary_write_mb_s: float = 500  # sustained write rate of its disk
    primary_disk_tb: float = 16  # size of its disk
    primary_connections: float = 500  # its `max_connections`
    network_mb_s: float = 1250  # of a node and of a primary
    pool_size: float = 8  # `HYDRAULIC_POOL_SIZE`
    core_hour_usd: float = 0.05  # price of a core with its memory per hour
    gb_month_usd: float = 0.10  # price of a gigabyte of disk per month


SCENARIOS: Mapping[str, Assumptions] = {
    "defaults": Assumptions(),
    "tuned": Assumptions(timescale=1, reading_hz=0.1, diagnosis_interval_s=300),
}
"""The tables of CAPACITY.md. Tuned: TimescaleDB, 10-s means, a diagnosis every five minutes."""


class Demand(NamedTuple):
    """Resources of a fleet. Cores are busy cores; replicas, primaries and nodes have reserves."""

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
        """The first bottleneck, then all other units whose load exceeds one unit, worst first."""
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
            f"expected the constants of cluster/capacity.py in {path.name}, found "
            f"{sorted(found.keys() ^ names)} on one side only: measure or remove them"
        )
    for name, entry in found.items():
        if not (isinstance(entry["value"], int | float) and 0 < entry["value"] < math.inf):
            raise InputError(
                f"expected a positive number for {name}, found {entry['value']}: measure it again"
            )
    return Constants(**{name: float(entry["value"]) for name, entry in found.items()})


def record(values: Mapping[str, float], how: str, path: Path = MEASURED) -> None:
    """Write newly measured constants to `measured.json`.

    Args:
        values: by the names of `Constants`; others are kept.
        how: the command or procedure.
        path: the file.

    Raises:
        InputError: a name is no constant.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    unknown = values.keys() - found.keys()
    if unknown:
        raise InputError(
            f"expected constants of cluster/capacity.py, found {sorted(unknown)}: add them there "
            "first"
        )
    when = datetime.now(tz=UTC).date().isoformat()
    for name, value in values.items():
        found[name] = {"value": float(f"{value:.4g}"), "how": how, "when": when}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def demand(machines: int, constants: Constants, given: Assumptions) -> Demand:
    """Compute the resources of a fleet.

    Args:
        machines: number of machines.
        constants: as measured.
        given: operation, hardware and prices.
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
    # a replica is one process; its event loop or forward pass uses one core
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
    # the newest month is uncompressed; so are the grid and the bodies, whose ratio is not measured
    narrow_months = given.keep_months
    if given.timescale:
        narrow_months = (
            min(1.0, given.keep_months) + max(0.0, given.keep_months - 1) / c.narrow_compression
        )
    kept_b = MONTH_S * (narrow_b_s * narrow_months + other_b_s * given.keep_months)
    # to the write-ahead log, and to tables and indexes
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
    # replicas spread over the shards, so connections need no additional primaries
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


ROWS: Mapping[str, tuple[str, ...]] = {
    "readings per second": ("readings_s",),
    "diagnoses per second": ("diagnoses_s",),
    "busy cores: ingress, builder, model, database": (
        "ingress_cores",
        "builder_cores",
        "model_cores",
        "database_cores",
    ),
    "replicas: ingress, builder, model": (
        "ingress_replicas",
        "builder_replicas",
        "model_replicas",
    ),
    "nodes of the replicas": ("nodes",),
    "memory of the replicas, GB": ("memory_gb",),
    "database per month, uncompressed, TB": ("raw_tb_a_month",),
    "database kept ({keep_months:g} months), TB": ("kept_tb",),
    "database writes, MB/s": ("write_mb_s",),
    "network in all, MB/s": ("network_mb_s",),
    "connections": ("connections",),
    "primaries": ("primaries",),
    "cost per month, USD": ("month_usd",),
}
"""Rows of a table: the fields of `Demand` in each."""


def table(constants: Constants, given: Assumptions, fleets: Iterable[int] = FLEETS) -> str:
    """Return a Markdown table with a column for each fleet."""
    found = {machines: demand(machines, constants, given) for machines in fleets}
    needs = list(found.values())
    rows = [
        (
            title.format(keep_months=given.keep_months),
            [", ".join(_short(getattr(need, name)) for name in names) for need in needs],
        )
        for title, names in ROWS.items()
    ]
    rows += [
        (f"load: {name}", [_short(need.loads[name]) for need in needs]) for name in needs[0].loads
    ]
    rows.append(("**first bottleneck**", [f"**{need.beyond[0]}**" for need in needs]))
    others = ["; ".join(need.beyond[1:]) or "nothing" for need in needs]
    rows.append(("also beyond one unit", others))
    head = "| machines | " + " | ".join(f"{machines:,}" for machines in found) + " |"
    lines = [head, "|---" * (len(found) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows)])


def constants_table(path: Path = MEASURED) -> str:
    """Return a Markdown table of the constants with their origin."""
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        f"| `{name}` | {entry['value']:g} | {entry['how']} | {entry['when']} |"
        for name, entry in found.items()
    ]
    return "\n".join(["| constant | value | how | when |", "|---|---|---|---|", *rows])


def page(text: str, path: Path = MEASURED) -> str:
    """Return CAPACITY.md with its tables generated again.

    Args:
        text: the page.
        path: of the constants.

    Raises:
        InputError: a table's markers are not in the page.
    """
    constants = read_measured(path)
    tables = {name: table(constants, given) for name, given in SCENARIOS.items()} | {
        "constants": constants_table(path)
    }
    for name, content in tables.items():
        begin, end = BEGIN.format(name), END.format(name)
        if text.count(begin) != 1 or text.count(end) != 1:
            raise InputError(
                f"expected the markers of '{name}' once in {PAGE.name}, found otherwise: "
                "restore them"
            )
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Print the tables for the given assumptions; `--write` generates those of CAPACITY.md."""
    parser = argparse.ArgumentParser(
        description="compute the resources of a fleet; options set the assumptions"
    )
    parser.add_argument("--write", action="store_true", help="generate the tables of CAPACITY.md")
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
    """Round a number to two significant figures."""
    if number >= 100:
        return f"{round(number, 1 - math.floor(math.log10(number))):,.0f}"
    return f"{number:.2g}"


if __name__ == "__main__":
    main()
