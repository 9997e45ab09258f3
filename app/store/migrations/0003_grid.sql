-- The one way in for readings, and the grid that follows from them: the same on both editions.

-- The mean as the grid stores it. PostgreSQL refuses to round a double to a float4 that is zero; numpy, and so the
-- features of inline readings, rounds it. 2^-150 is halfway to the smallest float4 and goes to the even side, zero.
create function grid_value(mean double precision) returns real language sql immutable parallel safe as $$
    select case
        when mean is null then 'NaN'::real
        when abs(mean) <= 7.006492321624085e-46 then (mean * 0)::real
        else mean::real
    end
$$;

-- The grid's rows for these bins, worked out from the readings. The mean is the sum in order of time over the count,
-- in double precision: an order that a parallel plan can't change.
create function grid_rows(equipment_keys integer[], bins timestamptz[])
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
            group by reading.slot
        ) binned on binned.slot = sensor.slot
        where sensor.equipment_key = touched.equipment_key
    ) worked_out
$$;

-- Write readings, each of one of the series named by the first two arrays (counted from 1), and bring the touched bins
-- up to date; answers how many were new, or null, and writes nothing, when a series is not registered. The first value
-- written for a sensor and time stays. Writers to one equipment wait for each other, in one order, so that no bin is
-- worked out from half of what is committed. A plan made while the tables were small is kept for the session: were it
-- to read them whole, a bulk import would take the square of its size.
create function ingest_readings(
    series_equipment text[], series_sensor text[], series_of integer[], times_us bigint[], readings double precision[]
) returns bigint language plpgsql set enable_seqscan = off as $$
declare
    key integer;
    accepted bigint;
    touched_keys integer[];
    touched_bins timestamptz[];
begin
    for key in
        select equipment_key from equipment where equipment_id = any (series_equipment) order by equipment_key
    loop
        perform pg_advisory_xact_lock(7207002, key);
    end loop;

    if exists (
        select from unnest(series_equipment, series_sensor) as named (equipment_id, sensor_id)
        left join equipment on equipment.equipment_id = named.equipment_id
        left join equipment_sensors sensor
            on sensor.equipment_key = equipment.equipment_key and sensor.sensor_id = named.sensor_id
        where sensor.slot is null
    ) then
        return null;
    end if;

    with series as materialized (
        select named.index, equipment.equipment_key, sensor.slot, equipment.grid
        from unnest(series_equipment, series_sensor) with ordinality as named (equipment_id, sensor_id, index)
        join equipment on equipment.equipment_id = named.equipment_id
        join equipment_sensors sensor
            on sensor.equipment_key = equipment.equipment_key and sensor.sensor_id = named.sensor_id
    ),
    inserted as (
        insert into sensor_readings (equipment_key, time, slot, value)
        select
            series.equipment_key,
            timestamptz 'epoch' + reading.time_us * interval '1 microsecond',
            series.slot,
            reading.value
        from unnest(series_of, times_us, readings) as reading (series, time_us, value)
        join series on series.index = reading.series
        on conflict do nothing
        returning sensor_readings.equipment_key, sensor_readings.time
    ),
    counted as (
        select inserted.equipment_key, date_bin(grids.grid, inserted.time, timestamptz 'epoch') as bin, count(*) as rows
        from inserted
        join (select distinct series.equipment_key, series.grid from series) grids using (equipment_key)
        group by 1, 2
    )
    select coalesce(sum(rows), 0), array_agg(equipment_key order by equipment_key, bin),
        array_agg(bin order by equipment_key, bin)
    into accepted, touched_keys, touched_bins
    from counted;

    insert into sensor_grid (equipment_key, time, vals)
    select equipment_key, bin, vals from grid_rows(touched_keys, touched_bins)
    on conflict (equipment_key, time) do update set vals = excluded.vals;
    return accepted;
end
$$;

-- Work out an equipment's whole grid again, after its bins changed their width.
create function rebuild_grid(equipment integer) returns bigint language plpgsql set enable_seqscan = off as $$
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
    cross join lateral grid_rows(whole.keys, whole.bins) made;
    get diagnostics bins = row_count;
    return bins;
end
$$;
