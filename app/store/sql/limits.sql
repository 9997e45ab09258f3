-- Rate limits and quotas.

-- name: exchange_rate_counts
-- Write what a replica has counted, by window, and return what the others have.
with written as (
    insert into rate_counts (window_key, replica, cost, expires_at)
    select window_key, $1::text, cost, now() + expires_s * interval '1 second'
    from unnest($2::text[], $3::bigint[], $4::double precision[])
        as own (window_key, cost, expires_s)
    on conflict (window_key, replica) do update set cost = excluded.cost
)
select window_key, sum(cost)::bigint as cost
from rate_counts
where replica <> $1::text and expires_at > now()
group by window_key;

-- name: drop_rate_counts
-- Delete the counts of windows that have ended.
delete from rate_counts where expires_at < now();

-- name: count_equipment
-- How many machines are registered.
select count(*) from equipment where deleted_at is null;

-- name: count_keys
-- How many keys are in force.
select count(*) from api_keys
where revoked_at is null and (expires_at is null or expires_at > now());

-- name: estimate_readings
-- About how many readings are stored, by the statistics of the planner.
select coalesce(sum(greatest(part.reltuples, 0)), 0)::bigint
from pg_inherits
join pg_class part on part.oid = pg_inherits.inhrelid
where pg_inherits.inhparent = 'sensor_readings'::regclass;
