"""The audit log: each administrative write is in it, and what was changed afterwards is found."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.core.errors import StoreError
from app.schemas.equipment import Equipment
from app.store.audit import AuditEntry
from app.store.caller import Caller, acting_as
from app.store.readings import Readings
from app.store.store import Store
from tests.conftest import run_sql
from tests.machines import make_machine

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACTOR = Caller("default", "line 3")


async def entries_of(store: Store) -> list[AuditEntry]:
    """Return all entries, oldest first."""
    return (await store.audit_page(1_000))[::-1]


async def write_everything(store: Store, machine: Equipment) -> None:
    with acting_as(ACTOR):
        await store.create_key("a", ["read"])
        await store.rotate_key("a", None, 0.0, datetime.now(UTC))
        await store.put_equipment(machine)
        await store.put_equipment(machine)  # no change
        await store.put_equipment(make_machine(sensors=("PS1",)))
        time_us = int(NOW.timestamp()) * 1_000_000
        block = Readings("press-1", ["PS1"], [time_us], [1.0])
        await store.ingest_many([block])
        await store.ingest_many([block._replace(values=[2.0])], replaced_by="line 3")
        await store.replace_interval(
            Readings("press-1", [], [], []), NOW, NOW + timedelta(hours=1), "line 3"
        )
        await store.record_release("1", "split", {"1": 100.0}, actor="line 3", reason="test")
        await store.delete_equipment("press-1", "line 3")
        await store.put_equipment(machine, "line 3")
        await store.purge_equipment("press-1", "line 3", 30.0)
        await store.audit("start_training", "training-1", {"workers": 1})
    await store.create_tenant("plant-north")


async def test_each_administrative_write_has_an_entry_with_its_actor(
    store: Store, machine: Equipment
):
    await write_everything(store, machine)
    entries = await entries_of(store)
    assert [entry.action for entry in entries] == [
        "create_key",
        "revoke_key",
        "create_key",
        "register_equipment",
        "change_equipment",
        "replace_values_of_readings",
        "delete_interval_of_readings",
        "release_split",
        "delete_equipment",
        "change_equipment",
        "restore_equipment",
        "delete_equipment",
        "purge_equipment",
        "start_training",
        "create_tenant",
    ]
    assert {entry.actor for entry in entries[:-1]} == {"line 3"}
    assert [entry.entry_id for entry in entries] == list(range(1, len(entries) + 1))
    assert abs(entries[0].at - datetime.now(UTC)) < timedelta(minutes=5)
    assert entries[0].details["scopes"] == ["read"]
    check = await store.verify_audit()
    assert (check.entries, check.broken) == (len(entries), None)


async def test_write_that_is_rolled_back_has_no_entry(store: Store):
    with pytest.raises(StoreError):
        await store.create_key("a", ["root"])
    assert await entries_of(store) == []


async def test_entries_are_numbered_without_gaps_by_concurrent_writers(store: Store):
    await asyncio.gather(*(store.create_key(f"key {number}", ["read"]) for number in range(20)))
    assert [each.entry_id for each in await entries_of(store)] == list(range(1, 21))
    assert (await store.verify_audit()).broken is None


@pytest.mark.parametrize(
    ("change", "broken", "reason"),
    [
        (
            "update audit_log set payload = replace(payload, 'press', 'x') where entry_id = 4",
            4,
            "does not follow",
        ),
        ("delete from audit_log where entry_id = 3", 3, "missing"),
        ("delete from audit_log where entry_id = 1", 1, "missing"),
        ("delete from audit_log where entry_id >= 14", 14, "up to 15 were written"),
        ("update audit_log set hash = sha256('x') where entry_id = 2", 2, "does not follow"),
        ("update audit_log set entry_id = 99 where entry_id = 5", 5, "missing"),
    ],
)
async def test_first_broken_entry_is_named(
    store: Store, machine: Equipment, database_dsn: str, change: str, broken: int, reason: str
):
    await write_everything(store, machine)
    await run_sql(
        database_dsn,
        "alter table audit_log disable trigger append_only",
        "select set_config('hydraulic.tenant', '*', false)",
        change,
    )
    check = await store.verify_audit()
    assert (check.broken, reason in check.reason) == (broken, True)
    assert check.entries == broken - 1


async def test_chain_that_was_computed_anew_is_found_by_a_noted_hash(
    store: Store, machine: Equipment, database_dsn: str
):
    await write_everything(store, machine)
    noted = await store.verify_audit()
    await run_sql(
        database_dsn,
        "alter table audit_log disable trigger append_only",
        "update audit_log set payload = replace(payload, 'line 3', 'nobody')",
        """do $$
        declare entry record; before bytea := decode(repeat('00', 32), 'hex');
        begin
            for entry in select * from audit_log order by entry_id loop
                before := sha256(before || convert_to(entry.payload, 'UTF8'));
                update audit_log set hash = before where entry_id = entry.entry_id;
            end loop;
            update audit_head set hash = before;
        end $$""",
    )
    assert (await store.verify_audit()).broken is None
    check = await store.verify_audit({noted.entries: noted.head})
    assert (check.broken, "was noted as" in check.reason) == (noted.entries, True)
    check = await store.verify_audit({noted.entries + 1: noted.head})
    assert check.broken == noted.entries + 1


@pytest.mark.parametrize(
    "change",
    [
        "update audit_log set payload = payload",
        "delete from audit_log",
        "truncate audit_log",
    ],
)
async def test_entries_can_not_be_changed_even_by_their_owner(
    store: Store, database_dsn: str, change: str
):
    await store.create_key("a", ["read"])
    with pytest.raises(Exception, match="rows of audit_log are never changed"):
        await run_sql(database_dsn, change)


@pytest.mark.parametrize(
    "change",
    [
        "insert into audit_log (entry_id, payload, hash) values (9, '{}', sha256('x'))",
        "update audit_head set entry_id = 9",
        "alter table audit_log disable trigger append_only",
        "set session_replication_role = replica",
    ],
)
async def test_application_has_no_right_to_write_entries_itself(
    store: Store, database_dsn: str, change: str
):
    with pytest.raises(Exception, match=r"permission denied|must be owner"):
        await run_sql(database_dsn, "set role hydraulic_application", change)
