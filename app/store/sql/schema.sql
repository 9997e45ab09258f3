-- Migrations.

-- name: ping
-- Whether the database answers.
select 1;

-- name: server_facts
-- Version and clock of the server, and whether this database has a schema.
select
    current_setting('server_version') as version,
    extract(epoch from clock_timestamp())::double precision as clock_s,
    to_regclass('schema_migrations') is not null as has_schema;

-- name: edition_probe
-- Whether TimescaleDB is installed in this database, and whether it could be: the setting is there
-- where the library is preloaded, and any role sees it.
select
    exists (select from pg_extension where extname = 'timescaledb') as installed,
    exists (select from pg_available_extensions where name = 'timescaledb')
        and exists (select from pg_settings where name = 'timescaledb.disable_load') as available;

-- name: create_timescaledb
-- Install TimescaleDB in this database.
create extension if not exists timescaledb;

-- name: migration_lock
-- Lock migrations for other replicas until the transaction ends.
select pg_advisory_xact_lock(7207000, 0);

-- name: create_migrations
-- Create the table of applied migrations.
create table if not exists schema_migrations (
    version integer primary key,
    name text not null,
    edition text not null,
    sha256 text not null,
    applied_at timestamptz not null default now()
);

-- name: applied_migrations
-- The applied migrations.
select version, name, edition, sha256 from schema_migrations order by version;

-- name: record_migration
-- Record an applied migration.
insert into schema_migrations (version, name, edition, sha256)
values ($1::integer, $2::text, $3::text, $4::text);
