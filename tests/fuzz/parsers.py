"""The parsers of what comes from outside, each as one function of bytes.

A parser returns what it read, or raises an error of the project (pydantic's own counts: the
interface translates it). Anything else is a finding.
"""

import asyncio
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from app.cli.reading_files import ReadingFile
from app.core.errors import HydraulicDiagnosticsError
from app.schemas.diagnosis import DiagnosisRequest
from app.schemas.reading_formats import Format, ReadingOptions, format_of, read_body
from app.schemas.reading_rows import Refusal, Row
from app.schemas.topology import read_equipment
from app.serving.http.routes.diagnoses import parse_batch

EXPECTED = (HydraulicDiagnosticsError, ValidationError)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
SENSORS = frozenset({"PS1", "PS2", "TS1"})

Parse = Callable[[bytes], object]


class Readings(NamedTuple):
    """The readings of a document, and how many of its lines were refused."""

    rows: list[tuple[str, str, int, float]]
    refused: int


def _body(kind: Format | None) -> Parse:
    def parse(data: bytes) -> Readings:
        rows: list[tuple[str, str, int, float]] = []
        refused = 0
        for row in read_body(data, kind or format_of("", data), ReadingOptions()).rows:
            if isinstance(row, Row):
                rows.append(tuple(row)[1:])
            elif isinstance(row, Refusal):
                assert row.explained().reason
                refused += 1
        return Readings(rows, refused)

    return parse


def _file(suffix: str) -> Parse:
    def parse(data: bytes) -> Readings:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / f"readings{suffix}"
            path.write_bytes(data)
            file = ReadingFile(path, None, (), lambda _: SENSORS, NOW)
            rows: list[tuple[str, str, int, float]] = []
            refused = 0
            for part in file.parts(0, 0):
                refused += len(part.rejected)
                for each in part.readings:
                    columns = zip(each.sensor_ids, each.times_us, each.values, strict=True)
                    rows += [(each.equipment_id, *reading) for reading in columns]
            return Readings(rows, refused)

    return parse


PARSERS: dict[str, Parse] = {
    "json": _body("json"),
    "ndjson": _body("ndjson"),
    "csv": _body("csv"),
    "unnamed": _body(None),
    "topology": lambda data: read_equipment(data, "topology"),
    "diagnosis": DiagnosisRequest.model_validate_json,
    "batch": lambda data: asyncio.run(parse_batch(data)),
    "file.csv": _file(".csv"),
    "file.csv.gz": _file(".csv.gz"),
    "file.csv.zst": _file(".csv.zst"),
    "file.parquet": _file(".parquet"),
}
"""By the name of their directory in the corpus."""
