-- Readings that conflict with stored ones, replacement and deletion of readings, and a record of
-- who changed them.

-- Who changed stored readings, when and how many. Rows are only ever added.
create table reading_changes (
    change_id bigint generated always as identity primary key,
    changed_at timestamptz not null default now(),
    actor text not null,
    action text not null
        check (action in ('replace_values', 'replace_interval', 'delete_interval')),
    equipment_id text not null,
    start_time timestamptz not null,
    end_time timestamptz not null,
    removed bigint not null,
    written bigint not null
);
create index reading_changes_of_equipment on reading_changes (equipment_id, change_id desc);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'rows of % are never changed', tg_table_name
        using errcode = 'restrict_violation';
end
$$;
create trigger append_only before update or delete or truncate on reading_changes
    for each statement execute function refuse_change();

-- The numbers, from 1, of those readings for which another value is stored, and these values. Times
-- lie in [low, high].
create function conflicting_readings(
    keys integer[], slots integer[], series_of integer[], times_us bigint[],
    readings double precision[],
    low timestamptz, high timestamptz, out conflicting integer[], out stored double precision[]
) language sql stable set enable_seqscan = off as $$
    select
        coalesce(array_agg(reading.number::integer order by reading.number), '{}'),
        coalesce(array_agg(known.value order by reading.number), '{}')
    from unnest(series_of, times_us, readings) with ordinality
        as reading (series, time_us, value, number)
    cross join lateral (
        select stored.value from sensor_readings stored
        where stored.equipment_key = keys[reading.series]
            and stored.time = timestamptz 'epoch' + reading.time_us * interval '1 microsecond'
            and stored.slot = slots[reading.series]
            and stored.time >= low and stored.time <= high
        limit 1
    ) known
    where known.value <> reading.value
$$;

-- Give the stored readings of these numbers their new values. Times lie in [low, high]. Each row is
-- found by its key: a join that reads a table whole, planned while it was small, would be kept for
-- the session.
create function replace_values(
    keys integer[], slots integer[], series_of integer[], times_us bigint[],
    readings double precision[],
    numbers integer[], low timestamptz, high timestamptz
) returns table (changed_key integer, changed_time timestamptz)
language sql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
    update sensor_readings stored set value = readings[conflict.number]
    from unnest(numbers) as conflict (number)
    where stored.equipment_key = keys[series_of[conflict.number]]
        and stored.time = timestamptz 'epoch' + times_us[conflict.number] * interval '1 microsecond'
        and stored.slot = slots[series_of[conflict.number]]
        and stored.time >= low and stored.time <= high
    returning stored.equipment_key, stored.time
$$;

-- Write readings, each of one of the series named by the first two arrays (counted from 1), and
-- bring the touched bins up to date. Answers how many were new, and the numbers of those for which
-- another value was stored, with these values; no row, and nothing is written, when a series is not
-- registered. Without an actor the stored values stay; with one they are replaced, which is
-- recorded. Otherwise as ingest_readings of 0005_bounded_plans.sql, which replicas of the version
-- before call until they have stopped.
create function write_readings(
    series_equipment text[], series_sensor text[], series_of integer[], times_us bigint[],
    readings double precision[],
    actor text
) returns table (accepted bigint, conflicting integer[], stored double precision[])
language plpgsql set enable_seqscan = off as $$
declare
    key integer;
    keys integer[];
    slots integer[];
    grids interval[];
    changed_keys integer[];
    changed_times timestamptz[];
    touched_keys integer[];
    touched_bins timestamptz[];
    first_time timestamptz;
    last_time timestamptz;
    low timestamptz;
    high timestamptz;
begin
    for key in
        select equipment_key from equipment where equipment_id = any (series_equipment)
            order by equipment_key
    loop
        perform pg_advisory_xact_lock(7207002, key);
    end loop;

    select
        array_agg(equipment.equipment_key order by named.index),
        array_agg(sensor.slot order by named.index),
        array_agg(equipment.grid order by named.index)
    into keys, slots, grids
    from unnest(series_equipment, series_sensor) with ordinality
        as named (equipment_id, sensor_id, index)
    left join equipment on equipment.equipment_id = named.equipment_id
    left join lateral (
        select known.slot from equipment_sensors known
        where known.equipment_key = equipment.equipment_key and known.sensor_id = named.sensor_id
        limit 1
    ) sensor on true;
    if array_position(slots, null) is not null then
        return;
    end if;

    conflicting := '{}';
    stored := '{}';
    if actor is not null then
        select
            timestamptz 'epoch' + min(time_us) * interval '1 microsecond',
            timestamptz 'epoch' + max(time_us) * interval '1 microsecond'
        into first_time, last_time from unnest(times_us) as given (time_us);
        select found.conflicting, found.stored into conflicting, stored
        from conflicting_readings(
            keys, slots, series_of, times_us, readings, first_time, last_time
        ) as found;
        with changed as (
            select changed_key as equipment_key, changed_time as time
            from replace_values(
                keys, slots, series_of, times_us, readings, conflicting, first_time, last_time
            )
        ),
        recorded as (
            insert into reading_changes (actor, action, equipment_id, start_time, end_time,
                removed, written)
            select write_readings.actor, 'replace_values', max(equipment.equipment_id),
                min(changed.time),
                max(changed.time), count(*), count(*)
            from changed join equipment using (equipment_key) group by equipment_key
        )
        select array_agg(equipment_key), array_agg(time)
            into changed_keys, changed_times from changed;
    end if;

    with inserted as (
        insert into sensor_readings (equipment_key, time, slot, value)
        select
            keys[reading.series],
            timestamptz 'epoch' + reading.time_us * interval '1 microsecond',
            slots[reading.series],
            reading.value
        from unnest(series_of, times_us, readings) as reading (series, time_us, value)
        on conflict do nothing
        returning sensor_readings.equipment_key, sensor_readings.time
    ),
    written as (
        select inserted.equipment_key, inserted.time, 1 as new from inserted
        union all
        select changed.equipment_key, changed.time, 0
        from unnest(changed_keys, changed_times) as changed (equipment_key, time)
    ),
    counted as (
        select written.equipment_key, date_bin(used.grid, written.time, timestamptz 'epoch') as bin,
            max(used.grid) as grid, sum(written.new) as new
        from written
        join (select distinct series.equipment_key, series.grid
            from unnest(keys, grids) as series (equipment_key, grid)) used
            using (equipment_key)
        group by 1, 2
    )
    select coalesce(sum(new), 0), array_agg(equipment_key order by equipment_key, bin),
        array_agg(bin order by equipment_key, bin), min(bin), max(bin + grid)
    into accepted, touched_keys, touched_bins, low, high
    from counted;

    if touched_keys is not null then
        insert into sensor_grid (equipment_key, time, vals)
        select equipment_key, bin, vals from grid_rows(touched_keys, touched_bins, low, high)
        on conflict (equipment_key, time) do update set vals = excluded.vals;
    end if;
    if actor is null and accepted < cardinality(times_us) then
        select
            timestamptz 'epoch' + min(time_us) * interval '1 microsecond',
            timestamptz 'epoch' + max(time_us) * interval '1 microsecond'
        into first_time, last_time from unnest(times_us) as given (time_us);
        select found.conflicting, found.stored into conflicting, stored
        from conflicting_readings(
            keys, slots, series_of, times_us, readings, first_time, last_time
        ) as found;
    end if;
    return next;
end
$$;

-- Delete a machine's readings of [start_time, end_time) and bring the grid up to date; answers how
-- many there were, null when the machine is not registered.
create function clear_readings(machine text, start_time timestamptz, end_time timestamptz)
returns bigint language plpgsql set enable_seqscan = off as $$
declare
    key integer;
    width interval;
    removed bigint;
    low timestamptz;
    high timestamptz;
begin
    select equipment_key into key from equipment where equipment_id = machine;
    if key is null then
        return null;
    end if;
    perform pg_advisory_xact_lock(7207002, key);
    select grid into width from equipment where equipment_key = key;
    low := date_bin(width, start_time, timestamptz 'epoch');
    high := date_bin(width, end_time - interval '1 microsecond', timestamptz 'epoch') + width;

    delete from sensor_readings where equipment_key = key
        and time >= start_time and time < end_time;
    get diagnostics removed = row_count;
    delete from sensor_grid where equipment_key = key and time >= low and time < high;
    -- the first and the last bin may have readings outside the interval
    insert into sensor_grid (equipment_key, time, vals)
    select made.equipment_key, made.bin, made.vals
    from (
        select array_agg(key) as keys, array_agg(bin) as bins
        from (
            select distinct date_bin(width, reading.time, timestamptz 'epoch') as bin
            from sensor_readings reading
            where reading.equipment_key = key and reading.time >= low and reading.time < high
        ) used
    ) whole
    cross join lateral grid_rows(whole.keys, whole.bins, low, high) made;
    return removed;
end
$$;
