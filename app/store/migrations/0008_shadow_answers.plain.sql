-- What shadow versions told on copies of what others answered, one row a copy: read beside the diagnosis that was returned, kept as
-- long, and so in monthly partitions of their own. A row has the `created_at` of the returned diagnosis, so that a join on
-- (diagnosis_id, created_at) stays in one month; `latency_s` and `against_latency_s` are how long building and scoring took in either.
create table shadow_answers (
    diagnosis_id text not null,
    created_at timestamptz not null,
    equipment_id text not null,
    window_start timestamptz not null,
    window_end timestamptz not null,
    version text not null,
    against text not null,
    latency_s real not null,
    against_latency_s real not null,
    body json not null,
    primary key (diagnosis_id, version, created_at)
) partition by range (created_at);
create index shadow_answers_of_pair on shadow_answers (version, against, created_at desc);

-- As 0002_series.plain.sql and 0006_retention.plain.sql say them, with the new table.
create or replace function prepare_months(months timestamptz[]) returns void language plpgsql as $$
declare
    month timestamptz;
    parent text;
    partition text;
begin
    foreach month in array months loop
        foreach parent in array array['sensor_readings', 'sensor_grid', 'diagnoses', 'shadow_answers'] loop
            partition := parent || to_char(month at time zone 'UTC', '"_"YYYY"_"MM');
            continue when to_regclass(quote_ident(partition)) is not null;
            perform pg_advisory_xact_lock(7207001, 0);
            -- Asked of the table: the catalogue's cache, which to_regclass reads, may not know yet what another session
            -- made while this one waited.
            continue when exists (
                select from pg_class
                where relname = partition
                    and relnamespace = (select siblings.relnamespace from pg_class siblings where oid = parent::regclass)
            );
            execute format('create table %I (like %I including defaults including constraints)', partition, parent);
            execute format(
                'alter table %I attach partition %I for values from (%L) to (%L)',
                parent, partition, month, ((month at time zone 'UTC') + interval '1 month') at time zone 'UTC'
            );
        end loop;
    end loop;
end
$$;

create or replace function drop_before(cutoff timestamptz) returns integer language plpgsql set lock_timeout = '100ms' as $$
declare
    partition text;
begin
    perform pg_advisory_xact_lock(7207001, 0);
    select child.relname into partition
    from pg_inherits
    join pg_class parent on parent.oid = pg_inherits.inhparent
    join pg_class child on child.oid = pg_inherits.inhrelid
    where parent.oid in (
            'sensor_readings'::regclass, 'sensor_grid'::regclass, 'diagnoses'::regclass, 'shadow_answers'::regclass
        )
        and (to_timestamp(right(child.relname, 7), 'YYYY_MM')::timestamp + interval '1 month') at time zone 'UTC'
            <= cutoff
    order by right(child.relname, 7), child.relname
    limit 1;
    if partition is null then
        return 0;
    end if;
    execute format('drop table %I', partition);
    return 1;
end
$$;
