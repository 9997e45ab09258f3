-- Readings that are stored already are looked up before the insertion, which then leaves them out.
-- Before, a body that was sent again paid for both.

-- For each reading the value that is stored for its series and time, or null. Times lie in
-- [low, high]. Each row is found by its key: a join that reads a table whole, planned while it was
-- small, would be kept for the session.
create function stored_values(
    keys integer[], slots integer[], series_of integer[], times_us bigint[],
    low timestamptz, high timestamptz
) returns double precision[] language sql stable set enable_seqscan = off as $$
    select array_agg(known.value order by reading.number)
    from unnest(series_of, times_us) with ordinality as reading (series, time_us, number)
    left join lateral (
        select stored.value from sensor_readings stored
        where stored.equipment_key = keys[reading.series]
            and stored.time = timestamptz 'epoch' + reading.time_us * interval '1 microsecond'
            and stored.slot = slots[reading.series]
            and stored.time >= low and stored.time <= high
        limit 1
    ) known on true
$$;

-- Whether the first reading, the last one or the one between is stored. Times lie in [low, high].
create function is_any_stored(
    keys integer[], slots integer[], series_of integer[], times_us bigint[],
    low timestamptz, high timestamptz
) returns boolean language sql stable set enable_seqscan = off as $$
    select exists (
        select from unnest(
            array[1, (cardinality(times_us) + 1) / 2, cardinality(times_us)]
        ) as probe (number)
        join lateral (
            select from sensor_readings stored
            where stored.equipment_key = keys[series_of[probe.number]]
                and stored.time
                    = timestamptz 'epoch' + times_us[probe.number] * interval '1 microsecond'
                and stored.slot = slots[series_of[probe.number]]
                and stored.time >= low and stored.time <= high
            limit 1
        ) known on true
    )
$$;

-- The numbers, from 1, of those readings for which another value is stored, and these values.
create function conflicts_of(
    readings double precision[], known double precision[],
    out conflicting integer[], out stored double precision[]
) language sql immutable as $$
    select
        coalesce(array_agg(reading.number::integer order by reading.number), '{}'),
        coalesce(array_agg(reading.stored order by reading.number), '{}')
    from unnest(readings, known) with ordinality as reading (value, stored, number)
    where reading.stored <> reading.value
$$;

-- Write readings, each of one of the series named by the first two arrays (counted from 1), and
-- bring the touched bins up to date. Answers how many were new, and the numbers of those for which
-- another value was stored, with these values; no row, and nothing is written, when a series is not
-- registered. Without an actor the stored values stay; with one they are replaced, which is
-- recorded. What is stored is looked up first where some of it probably is, and else after the
-- insertion, if that skipped any: the look-ups take as long as an insertion.
create or replace function write_readings(
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
    before double precision[];
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
    select
        timestamptz 'epoch' + min(time_us) * interval '1 microsecond',
        timestamptz 'epoch' + max(time_us) * interval '1 microsecond'
    into first_time, last_time from unnest(times_us) as given (time_us);
    if actor is not null or is_any_stored(
        keys, slots, series_of, times_us, first_time, last_time
    ) then
        before := stored_values(keys, slots, series_of, times_us, first_time, last_time);
        select found.conflicting, found.stored into conflicting, stored
        from conflicts_of(readings, before) as found;
    end if;
    if cardinality(conflicting) > 0 and actor is not null then
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
        from unnest(series_of, times_us, readings, before)
            as reading (series, time_us, value, stored)
        where reading.stored is null
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
    if before is null and accepted < cardinality(times_us) then
        before := stored_values(keys, slots, series_of, times_us, first_time, last_time);
        select found.conflicting, found.stored into conflicting, stored
        from conflicts_of(readings, before) as found;
    end if;
    return next;
end
$$;

drop function conflicting_readings;
