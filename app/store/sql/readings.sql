-- Readings, and the partitions of the tables that grow with time.

-- name: prepare_months
-- Make the missing partitions of these months.
select prepare_months($1::timestamptz[]);

-- name: write_readings
-- Write readings and update the grid; return how many were new, the conflicts and their values.
select accepted, conflicting, stored from write_readings(
    $1::text[], $2::text[], $3::integer[], $4::bigint[], $5::double precision[], $6::text
);

-- name: clear_readings
-- Delete an equipment's readings of an interval and update the grid; return how many there were.
select clear_readings($1::text, $2::timestamptz, $3::timestamptz);

-- name: record_change
-- Record a change of stored readings.
insert into reading_changes
    (actor, action, equipment_id, start_time, end_time, removed, written)
values ($1::text, $2::text, $3::text, $4::timestamptz, $5::timestamptz, $6::bigint, $7::bigint);

-- name: reading_changes
-- Recorded changes of an equipment's readings before a change, newest first.
select change_id, changed_at, actor, action, start_time as start, end_time as end, removed, written
from reading_changes
where equipment_id = $1::text and ($2::bigint is null or change_id < $2::bigint)
order by change_id desc
limit $3::integer;

-- name: bin_readings
-- Statistics of sensors in bins of [start, end), by bin, from the readings.
select sensor.sensor_id, binned.bin, binned.mean, binned.low, binned.high, binned.count
from (
    select
        reading.slot,
        date_bin($5::interval, reading.time, $2::timestamptz) as bin,
        avg(reading.value) as mean,
        min(reading.value) as low,
        max(reading.value) as high,
        count(*) as count
    from sensor_readings reading
    where reading.equipment_key = (
            select equipment_key from equipment where equipment_id = $1::text
        )
        and reading.time >= $2::timestamptz and reading.time < $3::timestamptz
        and reading.slot = any (array(
            select slot from equipment_sensors
            where sensor_id = any ($4::text[]) and equipment_key = (
                select equipment_key from equipment where equipment_id = $1::text
            )
        ))
    group by 1, 2
) binned
join equipment on equipment.equipment_id = $1::text
join equipment_sensors sensor
    on sensor.equipment_key = equipment.equipment_key and sensor.slot = binned.slot;

-- name: bin_grid
-- Statistics of sensors in bins of [start, end), by bin, from the means of the grid.
select
    sensor.sensor_id,
    date_bin($5::interval, grid.time, $2::timestamptz) as bin,
    avg(grid.vals[sensor.slot + 1]::double precision) as mean,
    min(grid.vals[sensor.slot + 1])::double precision as low,
    max(grid.vals[sensor.slot + 1])::double precision as high,
    count(*) as count
from equipment
join equipment_sensors sensor
    on sensor.equipment_key = equipment.equipment_key and sensor.sensor_id = any ($4::text[])
join sensor_grid grid on grid.equipment_key = equipment.equipment_key
    and grid.time >= $2::timestamptz and grid.time < $3::timestamptz
where equipment.equipment_id = $1::text and grid.vals[sensor.slot + 1] <> 'NaN'::real
group by 1, 2;

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
