"""`hydraulic release compare` prints the verdict of the service."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from app.core.errors import InputError, ReleaseError
from app.experiments.reading import ExperimentQuery, read_experiments
from app.release.view import comparison_lines
from app.store.store import Store
from tests.command_line import hydraulic
from tests.shadow_rows import START, ComponentPrediction, diagnosis, put_pairs

NOW = START + timedelta(days=10)


async def put(dsn: str, store: Store) -> None:
    await put_pairs(
        dsn,
        store,
        [diagnosis(number, "3", ComponentPrediction("0")) for number in range(20)],
        [
            diagnosis(number, "4", ComponentPrediction("1" if number < 5 else "0", 0.8))
            for number in range(20)
        ],
    )


async def test_verdict_comes_first_and_then_its_figures(store: Store, database_dsn: str):
    await put(database_dsn, store)
    lines = await comparison_lines(store.answer_pairs(), "3", "4", None, NOW)
    assert lines == [
        (
            "not yet known: no label says whether 4 or 3 is right. "
            "They differ in 5 of 20 windows: pump in 5"
        ),
        "20 windows of 1 machine(s), 2026-03-01 12:00Z to 2026-03-01 12:19Z",
        "they differ in 5 of 20 (25.0%); insufficient evidence: 3 in 0, 4 in 0",
        (
            "building and scoring: 3 20 ms at the median, 20 ms at 95 %; "
            "4 30 ms at the median, 30 ms at 95 %"
        ),
        "component  differ           right     of labelled windows  health, 4 less 3",
        "pump       5 of 20 (25.0%)  no label                       -0.100 [-0.307, +0.153]",
    ]
    (found,) = (
        await read_experiments(store.answer_pairs(), ExperimentQuery("3", "4"), NOW)
    ).experiments
    assert lines[0] == found.sentence


async def test_days_go_back_from_now(store: Store, database_dsn: str):
    await put(database_dsn, store)
    lines = await comparison_lines(store.answer_pairs(), "3", "4", 10 - 5 / 1440, NOW)
    assert lines[1].startswith("15 windows")
    with pytest.raises(ReleaseError, match="release shadow 4"):
        await comparison_lines(store.answer_pairs(), "3", "4", 1, NOW)
    for days in (0.0, -1.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(InputError, match="--days"):
            await comparison_lines(store.answer_pairs(), "3", "4", days, NOW)


def test_command_prints_the_verdict_or_an_error_of_one_line(
    database_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HYDRAULIC_DSN", database_dsn)
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", str(tmp_path))

    async def fill() -> None:
        store = Store(database_dsn)
        await put(database_dsn, store)
        await store.close()

    asyncio.run(fill())
    status, out, _ = hydraulic("release", "compare", "3", "4")
    assert status == 0
    assert out.startswith("not yet known: no label says whether 4 or 3 is right.")
    for arguments, message in (
        (["3", "3"], "found 3 twice"),
        (["3", "9"], "found none: score copies of the traffic"),
        (["3", "4", "--days", "0"], "correct --days"),
    ):
        status, _, err = hydraulic("release", "compare", *arguments)
        assert status == 1
        assert message in err
        assert err.startswith("error: expected")
