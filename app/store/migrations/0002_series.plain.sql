-- What grows with time, on plain PostgreSQL: monthly range partitions, made when the first row of a month comes.

-- The key has time before sensor: a tick of all sensors writes one page of the index instead of one a sensor, and the
-- readings of a bin lie side by side. Wide columns stand first, or padding would make a row 8 bytes longer.
create table sensor_readings (
    time timestamptz not null,
    value double precision not null,
    equipment_key integer not null,
    slot integer not null,
    primary key (equipment_key, time, slot)
) partition by range (time);

-- A NULL element would change the binary stride of an array; missing is NaN.
create table sensor_grid (
    equipment_key integer not null,
    time timestamptz not null,
    vals real[] not null check (array_position(vals, null) is null),
    primary key (equipment_key, time)
) partition by range (time);

create table diagnoses (
    diagnosis_id text not null,
    created_at timestamptz not null,
    equipment_id text not null,
    window_start timestamptz not null,
    window_end timestamptz not null,
    model_version text not null,
    status text not null,
    health double precision,
    body jsonb not null,
    primary key (diagnosis_id, created_at)
) partition by range (created_at);
create index diagnoses_of_equipment on diagnoses (equipment_id, window_end desc);

-- Make the partitions of these months (their first instants, UTC) where they are missing. Safe from many sessions at
-- once. ATTACH takes a lock that reads and inserts do not feel; CREATE ... PARTITION OF would stop both.
create function prepare_months(months timestamptz[]) returns void language plpgsql as $$
declare
    month timestamptz;
    parent text;
    partition text;
begin
    foreach month in array months loop
        foreach parent in array array['sensor_readings', 'sensor_grid', 'diagnoses'] loop
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

-- Drop the partitions that end at or before the cutoff; answers how many.
create function drop_before(cutoff timestamptz) returns integer language plpgsql as $$
declare
    dropped integer := 0;
    partition record;
begin
    perform pg_advisory_xact_lock(7207001, 0);
    for partition in
        select child.relname as name
        from pg_inherits
        join pg_class parent on parent.oid = pg_inherits.inhparent
        join pg_class child on child.oid = pg_inherits.inhrelid
        where parent.oid in ('sensor_readings'::regclass, 'sensor_grid'::regclass, 'diagnoses'::regclass)
            and (to_timestamp(right(child.relname, 7), 'YYYY_MM')::timestamp + interval '1 month') at time zone 'UTC'
                <= cutoff
    loop
        execute format('drop table %I', partition.name);
        dropped := dropped + 1;
    end loop;
    return dropped;
end
$$;
