"""Labels from CSV: all lines are written, or none."""

import asyncio
from pathlib import Path

import pytest

from app.cli.main import main
from app.store.labels import ConditionLabel
from app.store.store import Store
from tests.small import START_US, press

HOUR_US = 3_600_000_000
HEAD = "start,end,component,health\n"


async def run(store: Store, dsn: str, path: Path, text: str | None) -> int:
    """Register the machine, write the file and run the command as a user does."""
    await store.put_equipment(press())
    if text is not None:
        path.write_text(text)
    return await asyncio.to_thread(main, ["train", "label", "press-1", str(path), "--dsn", dsn])


async def test_labels_are_written(
    store: Store, database_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        HEAD
        + "2025-01-01T00:00Z,2025-01-01T02:00+01:00,pump,0.8\n\n"
        + "2025-01-01T01:00Z, 2025-01-01T02:00Z, tank, 1\n"
    )
    assert await run(store, database_dsn, tmp_path / "labels.csv", text) == 0
    assert capsys.readouterr().out == "wrote 2 labels of press-1\n"
    assert await store.read_labels("press-1") == [
        ConditionLabel("pump", START_US, START_US + HOUR_US, health=0.8),
        ConditionLabel("tank", START_US + HOUR_US, START_US + 2 * HOUR_US, health=1.0),
    ]


async def test_columns_are_those_of_labels_over_http(
    store: Store, database_dsn: str, tmp_path: Path
) -> None:
    text = (
        "start,end,component,grade,rul_h,stable\n"
        "2025-01-01T00:00Z,2025-01-01T01:00Z,pump,worn,,false\n"
        "2025-01-01T01:00Z,2025-01-01T02:00Z,pump,,12.5,\n"
    )
    assert await run(store, database_dsn, tmp_path / "labels.csv", text) == 0
    assert await store.read_labels("press-1") == [
        ConditionLabel("pump", START_US, START_US + HOUR_US, "worn", stable=False),
        ConditionLabel("pump", START_US + HOUR_US, START_US + 2 * HOUR_US, rul_h=12.5),
    ]


async def test_every_invalid_line_is_named_and_nothing_is_written(
    store: Store, database_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = HEAD + (
        "2025-01-01T00:00Z,2025-01-01T01:00Z,pump,0.8\n"
        "2025-01-01T00:00Z,2025-01-01T01:00Z,pump\n"
        "noon,2025-01-01T01:00,motor,1.5\n"
        "2025-01-01T01:00Z,2025-01-01T01:00Z,valve,good\n"
        "2025-01-01T00:30Z,2025-01-01T01:30Z,pump,nan\n"
        "2025-01-01T00:30Z,2025-01-01T01:30Z,pump,0.5\n"
    )
    assert await run(store, database_dsn, tmp_path / "labels.csv", text) == 1
    printed = capsys.readouterr().err
    for fault in (
        "labels.csv line 3: expected 4 columns, found 3",
        "line 4: expected an ISO 8601 time such as 2025-01-01T00:00Z as start, found 'noon'",
        "labels.csv line 4: expected a time with its zone as end, found '2025-01-01T01:00'",
        "labels.csv line 4: expected a component of pump, tank, valve, found 'motor'",
        "labels.csv line 4: expected a health from 0 to 1, found '1.5'",
        "line 5: expected an end after the start 2025-01-01T01:00:00+00:00, found 2025-01-01T01:00",
        "labels.csv line 5: expected a health from 0 to 1, found 'good'",
        "labels.csv line 6: expected a health from 0 to 1, found 'nan'",
        "labels.csv line 7: expected one label of 'pump' at a time, found one that overlaps line 2",
    ):
        assert fault in printed
    assert printed.endswith("nothing was written, correct the file\n")
    assert await store.read_labels("press-1") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "begin,end,component,health\n",
            "line 1: expected the columns start,end,component,health, found begin,end",
        ),
        (HEAD, "expected at least one label, found none"),
        (None, "expected a CSV file of labels at "),
    ],
)
async def test_file_without_labels_is_refused(
    store: Store,
    database_dsn: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    message: str,
) -> None:
    assert await run(store, database_dsn, tmp_path / "labels.csv", text) == 1
    assert message in capsys.readouterr().err


async def test_label_replaces_one_of_the_same_start_and_may_not_overlap_another(
    store: Store, database_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await store.put_equipment(press())
    await store.put_labels(
        "press-1", [ConditionLabel("pump", START_US, START_US + HOUR_US, "worn")]
    )
    path = tmp_path / "labels.csv"
    assert (
        await run(
            store, database_dsn, path, HEAD + "2025-01-01T00:30Z,2025-01-01T02:00Z,pump,0.4\n"
        )
        == 1
    )
    assert (
        "where the store has one, found two at 2025-01-01T00:30:00+00:00" in capsys.readouterr().err
    )
    assert (
        await run(
            store, database_dsn, path, HEAD + "2025-01-01T00:00Z,2025-01-01T02:00Z,pump,0.4\n"
        )
        == 0
    )
    assert await store.read_labels("press-1") == [
        ConditionLabel("pump", START_US, START_US + 2 * HOUR_US, health=0.4)
    ]


async def test_unknown_equipment_is_refused(
    store: Store, database_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await store.put_equipment(press())
    assert (
        await asyncio.to_thread(
            main, ["train", "label", "mill", str(tmp_path / "x.csv"), "--dsn", database_dsn]
        )
        == 1
    )
    assert "found 'mill'; the store has press-1" in capsys.readouterr().err
