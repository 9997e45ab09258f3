-- Monitoring of the server and of the fleet.

-- name: database_figures
-- Figures of the server and of this database, and when the next key in force expires.
select
    pg_database_size(current_database())::double precision as size_bytes,
    current_setting('max_connections')::integer as max_connections,
    coalesce((
        select extract(epoch from max(clock_timestamp() - xact_start))
        from pg_stat_activity where datname = current_database()
    ), 0)::double precision as oldest_transaction_s,
    xact_commit as committed,
    xact_rollback as rolled_back,
    blks_hit as blocks_hit,
    blks_read as blocks_read,
    deadlocks,
    (
        select extract(epoch from min(expires_at))::double precision from api_keys
        where expires_at > now() and (revoked_at is null or revoked_at > now())
    ) as next_key_expiry_s
from pg_stat_database
where datname = current_database();

-- name: connection_states
-- Number of connections to this database by state: unknown without the role pg_read_all_stats.
select coalesce(replace(state, ' ', '_'), 'unknown') as state, count(*) as connections
from pg_stat_activity
where datname = current_database()
group by 1;

-- name: fleet_ages
-- Numbers of registered machines by the age of their newest bin.
select
    count(*) filter (where age < interval '5 minutes') as fresh,
    count(*) filter (where age >= interval '5 minutes' and age < interval '1 day') as late,
    count(*) filter (where age >= interval '1 day') as silent,
    count(*) filter (where age is null) as never
from (
    select now() - (newest.time + equipment.grid) as age
    from equipment
    left join lateral (
        select grid.time from sensor_grid grid
        where grid.equipment_key = equipment.equipment_key
        order by grid.time desc
        limit 1
    ) newest on true
    where equipment.deleted_at is null
) ages;
