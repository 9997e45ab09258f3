-- Backup and restore.

-- name: backup_facts
-- What a backup notes of the server, and whether the login sees all rows of all tables.
select
    current_setting('server_version') as version,
    current_setting('server_version_num')::integer / 10000 as major,
    (select extversion from pg_extension where extname = 'timescaledb') as timescaledb,
    (select rolsuper or rolbypassrls from pg_roles where rolname = current_user) as sees_all;

-- name: other_sessions
-- How many other clients are connected to this database. Of another role's session the kind is
-- hidden: one without a role, or of the first role, is taken for a worker of the server.
select count(*)::integer from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
    and (backend_type = 'client backend' or (backend_type is null and usesysid <> 10));

-- name: lock_all
-- Keep all tables with their chunks as they are, for readers and writers of rows no hindrance.
do $$
declare
    named text;
begin
    for named in
        select relname from pg_class
        where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p')
            and not relispartition
        order by relname
    loop
        execute format('lock table %I in access share mode', named);
    end loop;
end
$$;

-- name: export_snapshot
-- Let another session see what this transaction sees.
select pg_export_snapshot();

-- name: backup_tables
-- Tables of this schema, without partitions, and without what a crash forgets anyway.
select relname as name from pg_class
where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p')
    and not relispartition and relpersistence = 'p'
order by relname;

-- name: create_row_counter
-- A function of this session: the name of a table can't be a parameter.
create or replace function pg_temp.count_rows(named text) returns bigint language plpgsql as $$
declare
    found bigint;
begin
    execute format('select count(*) from %I', named) into found;
    return found;
end
$$;

-- name: count_rows
-- Rows of a table of this schema, by `create_row_counter`.
select pg_temp.count_rows($1::text);

-- name: install_timescaledb
-- Install the version of TimescaleDB that a backup was made with; it has no parameter.
do $$
begin
    execute format(
        'create extension if not exists timescaledb version %L',
        current_setting('hydraulic.restored_version')
    );
end
$$;

-- name: installed_timescaledb
-- The installed version of TimescaleDB.
select extversion from pg_extension where extname = 'timescaledb';

-- name: set_restored_version
-- The version for `install_timescaledb`.
select set_config('hydraulic.restored_version', $1::text, false);

-- name: pre_restore
-- Have TimescaleDB take its catalogue from a backup.
select timescaledb_pre_restore();

-- name: post_restore
-- Have TimescaleDB work with what was restored.
select timescaledb_post_restore();

-- name: create_application_role
-- Make the application's role on a server that has none, as 0017_tenants.sql does.
do $$
begin
    if not exists (select from pg_roles where rolname = 'hydraulic_application') then
        create role hydraulic_application nologin;
    end if;
exception
    when insufficient_privilege then
        raise warning 'role hydraulic_application was not created: its owner''s rights are used';
end
$$;

-- name: analyze_all
-- Collect the planner's statistics, which no backup has.
analyze;
