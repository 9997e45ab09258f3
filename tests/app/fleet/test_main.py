"""The command: wrong use without Ray, and a whole run, stopped and resumed, with Ray Data."""

import asyncio
import hashlib
import json
from collections import Counter
from pathlib import Path

import asyncpg
import pytest
import ray

from app.fleet.plan import Plan, RunRequest, make_plan
from app.fleet.scorer import NOT_REGISTERED, FleetScorer
from app.store.fleet import FleetRun, Page
from app.store.store import Store
from tests.app.fleet.conftest import AT, NOW
from tests.command_line import Done, hydraulic


def command(*arguments: str) -> Done:
    return hydraulic("fleet", "score", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "0"), "whole number from 1 to 4096, found '0'"),
        (("--workers", "many"), "found 'many'"),
        (("--gpus", "1.5"), "part of one"),
        (("--gpus", "x"), "part of one"),
        (("--at", "yesterday"), "ISO 8601"),
        (("--at", "2025-01-01"), "with its zone"),
        (("--model", "1"), "No such option"),
    ],
)
def test_wrong_argument_is_reported(arguments: tuple[str, ...], message: str):
    status, _, err = command(*arguments)
    assert (status, message in err) == (2, True), err


def test_command_is_named():
    assert hydraulic("fleet").status == 2


def test_wrong_use_ends_with_2_before_ray_starts(
    database_dsn: str, config: Path, tmp_path: Path, without_ray: None
):
    ids = tmp_path / "ids.txt"
    ids.write_text("rig-1\n")
    common = ("--dsn", database_dsn, "--config", str(config))
    for arguments, message in [
        ((), "at least one registered machine"),
        (("--equipment", "no/such/file"), "which is neither"),
        (("--equipment", str(ids), "--design", "press"), "found both"),
        (("--run", "a b"), "as --run"),
        (("--at", "2999-01-01T00:00Z"), "leave --at out"),
        (("--model-version", "9"), "found '9'"),
        (("--checkpoint", str(tmp_path)), "checkpoint.json"),
        (("--config", str(ids)), "service's configuration"),
    ]:
        status, out, err = command(*common, *arguments)
        assert (status, out) == (2, ""), arguments
        assert message in err
    assert not ray.is_initialized()


def test_versions_are_those_of_the_service_where_no_config_is_given(
    database_dsn: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    arguments = ("--dsn", database_dsn, "--equipment", "rig", "--model-version", "9")
    monkeypatch.setenv("HYDRAULIC_SERVE_CONFIG", str(tmp_path / "serve.yaml"))
    status, _, err = command(*arguments)
    assert (status, str(tmp_path / "serve.yaml") in err) == (2, True), err
    monkeypatch.setenv("HYDRAULIC_SERVE_CONFIG", str(config))
    status, _, err = command(*arguments)
    assert (status, "found '9'" in err) == (2, True), err


def test_database_that_is_away_ends_with_1(config: Path):
    status, _, err = command(
        "--dsn", "postgresql://nobody@127.0.0.1:9/none", "--config", str(config)
    )
    assert status == 1
    assert "expected to reach the database" in err


def test_run_with_a_changed_file_of_ids_is_refused(database_dsn: str, config: Path, tmp_path: Path):
    ids = tmp_path / "ids.txt"
    ids.write_text("rig-1\n")
    request = RunRequest(
        equipment=str(ids), ids_sha256=hashlib.sha256(ids.read_bytes()).hexdigest()
    )
    asyncio.run(
        begin(
            database_dsn,
            FleetRun("files", NOW, make_plan(request, AT, config, NOW).model_dump_json()),
        )
    )
    ids.write_text("rig-1\nrig-2\n")

    for arguments in ((), ("--equipment", str(ids))):
        status, _, err = command("--dsn", database_dsn, "--run", "files", *arguments)
        assert status == 2
        assert "began with" in err


async def begin(dsn: str, run: FleetRun, first: tuple[str, ...] = ()) -> None:
    """Begin a run, and score some machines of it as a start does that is killed after them."""
    store = Store(dsn)
    await store.fleet_runs().begin(run)
    if first:
        scorer = FleetScorer(store, run, Plan.model_validate_json(run.plan), 32, "cpu")
        await scorer.score_page(Page(machines=len(first), ids=first))
    await store.close()


async def stored(dsn: str) -> Counter[str]:
    """Count the stored diagnoses by machine."""
    session = await asyncpg.connect(dsn, server_settings={"hydraulic.tenant": "*"})
    rows = await session.fetch("select equipment_id from diagnoses")
    await session.close()
    return Counter(row["equipment_id"] for row in rows)


def test_run_of_its_own_cluster_succeeds(
    rigs: tuple[str, ...], database_dsn: str, config: Path, without_ray: None
):
    arguments = (
        "--dsn",
        database_dsn,
        "--config",
        str(config),
        "--at",
        AT.isoformat(),
        "--equipment",
        "rig-[12]",
        "--workers",
        "1",
    )
    assert command(*arguments)[0] == 2

    status, out, err = command(*arguments[:-3], "rig-?", *arguments[-2:], "--address", "local")

    assert status == 0, err
    assert "run fleet-20250101T000117Z-" in out
    assert "7 machines" in out
    assert asyncio.run(stored(database_dsn)) == dict.fromkeys(rigs, 1)
    assert not ray.is_initialized()


def test_killed_run_is_finished_by_ray(
    rigs: tuple[str, ...],
    database_dsn: str,
    config: Path,
    plan: Plan,
    tmp_path: Path,
    local_ray: None,
):
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join((*rigs, "gone")))
    request = RunRequest(
        equipment=str(ids), ids_sha256=hashlib.sha256(ids.read_bytes()).hexdigest()
    )
    run = FleetRun("nightly", NOW, plan.model_copy(update={"request": request}).model_dump_json())
    asyncio.run(begin(database_dsn, run, rigs[:3]))
    # the plan has what the service released when the run began
    config.unlink()

    status, out, err = command(
        "--dsn", database_dsn, "--run", "nightly", "--batch", "2", "--workers", "1", "--json"
    )

    assert status == 1, err
    summary = json.loads(out)
    assert (summary["machines"], summary["known"], summary["failed"]) == (8, 3, 1)
    assert summary["ok"] + summary["insufficient_evidence"] == 4
    assert summary["failures"] == [{"reason": NOT_REGISTERED, "machines": 1, "examples": ["gone"]}]
    assert summary["machines_per_s"] > 0
    assert "run nightly goes on: 8 machines" in err
    assert asyncio.run(stored(database_dsn)) == dict.fromkeys(rigs, 1)
    assert ray.is_initialized()

    wrong = {
        name: place.model_copy(update={"weights_sha256": "0" * 64})
        for name, place in plan.checkpoints.items()
    }
    mismatched = FleetRun(
        "mismatched", NOW, plan.model_copy(update={"checkpoints": wrong}).model_dump_json()
    )
    asyncio.run(begin(database_dsn, mismatched))
    status, _, err = command("--dsn", database_dsn, "--run", "mismatched", "--workers", "1")
    assert status == 2
    assert "put them back" in err
