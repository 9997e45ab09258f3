-- Registered equipment and the slots of its sensors.

-- name: lock_equipment
-- Lock an equipment's registration and grid until the transaction ends.
select pg_advisory_xact_lock(7207003, hashtext($1::text));

-- name: put_equipment
-- Register an equipment or replace its topology and keep that; `grid_us_before` is null when new.
with known as (
    select equipment_key, topology, revision, grid_us, deleted_at
    from equipment where equipment_id = $1
),
kept as (
    insert into replaced_topologies (equipment_key, revision, topology)
    select equipment_key, revision, topology from known where revision <> $3
    on conflict (equipment_key, revision) do update set replaced_at = excluded.replaced_at
)
insert into equipment (equipment_id, topology, revision, grid_us, metadata)
values ($1::text, $2::jsonb, $3::text, $4::bigint, $5::jsonb)
on conflict (equipment_id) do update
    set topology = excluded.topology, revision = excluded.revision, grid_us = excluded.grid_us,
        metadata = excluded.metadata, deleted_at = null, updated_at = now()
returning
    equipment_key,
    (select grid_us from known) as grid_us_before,
    (select deleted_at from known) as deleted_at_before;

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
-- The registered equipment with these ids, and the deleted if $2, in the order of ids.
select
    equipment.equipment_id, equipment.topology, equipment.metadata, equipment.revision,
    equipment.registered_at, equipment.updated_at, equipment.deleted_at, baselines.baseline_id
from equipment
left join baselines
    on baselines.equipment_key = equipment.equipment_key and baselines.deleted_at is null
where equipment.equipment_id = any ($1::text[])
    and ($2::boolean or equipment.deleted_at is null)
order by equipment.equipment_id;

-- name: find_equipment
-- Registered equipment that matches an id pattern (LIKE) and a design, in the order of ids.
select equipment.equipment_id
from equipment
where equipment.deleted_at is null
    and ($1::text is null or equipment.equipment_id like $1::text)
    and ($2::text is null or equipment.topology ->> 'design' = $2::text)
order by equipment.equipment_id;

-- name: equipment_page
-- The first $4 of the registered equipment of a design and site after an id, in the order of ids.
select
    equipment_id,
    topology ->> 'name' as name,
    topology ->> 'design' as design,
    jsonb_array_length(topology -> 'components') as components,
    jsonb_array_length(jsonb_path_query_array(topology, '$.components[*].sensors[*]')) as sensors,
    metadata,
    revision,
    registered_at,
    updated_at
from equipment
where equipment_id > coalesce($3::text, '')
    and deleted_at is null
    and ($1::text is null or topology ->> 'design' = $1::text)
    and ($2::text is null or metadata ->> 'site' = $2::text)
order by equipment_id
limit $4::integer;

-- name: delete_equipment
-- Mark a registered equipment as deleted and record who did it; return when.
with gone as (
    update equipment set deleted_at = now() where equipment_id = $1::text and deleted_at is null
    returning equipment_id, deleted_at
),
recorded as (
    insert into equipment_changes (equipment_id, action, actor)
    select equipment_id, 'deleted', $2::text from gone
)
select deleted_at from gone;

-- name: record_equipment_change
-- Record who restored or purged an equipment, with details.
insert into equipment_changes (equipment_id, action, actor, details)
values ($1::text, $2::text, $3::text, $4::jsonb);

-- name: equipment_key
-- The key of an equipment, also of a deleted one.
select equipment_key from equipment where equipment_id = $1::text;

-- name: lock_readings
-- Lock the readings of an equipment key until the transaction ends, as `ingest_readings` does.
select pg_advisory_xact_lock(7207002, $1::integer);

-- name: purge_readings
-- Remove the oldest $2 readings of an equipment key (all of one time together); return how many.
with gone as (
    delete from sensor_readings
    where equipment_key = $1::integer and time <= (
        select max(oldest.time) from (
            select time from sensor_readings
            where equipment_key = $1::integer order by time limit $2::integer
        ) oldest
    )
    returning 1
)
select count(*) from gone;

-- name: purge_grid
-- Remove the oldest $2 bins of an equipment key; return how many.
with gone as (
    delete from sensor_grid
    where equipment_key = $1::integer and time <= (
        select max(oldest.time) from (
            select time from sensor_grid
            where equipment_key = $1::integer order by time limit $2::integer
        ) oldest
    )
    returning 1
)
select count(*) from gone;

-- name: purge_diagnoses
-- Remove the oldest $2 diagnoses of an equipment id (all of one window end together) and the shadow
-- answers to the same requests; return how many diagnoses.
with gone as (
    delete from diagnoses
    where equipment_id = $1::text and window_end <= (
        select max(oldest.window_end) from (
            select window_end from diagnoses
            where equipment_id = $1::text order by window_end limit $2::integer
        ) oldest
    )
    returning diagnosis_id, created_at
),
shadows as (
    delete from shadow_answers using gone
    where shadow_answers.diagnosis_id = gone.diagnosis_id
        and shadow_answers.created_at = gone.created_at
)
select count(*) from gone;

-- name: purge_labels
-- Remove $2 labels of an equipment key; return how many.
with gone as (
    delete from condition_labels
    where equipment_key = $1::integer and (component_id, start_time) in (
        select component_id, start_time from condition_labels
        where equipment_key = $1::integer limit $2::integer
    )
    returning 1
)
select count(*) from gone;

-- name: purge_topologies
-- Remove the replaced topologies of an equipment key.
delete from replaced_topologies where equipment_key = $1::integer;

-- name: purge_sensors
-- Remove the slots of an equipment key's sensors.
delete from equipment_sensors where equipment_key = $1::integer;

-- name: purge_equipment
-- Remove an equipment key, of which nothing else is left.
delete from equipment where equipment_key = $1::integer;

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
