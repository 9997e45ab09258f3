-- Registered equipment and the slots of its sensors.

-- name: lock_equipment
-- Lock an equipment's registration and grid until the transaction ends.
select pg_advisory_xact_lock(7207003, hashtext($1::text));

-- name: put_equipment
-- Register an equipment or replace its topology and keep that; `grid_us_before` is null when new.
with known as (
    select equipment_key, topology, revision, grid_us from equipment where equipment_id = $1
),
kept as (
    insert into replaced_topologies (equipment_key, revision, topology)
    select equipment_key, revision, topology from known where revision <> $3
    on conflict (equipment_key, revision) do update set replaced_at = excluded.replaced_at
)
insert into equipment (equipment_id, topology, revision, grid_us)
values ($1::text, $2::jsonb, $3::text, $4::bigint)
on conflict (equipment_id) do update
    set topology = excluded.topology, revision = excluded.revision, grid_us = excluded.grid_us,
        updated_at = now()
returning equipment_key, (select grid_us from known) as grid_us_before;

-- name: add_sensors
-- Assign the next free slots to the sensors of an equipment that have none, in the given order.
insert into equipment_sensors (equipment_key, slot, sensor_id)
select
    $1::integer,
    (select coalesce(max(slot) + 1, 0) from equipment_sensors where equipment_key = $1)
        + row_number() over (order by named.position) - 1,
    named.sensor_id
from unnest($2::text[]) with ordinality as named (sensor_id, position)
where not exists (
    select from equipment_sensors known
    where known.equipment_key = $1 and known.sensor_id = named.sensor_id
);

-- name: rebuild_grid
-- Recompute an equipment's grid from its readings; return its number of bins.
select rebuild_grid($1::integer);

-- name: get_equipment
-- The registered equipment with these ids, in the order of ids.
select equipment_id, topology, revision, registered_at, updated_at
from equipment
where equipment_id = any ($1::text[])
order by equipment_id;

-- name: find_equipment
-- Registered equipment that matches an id pattern (LIKE) and a design, in the order of ids.
select equipment.equipment_id
from equipment
where ($1::text is null or equipment.equipment_id like $1::text)
    and ($2::text is null or equipment.topology ->> 'design' = $2::text)
order by equipment.equipment_id;

-- name: topology_of_revision
-- The present or past topology of an equipment at a revision.
select topology from equipment where equipment_id = $1::text and revision = $2::text
union all
select replaced.topology
from replaced_topologies replaced
join equipment on equipment.equipment_key = replaced.equipment_key
where equipment.equipment_id = $1::text and replaced.revision = $2::text
limit 1;

-- name: drop_replaced_topologies
-- Drop topologies replaced over 31 days before the month of a time; no stored diagnosis uses them.
-- Diagnoses are dropped by whole months, on TimescaleDB by chunks of 30 days with any start.
delete from replaced_topologies
where replaced_at < date_trunc('month', $1::timestamptz, 'UTC') - interval '31 days';
