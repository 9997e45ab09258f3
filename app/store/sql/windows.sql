-- Windows of the grid.

-- name: read_windows
-- Undecoded bins of windows (equipment, first bin, number of bins) that a tenant sees (`*`: all),
-- newest reading, revision and baseline in force.
select grid_us, slot_sensors, times, vals, newest, revision, baseline_id
from read_windows_of($1::text, $2::text[], $3::bigint[], $4::bigint[]);

-- name: data_range
-- Starts of an equipment's first and last bin, microseconds since 1970, and its grid.
select
    (
        select (extract(epoch from grid.time) * 1000000)::bigint from sensor_grid grid
        where grid.equipment_key = equipment.equipment_key order by grid.time limit 1
    ) as first_us,
    (
        select (extract(epoch from grid.time) * 1000000)::bigint from sensor_grid grid
        where grid.equipment_key = equipment.equipment_key order by grid.time desc limit 1
    ) as last_us,
    equipment.grid_us
from equipment
where equipment.equipment_id = $1::text;

-- name: filled_windows
-- Whether each window (equipment, first bin, number of bins) has any bin, in the given order.
select exists (
    select from sensor_grid grid
    where grid.equipment_key = equipment.equipment_key
        and grid.time >= timestamptz 'epoch'
            + requested.first * equipment.grid_us * interval '1 microsecond'
        and grid.time < timestamptz 'epoch'
            + (requested.first + requested.bins) * equipment.grid_us * interval '1 microsecond'
) as filled
from unnest($1::text[], $2::bigint[], $3::bigint[])
    with ordinality as requested (equipment_id, first, bins, position)
left join equipment on equipment.equipment_id = requested.equipment_id
order by requested.position;

-- name: grid_digests
-- Per interval, the number of bins and a hash sum that changes when any time or value changes.
select count(grid.time) as bins, coalesce(sum(
    hash_array_extended(grid.vals, (extract(epoch from grid.time) * 1000000)::bigint)::numeric
), 0)::text as sum
from unnest($1::text[], $2::bigint[], $3::bigint[])
    with ordinality as requested (equipment_id, start_us, end_us, position)
left join equipment on equipment.equipment_id = requested.equipment_id
left join sensor_grid grid on grid.equipment_key = equipment.equipment_key
    and grid.time >= timestamptz 'epoch' + requested.start_us * interval '1 microsecond'
    and grid.time < timestamptz 'epoch' + requested.end_us * interval '1 microsecond'
group by requested.position
order by requested.position;
