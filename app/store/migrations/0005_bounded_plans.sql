-- Statements whose cost does not grow with the number of months. A plan over partitions opens all of them, with their
-- indexes, unless the times that it may touch are known when it starts: a function's variables are, a join's columns
-- are not. So each function below first works out the span of what was asked and then hands it to the statement.

-- The grid's bins of many windows (their first bins since 1970 and numbers of bins), undecoded, in the order asked.
create function read_windows(equipment_ids text[], firsts bigint[], counts bigint[])
returns table (grid_us bigint, slot_sensors text[], times bytea, vals bytea, newest timestamptz)
language plpgsql stable as $$
declare
    low timestamptz;
    high timestamptz;
begin
    select
        timestamptz 'epoch' + min(asked.first * equipment.grid_us) * interval '1 microsecond',
        timestamptz 'epoch' + max((asked.first + asked.bins) * equipment.grid_us) * interval '1 microsecond'
    into low, high
    from unnest(equipment_ids, firsts, counts) as asked (equipment_id, first, bins)
    join equipment on equipment.equipment_id = asked.equipment_id;

    return query
    select
        equipment.grid_us,
        array(
            select sensor.sensor_id from equipment_sensors sensor
            where sensor.equipment_key = equipment.equipment_key order by sensor.slot
        ),
        bins.times,
        bins.vals,
        last.time
    from unnest(equipment_ids, firsts, counts) with ordinality as asked (equipment_id, first, bins, position)
    left join equipment on equipment.equipment_id = asked.equipment_id
    left join lateral (
        select
            string_agg(timestamptz_send(stored.time), ''::bytea) as times,
            string_agg(array_send(stored.vals), ''::bytea) as vals
        from sensor_grid stored
        where stored.equipment_key = equipment.equipment_key
            and stored.time >= timestamptz 'epoch' + (asked.first * equipment.grid_us) * interval '1 microsecond'
            and stored.time < timestamptz 'epoch' + ((asked.first + asked.bins) * equipment.grid_us) * interval '1 microsecond'
            and stored.time >= low and stored.time < high
    ) bins on true
    left join lateral (
        select reading.time
        from sensor_readings reading
        where reading.equipment_key = equipment.equipment_key
            and reading.time >= timestamptz 'epoch' + (asked.first * equipment.grid_us) * interval '1 microsecond'
            and reading.time < timestamptz 'epoch' + ((asked.first + asked.bins) * equipment.grid_us) * interval '1 microsecond'
            and reading.time >= low and reading.time < high
        order by reading.time desc
        limit 1
    ) last on true
    order by asked.position;
end
$$;

-- The grid's rows for these bins, which lie in [low, high), worked out from the readings. The mean is the sum in order
-- of time over the count, in double precision: an order that a parallel plan can't change.
create function grid_rows(equipment_keys integer[], bins timestamptz[], low timestamptz, high timestamptz)
returns table (equipment_key integer, bin timestamptz, vals real[]) language sql stable as $$
    select touched.equipment_key, touched.bin, worked_out.vals
    from unnest(equipment_keys, bins) as touched (equipment_key, bin)
    join equipment on equipment.equipment_key = touched.equipment_key
    cross join lateral (
        select array_agg(grid_value(binned.mean) order by sensor.slot) as vals
        from equipment_sensors sensor
        left join (
            select reading.slot, avg(reading.value order by reading.time) as mean
            from sensor_readings reading
            where reading.equipment_key = touched.equipment_key
                and reading.time >= touched.bin
                and reading.time < touched.bin + equipment.grid
                and reading.time >= low
                and reading.time < high
            group by reading.slot
        ) binned on binned.slot = sensor.slot
        where sensor.equipment_key = touched.equipment_key
    ) worked_out
$$;

-- As 0003_grid.sql says it, with the series looked up once, each by both columns of its key (a join reads all sensors of
-- the machine for each), and the span of the touched bins known.
create or replace function ingest_readings(
    series_equipment text[], series_sensor text[], series_of integer[], times_us bigint[], readings double precision[]
) returns bigint language plpgsql set enable_seqscan = off as $$
declare
    key integer;
    keys integer[];
    slots integer[];
    grids interval[];
    accepted bigint;
    touched_keys integer[];
    touched_bins timestamptz[];
    low timestamptz;
    high timestamptz;
begin
    for key in
        select equipment_key from equipment where equipment_id = any (series_equipment) order by equipment_key
    loop
        perform pg_advisory_xact_lock(7207002, key);
    end loop;

    select
        array_agg(equipment.equipment_key order by named.index),
        array_agg(sensor.slot order by named.index),
        array_agg(equipment.grid order by named.index)
    into keys, slots, grids
    from unnest(series_equipment, series_sensor) with ordinality as named (equipment_id, sensor_id, index)
    left join equipment on equipment.equipment_id = named.equipment_id
    left join lateral (
        select known.slot from equipment_sensors known
        where known.equipment_key = equipment.equipment_key and known.sensor_id = named.sensor_id
        limit 1
    ) sensor on true;
    if array_position(slots, null) is not null then
        return null;
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
    counted as (
        select inserted.equipment_key, date_bin(used.grid, inserted.time, timestamptz 'epoch') as bin,
            max(used.grid) as grid, count(*) as rows
        from inserted
        join (select distinct series.equipment_key, series.grid from unnest(keys, grids) as series (equipment_key, grid)) used
            using (equipment_key)
        group by 1, 2
    )
    select coalesce(sum(rows), 0), array_agg(equipment_key order by equipment_key, bin),
        array_agg(bin order by equipment_key, bin), min(bin), max(bin + grid)
    into accepted, touched_keys, touched_bins, low, high
    from counted;

    if accepted > 0 then
        insert into sensor_grid (equipment_key, time, vals)
        select equipment_key, bin, vals from grid_rows(touched_keys, touched_bins, low, high)
        on conflict (equipment_key, time) do update set vals = excluded.vals;
    end if;
    return accepted;
end
$$;

-- As 0003_grid.sql has it, for the whole span.
create or replace function rebuild_grid(equipment integer) returns bigint language plpgsql set enable_seqscan = off as $$
declare
    width interval;
    bins bigint;
begin
    perform pg_advisory_xact_lock(7207002, equipment);
    select grid into width from equipment stored where stored.equipment_key = equipment;
    delete from sensor_grid where equipment_key = equipment;
    insert into sensor_grid (equipment_key, time, vals)
    select made.equipment_key, made.bin, made.vals
    from (
        select array_agg(equipment) as keys, array_agg(bin) as bins
        from (
            select distinct date_bin(width, reading.time, timestamptz 'epoch') as bin
            from sensor_readings reading where reading.equipment_key = equipment
        ) used
    ) whole
    cross join lateral grid_rows(whole.keys, whole.bins, '-infinity', 'infinity') made;
    get diagnostics bins = row_count;
    return bins;
end
$$;

drop function grid_rows(integer[], timestamptz[]);

-- A body is written with every diagnosis and searched by its columns: keeping its text costs half of the server's time
-- and an eighth less room than taking it apart.
alter table diagnoses alter column body type json using body::json;
