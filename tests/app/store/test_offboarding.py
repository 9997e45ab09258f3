"""Offboarding: everything of a tenant is exported and removed, and nothing of another one."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.cli.main import main
from app.core.errors import InputError, StoreUnavailable, UnknownError
from app.store.caller import Caller, acting_as
from app.store.diagnoses import ShadowAnswer
from app.store.readings import Readings
from app.store.store import Store
from tests.app.store.test_health import ALL, healthy, insert
from tests.machines import make_machine

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_US = int(NOON.timestamp()) * 1_000_000


@pytest.fixture
async def two(store: Store) -> Store:
    """A store with two tenants that have the same of everything."""
    for tenant in ("north", "south"):
        await store.create_tenant(tenant)
        machine = f"{tenant}-1"
        with acting_as(Caller(tenant, "test")):
            await store.put_equipment(make_machine(machine))
            await store.put_equipment(make_machine(f"{tenant}-2"))
            await store.delete_equipment(f"{tenant}-2", "test")
            await store.create_key("line", ["read"])
        await store.ingest_many(
            [Readings(machine, ["PS1", "TS1"], [NOON_US, NOON_US + 1], [1.5, -0.1])]
        )
        made = healthy(f"{tenant}-d", NOON, 0.5, "watch", machine)
        await insert(store, made)
        # inline, of a machine that is not registered
        await insert(store, healthy(f"{tenant}-i", NOON, 0.5, "watch", "guest"), tenant=tenant)
        await store.insert_shadow_answers([ShadowAnswer(made, "0", 0.1, 0.1, tenant)])
    return store


async def test_export_has_all_records_and_no_secret(two: Store, tmp_path: Path):
    out = tmp_path / "north"
    counts = await two.export_tenant("north", out)
    assert counts["equipment"] == 2
    assert (counts["diagnoses"], counts["keys"], counts["readings"]) == (2, 1, 2)
    assert counts["audit"] > 0
    assert json.loads((out / "manifest.json").read_text())["records"] == counts
    machines = [json.loads(line) for line in (out / "equipment.ndjson").read_text().splitlines()]
    assert machines[0]["equipment_id"] == "north-1"
    assert machines[0]["sensors"] == ["PS1", "PS2", "TS1"]
    with gzip.open(out / "readings" / "north-1.csv.gz", "rt") as opened:
        assert opened.read() == (
            "equipment_id,sensor_id,time,value\n"
            "north-1,PS1,2026-03-01T12:00:00Z,1.5\n"
            "north-1,TS1,2026-03-01T12:00:00.000001Z,-0.1\n"
        )
    text = "".join(path.read_text() for path in out.glob("*.ndjson"))
    assert "south" not in text
    assert "secret" not in (out / "keys.ndjson").read_text()
    assert out.stat().st_mode & 0o077 == 0
    with pytest.raises(InputError, match="expected the name of a new directory"):
        await two.export_tenant("north", out)


async def test_export_leaves_a_directory_that_exists_as_it_is(store: Store, tmp_path: Path):
    await store.create_tenant("north")
    tmp_path.chmod(0o755)
    with pytest.raises(InputError, match="expected the name of a new directory"):
        await store.export_tenant("north", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.stat().st_mode & 0o777 == 0o755


async def test_removed_tenant_leaves_only_what_is_kept_and_the_other_one_everything(two: Store):
    def counted(rows: list) -> dict[str, int]:
        return {each.name: each.rows for each in rows if not each.kept}

    await two.refresh_aggregates()
    other = counted(await two.tenant_rows("south"))
    assert all(other.values())
    left = await two.remove_tenant("north")
    assert not any(counted(left).values())
    assert {each.name for each in left if each.rows} == {"audit_log", "equipment_changes"}
    assert counted(await two.tenant_rows("south")) == other
    with acting_as(Caller("south")):
        assert await two.find_equipment() == ["south-1"]
        assert len(await two.diagnosis_history("guest", None, None, 10)) == 1
        assert (await two.health_of_fleet(*ALL))[0].diagnoses == [2]
    assert [each.tenant for each in await two.list_tenants()] == ["default", "south"]
    assert (await two.verify_audit()).broken is None
    with pytest.raises(UnknownError):
        await two.remove_tenant("north")


async def test_rows_that_came_late_are_removed_by_repetition(two: Store):
    await two.remove_tenant("north")
    await insert(two, healthy("north-late", NOON, 0.5, "watch", "north-1"), tenant="north")
    assert any(each.rows for each in await two.tenant_rows("north") if not each.kept)
    left = await two.remove_tenant("north")
    assert not any(each.rows for each in left if not each.kept)
    with pytest.raises(UnknownError):
        await two.remove_tenant("north")


async def test_removal_that_fails_can_be_repeated(two: Store, monkeypatch: pytest.MonkeyPatch):
    async def refuse() -> None:
        raise StoreUnavailable("busy")

    with monkeypatch.context() as patched:
        patched.setattr(two, "refresh_aggregates", refuse)
        with pytest.raises(StoreUnavailable):
            await two.remove_tenant("north")
    left = await two.remove_tenant("north")
    assert not any(each.rows for each in left if not each.kept)


async def test_default_tenant_stays(two: Store):
    with pytest.raises(InputError, match="which every installation has"):
        await two.remove_tenant("default")


def test_commands_export_show_and_remove(
    database_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    dsn = ("--dsn", database_dsn)
    assert main(["tenants", "create", "plant-north", *dsn]) == 0
    out = str(tmp_path / "export")
    assert main(["tenants", "export", "plant-north", "--out", out, *dsn]) == 0
    assert "readings\t0" in capsys.readouterr().out
    assert main(["tenants", "remove", "plant-north", *dsn]) == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert main(["tenants", "remove", "plant-north", "--yes", *dsn]) == 0
    assert "tenants\t0\tremoved" in capsys.readouterr().out
    assert main(["tenants", "export", "plant-north", "--out", out + "2", *dsn]) == 1
