-- What `hydraulic store check` reads of a server and of the schema of the application.

-- name: check_server
-- Facts of the server that matter to the application.
select
    current_setting('server_version') as version,
    current_setting('server_version_num')::integer as version_number,
    (select extversion from pg_extension where extname = 'timescaledb') as timescaledb,
    (
        select nspname from pg_extension
        join pg_namespace on pg_namespace.oid = extnamespace where extname = 'timescaledb'
    ) as extension_schema,
    current_setting('timescaledb.license', true) as licence,
    current_setting('fsync') as fsync,
    current_setting('synchronous_commit') as synchronous_commit,
    current_setting('full_page_writes') as full_page_writes,
    current_setting('wal_level') as wal_level,
    current_setting('archive_mode') as archive_mode,
    current_setting('max_connections')::integer as max_connections,
    current_setting('max_locks_per_transaction')::integer as max_locks,
    current_setting('server_encoding') as encoding,
    has_database_privilege(current_database(), 'create') as may_create;

-- name: check_sizes
-- Numbers of partitions or chunks of the tables that grow with time.
select parent.relname as name, count(*) as parts
from pg_inherits inherited
join pg_class parent on parent.oid = inherited.inhparent
where parent.relnamespace = current_schema()::regnamespace and parent.relkind in ('r', 'p')
group by parent.relname
order by parent.relname;

-- name: check_pending
-- Machines whose healths from before the hourly tables were not added up yet.
select count(*) from health_pending;

-- name: check_policies
-- Jobs of TimescaleDB on the tables and aggregates of this schema, and how they went.
select
    jobs.job_id, jobs.proc_name, coalesce(jobs.hypertable_name, '') as table_name,
    stats.last_run_status, stats.total_failures
from timescaledb_information.jobs
left join timescaledb_information.job_stats stats on stats.job_id = jobs.job_id
where jobs.hypertable_schema = current_schema() or jobs.proc_schema = current_schema()
    or exists (
        select from timescaledb_information.continuous_aggregates made
        where made.view_schema = current_schema()
            and made.materialization_hypertable_name = jobs.hypertable_name
    )
order by jobs.proc_name, table_name;

-- name: check_compression
-- Compressed and all chunks of each table of this schema.
select hypertable_name, count(*) filter (where is_compressed) as compressed, count(*) as chunks
from timescaledb_information.chunks
where hypertable_schema = current_schema()
group by hypertable_name
order by hypertable_name;

-- name: check_compress_oldest
-- Compress the oldest chunk of the grid; return its name.
select compress_chunk(chunk)::text from show_chunks('sensor_grid') chunk order by chunk limit 1;

-- name: check_search
-- Look for names in these schemas only, until the transaction ends; the first need not exist yet.
select set_config(
    'search_path', (select string_agg(quote_ident(name), ', ') from unnest($1::text[]) name), true
);

-- name: check_create_schema
-- Make the first schema of the search path; its name can't be a parameter.
do $$
begin
    execute 'create schema ' || split_part(current_setting('search_path'), ', ', 1);
end
$$;

-- name: check_create_explain
-- A function of the suite's schema: explain has no parameters.
create function explain_hour(statement text, first timestamptz, until timestamptz)
returns json language plpgsql as $$
declare
    found json;
begin
    execute 'explain (format json) ' || statement into found using 1, first, until;
    return found;
end
$$;

-- name: check_explain
-- The plan of a statement with a key, 1, and two times, by `check_create_explain`.
select explain_hour(rtrim($1::text, ';'), $2::timestamptz, $3::timestamptz)::text;

-- name: check_readings
-- Readings in [start, end).
select count(*) from sensor_readings where equipment_key = $1 and time >= $2 and time < $3;

-- name: check_grid_of_hour
-- The newest bin in [start, end).
select time from sensor_grid
where equipment_key = $1 and time >= $2 and time < $3 order by time desc limit 1;

-- name: check_diagnoses
-- Diagnoses made in [start, end).
select diagnosis_id from diagnoses where created_at >= $2 and created_at < $3;

-- name: check_shadow_answers
-- Shadow answers made in [start, end).
select diagnosis_id from shadow_answers where created_at >= $2 and created_at < $3;

-- name: check_user
-- The role that the session works as.
select current_user;

-- name: check_licence
-- The licence that TimescaleDB runs under.
select current_setting('timescaledb.license');

-- name: check_reset_role
-- Work as the login again, which owns the tables.
reset role;

-- name: check_grid
-- All bins of a key before a time.
select time, vals from sensor_grid
where equipment_key = $1::integer and time < $2::timestamptz order by time;
