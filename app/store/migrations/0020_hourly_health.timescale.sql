-- Hourly health on TimescaleDB: continuous aggregates, and compression of diagnoses.
--
-- TimescaleDB neither compresses nor aggregates a hypertable with row-level security. So the rows
-- of diagnoses and shadow answers get other names, which the application's role has no right to,
-- and their old names become views of the rows that a transaction sees. A plain view, not a
-- security barrier: the planner must see through it to the indexes, and anyone who can add a
-- function that looks at rows before they are filtered can also change the setting that filters
-- them.

alter table diagnoses rename to diagnosis_rows;
alter table shadow_answers rename to shadow_rows;

do $$
declare
    named text;
begin
    foreach named in array array['diagnosis_rows', 'shadow_rows'] loop
        execute format('drop policy tenant_rows on %I', named);
        execute format('alter table %I no force row level security', named);
        execute format('alter table %I disable row level security', named);
        if exists (select from pg_roles where rolname = 'hydraulic_application') then
            execute format('revoke all on %I from hydraulic_application', named);
        end if;
    end loop;
end
$$;

create view diagnoses as
select * from diagnosis_rows where sees(tenant) with local check option;
create view shadow_answers as
select * from shadow_rows where sees(tenant) with local check option;
alter view diagnoses alter column tenant set default 'default';
alter view shadow_answers alter column tenant set default 'default';

-- Health of each component in each diagnosis of stored readings; `time` is the end of its window.
create table component_health (
    time timestamptz not null,
    tenant text not null,
    equipment_id text not null,
    component_id text not null,
    health double precision not null,
    state text not null
);
select create_hypertable('component_health', 'time', chunk_time_interval => interval '1 month');
create index component_health_of_equipment on component_health (equipment_id, time desc);

-- Healths of the components in a diagnosis of stored readings; none for anything else.
create function healths_of(body json)
returns table (component_id text, health double precision, state text)
language sql immutable parallel safe as $$
    select component.component_id, component.health, coalesce(component.state, '')
    from json_to_record(body) as whole (components json, input json)
    cross join lateral json_to_recordset(
        case when json_typeof(whole.components) = 'array' and whole.input ->> 'source' = 'store'
        then whole.components else '[]' end
    ) as component (component_id text, health double precision, state text)
    where component.component_id is not null and component.health is not null
$$;

-- Machines whose healths were not written yet: all that have diagnoses from before this migration.
create table health_pending (equipment_id text primary key);
insert into health_pending
with recursive machine as (
    (select equipment_id from diagnosis_rows order by equipment_id limit 1)
    union all
    select next.equipment_id
    from machine
    cross join lateral (
        select stored.equipment_id from diagnosis_rows stored
        where stored.equipment_id > machine.equipment_id
        order by stored.equipment_id
        limit 1
    ) next
)
select equipment_id from machine;

-- For each row: TimescaleDB before 2.18 has no transition tables. Writers of a machine share its
-- lock, and only a recomputation of that machine excludes them. It holds no second lock, and a
-- writer takes its own in one order, since `insert_diagnoses` sorts by the hash of the machine.
create function follow_diagnoses() returns trigger language plpgsql security definer as $$
begin
    perform pg_advisory_xact_lock_shared(7207006, hashtext(new.equipment_id));
    insert into component_health (time, tenant, equipment_id, component_id, health, state)
    select new.window_end, new.tenant, new.equipment_id, part.component_id, part.health, part.state
    from healths_of(new.body) part;
    return null;
end
$$;
create trigger followed after insert on diagnosis_rows
    for each row execute function follow_diagnoses();

-- Take the healths of machines away, as far as the caller sees them.
create function remove_healths(machines text[]) returns void
language plpgsql security definer set timescaledb.max_tuples_decompressed_per_dml_transaction = 0
as $$
begin
    delete from component_health where equipment_id = any (machines) and sees(tenant);
    -- diagnoses of tenants that the caller does not see keep a machine
    -- pending; one that is locked is being added up, and gone soon
    delete from health_pending where equipment_id in (
        select pending.equipment_id from health_pending pending
        where pending.equipment_id = any (machines) and not exists (
            select from diagnosis_rows stored where stored.equipment_id = pending.equipment_id
        )
        for update skip locked
    );
end
$$;

-- Write the healths of a machine anew from its stored diagnoses; answers how many these are.
create function recompute_healths(machine text) returns bigint
language plpgsql security definer as $$
declare
    found bigint;
begin
    perform pg_advisory_xact_lock(7207006, hashtext(machine));
    perform remove_healths(array[machine]);
    insert into component_health (time, tenant, equipment_id, component_id, health, state)
    select
        stored.window_end, stored.tenant, stored.equipment_id, part.component_id, part.health,
        part.state
    from diagnosis_rows stored
    cross join lateral healths_of(stored.body) part
    where stored.equipment_id = machine and sees(stored.tenant);
    select count(*) into found from diagnosis_rows
    where equipment_id = machine and sees(tenant);
    return found;
end
$$;

-- Add one machine up that is pending, which no other replica does; false when there is none.
create function add_up_pending() returns boolean language plpgsql security definer as $$
declare
    machine text;
begin
    delete from health_pending where equipment_id = (
        select equipment_id from health_pending
        order by equipment_id limit 1 for update skip locked
    )
    returning equipment_id into machine;
    if machine is null then
        return false;
    end if;
    perform recompute_healths(machine);
    return true;
end
$$;

-- Give the diagnoses and healths of machines to a tenant.
create function move_history(new_tenant text, machines text[]) returns void
language plpgsql security definer set timescaledb.max_tuples_decompressed_per_dml_transaction = 0
as $$
begin
    perform pg_advisory_xact_lock(7207006, lock.key)
    from (
        select distinct hashtext(machine) as key from unnest(machines) as machine order by 1
    ) lock;
    update diagnosis_rows set tenant = new_tenant
    where equipment_id = any (machines) and sees(tenant);
    update shadow_rows set tenant = new_tenant
    where equipment_id = any (machines) and sees(tenant);
    update component_health set tenant = new_tenant
    where equipment_id = any (machines) and sees(tenant);
end
$$;

-- Continuous aggregates and compression belong to the Timescale licence. The Apache edition gets
-- plain views with the same answers, which `hydraulic store check` reports.
do $$
declare
    is_full boolean := current_setting('timescaledb.license', true) = 'timescale';
    kind text := case when is_full
        then 'materialized view %I with ('
            || 'timescaledb.continuous, timescaledb.materialized_only = false)'
        else 'view %I' end;
    ending text := case when is_full then ' with no data' else '' end;
    behind regclass;
begin
    execute format('create ' || kind, 'health_hourly_total') || $view$ as
        select
            tenant, equipment_id, component_id, time_bucket('1 hour', time) as hour,
            count(*) as diagnoses, sum(health) as health_sum,
            min(health) as lowest, max(health) as highest,
            count(*) filter (where state = 'watch') as watch,
            count(*) filter (where state = 'degraded') as degraded,
            count(*) filter (where state = 'critical') as critical
        from component_health
        group by tenant, equipment_id, component_id, time_bucket('1 hour', time)
    $view$ || ending;
    execute format('create ' || kind, 'fleet_health_hourly_total') || $view$ as
        select
            tenant, component_id, time_bucket('1 hour', time) as hour,
            count(*) as diagnoses, sum(health) as health_sum,
            count(*) filter (where state = 'watch') as watch,
            count(*) filter (where state = 'degraded') as degraded,
            count(*) filter (where state = 'critical') as critical
        from component_health
        group by tenant, component_id, time_bucket('1 hour', time)
    $view$ || ending;
    execute format('create ' || kind, 'readings_per_minute') || $view$ as
        select equipment_key, time_bucket('1 minute', time) as minute, count(*) as readings
        from sensor_readings
        group by equipment_key, time_bucket('1 minute', time)
    $view$ || ending;
    if not is_full then
        return;
    end if;
    -- chunks like those below: the default is ten times as long, and so would be what is kept
    for behind in
        select format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)
        from timescaledb_information.continuous_aggregates
        where view_schema = current_schema() and view_name in (
            'health_hourly_total', 'fleet_health_hourly_total', 'readings_per_minute'
        )
    loop
        perform set_chunk_time_interval(behind, interval '1 month');
    end loop;

    alter table diagnosis_rows set (
        timescaledb.compress,
        timescaledb.compress_segmentby = 'equipment_id',
        timescaledb.compress_orderby = 'window_end desc'
    );
    alter table shadow_rows set (
        timescaledb.compress,
        timescaledb.compress_segmentby = 'version, against',
        timescaledb.compress_orderby = 'created_at desc, diagnosis_id desc'
    );
    alter table component_health set (
        timescaledb.compress,
        timescaledb.compress_segmentby = 'equipment_id, component_id',
        timescaledb.compress_orderby = 'time desc'
    );
    alter materialized view health_hourly_total set (
        timescaledb.compress,
        timescaledb.compress_segmentby = 'equipment_id',
        timescaledb.compress_orderby = 'hour desc, component_id'
    );
    perform add_compression_policy('diagnosis_rows', interval '30 days');
    perform add_compression_policy('shadow_rows', interval '30 days');
    perform add_compression_policy('component_health', interval '30 days');
    -- from the beginning: diagnoses of the past come late, and only what changed is worked out
    perform add_continuous_aggregate_policy(
        'health_hourly_total', null, interval '1 hour', interval '30 minutes'
    );
    perform add_continuous_aggregate_policy(
        'fleet_health_hourly_total', null, interval '1 hour', interval '30 minutes'
    );
    perform add_continuous_aggregate_policy(
        'readings_per_minute', null, interval '10 minutes', interval '10 minutes'
    );
    perform add_compression_policy('health_hourly_total', interval '180 days');
end
$$;

create view health_hourly as select * from health_hourly_total where sees(tenant);
create view fleet_health_hourly as select * from fleet_health_hourly_total where sees(tenant);

-- Work out all that changed now, instead of at the next run of the policies.
create procedure refresh_aggregates() language plpgsql as $$
begin
    if current_setting('timescaledb.license', true) = 'timescale' then
        call refresh_continuous_aggregate('health_hourly_total', null, null);
        call refresh_continuous_aggregate('fleet_health_hourly_total', null, null);
        call refresh_continuous_aggregate('readings_per_minute', null, null);
    end if;
end
$$;

-- As 0008_shadow_answers.timescale.sql, with the new tables and aggregates.
create or replace function drop_before(cutoff timestamptz) returns integer
language plpgsql security definer set lock_timeout = '100ms' as $$
declare
    named text;
    dropped integer := 0;
begin
    foreach named in array array[
        'sensor_readings', 'sensor_grid', 'diagnosis_rows', 'shadow_rows', 'component_health'
    ] || case when current_setting('timescaledb.license', true) = 'timescale' then array[
        'health_hourly_total', 'fleet_health_hourly_total', 'readings_per_minute'
    ] else '{}' end loop
        dropped := dropped + (
            select count(*) from drop_chunks(named::regclass, older_than => cutoff)
        );
    end loop;
    return dropped;
end
$$;

-- The retention as a job of the database. Not TimescaleDB's own policy: that waits for a chunk
-- behind a long read, such as a backup's, and every later read of the chunk waits behind it.
create procedure run_retention(job_id integer, config jsonb) language plpgsql as $$
begin
    perform drop_before(now() - (config ->> 'keep')::interval);
end
$$;

-- Have the database itself drop what is older, null for nothing; answers whether it does.
create function set_retention(keep interval) returns boolean
language plpgsql security definer as $$
declare
    known record;
begin
    if current_setting('timescaledb.license', true) <> 'timescale' then
        return false;
    end if;
    -- replicas begin at the same time, and each would add a job
    perform pg_advisory_xact_lock(7207007, hashtext(current_schema()));
    for known in
        select job_id, config from timescaledb_information.jobs
        where proc_schema = current_schema() and proc_name = 'run_retention'
    loop
        if keep is not null and known.config ->> 'keep' = keep::text then
            return true;
        end if;
        perform delete_job(known.job_id);
    end loop;
    if keep is null then
        return false;
    end if;
    perform add_job(
        format('%I.run_retention', current_schema())::regproc, interval '1 hour',
        config => jsonb_build_object('keep', keep::text)
    );
    return true;
end
$$;

-- The owner of the extension's functions may have put them into another schema than this one.
do $$
declare
    named text;
    of_extension text;
begin
    select nspname into of_extension from pg_extension
    join pg_namespace on pg_namespace.oid = extnamespace where extname = 'timescaledb';
    foreach named in array array[
        'follow_diagnoses()', 'remove_healths(text[])', 'recompute_healths(text)',
        'add_up_pending()', 'move_history(text, text[])', 'drop_before(timestamptz)',
        'set_retention(interval)'
    ] loop
        execute format(
            'alter function %s set search_path = %I, %I, pg_temp',
            named, current_schema(), of_extension
        );
    end loop;
end
$$;
