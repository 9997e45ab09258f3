-- Baselines of machines.

-- name: insert_baseline
-- Store a baseline of a registered equipment.
insert into baselines (
    equipment_key, baseline_id, start_time, end_time, windows, missing_sensors, stuck_sensors,
    moments, recorded_by
)
select
    equipment_key, $2::text, $3::timestamptz, $4::timestamptz, $5::integer, $6::text[], $7::text[],
    $8::json, $9::text
from equipment
where equipment_id = $1::text and deleted_at is null;

-- name: delete_baseline
-- End the baseline in force of a registered equipment; return its id.
update baselines
set deleted_at = now(), deleted_by = $2::text
from equipment
where equipment.equipment_key = baselines.equipment_key
    and equipment.equipment_id = $1::text
    and equipment.deleted_at is null
    and baselines.deleted_at is null
returning baselines.baseline_id;

-- name: baselines
-- The newest baseline of each of these ids.
select distinct on (baselines.baseline_id)
    baselines.baseline_id, equipment.equipment_id, baselines.start_time, baselines.end_time,
    baselines.windows, baselines.missing_sensors, baselines.stuck_sensors, baselines.moments,
    baselines.recorded_at, baselines.recorded_by, baselines.deleted_at
from baselines
join equipment on equipment.equipment_key = baselines.equipment_key
where baselines.baseline_id = any ($1::text[])
order by baselines.baseline_id, baselines.baseline_key desc;

-- name: baseline_in_force
-- The revision of a registered equipment, and the id of its baseline in force, null without one.
select equipment.revision, baselines.baseline_id
from equipment
left join baselines
    on baselines.equipment_key = equipment.equipment_key and baselines.deleted_at is null
where equipment.equipment_id = $1::text and equipment.deleted_at is null;

-- name: purge_baselines
-- Remove the baselines of an equipment key.
delete from baselines where equipment_key = $1::integer;
