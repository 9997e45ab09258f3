-- Hourly health of components, and what keeps it right.
-- The subquery sorts once, ids by bytes, and the arrays keep its order: join nothing outside it.
-- Counts are summed as float8, exact up to 2^53, because the sum of a bigint is a numeric. An hour
-- is not truncated again.

-- name: health_of_equipment
-- Health of each component of a machine in [start, end), in hours or days ($4), oldest first.
select
    component_id,
    array_agg(bucket) as times,
    array_agg(diagnoses) as diagnoses,
    array_agg(health) as health,
    array_agg(lowest) as lowest,
    array_agg(highest) as highest,
    array_agg(watch) as watch,
    array_agg(degraded) as degraded,
    array_agg(critical) as critical
from (
    select
        component_id collate "C" as component_id,
        case $4::text when 'hour' then hour else date_trunc($4::text, hour, 'UTC') end as bucket,
        sum(diagnoses::float8)::bigint as diagnoses,
        least(1, greatest(0, sum(health_sum) / sum(diagnoses::float8))) as health,
        min(lowest) as lowest, max(highest) as highest, sum(watch::float8)::bigint as watch,
        sum(degraded::float8)::bigint as degraded, sum(critical::float8)::bigint as critical
    from health_hourly
    where equipment_id = $1::text and hour >= $2::timestamptz and hour < $3::timestamptz
    group by 1, 2
    order by 1, 2
) bucketed
group by component_id
order by component_id;

-- name: health_of_fleet
-- Mean health and states of each component over all machines in [start, end), in hours or days.
select
    component_id,
    array_agg(bucket) as times,
    array_agg(diagnoses) as diagnoses,
    array_agg(health) as health,
    array_agg(watch) as watch,
    array_agg(degraded) as degraded,
    array_agg(critical) as critical
from (
    select
        component_id collate "C" as component_id,
        case $3::text when 'hour' then hour else date_trunc($3::text, hour, 'UTC') end as bucket,
        sum(diagnoses::float8)::bigint as diagnoses,
        least(1, greatest(0, sum(health_sum) / sum(diagnoses::float8))) as health,
        sum(watch::float8)::bigint as watch, sum(degraded::float8)::bigint as degraded,
        sum(critical::float8)::bigint as critical
    from fleet_health_hourly
    where hour >= $1::timestamptz and hour < $2::timestamptz
    group by 1, 2
    order by 1, 2
) bucketed
group by component_id
order by component_id;

-- name: reading_counts
-- Readings of a machine in each minute of [start, end) that has any, oldest first.
select counted.minute, counted.readings
from equipment
join readings_per_minute counted on counted.equipment_key = equipment.equipment_key
where equipment.equipment_id = $1::text
    and counted.minute >= $2::timestamptz and counted.minute < $3::timestamptz
order by counted.minute;

-- name: add_up_pending
-- Add up a machine from before the hourly tables that nobody else does; return whether one was.
select add_up_pending();

-- name: remove_healths
-- Take the hourly healths of a machine away.
select remove_healths(array[$1::text]);

-- name: refresh_aggregates
-- Work out what changed in the continuous aggregates; nothing on plain PostgreSQL.
call refresh_aggregates();

-- name: set_retention
-- Have the database drop what is older than this, null for nothing; return whether it does.
select set_retention($1::interval);
