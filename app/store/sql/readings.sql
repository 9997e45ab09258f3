-- Readings, and the partitions of the tables that grow with time.

-- name: prepare_months
-- Make the missing partitions of these months.
select prepare_months($1::timestamptz[]);

-- name: ingest_readings
-- Write readings and update the grid; return how many were new.
select ingest_readings($1::text[], $2::text[], $3::integer[], $4::bigint[], $5::double precision[]);

-- name: unknown_series
-- The (equipment, sensor) pairs that are not registered, and whether the equipment is.
select named.equipment_id, named.sensor_id, equipment.equipment_key is not null as has_equipment
from unnest($1::text[], $2::text[]) with ordinality as named (equipment_id, sensor_id, position)
left join equipment on equipment.equipment_id = named.equipment_id
left join equipment_sensors sensor
    on sensor.equipment_key = equipment.equipment_key and sensor.sensor_id = named.sensor_id
where sensor.slot is null
order by named.position;

-- name: drop_before
-- Drop partitions that end by a time; return how many, 0 when none is left.
select drop_before($1::timestamptz);
