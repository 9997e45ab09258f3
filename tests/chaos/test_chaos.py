"""The short form of the chaos suite: three faults of the running system, under load.

`make chaos` makes all faults and measures them; here the recovery may take any time, since a
machine that runs tests is loaded.
"""

import asyncio
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest

import tests.chaos.faults  # noqa: F401 - registers the faults
from app.store.embedded.server import running_server
from tests.chaos.alerts import Alert
from tests.chaos.database import Server
from tests.chaos.harness import (
    FAULTS,
    MOST_ERRORS,
    Arena,
    Result,
    lost_readings,
    measure,
)
from tests.chaos.load import Answer, Load
from tests.chaos.soak import Life, slope
from tests.chaos.tcp_proxy import TcpProxy
from tests.system import System


class LocalServer:
    """The local server of the running system, as far as the harness asks it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def sql(self, statement: str) -> str:
        async def run() -> list[asyncpg.Record]:
            dsn = running_server(self._directory)
            assert dsn is not None, "expected a running server"
            session = await asyncpg.connect(dsn)
            try:
                return await session.fetch(statement)
            finally:
                await session.close()

        return "\n".join(str(row[0]) for row in asyncio.run(run()))


@pytest.mark.system
@pytest.mark.parametrize("name", ["kill_model", "kill_builder", "kill_haproxy"])
def test_killed_process_is_replaced_and_no_acknowledged_reading_is_lost(
    system: System, tmp_path: Path, name: str
):
    database = cast("Server", LocalServer(system.var_dir / "postgres"))
    arena = Arena(
        system, database, TcpProxy(("127.0.0.1", 1)), tmp_path, ExitStack(), tmp_path, tmp_path
    )
    result = measure(arena, FAULTS[name])
    assert "is gone" in result.evidence
    assert result.recovery_s is not None, result
    assert result.acknowledged > 0
    assert (result.lost, result.failed_outside) == (0, 0), result


def result(**changes: Any) -> Result:
    fields = {
        "fault": "f",
        "evidence": "e",
        "fault_s": 1.0,
        "error_window_s": 2.0,
        "recovery_s": 3.0,
        "requests": 10_000,
        "failed": 20,
        "failed_outside": 0,
        "outside": 5_000,
        "acknowledged": 100,
        "lost": 0,
        "load_average": 1.0,
        "errors": {},
    }
    return Result(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"recovery_s": None}, "recovery"),
        ({"recovery_s": 30.1}, "recovery"),
        ({"lost": 1}, "lost"),
        ({"lost": -1}, "lost"),
        ({"harmless": True}, "while it lasts"),
        ({"failed_outside": int(MOST_ERRORS * 5_000) + 1}, "errors"),
        ({"alert": "ServiceDown", "fired": ()}, "the alert ServiceDown"),
        ({"fired": (Alert("DiskFull", "page"),)}, "no page DiskFull"),
    ],
)
def test_what_a_service_did_not_hold_is_a_finding(changes: dict[str, Any], finding: str):
    assert result().findings == []
    (found,) = result(**changes).findings
    assert finding in found


def test_alert_that_names_a_fault_and_those_of_the_objectives_are_no_finding():
    fired = (
        Alert("ErrorBudgetBurnFast", "page"),
        Alert("ReplicaMissing", "ticket"),
        Alert("ServiceDown", "page"),
    )
    assert result(alert="ServiceDown", fired=fired).findings == []


def test_lost_readings_are_those_that_were_acknowledged_and_are_not_stored():
    class Database:
        def sql(self, statement: str) -> str:
            return "1767225600\n1767225601" if "chaos-1" in statement else ""

    load = Load("", "")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    load.acknowledged["chaos-1"] = {start, start + timedelta(seconds=1)}
    load.acknowledged["chaos-2"] = {start}
    assert lost_readings(cast("Server", Database()), load) == 1


def test_answer_is_good_with_200_and_202_alone():
    assert [Answer("ingest", 0, 1, status).ok for status in (200, 202, 0, 429, 503)] == [
        *(True, True),
        *(False, False, False),
    ]


def test_slope_is_of_the_samples_after_the_warm_up():
    times = [float(second) for second in range(0, 600, 10)]
    life = Life("p", times, [100 + max(0.0, 60 - at) + at / 36 for at in times])
    life.files, life.connections = [3] * len(times), [1] * len(times)
    settled = life.settled()
    assert settled is not None
    assert slope(settled.times, settled.rss_mb) == pytest.approx(100)
    assert slope(settled.times, settled.files) == pytest.approx(0)
    assert Life("p", times[:10], life.rss_mb[:10], [], []).settled() is None
