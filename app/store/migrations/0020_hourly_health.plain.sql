-- Hourly health on plain PostgreSQL: tables that follow every write of a diagnosis.
--
-- What the continuous aggregates of 0020_hourly_health.timescale.sql answer, under the same names.
-- An hour has the diagnoses of stored readings whose window ends in it.

create table health_hourly (
    tenant text not null,
    equipment_id text not null,
    component_id text not null,
    hour timestamptz not null,
    diagnoses bigint not null,
    health_sum double precision not null,
    lowest double precision not null,
    highest double precision not null,
    watch bigint not null,
    degraded bigint not null,
    critical bigint not null,
    primary key (equipment_id, hour, component_id, tenant)
) partition by range (hour);

-- The same over all machines of a tenant: only what can also be taken away again, when a machine
-- moves to another tenant or is purged.
create table fleet_health_hourly (
    tenant text not null,
    component_id text not null,
    hour timestamptz not null,
    diagnoses bigint not null,
    health_sum double precision not null,
    watch bigint not null,
    degraded bigint not null,
    critical bigint not null,
    primary key (tenant, hour, component_id)
) with (fillfactor = 50);

do $$
declare
    named text;
begin
    foreach named in array array['health_hourly', 'fleet_health_hourly'] loop
        execute format('alter table %I enable row level security', named);
        execute format('alter table %I force row level security', named);
        execute format(
            'create policy tenant_rows on %I using (sees(tenant)) with check (sees(tenant))', named
        );
    end loop;
end
$$;

-- Readings of a machine in a minute, counted when they are read.
create view readings_per_minute as
select equipment_key, date_trunc('minute', time, 'UTC') as minute, count(*) as readings
from sensor_readings
group by 1, 2;

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

-- Machines whose healths were not added up yet: all that have diagnoses from before this migration.
create table health_pending (equipment_id text primary key);
insert into health_pending
with recursive machine as (
    (select equipment_id from diagnoses order by equipment_id limit 1)
    union all
    select next.equipment_id
    from machine
    cross join lateral (
        select diagnoses.equipment_id from diagnoses
        where diagnoses.equipment_id > machine.equipment_id
        order by diagnoses.equipment_id
        limit 1
    ) next
)
select equipment_id from machine;

-- Writers of the healths of a machine wait for each other, in one order.
create function lock_healths(machines text[]) returns void language plpgsql as $$
declare
    lock integer;
begin
    for lock in
        select distinct hashtext(machine) from unnest(machines) as machine order by 1
    loop
        perform pg_advisory_xact_lock(7207006, lock);
    end loop;
end
$$;

-- Make the partitions of these hours where they are missing. A diagnosis may be about any month,
-- whatever the months of the writes are.
create function prepare_health_months(hours timestamptz[]) returns void language plpgsql as $$
declare
    month timestamptz;
    partition text;
begin
    for month in
        select distinct date_trunc('month', hour, 'UTC') from unnest(hours) as hour order by 1
    loop
        partition := 'health_hourly' || to_char(month at time zone 'UTC', '"_"YYYY"_"MM');
        continue when to_regclass(quote_ident(partition)) is not null;
        perform pg_advisory_xact_lock(7207001, 1);
        continue when exists (
            select from pg_class
            where relname = partition and relnamespace = (
                select siblings.relnamespace from pg_class siblings
                where oid = 'health_hourly'::regclass
            )
        );
        execute format(
            'create table %I (like health_hourly including defaults including constraints)
                with (fillfactor = 70)', partition
        );
        execute format(
            'alter table health_hourly attach partition %I for values from (%L) to (%L)',
            partition, month, ((month at time zone 'UTC') + interval '1 month') at time zone 'UTC'
        );
    end loop;
end
$$;

-- Add hours of machines to what is known of them.
create function add_hours(given health_hourly[]) returns void language plpgsql as $$
begin
    perform prepare_health_months(array(select distinct hour from unnest(given)));
    insert into health_hourly as known
    select * from unnest(given) order by equipment_id, hour, component_id, tenant
    on conflict (equipment_id, hour, component_id, tenant) do update set
        diagnoses = known.diagnoses + excluded.diagnoses,
        health_sum = known.health_sum + excluded.health_sum,
        lowest = least(known.lowest, excluded.lowest),
        highest = greatest(known.highest, excluded.highest),
        watch = known.watch + excluded.watch,
        degraded = known.degraded + excluded.degraded,
        critical = known.critical + excluded.critical;
end
$$;

-- Change the hours of fleets by those of machines. All machines share these rows: a transaction
-- locks them in one order and last of all, so that no two wait for each other, and none for long.
create function change_fleet(taken health_hourly[], given health_hourly[]) returns void
language plpgsql as $$
begin
    insert into fleet_health_hourly as known
    select
        tenant, component_id, hour, sum(sign * diagnoses), sum(sign * health_sum),
        sum(sign * watch), sum(sign * degraded), sum(sign * critical)
    from (
        select -1 as sign, * from unnest(taken) union all select 1, * from unnest(given)
    ) changed
    group by tenant, component_id, hour
    order by tenant, hour, component_id
    on conflict (tenant, hour, component_id) do update set
        diagnoses = known.diagnoses + excluded.diagnoses,
        health_sum = known.health_sum + excluded.health_sum,
        watch = known.watch + excluded.watch,
        degraded = known.degraded + excluded.degraded,
        critical = known.critical + excluded.critical;
    if cardinality(taken) > 0 then
        delete from fleet_health_hourly where diagnoses <= 0
            and (tenant, hour, component_id) in (
                select tenant, hour, component_id from unnest(taken)
            );
    end if;
end
$$;

create function follow_diagnoses() returns trigger language plpgsql security definer as $$
declare
    given health_hourly[];
begin
    perform lock_healths(array(select distinct equipment_id from stored));
    given := array(
        select (
            stored.tenant, stored.equipment_id, part.component_id,
            date_trunc('hour', stored.window_end, 'UTC'), count(*), sum(part.health),
            min(part.health), max(part.health), count(*) filter (where part.state = 'watch'),
            count(*) filter (where part.state = 'degraded'),
            count(*) filter (where part.state = 'critical')
        )::health_hourly
        from stored
        cross join lateral healths_of(stored.body) part
        group by
            stored.tenant, stored.equipment_id, part.component_id,
            date_trunc('hour', stored.window_end, 'UTC')
    );
    if cardinality(given) > 0 then
        perform add_hours(given);
        perform change_fleet('{}', given);
    end if;
    return null;
end
$$;
create trigger followed after insert on diagnoses
    referencing new table as stored for each statement execute function follow_diagnoses();

-- No machine is pending without diagnoses; those of tenants that the caller does not see count too.
create function forget_pending(machines text[]) returns void language plpgsql as $$
declare
    seen text := current_setting('hydraulic.tenant', true);
begin
    perform set_config('hydraulic.tenant', '*', true);
    -- one that is locked is being added up, and gone soon
    delete from health_pending where equipment_id in (
        select pending.equipment_id from health_pending pending
        where pending.equipment_id = any (machines) and not exists (
            select from diagnoses where diagnoses.equipment_id = pending.equipment_id
        )
        for update skip locked
    );
    perform set_config('hydraulic.tenant', coalesce(seen, ''), true);
end
$$;

-- Take the healths of machines away, as far as the caller sees them.
create function remove_healths(machines text[]) returns void
language plpgsql security definer as $$
declare
    taken health_hourly[];
begin
    perform lock_healths(machines);
    with gone as (
        delete from health_hourly where equipment_id = any (machines) and sees(tenant) returning *
    )
    select array_agg(gone::health_hourly) into taken from gone;
    perform change_fleet(coalesce(taken, '{}'), '{}');
    perform forget_pending(machines);
end
$$;

-- Add the healths of a machine up anew from its stored diagnoses; answers how many these are.
create function recompute_healths(machine text) returns bigint
language plpgsql security definer as $$
declare
    first timestamptz;
    until timestamptz;
    found bigint := 0;
    counted bigint;
    taken health_hourly[];
    given health_hourly[];
begin
    perform lock_healths(array[machine]);
    with gone as (
        delete from health_hourly where equipment_id = machine and sees(tenant) returning *
    )
    select array_agg(gone::health_hourly) into taken from gone;
    select min(window_end) into first from diagnoses where equipment_id = machine and sees(tenant);
    -- an hour at a time, since the bodies of all may not fit into memory
    while first is not null loop
        until := date_trunc('hour', first, 'UTC') + interval '1 hour';
        select array(
            select (
                stored.tenant, machine, part.component_id, until - interval '1 hour', count(*),
                sum(part.health), min(part.health), max(part.health),
                count(*) filter (where part.state = 'watch'),
                count(*) filter (where part.state = 'degraded'),
                count(*) filter (where part.state = 'critical')
            )::health_hourly
            from diagnoses stored
            cross join lateral healths_of(stored.body) part
            where stored.equipment_id = machine and sees(stored.tenant)
                and stored.window_end >= first and stored.window_end < until
            group by stored.tenant, part.component_id
        ) into given;
        perform add_hours(given);
        select count(*) into counted from diagnoses
        where equipment_id = machine and sees(tenant)
            and window_end >= first and window_end < until;
        found := found + counted;
        select min(window_end) into first from diagnoses
        where equipment_id = machine and sees(tenant) and window_end >= until;
    end loop;
    given := array(
        select known::health_hourly from health_hourly known
        where equipment_id = machine and sees(tenant)
    );
    perform change_fleet(coalesce(taken, '{}'), given);
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

-- Give the diagnoses and healths of machines to a tenant; no body is read again.
create function move_history(new_tenant text, machines text[]) returns void
language plpgsql security definer as $$
declare
    taken health_hourly[];
    given health_hourly[];
begin
    perform lock_healths(machines);
    update diagnoses set tenant = new_tenant where equipment_id = any (machines) and sees(tenant);
    update shadow_answers set tenant = new_tenant
    where equipment_id = any (machines) and sees(tenant);
    with gone as (
        delete from health_hourly
        where equipment_id = any (machines) and sees(tenant) and tenant <> new_tenant
        returning *
    )
    select array_agg(gone::health_hourly) into taken from gone;
    given := array(
        select (
            new_tenant, equipment_id, component_id, hour, sum(diagnoses), sum(health_sum),
            min(lowest), max(highest), sum(watch), sum(degraded), sum(critical)
        )::health_hourly
        from unnest(taken)
        group by equipment_id, component_id, hour
    );
    perform add_hours(given);
    perform change_fleet(coalesce(taken, '{}'), given);
end
$$;

-- Nothing: the tables follow each write.
create procedure refresh_aggregates() language plpgsql as $$
begin
end
$$;

-- The application drops partitions itself; answers whether the database does.
create function set_retention(keep interval) returns boolean language sql as $$
    select false
$$;

-- As 0008_shadow_answers.plain.sql, with the hours of health, which end with their month.
create or replace function drop_before(cutoff timestamptz) returns integer
language plpgsql security definer set lock_timeout = '100ms' as $$
declare
    partition text;
begin
    perform pg_advisory_xact_lock(7207001, 0);
    select child.relname into partition
    from pg_inherits
    join pg_class parent on parent.oid = pg_inherits.inhparent
    join pg_class child on child.oid = pg_inherits.inhrelid
    where parent.oid in (
            'sensor_readings'::regclass, 'sensor_grid'::regclass, 'diagnoses'::regclass,
            'shadow_answers'::regclass, 'health_hourly'::regclass
        )
        and (to_timestamp(right(child.relname, 7), 'YYYY_MM')::timestamp + interval '1 month')
            at time zone 'UTC' <= cutoff
    order by right(child.relname, 7), child.relname
    limit 1;
    if partition is null then
        return 0;
    end if;
    if partition like 'health_hourly%' then
        delete from fleet_health_hourly
        where hour < (to_timestamp(right(partition, 7), 'YYYY_MM')::timestamp
            + interval '1 month') at time zone 'UTC';
    end if;
    execute format('drop table %I', partition);
    return 1;
end
$$;

do $$
declare
    named text;
begin
    foreach named in array array[
        'follow_diagnoses()', 'remove_healths(text[])', 'recompute_healths(text)',
        'add_up_pending()', 'move_history(text, text[])', 'drop_before(timestamptz)'
    ] loop
        execute format(
            'alter function %s set search_path = %I, pg_temp', named, current_schema()
        );
    end loop;
end
$$;
