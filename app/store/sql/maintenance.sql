-- Recorded maintenance of equipment, and its counter of operating hours.

-- name: put_maintenance
-- Record maintenance of an equipment; `is_new` is false when it was recorded, and its note changes.
insert into maintenance (equipment_key, performed_at, component_id, kind, note)
select equipment_key, $2::timestamptz, $3::text, $4::text, $5::text
from equipment where equipment_id = $1::text and deleted_at is null
on conflict (equipment_key, performed_at, component_id, kind) do update set note = excluded.note
returning maintenance_id, xmax = 0 as is_new;

-- name: list_maintenance
-- Maintenance of an equipment in [$2, $3), newest first, from after ($4, $5).
select
    found.maintenance_id,
    found.performed_at as time,
    nullif(found.component_id, '') as component_id,
    found.kind,
    found.note
from maintenance found
join equipment on equipment.equipment_key = found.equipment_key
where equipment.equipment_id = $1::text
    and found.performed_at >= coalesce($2::timestamptz, '-infinity')
    and found.performed_at < coalesce($3::timestamptz, 'infinity')
    and ($4::timestamptz is null
        or (found.performed_at, found.maintenance_id) < ($4::timestamptz, $5::bigint))
order by found.performed_at desc, found.maintenance_id desc
limit $6::integer;

-- name: delete_maintenance
-- Remove a record of an equipment; returns its number if there was one.
delete from maintenance gone using equipment
where equipment.equipment_id = $1::text
    and gone.equipment_key = equipment.equipment_key
    and gone.maintenance_id = $2::bigint
returning gone.maintenance_id;

-- name: purge_maintenance
-- Remove all maintenance of an equipment key.
delete from maintenance where equipment_key = $1::integer;

-- name: purge_operating_counters
-- Remove what the counter of an equipment key showed.
delete from operating_counters where equipment_key = $1::integer;

-- name: put_operating_counter
-- Keep what the counter of an equipment key showed at a time.
insert into operating_counters (equipment_key, as_of, value_h)
values ($1::integer, $2::timestamptz, $3::double precision)
on conflict (equipment_key, as_of) do update set value_h = excluded.value_h;
